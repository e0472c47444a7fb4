"""
The limits of the consumers stage, each with what happens at it. Pure values.
"""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ConsumerLimits:
    """
    Bounds of queues, memory and waiting.

    Attributes:
        buffer_bytes_max: of one shape, while its snapshot or its files are awaited. Beyond it the buffer is dropped and
            the shape catches up from the relay log.
        tail_bytes_max: of all shapes, committed and not settled. Beyond it the stream is not read on until something
            is settled.
        shape_tail_bytes_max: of one shape, likewise. Beyond it, looked at between transactions, the shape is behind
            until its tail is settled.
        open_bytes_max: what one transaction may hold for one shape. Beyond it the shape is rotated.
        settle_shape_bytes: a tail of this size is settled without waiting for its age.
        settle_batch_count_max: shapes settled in one call of the store.
        settle_calls_count_max: calls of the store under way; further batches wait.
        settle_retry_s: time until a shape whose disk had no space is tried again.
        settle_failed_count_max: when more shapes than this fail in one call, it is the disk: they go on owing.
        catch_up_read_bytes: read from the relay log at once for the shapes that are behind.
        loads_count_max: files of shapes being opened at the same time.
        idle_s: a shape that had nothing to do for this long leaves memory.
        retry_s: time until a failed call of the control store or the shape log store is tried again.
        ready_wait_s: a request waits this long for the engine to be active.
        first_data_s: a snapshot must have delivered something within this time, early decode included.
        early_retry_s: time until a snapshot that came too early is taken again.
        snapshot_count_max: shapes being created at the same time, waiting for connections included; further ones are
            refused.
        chunk_bytes_max: threshold for closing a chunk, stored with each new shape.
        resolved_count_max: definitions remembered for requests that repeat.
    """

    buffer_bytes_max: int = 16 * _MIB
    tail_bytes_max: int = 256 * _MIB
    shape_tail_bytes_max: int = 64 * _MIB
    open_bytes_max: int = 1024 * _MIB
    settle_shape_bytes: int = 4 * _MIB
    settle_batch_count_max: int = 256
    settle_calls_count_max: int = 4
    settle_retry_s: float = 5.0
    settle_failed_count_max: int = 16
    catch_up_read_bytes: int = 1 * _MIB
    loads_count_max: int = 64
    idle_s: float = 30.0
    retry_s: float = 1.0
    ready_wait_s: float = 5.0
    first_data_s: float = 30.0
    early_retry_s: float = 0.05
    snapshot_count_max: int = 1000
    chunk_bytes_max: int = 10_485_760
    resolved_count_max: int = 10_000

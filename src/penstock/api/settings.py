"""
What the HTTP side can be told, with its limits. Pure values.
"""

from __future__ import annotations

from typing import Final

import msgspec

FILE_BLOCK_BYTES: Final = 256 * 1024
"""How much of a file is read and handed to the server at a time."""

SSE_KEEPALIVE_S: Final = 21.0
SSE_LIFE_S: Final = 60.0


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    Settings of the HTTP side; the defaults are the contract's.

    Attributes:
        version: shown in the `electric-server` header.
        secret: what clients must send, None to let everybody in.
        long_poll_timeout_s: how long a live request waits for a change.
        source_timeout_s: how long a request waits for an engine that is away.
        open_timeout_s: how long a request waits for an engine that is there and does not answer.
        send_timeout_s: a reader that takes nothing for so long is dropped.
        header_timeout_s: a connection that has not sent a whole request head after so long is closed.
        idle_timeout_s: a connection without a request is closed after so long.
        drain_timeout_s: how long a stop waits for responses under way.
        cache_max_age_s, cache_stale_age_s: for responses that are neither first nor live.
        allows_removal: whether clients may remove shapes.
        sends_cache_headers: whether the contract's cache rules are applied at all.
        requests_initial_max: requests at a time for shapes that this worker has not served before.
        requests_existing_max: requests at a time for all other shapes, parked ones included.
        target_bytes_max: longest path and query; beyond it the answer is 414. Holds a clause of 64 KiB with every
            byte percent-encoded.
        known_handles_max: how many handles are remembered as served before.
        reader_threads: threads that read files larger than a block.
        authorize_timeout_s: how long the callable that authorises may take for one request.
        authorize_threads_max: threads in which it is called when it is a plain function.
    """

    version: str = "0"
    secret: str | None = None
    long_poll_timeout_s: float = 20.0
    source_timeout_s: float = 5.0
    open_timeout_s: float = 90.0
    send_timeout_s: float = 30.0
    header_timeout_s: float = 30.0
    idle_timeout_s: int = 60
    drain_timeout_s: int = 5
    cache_max_age_s: int = 60
    cache_stale_age_s: int = 300
    allows_removal: bool = False
    sends_cache_headers: bool = True
    requests_initial_max: int = 300
    requests_existing_max: int = 10_000
    target_bytes_max: int = 3 * 65_536 + 8_192
    known_handles_max: int = 100_000
    reader_threads: int = 4
    authorize_timeout_s: float = 5.0
    authorize_threads_max: int = 256

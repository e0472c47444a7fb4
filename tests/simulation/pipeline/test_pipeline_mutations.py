"""
The oracles can fail: each bug put into the real code on purpose is found within a few histories.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest

from penstock.collector.flush_tracker import FlushTracker
from penstock.consumers import handler
from penstock.consumers.accounts import CollectorAccounts
from penstock.consumers.burial import Burial
from penstock.consumers.consumer import Consumer
from penstock.consumers.entries import ShapeEntry
from penstock.liveness.watch import ProgressWatch
from penstock.postgres.lsn import ZERO_COMMIT, CommitLsn
from penstock.relay.log import RelayLog
from penstock.relay.reader import RelayReader
from penstock.relay.segment_writer import SegmentWriter
from penstock.testing.simulation.disk import OpenVirtualFile
from pipeline_history import live_in_scratch, make_plan, quiet_logs

SEEDS_MAX = 60
Mutate = Callable[[pytest.MonkeyPatch], None]


def confirm_before_sync(patch: pytest.MonkeyPatch) -> None:
    """
    The relay log publishes, and so confirms, what it has not synced.
    """
    flush = SegmentWriter.flush

    def publish_unsynced(segment: SegmentWriter) -> None:
        segment._is_synced = False
        try:
            flush(segment)
        finally:
            segment._is_synced = True

    patch.setattr(SegmentWriter, "flush", publish_unsynced)


def forget_to_sync_shapes(patch: pytest.MonkeyPatch) -> None:
    """
    Shape logs report as flushed what they have only written.
    """
    patch.setattr(OpenVirtualFile, "sync", lambda _: None)


def void_before_tombstone(patch: pytest.MonkeyPatch) -> None:
    """
    A shape's debt ends when it is condemned, and not when that is durable.
    """
    condemn = Burial.condemn

    def void_at_once(burial: Burial, entries: Collection[ShapeEntry], reason: str, **options: Any) -> None:
        fresh = [entry for entry in entries if entry.condemned is None]
        condemn(burial, entries, reason, **options)
        for entry in fresh:
            burial._accounts.remove_shape(entry.incarnation)

    patch.setattr(Burial, "condemn", void_at_once)


def boundary_before_discharge(patch: pytest.MonkeyPatch) -> None:
    """
    The boundary that is recorded is what was handled, and not what is flushed.
    """
    patch.setattr(FlushTracker, "last_global_flushed_offset", FlushTracker.last_seen_offset)


def deliver_before_register(patch: pytest.MonkeyPatch) -> None:
    """
    What is delivered is not registered as owed.
    """
    take = FlushTracker.handle_txn_fragment

    def register_nobody(tracker: FlushTracker, *args: Any, **options: Any) -> None:
        names = dict(zip(take.__code__.co_varnames[1:], args, strict=False)) | options
        affected = next(name for name, value in names.items() if isinstance(value, Collection))
        take(tracker, **{**names, affected: ()})

    take_whole = FlushTracker.handle_whole_txns

    def register_nobody_of_many(tracker: FlushTracker, debts: Any, *args: Any) -> None:
        take_whole(tracker, (), *args)

    patch.setattr(FlushTracker, "handle_txn_fragment", register_nobody)
    patch.setattr(FlushTracker, "handle_whole_txns", register_nobody_of_many)


def no_early_decode_check(patch: pytest.MonkeyPatch) -> None:
    """
    A snapshot is good although a commit that was routed before the shape is not in it.
    """
    patch.setattr(CollectorAccounts, "is_early", lambda *_: False)


def no_resend_dedupe(patch: pytest.MonkeyPatch) -> None:
    """
    What the server sends again after a reconnect is kept again.
    """
    begin = RelayLog.begin_session

    def know_nothing(log: RelayLog, *args: Any) -> CommitLsn:
        begin(log, *args)
        return ZERO_COMMIT

    patch.setattr(RelayLog, "begin_session", know_nothing)


def ignore_visibility(patch: pytest.MonkeyPatch) -> None:
    """
    A shape takes from the stream what its snapshot holds already.
    """
    patch.setattr(handler, "is_kept", lambda *_: True)


def read_from_the_end(patch: pytest.MonkeyPatch) -> None:
    """
    A restarted engine reads from where the newest segment begins, and not from its boundary.
    """
    seek = RelayReader.seek

    def skip(reader: RelayReader, boundary: Any) -> None:
        seek(reader, boundary)
        reader._go_to(max(reader._numbers()))

    patch.setattr(RelayReader, "seek", skip)


def forget_the_buffer(patch: pytest.MonkeyPatch) -> None:
    """
    The buffer of a consumer that failed is lost.
    """
    replacement = Consumer.replacement

    def without(consumer: Consumer, *args: Any) -> Consumer:
        consumer._buffer = []
        return replacement(consumer, *args)

    patch.setattr(Consumer, "replacement", without)


def no_sweep(patch: pytest.MonkeyPatch) -> None:
    """
    Nobody looks at the age of debts.
    """
    patch.setattr(ProgressWatch, "sweep", lambda *_: [])


@pytest.mark.parametrize(
    ("mutate", "acknowledge", "faults"),
    [
        (confirm_before_sync, "relay", ("power cut", "power cut")),
        (forget_to_sync_shapes, "", ("power cut",)),
        (void_before_tombstone, "shapes", ("shape sync fails", "consumer raises twice", "power cut")),
        (boundary_before_discharge, "shapes", ("power cut",)),
        (deliver_before_register, "shapes", ("power cut",)),
        (no_early_decode_check, "", ("kill engine",)),
        (no_resend_dedupe, "", ("cut link", "cut link", "kill receiver")),
        (ignore_visibility, "", ("kill engine",)),
        (read_from_the_end, "", ("kill engine", "kill engine")),
        (forget_the_buffer, "", ("kill engine", "consumer raises", "consumer raises", "consumer raises")),
        (no_sweep, "shapes", ("shape sync hangs",)),
    ],
)
def test_a_bug_is_found(
    mutate: Mutate, acknowledge: str, faults: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A history shows the bug, and the same history shows nothing without it.
    """
    quiet_logs()
    plans = (make_plan(seed, acknowledge, faults) for seed in range(SEEDS_MAX))
    with monkeypatch.context() as patch:
        mutate(patch)
        found = next((plan for plan in plans if live_in_scratch(plan).violation), None)
    assert found is not None, f"not found in {SEEDS_MAX} histories"
    assert not live_in_scratch(found).violation

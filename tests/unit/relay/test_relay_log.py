from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from penstock.errors import CorruptLogError, DecodeError, DiskFullError, FormatVersionError, LogError, SyncFailedError
from penstock.postgres.lsn import ZERO_COMMIT, EndLsn
from penstock.relay.epochs import EPOCH_FILE, EPOCH_MAGIC, Acknowledge, epoch_name
from penstock.relay.limits import RelayLimits
from penstock.relay.log import RelayLog
from penstock.relay.reader import RelayReader, read_epoch
from penstock.relay.sealed import seal
from penstock.relay.segments import segment_name, segment_numbers
from penstock.replication.abc import FrameBatch
from penstock.replication.messages import Omitted
from relay_disk import FULL, FaultyDisk, PowerCutError
from relay_kit import (
    START,
    Published,
    Source,
    decode,
    identity,
    make_log,
    merge,
    read_all,
    read_kept,
    recorded,
    rows,
    session,
)

CHANCE = random.Random(1)
TINY = RelayLimits(segment_bytes_max=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "relay"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FaultyDisk]:
    disk = FaultyDisk(tmp_path / "scratch")
    yield disk
    disk.process_ends()


def begun(
    folder: Path, disk: FaultyDisk, limits: RelayLimits | None = None, acknowledge: Acknowledge = Acknowledge.RELAY
) -> RelayLog:
    """
    A log in its first session.
    """
    log = make_log(folder, disk, limits=limits, acknowledge=acknowledge)
    log.open()
    assert log.begin_session(session(identity(is_new=True)), recorded()) == ZERO_COMMIT
    return log


def send(source: Source, log: RelayLog, count: int, parts: int = 1) -> None:
    """
    Commit transactions of some rows and append them one by one.
    """
    for _ in range(count):
        source.commit(rows(CHANCE, 3))
        log.append(source.send(parts))


def segments(folder: Path, epoch: int = 1) -> list[int]:
    return segment_numbers(entry.name for entry in (folder / epoch_name(epoch)).iterdir())


def stubs(folder: Path, log: RelayLog) -> list[Omitted]:
    assert log.published is not None
    with RelayReader(folder, 1) as reader:
        return decode(read_all(reader, log.published))[1]


def check(folder: Path, source: Source, log: RelayLog, boundary: EndLsn = START) -> None:
    """
    The log holds what the source sent, up to the published end.
    """
    assert log.published is not None
    expected = [each.kept for each in source.transactions if boundary < each.end <= log.end]
    assert read_kept(folder, log.published, boundary) == expected


def test_a_new_slot_begins_an_epoch_at_its_consistent_point(folder: Path, disk: FaultyDisk) -> None:
    """The folder with its header exists, the start is published, and nothing was known before."""
    publisher = Published()
    log = make_log(folder, disk, publisher=publisher)
    log.open()
    assert not list(publisher)
    log.begin_session(session(identity(EndLsn(77), is_new=True)), recorded(epoch=4))
    assert log.published is not None
    assert (log.published.epoch, log.published.end) == (5, 77)
    assert list(publisher) == [log.published]
    assert read_epoch(folder, 5) == log.epoch


def test_a_lost_newest_epoch_is_not_taken_for_the_one_before(folder: Path, disk: FaultyDisk) -> None:
    """The shapes belong to an epoch whose folder is gone: the next session begins another, with that as its reason."""
    log = begun(folder, disk)
    send(Source(), log, 2)
    disk.process_ends()
    log = make_log(folder, disk)
    log.open()
    log.begin_session(session(), recorded(epoch=2))
    assert log.epoch is not None
    assert log.epoch.epoch == 3
    assert "epoch 2" in log.epoch.reason


def test_a_lost_newest_epoch_that_is_told_late_ends_the_session(folder: Path, disk: FaultyDisk) -> None:
    """The engine may tell only after the session has begun; then it has to begin once more."""
    log = begun(folder, disk)
    send(Source(), log, 2)
    with pytest.raises(CorruptLogError, match="epoch 2"):
        log.trim(recorded(epoch=2))
    log.begin_session(session(), recorded(epoch=2))
    assert log.epoch is not None
    assert log.epoch.epoch == 3


def test_all_is_synced_before_it_is_published(folder: Path, disk: FaultyDisk) -> None:
    """Between a write and the move of the published end lies a sync."""
    log = begun(folder, disk)
    disk.calls.clear()
    before = log.published
    source = Source()
    source.commit([(1, b"x")])
    log.append(source.send())
    assert disk.calls == ["write", "sync"]
    assert log.published != before


def test_nothing_is_synced_in_shapes_mode(folder: Path, disk: FaultyDisk) -> None:
    """A spill buffer costs no sync, once its epoch stands."""
    log = begun(folder, disk, TINY, acknowledge=Acknowledge.SHAPES)
    disk.calls.clear()
    send(Source(), log, 10)
    assert len(segments(folder)) > 2
    assert set(disk.calls) <= {"write", "create"}


def test_segments_begin_at_commits_only(folder: Path, disk: FaultyDisk) -> None:
    """A transaction in many parts stays in one segment, however small segments are meant to be."""
    log = begun(folder, disk, RelayLimits(segment_bytes_max=1))
    source = Source()
    for _ in range(5):
        source.commit(rows(CHANCE, 20))
        for batch in source.send(6):
            log.append([batch])
    # The empty first segment takes the first transaction.
    assert segments(folder) == [1, 2, 3, 4, 5]
    check(folder, source, log)
    for transaction in source.transactions:
        check(folder, source, log, transaction.end)


def test_descriptions_are_in_force_wherever_one_begins_to_read(folder: Path, disk: FaultyDisk) -> None:
    """The server describes a relation once, and every later segment can be decoded by itself."""
    log = begun(folder, disk, RelayLimits(segment_bytes_max=1))
    source = Source()
    for value in (b"a", b"b", b"c"):
        source.commit([(1, value)])
        log.append(source.send())
    check(folder, source, log, source.transactions[1].end)


def test_dropped_transactions_leave_their_descriptions(folder: Path, disk: FaultyDisk) -> None:
    """What the server sends again after a lost confirmation is not kept twice, and still described."""
    log = begun(folder, disk)
    source = Source()
    send(source, log, 3)
    kept = log.begin_session(session(), recorded())
    assert kept == source.transactions[-1].commit_lsn
    source.connect(kept)
    source.commit([(1, b"x"), (2, b"y"), (3, b"z"), (4, b"w")])
    batches: list[FrameBatch] = []
    while not source.is_drained():
        batches += source.send()
    log.append(batches)
    check(folder, source, log)


def test_frontiers_move_the_end_and_never_back(folder: Path, disk: FaultyDisk) -> None:
    """A position reached outside a transaction is published like a commit; one not beyond the end is nothing."""
    log = begun(folder, disk)
    log.append([EndLsn(2000), EndLsn(1500), EndLsn(2000)])
    assert log.end == EndLsn(2000)
    published = log.published
    assert published is not None
    log.append([EndLsn(1999)])
    assert log.published == published
    with RelayReader(folder, 1) as reader:
        assert decode(read_all(reader, published))[2] == [EndLsn(2000)]


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_refused_group_is_given_up_and_comes_again(folder: Path, disk: FaultyDisk, call: str) -> None:
    """After a failed write or sync nothing was published, a new segment names the valid end, and all is whole again."""
    log = begun(folder, disk)
    source = Source()
    send(source, log, 2)
    published = log.published
    disk.faults.refused[call] = errno.EIO
    with pytest.raises(SyncFailedError, match="writing the relay log failed"):
        send(source, log, 1)
    assert log.published == published
    disk.faults.refused.clear()
    kept = log.begin_session(session(), recorded())
    assert kept == source.transactions[1].commit_lsn
    assert segments(folder) == [1, 2]
    source.connect(kept)
    while not source.is_drained():
        log.append(source.send())
    check(folder, source, log)
    assert disk.calls.count("sync") < 20


def test_a_full_disk_passes(folder: Path, disk: FaultyDisk) -> None:
    """Without space nothing is published or confirmed and sessions fail; with space it goes on, leaving no litter."""
    log = begun(folder, disk)
    source = Source()
    send(source, log, 2)
    disk.faults.refused.update(FULL)
    with pytest.raises(DiskFullError, match="free some space"):
        send(source, log, 1)
    for _ in range(3):
        with pytest.raises(DiskFullError):
            log.begin_session(session(), recorded())
    assert log.end == source.transactions[1].end
    disk.faults.refused.clear()
    source.connect(log.begin_session(session(), recorded()))
    while not source.is_drained():
        log.append(source.send())
    check(folder, source, log)
    assert segments(folder) == [1, 2]


def test_what_a_dead_process_left_unsynced_is_written_again(folder: Path, disk: FaultyDisk) -> None:
    """
    A sync fails, the process is killed before it can draw a conclusion, and the page cache still shows good bytes that
    the disk does not have: they are confirmed only once they are on it.
    """
    log = begun(folder, disk)
    source = Source()
    send(source, log, 2)
    disk.faults.refused.update({"sync": errno.EIO, "truncate": errno.EIO})
    with pytest.raises(LogError):
        send(source, log, 1)
    disk.process_ends()
    log = make_log(folder, disk)
    log.open()
    kept = log.begin_session(session(), recorded())
    assert kept == source.transactions[2].commit_lsn
    source.confirmed = log.end
    disk.power_cut(random.Random(0))
    log = make_log(folder, disk)
    log.open()
    assert log.end >= source.confirmed
    check(folder, source, log)


@pytest.mark.parametrize("byte", [-1, 30])
def test_a_file_that_lost_bytes_between_start_and_session_begins_an_epoch(
    folder: Path, disk: FaultyDisk, byte: int
) -> None:
    """What verified from the page cache and does not any more cannot be built on."""
    log = begun(folder, disk)
    source = Source()
    send(source, log, 2)
    disk.process_ends()
    log = make_log(folder, disk)
    log.open()
    path = folder / epoch_name(1) / segment_name(1)
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)
    assert log.begin_session(session(), recorded()) == ZERO_COMMIT
    assert log.epoch is not None
    assert "no longer holds" in log.epoch.reason


def test_a_power_cut_at_any_call_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    """Whatever disk call the power goes in, the log afterwards reaches what was published before, in the same epoch."""
    for calls in count():
        home = tmp_path / str(calls)
        home.mkdir()
        disk = FaultyDisk(home / "scratch")
        log = begun(home / "relay", disk, RelayLimits(segment_bytes_max=200))
        source = Source()
        disk.faults.cut_after = calls
        try:
            send(source, log, 4, parts=2)
        except PowerCutError:
            is_cut = True
        else:
            is_cut = False
        confirmed = log.end
        disk.power_cut(random.Random(calls))
        again = make_log(home / "relay", disk)
        again.open()
        assert again.end >= confirmed
        check(home / "relay", source, again)
        again.begin_session(session(identity(confirmed)), recorded())
        assert again.epoch is not None
        assert again.epoch.epoch == 1
        disk.process_ends()
        if not is_cut:
            break
    assert calls > 10


def test_a_power_cut_while_an_epoch_is_made_leaves_the_old_one_or_the_new(tmp_path: Path) -> None:
    """An epoch is there as a whole or not at all."""
    for calls in count():
        home = tmp_path / str(calls)
        home.mkdir()
        disk = FaultyDisk(home / "scratch")
        log = begun(home / "relay", disk)
        send(Source(), log, 1)
        disk.faults.cut_after = calls
        try:
            log.begin_session(session(identity(EndLsn(9000), is_new=True)), recorded(epoch=1))
        except PowerCutError:
            is_cut = True
        else:
            is_cut = False
        disk.power_cut(random.Random(calls))
        again = make_log(home / "relay", disk)
        again.open()
        assert again.published is not None
        assert again.published.epoch == 2 or is_cut
        again.begin_session(session(identity(EndLsn(9000))), recorded(epoch=1))
        assert again.end == EndLsn(9000)
        disk.process_ends()
        if not is_cut:
            break
    assert calls > 5


@pytest.mark.parametrize("call", ["make_folder", "create", "write", "sync", "rename", "sync_folder"])
def test_an_epoch_that_cannot_be_made_is_made_later(folder: Path, disk: FaultyDisk, call: str) -> None:
    """A disk that refuses an epoch half way does not stand in the way of the next try."""
    log = begun(folder, disk)
    send(Source(), log, 1)
    disk.faults.refused[call] = errno.EIO
    start = session(identity(EndLsn(9000), is_new=True))
    for _ in range(2):
        with pytest.raises(LogError):
            log.begin_session(start, recorded(epoch=1))
    disk.faults.refused.clear()
    log.begin_session(start, recorded(epoch=1))
    assert log.published is not None
    assert log.end == EndLsn(9000)
    log.trim(recorded(EndLsn(9000), epoch=log.published.epoch))
    assert [entry.name for entry in folder.iterdir()] == [epoch_name(log.published.epoch)]
    source = Source(end=EndLsn(9000))
    send(source, log, 2)
    assert [each.kept for each in source.transactions] == read_kept(folder, log.published, EndLsn(9000))


def test_older_epochs_go_when_the_engine_has_the_newer(folder: Path, disk: FaultyDisk) -> None:
    """An old epoch stays, and counts, until the control store holds the new one."""
    log = begun(folder, disk)
    send(Source(), log, 3)
    old = log.relay_bytes
    log.begin_session(session(identity(EndLsn(9000), is_new=True)), recorded(epoch=1))
    assert log.relay_bytes > old
    log.trim(recorded(EndLsn(9000), epoch=1))
    assert (folder / epoch_name(1)).exists()
    log.trim(recorded(EndLsn(9000), epoch=2))
    assert not (folder / epoch_name(1)).exists()
    assert log.relay_bytes < old


@pytest.mark.parametrize("fault", ["header", "file", "folder", "segments", "store"])
def test_an_epoch_that_was_lost_begins_another(folder: Path, disk: FaultyDisk, fault: str) -> None:
    """A log that does not reach what was confirmed cannot be continued."""
    log = begun(folder, disk)
    source = Source()
    send(source, log, 3)
    disk.process_ends()
    epoch = folder / epoch_name(1)
    if fault == "header":
        (epoch / EPOCH_FILE).write_bytes(b"rubbish")
    elif fault == "file":
        (epoch / EPOCH_FILE).unlink()
    elif fault == "folder":
        epoch.rename(folder / "elsewhere")
    elif fault == "segments":
        (epoch / segment_name(1)).unlink()
    log = make_log(folder, disk)
    log.open()
    store = recorded(source.end, epoch=7 if fault == "store" else 1)
    log.begin_session(session(identity(source.end)), store)
    assert log.epoch is not None
    assert log.epoch.epoch == store.epoch + 1
    assert log.end == source.end


def test_newer_files_are_not_touched(folder: Path, disk: FaultyDisk) -> None:
    """Older code refuses a folder of newer code and purges nothing."""
    epoch = folder / epoch_name(1)
    epoch.mkdir(parents=True)
    (epoch / EPOCH_FILE).write_bytes(seal(EPOCH_MAGIC, 99, {}))
    (epoch / segment_name(1)).write_bytes(b"rubbish")
    with pytest.raises(FormatVersionError):
        make_log(folder, disk).open()
    assert (epoch / segment_name(1)).read_bytes() == b"rubbish"


def test_trimming_keeps_what_the_boundary_needs(folder: Path, disk: FaultyDisk) -> None:
    """Segments go only when all in them lies at or below the recorded position, and the newest never goes."""
    log = begun(folder, disk, RelayLimits(segment_bytes_max=1))
    source = Source()
    send(source, log, 5)
    assert segments(folder) == [1, 2, 3, 4, 5]
    before = log.relay_bytes
    log.trim(recorded(source.transactions[2].end, epoch=1, trim_below=source.transactions[1].end))
    assert segments(folder) == [3, 4, 5]
    assert log.relay_bytes < before
    check(folder, source, log, source.transactions[1].end)
    log.trim(recorded(source.end, epoch=0))
    assert segments(folder) == [3, 4, 5]
    log.trim(recorded(source.end, epoch=1))
    assert segments(folder) == [5]
    disk.process_ends()
    log = make_log(folder, disk)
    log.open()
    assert log.end == source.end
    check(folder, source, log, source.transactions[3].end)


def test_a_segment_that_cannot_be_removed_is_removed_later(folder: Path, disk: FaultyDisk) -> None:
    """A refused removal costs nothing but space."""
    log = begun(folder, disk, RelayLimits(segment_bytes_max=1))
    source = Source()
    send(source, log, 3)
    disk.faults.refused["unlink"] = errno.EACCES
    log.trim(recorded(source.end, epoch=1))
    assert segments(folder) == [1, 2, 3]
    disk.faults.refused.clear()
    (folder / epoch_name(1) / segment_name(1)).unlink()
    log.trim(recorded(source.end, epoch=1))
    assert segments(folder) == [3]


def test_a_log_full_of_what_nobody_needs_makes_room(folder: Path, disk: FaultyDisk) -> None:
    """When the newest segment alone uses up the budget and all in it is recorded, another begins and it goes."""
    log = begun(folder, disk, RelayLimits(relay_bytes_max=500))
    source = Source()
    send(source, log, 5)
    assert log.relay_bytes >= 500
    log.trim(recorded(source.transactions[3].end, epoch=1))
    assert segments(folder) == [1]
    log.trim(recorded(source.end, epoch=1))
    assert segments(folder) == [2]
    assert log.relay_bytes < 500
    send(source, log, 1)
    check(folder, source, log, source.transactions[4].end)


def test_room_that_cannot_be_made_is_told(folder: Path, disk: FaultyDisk) -> None:
    """A disk that refuses the segment which would make room ends the session, and the next one goes on."""
    log = begun(folder, disk, RelayLimits(relay_bytes_max=500))
    source = Source()
    send(source, log, 5)
    disk.faults.refused["sync_folder"] = errno.ENOSPC
    with pytest.raises(DiskFullError):
        log.trim(recorded(source.end, epoch=1))
    disk.faults.refused.clear()
    source.connect(log.begin_session(session(identity(source.end)), recorded(source.end, epoch=1)))
    send(source, log, 1)
    check(folder, source, log)


def test_a_segment_under_another_name_is_damage(folder: Path, disk: FaultyDisk) -> None:
    """A file whose header names another segment does not stand for the one it is called after."""
    log = begun(folder, disk, RelayLimits(segment_bytes_max=1))
    source = Source()
    send(source, log, 2)
    disk.process_ends()
    epoch = folder / epoch_name(1)
    (epoch / segment_name(3)).write_bytes((epoch / segment_name(2)).read_bytes())
    log = make_log(folder, disk)
    log.open()
    assert log.end == source.end
    assert segments(folder) == [1, 2]


def test_a_transaction_too_large_to_keep_leaves_a_stub(folder: Path, disk: FaultyDisk) -> None:
    """Its rows are gone, its relations are named, the file shrinks, and what follows it is decoded with its descriptions."""
    log = begun(folder, disk, RelayLimits(transaction_bytes_max=3000))
    source = Source()
    source.commit([(1, b"before")])
    large = source.commit([(1, b"x" * 200)] * 20 + [(2, b"y" * 200)] * 10 + [(3, b"TRUNCATE")])
    source.commit([(2, b"after"), (3, b"that")])
    log.append(source.send())
    for batch in source.send(10):
        log.append([batch])
    log.append(source.send())
    assert log.relay_bytes < 3000
    assert log.published is not None
    assert stubs(folder, log) == [Omitted(large.commit_lsn, large.xid, (1, 2, 3), large.end)]
    expected = [source.transactions[0].kept, source.transactions[2].kept]
    assert read_kept(folder, log.published, START) == expected
    assert log.begin_session(session(), recorded()) == source.transactions[2].commit_lsn


def test_a_stub_may_end_in_the_middle_of_a_batch(folder: Path, disk: FaultyDisk) -> None:
    """The batch with its commit may hold whole transactions after it; they are kept."""
    log = begun(folder, disk, RelayLimits(transaction_bytes_max=1000))
    source = Source()
    large = source.commit([(1, b"x" * 200)] * 10)
    source.commit([(1, b"a"), (2, b"b")])
    source.commit([(2, b"c")])
    parts = source.send(4)
    log.append([*parts[:-1], merge([parts[-1], *source.send(), *source.send()])])
    assert log.published is not None
    assert [stub.commit_lsn for stub in stubs(folder, log)] == [large.commit_lsn]
    assert read_kept(folder, log.published, START) == [each.kept for each in source.transactions[1:]]


def test_a_stub_begun_and_cut_off_comes_again(folder: Path, disk: FaultyDisk) -> None:
    """A connection lost inside a transaction that is not kept leaves nothing of it behind."""
    log = begun(folder, disk, RelayLimits(transaction_bytes_max=1000))
    source = Source()
    large = source.commit([(1, b"x" * 200)] * 10)
    log.append(source.send(4)[:-1])
    source.connect(log.begin_session(session(), recorded()))
    log.append(source.send(4))
    assert [stub.commit_lsn for stub in stubs(folder, log)] == [large.commit_lsn]


def test_a_stub_of_rubbish_is_given_up(folder: Path, disk: FaultyDisk) -> None:
    """A transaction that is not made of frames cannot be summed up: the connection must be made anew."""
    log = begun(folder, disk, RelayLimits(transaction_bytes_max=1000))
    source = Source()
    source.commit([(1, b"x" * 200)] * 10)
    parts = source.send(4)
    published = log.published
    with pytest.raises(DecodeError):
        log.append([replace(part, frames=b"\xff" * 2000) for part in parts])
    assert log.published == published
    log.begin_session(session(), recorded())


def test_a_large_transaction_is_synced_on_its_way(folder: Path, disk: FaultyDisk) -> None:
    """Syncs come by bytes even without a commit, so that its end does not hang on one very long sync."""
    log = begun(folder, disk, RelayLimits(group_bytes_max=1000))
    source = Source()
    source.commit([(1, b"x" * 200)] * 30)
    disk.calls.clear()
    published = log.published
    for batch in source.send(10)[:-1]:
        log.append([batch])
    assert disk.calls.count("sync") >= 3
    assert log.published == published


def test_rolling_begins_a_segment_at_the_next_commit(folder: Path, disk: FaultyDisk) -> None:
    """A wish for another segment waits for the end of the open transaction, and for something to leave behind."""
    log = begun(folder, disk)
    log.roll()
    source = Source()
    source.commit(rows(CHANCE, 5))
    source.commit(rows(CHANCE, 5))
    first = source.send(3)
    log.append(first[:1])
    assert segments(folder) == [1]
    log.roll()
    log.append(first[1:])
    assert segments(folder) == [1]
    log.append(source.send())
    assert segments(folder) == [1, 2]
    check(folder, source, log)


def test_a_change_of_mode_keeps_the_log(folder: Path, disk: FaultyDisk) -> None:
    """What was written without sync counts in `relay` mode once it is verified and synced."""
    log = begun(folder, disk, TINY, acknowledge=Acknowledge.SHAPES)
    source = Source()
    send(source, log, 6)
    disk.process_ends()
    log = make_log(folder, disk, limits=TINY)
    log.open()
    log.begin_session(session(), recorded())
    source.confirmed = log.end
    assert log.end == source.end
    disk.power_cut(random.Random(3))
    log = make_log(folder, disk, limits=TINY)
    log.open()
    assert log.end == source.end
    check(folder, source, log)


@pytest.mark.parametrize(
    ("number", "data", "left"),
    [
        (3, b"rubbish", [1, 2]),
        (3, None, [1, 2]),
        (2, b"rubbish", []),
    ],
)
def test_a_damaged_or_missing_unsynced_segment_ends_the_log(
    folder: Path, disk: FaultyDisk, number: int, data: bytes | None, left: list[int]
) -> None:
    """Where the power went between segments that were never synced, nothing that follows counts."""
    log = begun(folder, disk, RelayLimits(segment_bytes_max=1), acknowledge=Acknowledge.SHAPES)
    source = Source()
    send(source, log, 5)
    if not left:
        log.trim(recorded(source.transactions[0].end, epoch=1))
    disk.process_ends()
    path = folder / epoch_name(1) / segment_name(number)
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    log = make_log(folder, disk, acknowledge=Acknowledge.SHAPES)
    log.open()
    assert segments(folder) == left
    assert log.end == (source.transactions[1].end if left else START)
    check(folder, source, log, START if left else source.transactions[0].end)
    boundary = source.transactions[0].end
    source.confirmed = boundary
    kept = log.begin_session(session(identity(boundary)), recorded(boundary, epoch=1))
    source.connect(kept)
    while not source.is_drained():
        log.append(source.send())
    check(folder, source, log, boundary)


def test_a_hole_in_unsynced_segments_ends_the_log(folder: Path, disk: FaultyDisk) -> None:
    """Of segments that were never synced only those before the first hole count."""
    log = begun(folder, disk, RelayLimits(segment_bytes_max=1), acknowledge=Acknowledge.SHAPES)
    source = Source()
    send(source, log, 5)
    disk.process_ends()
    path = folder / epoch_name(1) / segment_name(3)
    path.write_bytes(path.read_bytes()[:-1])
    log = make_log(folder, disk, acknowledge=Acknowledge.SHAPES)
    log.open()
    assert log.end == source.transactions[1].end
    assert segments(folder) == [1, 2, 3]
    check(folder, source, log)


def test_damage_before_a_synced_segment_stays_for_readers_to_tell(folder: Path, disk: FaultyDisk) -> None:
    """A damaged header in the middle costs neither what follows nor the space: it is trimmed like any other."""
    log = begun(folder, disk, RelayLimits(segment_bytes_max=1))
    source = Source()
    send(source, log, 5)
    disk.process_ends()
    (folder / epoch_name(1) / segment_name(3)).write_bytes(b"rubbish")
    log = make_log(folder, disk)
    log.open()
    assert log.end == source.end
    check(folder, source, log, source.transactions[2].end)
    log.trim(recorded(source.transactions[3].end, epoch=1))
    assert segments(folder) == [5]


def test_a_torn_newest_segment_is_removed(folder: Path, disk: FaultyDisk) -> None:
    """A segment whose header was not complete never counted."""
    log = begun(folder, disk)
    source = Source()
    send(source, log, 2)
    disk.process_ends()
    (folder / epoch_name(1) / segment_name(2)).write_bytes(b"PNSTKSEG")
    (folder / epoch_name(1) / (segment_name(1) + ".new")).write_bytes(b"half a copy")
    log = make_log(folder, disk)
    log.open()
    assert segments(folder) == [1]
    assert log.end == source.end
    assert not list((folder / epoch_name(1)).glob("*.new"))


def test_an_unreadable_folder_is_told(folder: Path, disk: FaultyDisk) -> None:
    """A disk that refuses at start is an error of the log, not a crash."""
    disk.faults.refused["make_folder"] = errno.EROFS
    with pytest.raises(LogError, match="opening the relay log failed"):
        make_log(folder, disk).open()

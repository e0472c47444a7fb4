from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from penstock.errors import CorruptLogError
from penstock.postgres.lsn import EndLsn
from penstock.relay.abc import FramesRecord, PublishedEnd, RelayPlace, SessionRecord
from penstock.relay.epochs import epoch_name
from penstock.relay.limits import RelayLimits
from penstock.relay.log import RelayLog
from penstock.relay.reader import RelayReader, epochs_in, read_epoch
from penstock.relay.segments import decode_header, encode_header, segment_name
from penstock.relay.verify import VerifyFinding, verify_folder
from relay_disk import FaultyDisk
from relay_kit import START, Source, decode, describe, identity, make_log, read_all, recorded, rows, session


@dataclass(slots=True)
class Written:
    """
    A log of five segments with a transaction each.
    """

    folder: Path
    disk: FaultyDisk
    source: Source
    log: RelayLog

    @property
    def published(self) -> PublishedEnd:
        assert self.log.published is not None
        return self.log.published

    def path(self, number: int) -> Path:
        return self.folder / epoch_name(1) / segment_name(number)

    def damage(self, number: int, byte: int = -1) -> None:
        data = bytearray(self.path(number).read_bytes())
        data[byte] ^= 1
        self.path(number).write_bytes(data)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    disk = FaultyDisk(tmp_path / "scratch")
    # Every transaction begins a segment once the one before it holds something.
    log = make_log(tmp_path / "relay", disk, limits=RelayLimits(segment_bytes_max=1))
    log.open()
    log.begin_session(session(identity(is_new=True)), recorded())
    source = Source()
    for _ in range(5):
        source.commit(rows(random.Random(1), 3))
        log.append(source.send())
    yield Written(tmp_path / "relay", disk, source, log)
    disk.process_ends()


@pytest.fixture
def reader(written: Written) -> Iterator[RelayReader]:
    with RelayReader(written.folder, 1) as reader:
        yield reader


@pytest.mark.parametrize("bytes_max", [1, 150, 1 << 20])
def test_everything_is_read_in_pieces_of_any_size(written: Written, reader: RelayReader, bytes_max: int) -> None:
    """However little is asked for, each read brings something until the published end, and then nothing."""
    kept, _, _ = decode(read_all(reader, written.published, bytes_max))
    assert kept == [each.kept for each in written.source.transactions]
    assert reader.place == written.published.place
    assert reader.read(written.published.place, bytes_max) == []


def test_each_segment_opens_with_its_descriptions(written: Written, reader: RelayReader) -> None:
    """Where a reader could begin, it is told what is in force."""
    sessions = [record for record in read_all(reader, written.published) if isinstance(record, SessionRecord)]
    assert len(sessions) == 5
    assert sessions[0].descriptions == ()
    assert set(sessions[1].descriptions) <= {describe(oid) for oid in range(1, 5)}
    assert sessions[1].descriptions


def test_seeking_finds_the_newest_place_that_will_do(written: Written, reader: RelayReader) -> None:
    """A boundary between commits leads to the segment that holds what ends after it."""
    for index, transaction in enumerate(written.source.transactions[:-1]):
        reader.seek(transaction.end)
        assert reader.place == RelayPlace(index + 2, 0)
        reader.seek(EndLsn(transaction.end.value - 1))
        assert reader.place == RelayPlace(index + 1, 0)


def test_seeking_before_the_oldest_is_refused(written: Written, reader: RelayReader) -> None:
    """A boundary whose segments were trimmed cannot be replayed."""
    written.log.trim(recorded(written.source.transactions[1].end, epoch=1))
    with pytest.raises(CorruptLogError, match="reaches back to"):
        reader.seek(START)


def test_a_reader_follows_a_writer(written: Written, reader: RelayReader) -> None:
    """What is published later is read later, from where the reader stands, never beyond the published end."""
    read_all(reader, written.published)
    before = written.published
    transaction = written.source.commit([(1, b"x")])
    written.log.append(written.source.send())
    assert reader.read(before.place, 1000) == []
    records = reader.read(written.published.place, 1000)
    assert [type(record) for record in records] == [SessionRecord, FramesRecord]
    assert decode(records)[0] == [transaction.kept]


def test_a_segment_stays_readable_while_it_is_trimmed(written: Written, reader: RelayReader) -> None:
    """Removing a segment under a reader that has begun it costs nothing; one that it has not begun is told."""
    first = reader.read(written.published.place, 1)
    written.log.trim(recorded(written.source.end, epoch=1))
    assert isinstance(first[0], SessionRecord)
    assert isinstance(reader.read(written.published.place, 1)[0], FramesRecord)
    with pytest.raises(CorruptLogError, match="is not there"):
        reader.read(written.published.place, 1)


@pytest.mark.parametrize("byte", [-1, 30])
def test_damage_costs_its_segment_only(written: Written, reader: RelayReader, byte: int) -> None:
    """What does not verify is told once, with its segment's name; reading goes on with the next segment."""
    written.damage(3, byte)
    records = reader.read(written.published.place, 1 << 20)
    assert decode(records)[0] == [each.kept for each in written.source.transactions[:2]]
    with pytest.raises(CorruptLogError, match="segment 3 "):
        read_all(reader, written.published)
    assert reader.place == RelayPlace(4, 0)
    kept, _, _ = decode(read_all(reader, written.published))
    assert kept == [each.kept for each in written.source.transactions[3:]]


def test_damage_in_the_newest_segment_waits_for_another(written: Written, reader: RelayReader) -> None:
    """
    Nothing is read from a damaged segment that is still written, until the writer begins the next; then it is told
    again, because what was written meanwhile is not read.
    """
    reader.seek(written.source.transactions[3].end)
    written.damage(5)
    reader.read(written.published.place, 1)
    with pytest.raises(CorruptLogError):
        reader.read(written.published.place, 1)
    assert reader.damaged_segment == 5
    assert reader.read(written.published.place, 1000) == []
    written.log.trim(replace(recorded(epoch=1), damaged_segment=reader.damaged_segment))
    transaction = written.source.commit([(1, b"x")])
    written.log.append(written.source.send())
    with pytest.raises(CorruptLogError, match="was not read"):
        reader.read(written.published.place, 1000)
    assert decode(read_all(reader, written.published))[0] == [transaction.kept]


def test_a_missing_segment_is_damage(written: Written, reader: RelayReader) -> None:
    """A hole is told, and costs what was in it."""
    written.path(2).unlink()
    with pytest.raises(CorruptLogError, match="segment 2 "):
        read_all(reader, written.published)
    assert reader.place == RelayPlace(3, 0)


def test_a_published_end_that_moves_back_is_told(written: Written, reader: RelayReader) -> None:
    """A writer that lost what was read already makes the reader wait for the next segment."""
    read_all(reader, written.published)
    with pytest.raises(CorruptLogError, match="now ends at"):
        reader.read(RelayPlace(4, 200), 1000)
    assert reader.place == RelayPlace(5, 0)
    assert reader.read(RelayPlace(4, 300), 1000) == []
    with pytest.raises(CorruptLogError, match="was not read"):
        reader.read(written.published.place, 1000)
    assert decode(read_all(reader, written.published))[0] == [written.source.transactions[4].kept]


def test_a_segment_in_the_making_is_not_in_the_way(written: Written, reader: RelayReader) -> None:
    """Seeking passes over a newest file without a whole header."""
    written.path(6).write_bytes(b"PNST")
    reader.seek(written.source.transactions[3].end)
    assert reader.place == RelayPlace(5, 0)


def test_an_epoch_that_is_not_there_is_told(written: Written) -> None:
    """Asking for an epoch that was never published is an error of the log, not of the file system."""
    assert epochs_in(written.folder) == [1]
    assert epochs_in(written.folder / "nowhere") == []
    with RelayReader(written.folder, 2) as reader, pytest.raises(CorruptLogError, match="no epoch"):
        reader.seek(START)
    with pytest.raises(CorruptLogError, match="no epoch"):
        read_epoch(written.folder, 2)


def test_an_epoch_without_segments_waits_for_the_first(written: Written, reader: RelayReader) -> None:
    """A spill buffer that lost all with the power is read from its first new segment on."""
    for number in range(1, 6):
        written.path(number).unlink()
    reader.seek(written.source.end)
    assert reader.read(RelayPlace(0, 0), 1000) == []
    with pytest.raises(CorruptLogError, match="no segment"):
        reader.read(RelayPlace(1, 1), 1000)


def faults(folder: Path) -> list[VerifyFinding]:
    return [finding for finding in verify_folder(folder) if finding.is_fault]


def test_a_whole_log_verifies(written: Written) -> None:
    """Nothing is blamed in a log that is well, and every segment is named."""
    findings = list(verify_folder(written.folder))
    assert not faults(written.folder)
    assert [finding.path.name for finding in findings[1:]] == [segment_name(number) for number in range(1, 6)]
    assert "penstock" in findings[0].text


def test_a_folder_without_epochs_verifies(tmp_path: Path) -> None:
    """There is nothing to blame where nothing was written."""
    assert [finding.text for finding in verify_folder(tmp_path)] == ["no epoch"]


def test_an_open_end_is_noted_and_not_blamed(written: Written) -> None:
    """A transaction without its commit is what a writer leaves at any moment."""
    written.source.commit(rows(random.Random(2), 9))
    written.log.append(written.source.send(3)[:-1])
    findings = list(verify_folder(written.folder))
    assert "do not count" in findings[-1].text
    written.path(7).write_bytes(b"")
    assert not faults(written.folder)


@pytest.mark.parametrize("number", [1, 3])
def test_damage_is_blamed_on_its_file(written: Written, number: int) -> None:
    """A bit that changed in what counts is found, and where."""
    written.damage(number)
    assert [finding.path for finding in faults(written.folder)] == [written.path(number)]


def test_damaged_headers_and_holes_are_blamed(written: Written) -> None:
    """A header that does not verify, a missing segment and an epoch without its file are faults."""
    written.damage(2, 30)
    assert [finding.path for finding in faults(written.folder)] == [written.path(2)]
    written.path(4).unlink()
    assert len(faults(written.folder)) == 2
    for number in (1, 2, 3, 5):
        written.path(number).unlink()
    assert [finding.text for finding in faults(written.folder)] == ["no segment"]
    (written.folder / epoch_name(1) / "epoch").write_bytes(b"rubbish")
    assert len(faults(written.folder)) == 1


def test_a_successor_that_starts_elsewhere_is_blamed(written: Written) -> None:
    """Segments must fit: the position where one ends is where the next one starts."""
    data = written.path(3).read_bytes()
    header, after = decode_header(lambda byte, count: data[byte : byte + count])
    elsewhere = replace(header, start=EndLsn(header.start.value + 1))
    written.path(3).write_bytes(encode_header(elsewhere) + data[after:])
    assert [finding.path for finding in faults(written.folder)] == [written.path(2)]
    written.path(3).write_bytes(written.path(4).read_bytes())
    assert [finding.path for finding in faults(written.folder)] == [written.path(3)]

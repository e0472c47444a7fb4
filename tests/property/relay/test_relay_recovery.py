from __future__ import annotations

import random
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import CorruptLogError
from penstock.postgres.lsn import CommitLsn, EndLsn
from penstock.relay.abc import RelayRecord, StubRecord
from penstock.relay.records import encode_frames, encode_frontier, encode_session, encode_stub, scan
from penstock.relay.recovery import recover_segment
from penstock.relay.segments import SegmentHeader, encode_header

HEADER = encode_header(
    SegmentHeader(
        epoch=1,
        number=1,
        is_synced=True,
        options={},
        start=EndLsn(5),
        last_commit=CommitLsn(3),
        predecessor_end=0,
        descriptions=(),
    )
)
KINDS = st.lists(st.sampled_from(["part", "commit", "frontier", "session", "stub"]), max_size=12)


def read(data: bytes, byte: int, count: int) -> bytes:
    return data[byte : byte + count]


def build(kinds: list[str], chance: random.Random) -> tuple[bytes, list[tuple[int, EndLsn, CommitLsn]]]:
    """
    A segment, and the places in it that may be published: byte, end, last commit.
    """
    data, end, commit = HEADER, 5, CommitLsn(3)
    places = [(len(data), EndLsn(end), commit)]
    for kind in kinds:
        frames = chance.randbytes(chance.randint(0, 40))
        end += 10
        match kind:
            case "part":
                data += b"".join(encode_frames(frames, None))
            case "commit":
                commit = CommitLsn(end - 1)
                data += b"".join(encode_frames(frames, (commit, EndLsn(end))))
            case "frontier":
                data += encode_frontier(EndLsn(end))
            case "stub":
                commit = CommitLsn(end - 1)
                data += encode_stub(StubRecord(commit, 1, (1, 2), EndLsn(end)))
            case _:
                data += encode_session({})
        if kind in {"commit", "frontier", "stub"}:
            places.append((len(data), EndLsn(end), commit))
    return data, places


def records(data: bytes, stop: int) -> list[RelayRecord]:
    return [stored.record for stored in scan(partial(read, data), len(HEADER), stop)]


@given(kinds=KINDS, seed=st.integers(0, 2**32), part=st.floats(0, 1))
@settings(max_examples=300)
def test_any_prefix_recovers_to_a_prefix(kinds: list[str], seed: int, part: float) -> None:
    """Wherever a segment is torn, exactly the last publishable place before the tear is found, with its positions."""
    data, places = build(kinds, random.Random(seed))
    torn = data[: len(HEADER) + round(part * (len(data) - len(HEADER)))]
    found = recover_segment(partial(read, torn), len(torn))
    expected = [place for place in places if place[0] <= len(torn)][-1]
    assert (found.valid_end, found.end, found.last_commit) == expected
    assert records(torn, found.valid_end) == records(data, expected[0])
    assert found.valid_end <= found.verified_end <= len(torn)


@given(kinds=KINDS, seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=300)
def test_any_damage_recovers_to_what_was_before_it(kinds: list[str], seed: int, data: st.DataObject) -> None:
    """A flipped bit ends what counts before the record it is in; in the header it ends everything."""
    whole, places = build(kinds, random.Random(seed))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    at = bit // 8
    damaged = whole[:at] + bytes([whole[at] ^ (1 << bit % 8)]) + whole[at + 1 :]
    if at < len(HEADER):
        try:
            recover_segment(partial(read, damaged), len(damaged))
        except CorruptLogError:
            return
        raise AssertionError("a damaged header was believed")
    found = recover_segment(partial(read, damaged), len(damaged))
    assert (found.valid_end, found.end, found.last_commit) in [place for place in places if place[0] <= at]
    assert records(damaged, found.valid_end) == records(whole, found.valid_end)
    assert found.damage is not None


@given(tail=st.binary(max_size=200))
def test_rubbish_after_the_end_is_never_taken_for_records(tail: bytes) -> None:
    """Bytes that nobody wrote as records do not count, and zeros least of all."""
    for rest in (tail, bytes(len(tail))):
        found = recover_segment(partial(read, HEADER + rest), len(HEADER) + len(rest))
        assert (found.valid_end, found.end, found.last_commit) == (len(HEADER), EndLsn(5), CommitLsn(3))

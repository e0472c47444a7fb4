"""
Laws of chunks and of the search inside a run.
"""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.shape_log.chunks import SnapshotCutter, find_after, plan_runs
from penstock.shape_log.records import RUN_BYTES_TARGET
from penstock.shapes.offset import LogOffset

TRAPS = st.sampled_from(
    [
        '"lsn":"1","op_position":2}',
        'lsn":"5","op_position":6,',
        '\\"lsn":"7","op_position":8}}',
        '}},{"key":',
        '}},{"headers":{"lsn":"9","op_position":10}}',
        "lsn",
        "op_position",
        'x"lsn',
        'y"op_position',
        "\\",
        '"',
        "{[",
        "123",
    ]
)
NAMES = TRAPS | st.text(max_size=6)
VALUES = st.none() | TRAPS | st.text(max_size=20) | st.lists(TRAPS, max_size=4).map("".join)


@st.composite
def elements(draw: st.DrawFn) -> list[tuple[LogOffset, bytes]]:
    """
    Elements with ascending places and whatever a table may hold, their members in any order.
    """
    made = []
    tx, op = 10, 0
    for _ in range(draw(st.integers(1, 8))):
        tx, op = draw(st.sampled_from([(tx, op + 2), (tx + 5, 0)]))
        headers = {
            "operation": "update",
            "relation": ["public", draw(NAMES)],
            "txids": [3],
            "lsn": str(tx),
            "op_position": op,
            **draw(st.sampled_from([{}, {"last": True}, {"key_change_to": "}}", "last": True}])),
        }
        body = {
            "key": draw(st.text(max_size=9) | TRAPS),
            "value": draw(st.dictionaries(NAMES, VALUES, max_size=4)),
            "old_value": draw(st.dictionaries(NAMES, VALUES, max_size=2)),
            "headers": headers,
        }
        order = draw(st.permutations(list(body)))
        text = json.dumps({name: body[name] for name in order}, separators=(",", ":"), ensure_ascii=draw(st.booleans()))
        made.append((LogOffset(tx, op), text.encode("utf-8", "surrogatepass")))
    return made


@given(made=elements(), comma=st.sampled_from([b"", b","]), data=st.data())
@settings(max_examples=150)
def test_the_search_finds_the_element_behind_any_place(
    made: list[tuple[LogOffset, bytes]], comma: bytes, data: st.DataObject
) -> None:
    """
    Whatever tables, columns and values are called and hold, the bytes from the found place on are the elements behind.
    """
    run = comma + b",".join(element for _, element in made)
    places = [place for place, _ in made]
    near = data.draw(st.sampled_from(places))
    after = LogOffset(near.tx, near.op + data.draw(st.integers(-1, 1)))
    rest = [element for place, element in made if place > after]
    assert run[find_after(run, after, len(made)) :] == b",".join(rest)


@given(
    sizes=st.lists(st.integers(0, RUN_BYTES_TARGET * 2) | st.integers(0, 50), max_size=30),
    picked=st.sets(st.integers(1, 30)),
    committed_part=st.floats(0, 1),
)
def test_runs_cover_everything_and_are_short(sizes: list[int], picked: set[int], committed_part: float) -> None:
    """
    Runs follow each other, end at every chunk end and at the last commit, and no proper beginning of one is too long.
    """
    ends = sorted(end for end in picked if end <= len(sizes))
    committed = round(committed_part * len(sizes))
    runs = list(plan_runs(sizes, ends, committed))
    assert [run.from_inclusive for run in runs] == [0, *(run.up_to_exclusive for run in runs)][: len(runs)]
    assert (runs[-1].up_to_exclusive if runs else 0) == len(sizes)
    assert [run.up_to_exclusive for run in runs if run.is_chunk_end] == ends
    assert [run.up_to_exclusive for run in runs if run.is_committed_end] == ([committed] if committed else [])
    for run in runs:
        assert sum(sizes[run.from_inclusive : run.up_to_exclusive - 1]) < RUN_BYTES_TARGET
        assert run.bytes_count == sum(sizes[run.from_inclusive : run.up_to_exclusive])


@given(
    lines=st.lists(st.integers(1, 60).map(lambda size: b"r" * size), max_size=40),
    cuts=st.sets(st.integers(1, 40)),
    threshold=st.integers(1, 120),
)
def test_snapshot_chunks_do_not_depend_on_blocks(lines: list[bytes], cuts: set[int], threshold: int) -> None:
    """
    Chunks follow the protocol's rule line by line, however the lines came.
    """
    cutter = SnapshotCutter(threshold)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(lines)), len(lines)]
    pieces = [
        piece
        for start, past in pairwise(bounds)
        for piece in cutter.feed(b"".join(line + b"\n" for line in lines[start:past]))
    ]
    pieces.append(cutter.finish(b"end\n"))
    chunks: list[bytes] = [b""]
    counts = [0]
    for piece in pieces:
        chunks[-1] += piece.data
        counts[-1] += piece.elements_count
        if piece.is_chunk_end:
            chunks.append(b"")
            counts.append(0)
    assert chunks.pop() == b""
    expected: list[list[bytes]] = [[]]
    size = 0
    for line in lines:
        expected[-1].append(line)
        size += len(line) + 1
        if size >= threshold:
            expected.append([])
            size = 0
    expected[-1].append(b"end")
    assert chunks == [b",".join(chunk) for chunk in expected]
    assert counts[:-1] == [len(chunk) for chunk in expected]

from __future__ import annotations

import pytest

from penstock.collector.abc import INCLUDES_NEW, INCLUDES_OLD, RoutedChange
from penstock.collector.filter.index import FilterIndex
from penstock.replication.messages import Operation
from stream_builder import conditional, definition, relation


def test_a_table_is_answered_with_its_shapes() -> None:
    """In the order they were added; other tables do not matter."""
    index = FilterIndex()
    for incarnation, table in ((1, 10), (2, 20), (3, 10)):
        index.add(incarnation, definition(table))
    assert index.affected(10) == (1, 3)
    assert index.affected(20) == (2,)
    assert index.affected(30) == ()
    assert list(index.tables()) == [10, 20]
    assert len(index) == 3


def test_a_removed_shape_is_gone_at_once() -> None:
    """A table without shapes leaves the index; removing twice is told."""
    index = FilterIndex()
    index.add(1, definition(10))
    before = index.affected(10)
    assert index.remove(1)
    assert not index.remove(1)
    assert 1 not in index
    assert not index.has_table(10)
    assert index.affected(10) == ()
    assert before == (1,), "a sequence once given does not change"


def test_an_incarnation_is_added_once() -> None:
    """Twice is a bug of ours."""
    index = FilterIndex()
    index.add(1, definition(10))
    with pytest.raises(AssertionError):
        index.add(1, definition(20))


def updated(position: int, old: bytes, new: bytes) -> RoutedChange:
    return RoutedChange(Operation.UPDATE, relation(10), 10, position, (old,), (new,))


def test_only_candidates_are_named() -> None:
    """
    Of many shapes that differ in a constant, those of the old and of the new row; what is equal goes together.

    Scenarios F5, F8.
    """
    index = FilterIndex()
    for number in range(1000):
        index.add(number, conditional(10, f"id = {number}"))
    index.add(2000, conditional(10, "id = 7"))
    index.add(3000, definition(10))
    index.add(4000, conditional(10, "id > 7 AND id < 10"))
    found = {
        incarnations: [change.op_position for change in changes]
        for incarnations, changes, _ in index.match(
            {10: [updated(0, b"7", b"8"), updated(2, b"7", b"7"), updated(4, b"-1", b"-1")]}
        )
    }
    assert found == {(7, 2000): [0, 2], (8,): [0], (4000,): [0]}
    assert index.whole(10) == (3000,)
    assert len(index.affected(10)) == 1003


def test_a_value_that_all_have_in_common_does_not_matter() -> None:
    """
    Shapes of one tenant are told apart by what else they require.
    """
    index = FilterIndex()
    for number in range(50):
        index.add(number, conditional(10, f"id = ANY ('{{1,{number}}}') AND id = {number}"))
    assert index.match({10: [updated(0, b"1", b"7")]}) == [
        ((7,), [updated(0, b"1", b"7")], [INCLUDES_NEW]),
        ((1,), [updated(0, b"1", b"7")], [INCLUDES_OLD]),
    ]

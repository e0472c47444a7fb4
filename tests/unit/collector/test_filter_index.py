from __future__ import annotations

import pytest

from penstock.collector.filter.index import FilterIndex
from stream_builder import definition


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

from __future__ import annotations

import pytest

from penstock.collector.abc import INCLUDES_NEW, INCLUDES_OLD
from penstock.collector.filter.index import FilterIndex
from penstock.replication.messages import Change, Operation
from stream_builder import conditional, definition, lookups_count, relation


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


def updated(position: int, old: bytes, new: bytes) -> Change:
    return Change(Operation.UPDATE, relation(10), position, (old,), (new,))


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


def inserted(position: int, value: bytes) -> Change:
    return Change(Operation.INSERT, relation(10), position, None, (value,))


def found_by(index: FilterIndex, value: bytes) -> set[int]:
    """The shapes that an insert of this value is for, all of them for certain."""
    matches = index.match({10: [inserted(0, value)]})
    assert all(verdicts == [INCLUDES_NEW] for _, _, verdicts in matches)
    return {incarnation for incarnations, _, _ in matches for incarnation in incarnations}


def test_conditions_that_differ_in_constants_are_one_question() -> None:
    """
    However many there are of a kind, a row is asked once, and each is found by its own constant.
    """
    index = FilterIndex()
    for number in range(100):
        index.add(number, conditional(10, f"id > {number}"))
        index.add(1000 + number, conditional(10, f"id % 100 = {number} AND id < 200"))
    conditional_on = index.conditional[10]
    assert len(conditional_on) == 200
    assert lookups_count(conditional_on) == 2
    assert found_by(index, b"3") == {0, 1, 2, 1003}
    assert found_by(index, b"300") == set(range(100))
    for number in range(0, 100, 2):
        index.remove(number)
        index.remove(1000 + number)
    assert found_by(index, b"4") == {1, 3}
    assert found_by(index, b"103") == {*range(1, 100, 2), 1003}


def test_equal_thresholds_of_different_texts_are_kept_apart() -> None:
    """
    Constants that compare equal need not be the same text; each condition is removed by itself.
    """
    index = FilterIndex()
    wheres = ["id > 1", "id > 1::int8", "id > 1::int2", "1 < id"]
    for number, where in enumerate(wheres):
        index.add(number, conditional(10, where))
    assert found_by(index, b"2") == {0, 1, 2, 3}
    for number in (2, 0, 3, 1):
        index.remove(number)
        assert number not in found_by(index, b"2")
    assert not index.conditional


def test_conditions_that_are_all_different_come_and_go() -> None:
    """
    More than are asked by one function, some with company for a while: each goes on getting its own answer.
    """
    index = FilterIndex()
    signs = "+-"
    kinds = ["id" + "".join(f" {signs[number >> bit & 1]} id" for bit in range(5)) for number in range(20)]
    for number, kind in enumerate(kinds):
        index.add(number, conditional(10, f"{kind} >= 0"))
    everybody = found_by(index, b"1")
    assert everybody == {number for number, kind in enumerate(kinds) if kind.count("+") >= kind.count("-") - 1}
    conditional_on = index.conditional[10]
    for number, kind in enumerate(kinds):
        index.add(100 + number, conditional(10, f"{kind} >= 1000"))
        if number % 3 == 0:
            index.remove(number)
    assert found_by(index, b"1") == {number for number in everybody if number % 3}
    for number in range(20):
        index.remove(100 + number)
    assert found_by(index, b"1") == {number for number in everybody if number % 3}
    for number in range(20):
        index.remove(number)
    assert conditional_on.is_empty


def test_a_question_is_asked_only_of_rows_that_a_lookup_finds() -> None:
    """
    What is joined to an equality by AND is asked of the groups that share the value, and is no question to all rows.
    """
    index = FilterIndex()
    for number in range(50):
        index.add(number, conditional(10, f"id IN (7, {100 + number}) AND id % 50 >= {number}"))
    assert lookups_count(index.conditional[10]) == 1
    assert found_by(index, b"7") == set(range(8))
    assert found_by(index, b"110") == {10}
    assert found_by(index, b"8") == set()

from __future__ import annotations

from penstock.consumers.settle_plan import SettlePlan


def plan() -> SettlePlan:
    return SettlePlan(shape_bytes=100, age_s=5.0)


def test_a_tail_is_due_at_its_age() -> None:
    """
    Nothing is due before the age, and the oldest comes first.
    """
    due = plan()
    due.note(1, 10, now=0.0)
    due.note(2, 10, now=1.0)
    due.note(1, 20, now=4.0)
    assert due.due_at() == 5.0
    assert due.take_due(4.9, 10) == []
    assert due.take_due(6.0, 10) == [1, 2]
    assert due.due_at() is None


def test_a_large_tail_is_due_at_once_and_first() -> None:
    """
    Size overtakes age, and is told once.
    """
    due = plan()
    due.note(1, 10, now=0.0)
    assert not due.note(2, 99, now=0.0)
    assert due.note(2, 100, now=0.0)
    assert not due.note(2, 120, now=0.0)
    assert due.due_at() == 0.0
    assert due.take_due(0.0, 10) == [2]


def test_a_batch_has_a_limit() -> None:
    """
    What does not fit stays due.
    """
    due = plan()
    for incarnation in range(5):
        due.note(incarnation, 1, now=0.0)
    assert due.take_due(9.0, 3) == [0, 1, 2]
    assert due.take_due(9.0, 3) == [3, 4]


def test_all_are_due_when_asked_for_all() -> None:
    """
    When memory is short, age does not matter.
    """
    due = plan()
    due.note(1, 1, now=0.0)
    assert due.take_due(0.0, 10, is_all=True) == [1]


def test_a_shape_in_flight_is_not_due_until_it_has_landed() -> None:
    """
    What comes meanwhile waits for the next call.
    """
    due = plan()
    due.note(1, 500, now=0.0)
    assert due.take_due(0.0, 10) == [1]
    due.note(1, 700, now=1.0)
    due.ask(1, now=1.0)
    assert due.take_due(99.0, 10) == []
    assert due.is_noted(1)
    due.finish(1, 200)
    assert due.total_bytes == 200
    assert due.take_due(99.0, 10) == [1]
    due.finish(1, 0)
    assert not due.is_noted(1)
    assert due.total_bytes == 0


def test_a_shape_without_space_rests() -> None:
    """
    It is named, keeps its bytes, and is due again after its rest unless it is asked for before.
    """
    due = plan()
    due.note(1, 500, now=0.0)
    due.take_due(0.0, 10)
    due.postpone(1, until=10.0, now=1.0)
    assert due.resting == [1]
    assert due.total_bytes == 500
    assert due.due_at() == 10.0
    assert due.take_due(9.0, 10, is_all=True) == []
    assert due.take_due(10.0, 10) == [1]
    due.postpone(1, until=20.0, now=10.0)
    due.ask(1, now=11.0)
    assert due.take_due(11.0, 10) == [1]


def test_parts_of_open_transactions_do_not_count() -> None:
    """
    What a settle had to leave in memory is no reason to settle again, until more comes.
    """
    due = plan()
    due.note(1, 500, now=0.0)
    due.take_due(0.0, 10)
    due.finish(1, 400)
    assert due.total_bytes == 0
    assert not due.note(1, 450, now=1.0)
    assert due.total_bytes == 50
    assert due.note(1, 500, now=1.0)


def test_a_shape_that_is_gone_leaves_nothing_behind() -> None:
    """
    Whatever state it was in, its bytes are given back and it is not due.
    """
    due = plan()
    due.note(1, 500, now=0.0)
    due.note(2, 500, now=0.0)
    due.take_due(0.0, 1)
    due.forget(1)
    due.finish(1, 300)
    due.postpone(1, until=1.0, now=0.0)
    due.forget(2)
    assert (due.total_bytes, len(due), due.resting) == (0, 0, [])
    assert due.take_due(99.0, 10) == []

from __future__ import annotations

import pytest

from penstock.liveness.board import Board
from penstock.liveness.breadcrumb import SUSPICIONS_MAX, Crumb, Inherited, Trail, inherit, not_passed, still_suspect
from penstock.service.trail import BoardTrail

SLICE = Crumb(100, 200)


def died(current: Crumb | None, *before: Crumb, epoch: int = 1) -> Inherited:
    """
    What the successor of an engine concludes that died at this work.
    """
    return inherit(Trail(epoch, current, before), 1)


def test_nothing_is_concluded_from_nothing() -> None:
    """
    The first engine, and the first of an epoch, begin without suspicions.
    """
    assert inherit(None, 1) == Inherited()
    assert died(SLICE, epoch=2) == Inherited()


def test_an_idle_death_is_no_suspicion() -> None:
    """
    An engine that was killed while no consumer was called leaves what it had inherited.
    """
    assert died(None, SLICE) == Inherited((SLICE,))


def test_one_death_convicts_nobody() -> None:
    """
    Not even when the breadcrumb names a shape.
    """
    assert died(SLICE) == Inherited((SLICE,))
    assert died(Crumb(150, 150, 7)) == Inherited((Crumb(150, 150, 7),))


@pytest.mark.parametrize("before", [SLICE, Crumb(150, 150, 7), Crumb(200, 300)])
def test_a_second_death_at_the_same_commits_convicts_the_shape(before: Crumb) -> None:
    """
    The shape named by the second is guilty when the first named the same commits, for all shapes or for this one.
    """
    assert died(Crumb(150, 200, 7), before) == Inherited((before,), convicted=7, commit=150)


@pytest.mark.parametrize("before", [Crumb(100, 149), Crumb(201, 300), Crumb(150, 200, 8), Crumb(150, 200, 7, 1)])
def test_a_death_at_other_commits_or_for_another_shape_is_only_remembered(before: Crumb) -> None:
    """
    Without a commit in common, with another shape named, or with the same one that did something else, there is no
    second strike.
    """
    now = Crumb(150, 200, 7)
    assert died(now, before) == Inherited((before, now))


def test_a_second_death_that_names_nobody_convicts_nobody() -> None:
    """
    Two slices in a row are two suspicions.
    """
    assert died(SLICE, SLICE) == Inherited((SLICE, SLICE))


def test_suspicions_are_bounded_and_end_below_the_boundary() -> None:
    """
    The oldest is forgotten first, and so is what is read no more.
    """
    many = tuple(Crumb(number, number) for number in range(SUSPICIONS_MAX))
    assert died(Crumb(99, 99), *many).suspicions == (*many[1:], Crumb(99, 99))
    assert still_suspect(many, 3) == many[3:]


def test_what_an_engine_came_past_is_no_suspicion_any_more() -> None:
    """
    Two deaths at the same commits convict nobody if an engine between them handled these commits and lived.
    """
    assert not_passed((SLICE, Crumb(250, 300)), 200) == (Crumb(250, 300),)
    board = Board.create_in_memory()
    BoardTrail(board).begin_slice(100, 200)
    second = BoardTrail(board)
    second.take_over(0)
    assert second.begin_slice(100, 200)
    second.end()
    second.pass_commit(200)
    assert not second.begin_slice(300, 400)
    third = BoardTrail(board)
    third.take_over(0)
    third.begin_slice(100, 200)
    third.name(7, 150, 150)
    assert BoardTrail(board).take_over(0).convicted == 0
    board.close()


def test_deaths_outlive_the_board() -> None:
    """
    A new supervisor makes a new board; what engines died on under the one before still counts, in its own epoch.
    """
    board, other = Board.create_in_memory(), Board.create_in_memory()
    BoardTrail(board).begin_slice(0, 200)
    second = BoardTrail(board)
    second.take_over(4)
    assert second.save() == b"", "another epoch"
    second.begin_slice(100, 200)
    third = BoardTrail(board)
    third.take_over(4)
    kept = third.save()
    fourth = BoardTrail(other)
    assert fourth.take_over(4, kept).suspicions == (Crumb(100, 200),)
    fourth.name(7, 150, 150)
    assert BoardTrail(other).take_over(4, kept).convicted == 7
    assert BoardTrail(Board.create_in_memory()).take_over(5, kept) == Inherited()
    board.close()
    other.close()


def test_the_trail_outlives_its_engine() -> None:
    """
    Three engines on one board: the third learns from the first two which shape it was.
    """
    board = Board.create_in_memory()
    first = BoardTrail(board)
    assert first.take_over(4) == Inherited()
    assert not first.begin_slice(10, 20)
    first.end()
    assert not first.begin_slice(20, 40)

    second = BoardTrail(board)
    assert second.take_over(4).suspicions == (Crumb(20, 40),)
    assert not second.begin_slice(5, 19), "these have done no harm"
    second.end()
    assert second.begin_slice(15, 25), "these are handed over with care"
    second.name(3, 15, 22)
    second.name(4, 15, 25)

    third = BoardTrail(board)
    found = third.take_over(4)
    assert (found.convicted, found.commit) == (4, 15)
    third.forget_below(40)
    assert third.begin_slice(40, 50), "the boundary is at the last of them"
    third.end()
    third.forget_below(41)
    assert not third.begin_slice(20, 40)
    third.end()
    third.begin_epoch(5)
    assert BoardTrail(board).take_over(5) == Inherited()
    board.close()

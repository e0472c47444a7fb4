from __future__ import annotations

from penstock.consumers.eviction import Readable, choose_victims


def shapes(*reads: float | None, bytes_count: int = 10) -> list[Readable]:
    return [Readable(number, read_at, bytes_count) for number, read_at in enumerate(reads, start=1)]


def test_only_what_is_too_much_goes_and_least_recently_read_first() -> None:
    """
    H20: as many go as are over the limit, those first that nobody has read for longest, and none below it.
    """
    found = shapes(5.0, 1.0, 3.0, 2.0)
    assert choose_victims(found, count_max=2, bytes_max=None) == [2, 4]
    assert choose_victims(found, count_max=4, bytes_max=None) == []
    assert choose_victims(found, count_max=None, bytes_max=None) == []


def test_what_nobody_has_read_yet_is_left_alone() -> None:
    """
    H20: a shape that was never read counts, and stays, even if the limit is then not kept.
    """
    assert choose_victims(shapes(None, None, 7.0), count_max=1, bytes_max=None) == [3]
    assert choose_victims(shapes(None, None), count_max=1, bytes_max=None) == []


def test_bytes_are_a_limit_of_their_own() -> None:
    """
    Shapes go until the rest fits; both limits together are both kept.
    """
    found = [Readable(1, 1.0, 100), Readable(2, 2.0, 1), Readable(3, 3.0, 60), Readable(4, 4.0, 40)]
    assert choose_victims(found, count_max=None, bytes_max=101) == [1]
    assert choose_victims(found, count_max=None, bytes_max=50) == [1, 2, 3]
    assert choose_victims(found, count_max=2, bytes_max=150) == [1, 2]

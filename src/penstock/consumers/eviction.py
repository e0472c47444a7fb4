"""
Which shapes go when there are more than there may be.

Least recently read first. A shape that is being made and that nobody has read yet is left alone; one that somebody
waits at is being read now. Only as many are chosen as are too many, once at each look: reads between two looks
change who is next, and the interval between looks is what keeps shapes from being made and given up in turns.

Pure.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from operator import attrgetter
from typing import Final, NamedTuple

_BY_READ: Final = attrgetter("read_at", "incarnation")


class Readable(NamedTuple):
    """
    A shape that could be given up.

    Attributes:
        incarnation: its number.
        read_at: when it was read last, in seconds of any clock; None for never.
        bytes_count: what its files hold.
    """

    incarnation: int
    read_at: float | None
    bytes_count: int


def choose_victims(shapes: Iterable[Readable], *, count_max: int | None, bytes_max: int | None) -> list[int]:
    """
    Choose the shapes to give up, least recently read first, until neither limit is passed.

    Args:
        shapes: all live shapes, none that is being made or given up.
        count_max: how many there may be; None for any number.
        bytes_max: how much their files may hold together; None for any size.
    """
    known = list(shapes)
    count_over = 0 if count_max is None else len(known) - count_max
    bytes_over = 0 if bytes_max is None else sum(shape.bytes_count for shape in known) - bytes_max
    candidates = [shape for shape in known if shape.read_at is not None]
    victims: list[int] = []
    if count_over <= 0 and bytes_over <= 0:
        return victims
    if bytes_over <= 0:
        candidates = heapq.nsmallest(count_over, candidates, key=_BY_READ)
    else:
        candidates.sort(key=_BY_READ)
    for shape in candidates:
        if len(victims) >= count_over and bytes_over <= 0:
            break
        victims.append(shape.incarnation)
        bytes_over -= shape.bytes_count
    return victims

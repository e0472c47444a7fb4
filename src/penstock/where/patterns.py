"""
LIKE.

Theory of operation. A pattern falls at its percent signs into pieces, each of a fixed length: plain characters and
wildcards for exactly one. The first piece must stand at the beginning, the last at the end, and those between are taken
leftmost first, which never loses a match. So the work is bounded by length of text times length of pattern, whatever the
pattern, and is mostly `str.find`. A newline is a character like any other, as in Postgres.

A pattern that ends in the escape character matches nothing; Postgres may answer with an error instead. Pure.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Final

_PIECES: Final = re.compile(r"\\(.)|(%+)|(_)|([^\\%_]+)", re.DOTALL)


def _never(_: str) -> bool:
    return False


def _split(pattern: str) -> list[list[str | None]] | None:
    """
    Cut at percent signs; None stands for any one character. None when the pattern ends in the escape character.
    """
    pieces: list[list[str | None]] = [[]]
    position = 0
    while position < len(pattern):
        match = _PIECES.match(pattern, position)
        if match is None:
            return None
        if match[2]:
            pieces.append([])
        elif match[3]:
            pieces[-1].append(None)
        else:
            pieces[-1].append(match[1] or match[4])
        position = match.end()
    return pieces


class _Piece:
    """
    A run of characters and one-character wildcards.
    """

    __slots__ = ("length", "plain", "regex")

    def __init__(self, parts: list[str | None]) -> None:
        self.length = sum(1 if part is None else len(part) for part in parts)
        self.plain = None if None in parts else "".join(part for part in parts if part is not None)
        source = "".join("." if part is None else re.escape(part) for part in parts)
        self.regex = re.compile(source, re.DOTALL)

    def is_at(self, text: str, position: int) -> bool:
        if self.plain is not None:
            return text.startswith(self.plain, position)
        return self.regex.match(text, position) is not None

    def find(self, text: str, position: int, end: int) -> int:
        if self.plain is not None:
            return text.find(self.plain, position, end)
        match = self.regex.search(text, position, end)
        return -1 if match is None else match.start()


@functools.lru_cache(maxsize=256)
def compile_like(pattern: str) -> Callable[[str], bool]:
    """
    Make the function that tells whether a text matches.
    """
    split = _split(pattern)
    if split is None:
        return _never
    pieces = [_Piece(parts) for parts in split]
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        if first.plain is not None:
            return first.plain.__eq__
        regex = first.regex
        return lambda text: regex.fullmatch(text) is not None
    between = [piece for piece in pieces[1:-1] if piece.length]
    least = sum(piece.length for piece in pieces)

    def matches(text: str) -> bool:
        end = len(text) - last.length
        if len(text) < least or not first.is_at(text, 0) or not last.is_at(text, end):
            return False
        position = first.length
        for piece in between:
            found = piece.find(text, position, end)
            if found < 0:
                return False
            position = found + piece.length
        return True

    return matches


def like(text: str, pattern: str) -> bool:
    """
    Tell whether a text matches a pattern.
    """
    return compile_like(pattern)(text)

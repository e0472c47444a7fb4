"""
Arrays: their text, and what is done with them whatever their elements are.

An `Array` has dimensions, each with its lower bound, and its elements in one flat tuple, NULL as None. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from penstock.where.failures import EvaluationError

Value = object
DIMENSIONS_MAX: Final = 6


class Array(NamedTuple):
    """
    An array.

    Attributes:
        bounds: for each dimension its lower bound and its length; empty for an empty array.
        items: the elements, the last dimension running fastest.
    """

    bounds: tuple[tuple[int, int], ...]
    items: tuple[Value, ...]


EMPTY: Final = Array((), ())


def of_items(items: Iterable[Value]) -> Array:
    """
    Make an array of one dimension that begins at 1.
    """
    flat = tuple(items)
    return Array(((1, len(flat)),), flat) if flat else EMPTY


# --- text ------------------------------------------------------------------------------------------------------------

_BOUNDS: Final = re.compile(r"((?:\[[+-]?\d{1,9}:[+-]?\d{1,9}\])+)\s*=\s*", re.ASCII)
_BOUND: Final = re.compile(r"\[([+-]?\d+):([+-]?\d+)\]", re.ASCII)
_ITEM: Final = re.compile(
    r"\s*(?:\"((?:[^\"\\]|\\.)*)\"|((?:[^{}\",\\\s]|\\.)(?:(?:[^{}\",\\]|\\.)*(?:[^{}\",\\\s]|\\.))?))\s*", re.DOTALL
)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_NEEDS_QUOTES: Final = re.compile(r"[{}\",\\\s]|^$|^null$", re.IGNORECASE | re.ASCII)


def parse_array(text: str, item: Callable[[str], Value]) -> Array:
    """
    Read an array's text, each element with `item`.
    """
    if text == "{}":
        return EMPTY
    if text.startswith("{") and text.endswith("}") and text.find('"') < 0 and text.find("\\") < 0:
        inner = text[1:-1]
        if "{" not in inner and "}" not in inner and " " not in inner and "\n" not in inner and "\t" not in inner:
            words = inner.split(",")
            if all(words):
                return Array(((1, len(words)),), tuple(None if word in _NULLS else item(word) for word in words))
    return _parse_any_array(text.strip(" \t\n\r\f\v"), item)


_NULLS: Final = frozenset(a + b + c + d for a in "Nn" for b in "Uu" for c in "Ll" for d in "Ll")


def _parse_any_array(text: str, item: Callable[[str], Value]) -> Array:
    lows: list[tuple[int, int]] | None = None
    position = 0
    if text.startswith("["):
        match = _BOUNDS.match(text)
        if match is None:
            raise EvaluationError("malformed array literal")
        lows = [(int(low), int(high) - int(low) + 1) for low, high in _BOUND.findall(match[1])]
        position = match.end()
    items: list[Value] = []
    lengths: list[int] = []  # of the dimensions, as the first row of each shows them
    counts: list[int] = []  # what the open braces hold so far
    deepest = 0
    while True:
        # A brace opens or an element comes.
        while position < len(text) and text[position] in " \t\n\r\f\v":
            position += 1
        if text[position : position + 1] == "{":
            counts.append(0)
            if len(counts) > DIMENSIONS_MAX or (deepest and len(counts) > deepest):
                raise EvaluationError("malformed array literal")
            position += 1
            rest = text[position:].lstrip(" \t\n\r\f\v")
            if rest.startswith("}"):
                if len(counts) > 1 or rest != "}" or lows is not None or items:
                    raise EvaluationError("malformed array literal")
                return EMPTY
            continue
        match = _ITEM.match(text, position)
        if match is None or not counts or (deepest and len(counts) != deepest):
            raise EvaluationError("malformed array literal")
        deepest = len(counts)
        if match[1] is not None:
            items.append(item(_ESCAPE.sub(r"\1", match[1])))
        elif match[2] in _NULLS:
            items.append(None)
        else:
            items.append(item(_ESCAPE.sub(r"\1", match[2])))
        position = match.end()
        counts[-1] += 1
        # Then braces close until a comma comes or all are closed.
        while True:
            while position < len(text) and text[position] in " \t\n\r\f\v":
                position += 1
            sign = text[position : position + 1]
            position += 1
            if sign == ",":
                break
            if sign != "}":
                raise EvaluationError("malformed array literal")
            depth = len(counts)
            while len(lengths) < depth:
                lengths.append(-1)
            if lengths[depth - 1] not in {-1, counts[-1]}:
                raise EvaluationError("malformed array literal")
            lengths[depth - 1] = counts.pop()
            if not counts:
                if position != len(text):
                    raise EvaluationError("malformed array literal")
                return Array(_bounds(lengths, lows), tuple(items))
            counts[-1] += 1


def _bounds(lengths: list[int], lows: list[tuple[int, int]] | None) -> tuple[tuple[int, int], ...]:
    if lows is None:
        return tuple((1, length) for length in lengths)
    if [length for _, length in lows] != lengths:
        raise EvaluationError("malformed array literal")
    return tuple(lows)


def format_array(array: Array, item: Callable[[Value], str]) -> str:
    """
    Write an array's text, each element with `item`.
    """
    if not array.items:
        return "{}"
    words = ["NULL" if value is None else _quote(item(value)) for value in array.items]
    for _, length in reversed(array.bounds):
        words = ["{" + ",".join(words[start : start + length]) + "}" for start in range(0, len(words), length)]
    if all(low == 1 for low, _ in array.bounds):
        return words[0]
    return "".join(f"[{low}:{low + length - 1}]" for low, length in array.bounds) + "=" + words[0]


def _quote(word: str) -> str:
    if not _NEEDS_QUOTES.search(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# --- shape -----------------------------------------------------------------------------------------------------------


def dimension(array: Array, number: int) -> tuple[int, int] | None:
    """
    Give lower bound and length of a dimension, counted from 1; None when there is none.
    """
    return array.bounds[number - 1] if 1 <= number <= len(array.bounds) else None


def length(array: Array, number: int) -> int | None:
    """
    Give the length of a dimension.
    """
    found = dimension(array, number)
    return None if found is None else found[1]


def lower_bound(array: Array, number: int) -> int | None:
    """
    Give the first subscript of a dimension.
    """
    found = dimension(array, number)
    return None if found is None else found[0]


def upper_bound(array: Array, number: int) -> int | None:
    """
    Give the last subscript of a dimension.
    """
    found = dimension(array, number)
    return None if found is None else found[0] + found[1] - 1


def dimensions(array: Array) -> int | None:
    """
    Count the dimensions; an empty array has none to count.
    """
    return len(array.bounds) or None


def subscript(array: Array, *indices: int) -> Value:
    """
    Take one element; None outside.
    """
    if len(indices) != len(array.bounds):
        return None
    place = 0
    for index, (low, count) in zip(indices, array.bounds, strict=True):
        if not low <= index < low + count:
            return None
        place = place * count + index - low
    return array.items[place]


def cut(array: Array, *ends: int | None) -> Array:
    """
    Take a slice: for each dimension its ends, both inclusive, None where one is left out; the result begins at 1.
    """
    pairs = [(ends[index], ends[index + 1]) for index in range(0, len(ends), 2)]
    if len(pairs) > len(array.bounds):
        return EMPTY
    places = [0]
    lengths = []
    for index, (low, count) in enumerate(array.bounds):
        first, last = pairs[index] if index < len(pairs) else (None, None)
        start = low if first is None else max(low, first)
        stop = low + count - 1 if last is None else min(low + count - 1, last)
        if start > stop:
            return EMPTY
        lengths.append(stop - start + 1)
        places = [place * count + at - low for place in places for at in range(start, stop + 1)]
    return Array(tuple((1, count) for count in lengths), tuple(array.items[place] for place in places))


def stack(arrays: Iterable[Array]) -> Array:
    """
    Make an array of arrays with the same dimensions.
    """
    rows = list(arrays)
    first = rows[0]
    if any(row.bounds != first.bounds for row in rows):
        raise EvaluationError("multidimensional arrays must have array expressions with matching dimensions")
    if not first.items:
        return EMPTY
    if len(first.bounds) >= DIMENSIONS_MAX:
        raise EvaluationError("number of array dimensions exceeds the maximum allowed")
    return Array(((1, len(rows)), *first.bounds), tuple(item for row in rows for item in row.items))


# --- joining ---------------------------------------------------------------------------------------------------------


def append(array: Array | None, item: Value) -> Array:
    """
    Put an element behind an array of at most one dimension; a NULL array is an empty one.
    """
    if array is None or not array.items:
        return Array(((1, 1),), (item,))
    if len(array.bounds) != 1:
        raise EvaluationError("argument must be empty or one-dimensional array")
    low, count = array.bounds[0]
    return Array(((low, count + 1),), (*array.items, item))


def prepend(item: Value, array: Array | None) -> Array:
    """
    Put an element before an array of at most one dimension, keeping where it begins.
    """
    if array is None or not array.items:
        return Array(((1, 1),), (item,))
    if len(array.bounds) != 1:
        raise EvaluationError("argument must be empty or one-dimensional array")
    low, count = array.bounds[0]
    return Array(((low, count + 1),), (item, *array.items))


def join(left: Array | None, right: Array | None) -> Array | None:
    """
    Put two arrays together; a NULL or empty one adds nothing.
    """
    if left is None:
        return right
    if right is None:
        return left
    if not left.items:
        return right
    if not right.items:
        return left
    one, two = left.bounds, right.bounds
    if len(one) == len(two) and one[1:] == two[1:]:
        first = (one[0][0], one[0][1] + two[0][1])
        rest = one[1:]
    elif len(one) == len(two) + 1 and one[1:] == two:
        first, rest = (one[0][0], one[0][1] + 1), one[1:]
    elif len(two) == len(one) + 1 and two[1:] == one:
        first, rest = (two[0][0], two[0][1] + 1), two[1:]
    else:
        raise EvaluationError("cannot concatenate incompatible arrays")
    return Array((first, *rest), left.items + right.items)

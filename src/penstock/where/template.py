"""
Python text without its constants, and how it becomes a function of a row.

Conditions which differ in constants alone share one text and one compiled factory. Owns the compiling, the cache of what
was compiled, and the few functions that all texts may call beside those of `functions.NAMES`. What is written into a text
is `evaluate`'s business; no word of a user ever is. Pure.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from penstock.where import arrays
from penstock.where.failures import EvaluationError
from penstock.where.functions import NAMES

Row: TypeAlias = Sequence[bytes | None]
Evaluate: TypeAlias = Callable[[Row], bool | None]
Includes: TypeAlias = Callable[[Row], bool]

_TEMPLATES_MAX: Final = 2048

# What an evaluation may end with: our errors, and Python's for texts that are not what their type says.
FAILURES: Final = (ArithmeticError, ValueError, LookupError, TypeError, RecursionError, MemoryError)


class Template(NamedTuple):
    """
    A condition without its constants.

    Attributes:
        source: of the module that holds `make`, with `@n@` where a row's place for the n-th column goes.
        columns: the columns it reads, in the order of their numbers.
        names: objects the source names.
        constants: the arguments of `make`.
    """

    source: str
    columns: tuple[str, ...]
    names: tuple[tuple[str, object], ...]
    constants: tuple[Any, ...]

    def bind(self, column_order: Sequence[str]) -> Callable[[Row], Any]:
        """
        Give the function for rows whose values come in this order.

        Raises:
            KeyError: a column is not among them.
        """
        place = {name: index for index, name in enumerate(column_order)}
        made: Callable[[Row], Any] = load(self.source, [place[name] for name in self.columns], self.names)(
            *self.constants
        )
        return made


def load(source: str, places: Sequence[int], names: tuple[tuple[str, object], ...]) -> Callable[..., Any]:
    """
    Give the `make` of a source for rows that have the n-th column at the n-th of these places.
    """
    return _factory(_PLACE.sub(lambda match: str(places[int(match[1])]), source), names)


_PLACE: Final = re.compile(r"@(\d+)@")


@functools.lru_cache(maxsize=_TEMPLATES_MAX)
def _factory(source: str, names: tuple[tuple[str, object], ...]) -> Callable[..., Any]:
    return compile_source(source, names)


def compile_source(source: str, names: tuple[tuple[str, object], ...]) -> Callable[..., Any]:
    """
    Compile a module of ours, which may name these objects; gives its `make`.
    """
    namespace: dict[str, Any] = {**NAMES, **_RUNTIME, **dict(names)}
    exec(compile(source, "<where>", "exec"), namespace)  # noqa: S102 - our own text; no word of a user is in it
    make: Callable[..., Any] = namespace["make"]
    return make


# --- what the text calls ---------------------------------------------------------------------------------------------


def _quantify(function: Callable[[Any, Any], Any], value: Any, array: arrays.Array, *, is_all: bool) -> bool | None:
    if not array.items:
        return is_all
    if value is None:
        return None
    has_null = False
    for item in array.items:
        if item is None:
            has_null = True
            continue
        result = function(value, item)
        if result is None:
            has_null = True
        elif bool(result) is not is_all:
            return not is_all
    return None if has_null else is_all


def _any_of(function: Callable[[Any, Any], Any], value: Any, array: arrays.Array) -> bool | None:
    return _quantify(function, value, array, is_all=False)


def _all_of(function: Callable[[Any, Any], Any], value: Any, array: arrays.Array) -> bool | None:
    return _quantify(function, value, array, is_all=True)


def _all_true(*parts: bool | None) -> bool | None:
    if False in parts:
        return False
    return None if None in parts else True


def _any_true(*parts: bool | None) -> bool | None:
    if True in parts:
        return True
    return None if None in parts else False


def _extreme(key: Callable[[Any], Any] | None, *values: Any, is_greatest: bool) -> Any:
    chosen = None
    for value in values:
        if value is None:
            continue
        if chosen is None:
            chosen = value
            continue
        left, right = (value, chosen) if key is None else (key(value), key(chosen))
        if (left > right) if is_greatest else (left < right):
            chosen = value
    return chosen


def _greatest(key: Callable[[Any], Any] | None, *values: Any) -> Any:
    return _extreme(key, *values, is_greatest=True)


def _least(key: Callable[[Any], Any] | None, *values: Any) -> Any:
    return _extreme(key, *values, is_greatest=False)


def _glue(*parts: str | None) -> str:
    return "".join(part for part in parts if part is not None)


def stack(*items: arrays.Array | None) -> arrays.Array:
    """
    Make one array of rows of them.
    """
    present = [item for item in items if item is not None]
    if len(present) != len(items):
        # An empty or missing row counts as empty, and only all of them may be.
        if any(item.items for item in present):
            raise EvaluationError("multidimensional arrays must have array expressions with matching dimensions")
        return arrays.EMPTY
    return arrays.stack(present)


_RUNTIME: Final[Mapping[str, object]] = {
    "all_of": _all_of,
    "all_true": _all_true,
    "any_of": _any_of,
    "any_true": _any_true,
    "arrays": arrays,
    "greatest": _greatest,
    "glue": _glue,
    "least": _least,
    "stack": stack,
    "FAILURES": FAILURES,
}

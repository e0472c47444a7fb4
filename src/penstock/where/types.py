"""
Types, and which of many functions a call means: Postgres's rules, over Postgres's own lists.

Owns the names of types, who can be cast to whom, and the choice between overloads as the manual's chapter on type
conversion describes it and `parse_func.c` does it. A type is a string: `int4`, `int4[]`, `unknown`; an enum is
`enum:<oid>`; a type that we do not know `other:<oid>`. Pure.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final, NamedTuple

from penstock.where.catalog import CASTS, FUNCTIONS, OPERATORS, TYPES, entries, signatures

UNKNOWN: Final = "unknown"

OPERATORS_BY_NAME: Final = signatures(OPERATORS)
FUNCTIONS_BY_NAME: Final = signatures(FUNCTIONS)

_POLYMORPHIC: Final = frozenset(
    {
        "anyarray",
        "anyelement",
        "anynonarray",
        "anyenum",
        "anycompatible",
        "anycompatiblearray",
        "anycompatiblenonarray",
    }
)
_COMPATIBLE: Final = frozenset({"anycompatible", "anycompatiblearray", "anycompatiblenonarray"})


def _read_types() -> tuple[dict[int, str], dict[str, str], frozenset[str]]:
    by_oid, category, preferred = {}, {}, set()
    for word in TYPES.split():
        name, oid, array_oid, letter = word.split(":")
        by_oid[int(oid)] = name
        by_oid[int(array_oid)] = f"{name}[]"
        category[name] = letter[0]
        if letter.endswith("!"):
            preferred.add(name)
    return by_oid, category, frozenset(preferred)


TYPE_BY_OID, _CATEGORY, _PREFERRED = _read_types()
OID_BY_TYPE: Final = {name: oid for oid, name in TYPE_BY_OID.items()}
_CASTS: Final = {
    (source, target.partition(":")[0]): target.partition(":")[2]
    for source, targets in entries(CASTS).items()
    for target in targets
}


class Overload(NamedTuple):
    """
    One operator or function, as chosen for a call.

    Attributes:
        name: the operator's symbol or the function's name.
        declared: the argument types as the catalog has them, perhaps polymorphic.
        args: the types the arguments are cast to.
        result: the type of the result.
    """

    name: str
    declared: tuple[str, ...]
    args: tuple[str, ...]
    result: str


def is_array(type_: str) -> bool:
    """
    Tell whether it is an array type.
    """
    return type_.endswith("[]")


def element(type_: str) -> str:
    """
    Give an array's element type.
    """
    return type_.removesuffix("[]")


def is_enum(type_: str) -> bool:
    """
    Tell whether it is an enum.
    """
    return type_.startswith("enum:") and not is_array(type_)


def category(type_: str) -> str:
    """
    Give the letter of `pg_type.typcategory`.
    """
    if is_array(type_):
        return "A"
    if type_ == UNKNOWN:
        return "X"
    if type_.startswith("enum:"):
        return "E"
    if type_ in _POLYMORPHIC or type_ == "record":
        return "P"
    return _CATEGORY.get(type_, "U")


def is_preferred(type_: str) -> bool:
    """
    Tell whether it is the preferred type of its category.
    """
    return type_ in _PREFERRED


def cast_context(source: str, target: str) -> str | None:
    """
    Tell when a cast applies: `i`mplicitly, on `a`ssignment, `e`xplicitly, or never (None). Types differ.
    """
    if source == UNKNOWN:
        return "i"
    if (context := _CASTS.get((source, target))) is not None:
        return context
    if is_array(source) and is_array(target):
        inner = "i" if element(source) == element(target) else cast_context(element(source), element(target))
        if inner is not None:
            return inner
    if category(target) == "S" and target != "char":
        return "a"
    if category(source) == "S" and source != "char":
        return "e"
    return None


def can_coerce(source: str, target: str) -> bool:
    """
    Tell whether a value may become an argument of this declared type without being asked for.
    """
    if source in {target, UNKNOWN} or target in _POLYMORPHIC:
        return True
    return cast_context(source, target) == "i"


def common_type(types: Sequence[str]) -> str | None:
    """
    Choose one type for the branches of a CASE, the elements of an ARRAY and the like; None when there is none.
    """
    chosen = types[0]
    for other in types[1:]:
        if other in {UNKNOWN, chosen}:
            continue
        if chosen == UNKNOWN:
            chosen = other
        elif category(other) != category(chosen):
            return None
        elif not is_preferred(chosen) and can_coerce(chosen, other) and not can_coerce(other, chosen):
            chosen = other
    if chosen == UNKNOWN:
        chosen = "text"
    return chosen if all(can_coerce(type_, chosen) for type_ in types) else None


def _bind(declared: Sequence[str], actual: Sequence[str]) -> dict[str, str] | None:
    """
    Find what the polymorphic types of a declaration stand for; None when the arguments contradict each other.

    What stays open, because all arguments are of unknown type, is left out.
    """
    bound: dict[str, str] = {}
    plain: list[str] = []
    loose: list[str] = []
    for slot, type_ in zip(declared, actual, strict=True):
        if slot not in _POLYMORPHIC or type_ == UNKNOWN:
            continue
        of_array = slot.endswith("array") and not slot.endswith("nonarray")
        if of_array and not is_array(type_):
            return None
        (loose if slot in _COMPATIBLE else plain).append(element(type_) if of_array else type_)
    if plain:
        if any(type_ != plain[0] for type_ in plain):
            return None
        bound["anyelement"] = bound["anynonarray"] = bound["anyenum"] = plain[0]
        bound["anyarray"] = f"{plain[0]}[]"
    if loose:
        chosen = common_type(loose)
        if chosen is None:
            return None
        bound["anycompatible"] = bound["anycompatiblenonarray"] = chosen
        bound["anycompatiblearray"] = f"{chosen}[]"
    for slot in declared:
        given = bound.get(slot)
        if given is None:
            continue
        if slot == "anyenum" and not is_enum(given):
            return None
        if slot in {"anynonarray", "anycompatiblenonarray"} and is_array(given):
            return None
        if slot in {"anyarray", "anycompatiblearray"} and given.endswith("[][]"):
            return None
    return bound


def _fits(declared: Sequence[str], actual: Sequence[str]) -> bool:
    if len(declared) != len(actual):
        return False
    return (
        all(can_coerce(type_, slot) for slot, type_ in zip(declared, actual, strict=True))
        and _bind(declared, actual) is not None
    )


_Candidate = tuple[tuple[str, ...], str]


def _keep_best(candidates: list[_Candidate], score: dict[int, int]) -> list[_Candidate]:
    best = max(score.values())
    return [candidate for index, candidate in enumerate(candidates) if score[index] == best]


def _select(candidates: list[_Candidate], actual: Sequence[str]) -> _Candidate | None:
    """
    Choose as `func_select_candidate` does.
    """
    known = [index for index, type_ in enumerate(actual) if type_ != UNKNOWN]
    candidates = _keep_best(candidates, {n: sum(c[0][i] == actual[i] for i in known) for n, c in enumerate(candidates)})
    if len(candidates) == 1:
        return candidates[0]

    def preferred_matches(candidate: _Candidate) -> int:
        return sum(
            candidate[0][i] == actual[i]
            or (is_preferred(candidate[0][i]) and category(candidate[0][i]) == category(actual[i]))
            for i in known
        )

    candidates = _keep_best(candidates, {n: preferred_matches(c) for n, c in enumerate(candidates)})
    if len(candidates) == 1:
        return candidates[0]
    unknown = [index for index, type_ in enumerate(actual) if type_ == UNKNOWN]
    if not unknown:
        return None
    narrowed = _select_by_category(candidates, unknown)
    if len(narrowed) == 1:
        return narrowed[0]
    if known and len({actual[index] for index in known}) == 1:
        guess = actual[known[0]]
        fitting = [c for c in narrowed if _fits(c[0], (guess,) * len(actual))]
        if len(fitting) == 1:
            return fitting[0]
    return None


def _select_by_category(candidates: list[_Candidate], unknown: Sequence[int]) -> list[_Candidate]:
    """
    Narrow by what the places of unknown type may be: strings if anyone takes them, else what all agree on.
    """
    chosen: dict[int, tuple[str, bool]] = {}
    for index in unknown:
        categories = {category(candidate[0][index]) for candidate in candidates}
        if "S" in categories:
            letter = "S"
        elif len(categories) == 1:
            letter = categories.pop()
        else:
            return candidates
        has_preferred = any(
            category(candidate[0][index]) == letter and is_preferred(candidate[0][index]) for candidate in candidates
        )
        chosen[index] = (letter, has_preferred)

    def keeps(candidate: _Candidate) -> bool:
        for index, (letter, has_preferred) in chosen.items():
            slot = candidate[0][index]
            if category(slot) != letter or (has_preferred and not is_preferred(slot)):
                return False
        return True

    kept = [candidate for candidate in candidates if keeps(candidate)]
    return kept or candidates


def _settle(name: str, candidate: _Candidate, actual: Sequence[str]) -> Overload | None:
    declared, result = candidate
    bound = _bind(declared, actual)
    if bound is None:
        return None
    needed = {slot for slot in (*declared, result) if slot in _POLYMORPHIC}
    if not needed <= bound.keys():
        return None
    return Overload(name, declared, tuple(bound.get(slot, slot) for slot in declared), bound.get(result, result))


@functools.lru_cache(maxsize=4096)
def choose_operator(name: str, actual: tuple[str, ...]) -> Overload | None:
    """
    Choose the operator that Postgres would; None when there is none or it would not know either.
    """
    exact = actual
    if len(actual) == 2 and UNKNOWN in actual and actual != (UNKNOWN, UNKNOWN):
        # A literal beside a known type is first taken to be of that type.
        known = actual[0] if actual[1] == UNKNOWN else actual[1]
        exact = (known, known)
    return _choose(name, OPERATORS_BY_NAME[name], actual, exact)


@functools.lru_cache(maxsize=4096)
def choose_function(name: str, actual: tuple[str, ...]) -> Overload | None:
    """
    Choose the function that Postgres would; None when there is none or it would not know either.
    """
    return _choose(name, FUNCTIONS_BY_NAME[name], actual, actual)


def _choose(
    name: str, signatures_: Sequence[_Candidate], actual: tuple[str, ...], exact: tuple[str, ...]
) -> Overload | None:
    for candidate in signatures_:
        if candidate[0] == exact:
            return _settle(name, candidate, actual)
    fitting = [candidate for candidate in signatures_ if _fits(candidate[0], actual)]
    if not fitting:
        return None
    chosen = fitting[0] if len(fitting) == 1 else _select(fitting, actual)
    return None if chosen is None else _settle(name, chosen, actual)

"""
Patterns of LIKE: texts put between percent signs, and other escape characters made the one that there is. Pure.
"""

from __future__ import annotations

from penstock.errors import InvalidShapeError
from penstock.models.expressions import Expression, Operation, Value

ESCAPE = "\\"


def contains(text: Expression, before: str, behind: str) -> Expression:
    """
    Put what any text may stand for before and behind a pattern.
    """
    if isinstance(text, Value):
        return Value(f"{before}{text.text}{behind}", text.type)
    if before:
        text = Operation("||", (Value(before, "text"), text))
    return Operation("||", (text, Value(behind, "text"))) if behind else text


def escaped(text: str) -> str:
    """
    Write a text so that a pattern stands for nothing but it.
    """
    return text.replace(ESCAPE, ESCAPE * 2).replace("%", f"{ESCAPE}%").replace("_", f"{ESCAPE}_")


def rewrite_escape(pattern: Expression, escape: str) -> Expression:
    r"""
    Write a pattern with an escape character of its own with the usual one, as ESCAPE is not in the language.

    Raises:
        InvalidShapeError: the pattern is no value, so its characters are not known.
    """
    if escape == ESCAPE:
        return pattern
    if not isinstance(pattern, Value):
        raise InvalidShapeError("where", "a shape cannot have ESCAPE with a pattern that is no value: escape with \\")
    made: list[str] = []
    letters = iter(pattern.text)
    for letter in letters:
        if letter == escape:
            made.append(ESCAPE + next(letters, ""))
        else:
            made.append(ESCAPE * 2 if letter == ESCAPE else letter)
    return Value("".join(made), pattern.type)

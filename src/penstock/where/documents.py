"""
jsonb: reading, comparing, containing, walking and writing back as Postgres does.

A document is a `Document` around Python's dicts, lists, strings, booleans, `Decimal`s and None, so that JSON's null is not
SQL's. Objects keep Postgres's order of keys: shorter first, then by bytes. Pure.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Final, NamedTuple

from penstock.where.arrays import Array
from penstock.where.failures import EvaluationError
from penstock.where.numbers import format_numeric, parse_numeric


class Document(NamedTuple):
    """
    One jsonb value.
    """

    root: Any


def _number(text: str) -> Decimal:
    return parse_numeric(text)


def _refuse_constant(name: str) -> None:
    raise EvaluationError(name)


def _sorted_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return dict(sorted(found.items(), key=_key_order))


def _key_order(pair: tuple[str, Any]) -> tuple[int, bytes]:
    data = pair[0].encode()
    return len(data), data


# What Postgres wrote has its keys in order; what a user wrote is put in order.
_STORED: Final = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal, parse_constant=_refuse_constant, strict=True)
_WRITTEN: Final = json.JSONDecoder(
    parse_float=_number,
    parse_int=_number,
    parse_constant=_refuse_constant,
    object_pairs_hook=_sorted_object,
    strict=True,
)


def column_document(data: bytes) -> Document:
    """
    Read a jsonb that Postgres wrote.
    """
    return Document(_STORED.decode(data.decode()))


def parse_document(text: str) -> Document:
    """
    Read JSON that somebody wrote.
    """
    try:
        root = _WRITTEN.decode(text)
        text.encode()
        _check_characters(root)
    except (ValueError, RecursionError) as error:
        raise EvaluationError("not JSON") from error
    return Document(root)


def _check_characters(root: Any) -> None:
    """
    Refuse what no text of Postgres holds: the character 0 and halves of surrogate pairs.
    """
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if "\0" in value:
                raise EvaluationError("unsupported Unicode escape sequence")
            value.encode()
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(value.values())


_ESCAPED: Final = re.compile(r'["\\\x00-\x1f]')
_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escape(match: re.Match[str]) -> str:
    return _SHORT.get(match[0]) or f"\\u{ord(match[0]):04x}"


def _write(value: Any) -> str:
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return f'"{_ESCAPED.sub(_escape, value)}"'
    if isinstance(value, Decimal):
        return format_numeric(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_write, value))}]"
    assert isinstance(value, dict)
    return "{" + ", ".join(f"{_write(key)}: {_write(item)}" for key, item in value.items()) + "}"


def format_document(document: Document) -> str:
    """
    Write it as `jsonb_out` does.
    """
    return _write(document.root)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, Decimal):
        return "number"
    return "array" if isinstance(value, list) else "object"


def kind(document: Document) -> str:
    """
    Name the type of the value, as `jsonb_typeof` does.
    """
    return _kind(document.root)


def _same(left: Any, right: Any) -> bool:
    if _kind(left) != _kind(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(value, right[key]) for key, value in left.items())
    return bool(left == right)


def same(left: Document, right: Document) -> bool:
    """
    Tell whether two documents are equal: numbers by value, objects whatever their order was.
    """
    return _same(left.root, right.root)


def _contains(whole: Any, part: Any) -> bool:
    if isinstance(whole, dict):
        if not isinstance(part, dict):
            return False
        for key, wanted in part.items():
            if key not in whole:
                return False
            found = whole[key]
            if _kind(found) != _kind(wanted):
                return False
            if isinstance(wanted, dict | list):
                if not _contains(found, wanted):
                    return False
            elif found != wanted:
                return False
        return True
    if not isinstance(part, list):
        return False
    for wanted in part:
        if isinstance(wanted, dict | list):
            if not any(_kind(item) == _kind(wanted) and _contains(item, wanted) for item in whole):
                return False
        elif not any(_kind(item) == _kind(wanted) and item == wanted for item in whole):
            return False
    return True


def contains(whole: Document, part: Document) -> bool:
    """
    Tell whether one document holds another (`@>`); an array may hold a bare scalar, never the other way round.
    """
    left, right = whole.root, part.root
    is_left_scalar, is_right_scalar = not isinstance(left, dict | list), not isinstance(right, dict | list)
    if is_left_scalar:
        return is_right_scalar and _same(left, right)
    if is_right_scalar:
        return isinstance(left, list) and _contains(left, [right])
    return _contains(left, right)


def has_key(document: Document, key: str) -> bool:
    """
    Tell whether a string is a key of an object, an element of an array, or the scalar itself (`?`).
    """
    root = document.root
    if isinstance(root, dict):
        return key in root
    if isinstance(root, list):
        return any(isinstance(item, str) and item == key for item in root)
    return isinstance(root, str) and root == key


def has_any_key(document: Document, keys: Array) -> bool:
    """
    Tell whether any of the strings is there (`?|`); NULLs are passed over.
    """
    return any(has_key(document, key) for key in keys.items if isinstance(key, str))


def has_all_keys(document: Document, keys: Array) -> bool:
    """
    Tell whether all of the strings are there (`?&`); NULLs are passed over.
    """
    return all(has_key(document, key) for key in keys.items if isinstance(key, str))


def field(document: Document, key: str) -> Document | None:
    """
    Take a member of an object.
    """
    root = document.root
    return Document(root[key]) if isinstance(root, dict) and key in root else None


def item(document: Document, index: int) -> Document | None:
    """
    Take an element of an array, from the end when negative; a bare scalar counts as an array of itself.
    """
    root = document.root
    if not isinstance(root, list | dict):
        root = [root]
    if not isinstance(root, list) or not -len(root) <= index < len(root):
        return None
    return Document(root[index])


_PATH_INDEX: Final = re.compile(r"[ \t\n\r\f\v]*([+-]?[0-9]{1,10})", re.ASCII)


def walk(document: Document, path: Array) -> Document | None:
    """
    Follow a path of keys and indices (`#>`).
    """
    if None in path.items:
        return None
    found = document.root
    for step in path.items:
        assert isinstance(step, str)
        if isinstance(found, dict):
            if step not in found:
                return None
            found = found[step]
        elif isinstance(found, list):
            match = _PATH_INDEX.fullmatch(step)
            index = int(match[1]) if match else len(found)
            if not -len(found) <= index < len(found):
                return None
            found = found[index]
        else:
            return None
    return Document(found)


def as_text(document: Document | None) -> str | None:
    """
    Give a string as it is, null as NULL, and anything else as written (`->>`).
    """
    if document is None or document.root is None:
        return None
    return document.root if isinstance(document.root, str) else _write(document.root)


def field_text(document: Document, key: str) -> str | None:
    """
    Take a member of an object as text.
    """
    return as_text(field(document, key))


def item_text(document: Document, index: int) -> str | None:
    """
    Take an element of an array as text.
    """
    return as_text(item(document, index))


def walk_text(document: Document, path: Array) -> str | None:
    """
    Follow a path to a text (`#>>`).
    """
    return as_text(walk(document, path))


def array_length(document: Document) -> int:
    """
    Count the elements of an array.
    """
    if not isinstance(document.root, list):
        raise EvaluationError("cannot get array length of a non-array")
    return len(document.root)


def to_number(document: Document) -> Decimal | None:
    """
    Give the number that the document is; null is NULL since Postgres 18, and an error before.
    """
    if document.root is None:
        return None
    if not isinstance(document.root, Decimal):
        raise EvaluationError("the document is not a number")
    return document.root


def to_bool(document: Document) -> bool | None:
    """
    Give the boolean that the document is; null likewise.
    """
    if document.root is None:
        return None
    if not isinstance(document.root, bool):
        raise EvaluationError("the document is not a boolean")
    return document.root

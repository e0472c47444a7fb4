"""
SQL identifiers as clients write them in `table` and `columns`.

The rules are those of Postgres with two differences that the contract fixes: an unquoted identifier folds only ASCII
letters to lower case, and one that is too long is refused instead of cut. The messages of the errors are part of the
contract: clients show them.

Pure functions.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from penstock.errors import DecodeError

IDENTIFIER_CHARS_MAX: Final = 63
DEFAULT_SCHEMA: Final = "public"

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_ASCII_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def parse_identifier(text: str) -> str:
    """
    Read one identifier, quoted or not, and give the name it stands for.

    Raises:
        DecodeError: it is none; the message is the one clients see.
    """
    is_quoted = len(text) >= 2 and text[0] == '"' and text[-1] == '"'
    name = _unquote(text[1:-1]) if is_quoted else _fold(text)
    if len(name) > IDENTIFIER_CHARS_MAX:
        raise DecodeError(f"Identifier is too long (max length is {IDENTIFIER_CHARS_MAX})")
    assert name
    return name


def parse_relation(text: str) -> tuple[str, str]:
    """
    Read the name of a table with or without its schema; gives (schema, name).

    Raises:
        DecodeError: it is none; the message is the one clients see.
    """
    parts = _split_outside_quotes(text, ".")
    if len(parts) > 2:
        raise DecodeError(f"Invalid relation identifier, too many delimiters: {text}")
    names = [parse_identifier(part) for part in parts]
    return (DEFAULT_SCHEMA, names[0]) if len(names) == 1 else (names[0], names[1])


def parse_columns(text: str) -> tuple[str, ...]:
    """
    Read a list of columns separated by commas, in the order written. Nothing is trimmed.

    Raises:
        DecodeError: an element is no identifier; the message is the one clients see.
    """
    return tuple(parse_identifier(part) for part in _split_outside_quotes(text, ","))


def _split_outside_quotes(text: str, delimiter: str) -> list[str]:
    parts: list[str] = []
    start = 0
    is_quoted = False
    for place, char in enumerate(text):
        if char == '"':
            is_quoted = not is_quoted
        elif char == delimiter and not is_quoted:
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    return parts


def _unquote(inner: str) -> str:
    if not inner:
        raise DecodeError("Invalid zero-length delimited identifier")
    if '"' in inner.replace('""', ""):
        raise DecodeError(f"Invalid identifier with unescaped quote: {inner}")
    return inner.replace('""', '"')


def _fold(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text.lower()
    if not text:
        raise DecodeError("Invalid zero-length delimited identifier")
    if not (_is_letter(text[0]) and all(_is_letter(char) or _continues(char) for char in text)):
        raise DecodeError(f"Invalid unquoted identifier contains special characters: {text}")
    return text.translate(_ASCII_LOWER)


def _is_letter(char: str) -> bool:
    return char == "_" or unicodedata.category(char).startswith("L")


def _continues(char: str) -> bool:
    return char == "$" or unicodedata.category(char) in {"Nd", "Mn", "Mc", "Me"}

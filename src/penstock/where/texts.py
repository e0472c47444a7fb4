"""
What is done with text: cutting, trimming, searching. Lengths and places are in characters, from 1. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from penstock.where.failures import EvaluationError

NAME_BYTES_MAX: Final = 63

ASCII_LOWER: Final[Mapping[int, int]] = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
ASCII_UPPER: Final[Mapping[int, int]] = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}


def clip_name(text: str) -> str:
    """
    Cut a text to the length of a `name`, between characters.
    """
    data = text.encode()
    return text if len(data) <= NAME_BYTES_MAX else data[:NAME_BYTES_MAX].decode(errors="ignore")


def substring(text: str, start: int, count: int | None = None) -> str:
    """
    Take characters from `start`, which may lie before the beginning.
    """
    if count is None:
        return text[max(start, 1) - 1 :]
    if count < 0:
        raise EvaluationError("negative substring length not allowed")
    end = start + count
    return text[max(start, 1) - 1 : end - 1] if end > 1 else ""


def left(text: str, count: int) -> str:
    """
    Take the first characters, or all but the last ones when negative.
    """
    return text[:count] if count >= 0 else text[: max(len(text) + count, 0)]


def right(text: str, count: int) -> str:
    """
    Take the last characters, or all but the first ones when negative.
    """
    if count >= 0:
        return text[max(len(text) - count, 0) :]
    return text[-count:]


def replace(text: str, old: str, new: str) -> str:
    """
    Replace every occurrence; an empty one occurs nowhere.
    """
    return text.replace(old, new) if old else text


def position(text: str, wanted: str) -> int:
    """
    Find a text in another; 0 when it is not there.
    """
    return text.find(wanted) + 1


def split_part(text: str, separator: str, number: int) -> str:
    """
    Take the n-th part, from the end when negative.
    """
    if number == 0:
        raise EvaluationError("field position must not be zero")
    parts = text.split(separator) if separator else [text]
    if not text:
        return ""
    if number < 0:
        number += len(parts) + 1
    return parts[number - 1] if 1 <= number <= len(parts) else ""


def strip(text: str, characters: str = " ") -> str:
    """
    Drop any of the characters from both ends.
    """
    return text.strip(characters) if characters else text


def strip_left(text: str, characters: str = " ") -> str:
    """
    Drop any of the characters from the beginning.
    """
    return text.lstrip(characters) if characters else text


def strip_right(text: str, characters: str = " ") -> str:
    """
    Drop any of the characters from the end.
    """
    return text.rstrip(characters) if characters else text


def strip_bytes(data: bytes, characters: bytes) -> bytes:
    """
    Drop any of the bytes from both ends.
    """
    return data.strip(characters) if characters else data


def octets(text: str) -> int:
    """
    Count the bytes of a text in UTF-8.
    """
    return len(text.encode())


def unpad(text: str) -> str:
    """
    Drop the padding of a `char(n)`.
    """
    return text.rstrip(" ")


def pad(text: str, length: int) -> str:
    """
    Cut or pad to a `char(n)`.
    """
    return text[:length].ljust(length)


def no_nul(text: str) -> str:
    """
    Give a text back if Postgres could hold it.
    """
    if "\0" in text:
        raise EvaluationError("invalid byte sequence for encoding")
    return text

from __future__ import annotations

from typing import Any

import pytest

from penstock.api.listing import read_question
from penstock.shapes.reading import ShapesQuestion


def test_parameters_are_read() -> None:
    """
    Each has a default, and what is not a parameter is nothing to it.
    """
    assert read_question({}) == ShapesQuestion("bytes", 100, 0, "")
    asked = {"order": "read", "limit": "1000", "skip": "7", "table": "items", "secret": "x"}
    assert read_question(asked) == ShapesQuestion("read", 1000, 7, "items")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("limit", value) for value in ("0", "1001", "-1", "ten", "", "1e2", "٣", {"a": "1"})),
        *(("skip", value) for value in ("-1", "100001", "9" * 30)),
        ("order", "size"),
        ("order", {"a": "bytes"}),
        ("table", {"a": "items"}),
    ],
)
def test_what_cannot_be_is_named(name: str, value: Any) -> None:
    """
    The parameter is, and no other.
    """
    answer = read_question({name: value})
    assert isinstance(answer, dict)
    assert answer.keys() == {name}

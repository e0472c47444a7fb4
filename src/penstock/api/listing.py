"""
What an operator asks of the list of shapes.

Pure: the parameters of `GET /v1/status/shapes` in, a question out.
"""

from __future__ import annotations

import re
from typing import Final

from penstock.api.params import Query
from penstock.errors import Problems
from penstock.shapes.reading import SHAPE_ORDERS, SHAPES_LISTED_MAX, SHAPES_SKIPPED_MAX, ShapesQuestion

_IS_NUMBER: Final = re.compile(r"[0-9]{1,6}", re.ASCII).fullmatch


def read_question(query: Query) -> ShapesQuestion | Problems:
    """
    Read the parameters; gives what is wrong with them by name where something is.
    """
    problems: Problems = {}

    def number(name: str, default: int, least: int, most: int) -> int:
        text = query.get(name, str(default))
        if isinstance(text, str) and _IS_NUMBER(text) and least <= int(text) <= most:
            return int(text)
        problems[name] = [f"must be a number from {least} to {most}"]
        return default

    limit = number("limit", 100, 1, SHAPES_LISTED_MAX)
    skip = number("skip", 0, 0, SHAPES_SKIPPED_MAX)
    order, table = query.get("order", SHAPE_ORDERS[0]), query.get("table", "")
    if order not in SHAPE_ORDERS:
        problems["order"] = [f"must be one of {', '.join(SHAPE_ORDERS)}"]
    if not isinstance(table, str):
        problems["table"] = ["must be a text"]
    return problems or ShapesQuestion(str(order), limit, skip, str(table))

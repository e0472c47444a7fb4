"""
Rows as a table of HTML, for notebooks.

Pure. Everything that comes from the database is escaped, rows and texts are bounded, and nothing is loaded or executed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from itertools import islice
from typing import Final

from penstock.client.values import Schema

ROWS_MAX: Final = 20
"""So many rows are shown where nobody says how many."""
TEXT_CHARS_MAX: Final = 120
"""So much of a value is shown."""
COLUMNS_MAX: Final = 50
"""So many columns are shown."""

_CELL: Final = "text-align:left;padding:2px 8px;white-space:pre"
_FAINT: Final = "opacity:.6"


def html_table(
    schema: Schema, rows: Iterable[Mapping[str, str | None]], count: int, note: str = "", *, rows_max: int = ROWS_MAX
) -> str:
    """
    Write the first rows.

    Args:
        schema: the columns.
        rows: the rows as text.
        count: how many there are.
        note: stands below the table, behind the number of rows.
        rows_max: how many to show.
    """
    names = list(islice(schema, COLUMNS_MAX))
    head = "".join(
        f'<th style="{_CELL}" title="{escape(_type_name(schema[name]))}">{escape(name)}</th>' for name in names
    )
    body = "".join("<tr>" + "".join(_cell(row.get(name)) for name in names) + "</tr>" for row in islice(rows, rows_max))
    shown = [f"{count:,} row{'' if count == 1 else 's'}"]
    if count > rows_max:
        shown.append(f"the first {rows_max:,} are shown")
    if len(schema) > COLUMNS_MAX:
        shown.append(f"{COLUMNS_MAX} of {len(schema):,} columns are shown")
    if note:
        shown.append(note)
    foot = escape("; ".join(shown))
    return (
        '<div class="penstock"><table style="border-collapse:collapse">'
        f'<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><div style="{_FAINT}">{foot}</div></div>'
    )


def _cell(text: str | None) -> str:
    if text is None:
        return f'<td style="{_CELL};{_FAINT}">NULL</td>'
    shown = text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + "…"
    return f'<td style="{_CELL}">{escape(shown)}</td>'


def _type_name(column: Mapping[str, object]) -> str:
    dims = column.get("dims", 0)
    return f"{column.get('type', '')}{'[]' * (dims if isinstance(dims, int) else 0)}"

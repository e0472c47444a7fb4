from __future__ import annotations

import copy
import pickle
import re
import sys
from html.parser import HTMLParser

import pytest

import penstock
from penstock.client.html import COLUMNS_MAX, TEXT_CHARS_MAX, html_table
from penstock.client.tables import Rows, arrow_schema
from penstock.errors import ClientError, ExtraMissingError


def rows() -> Rows[dict[str, int]]:
    """
    Two rows that were read.
    """
    return Rows.of([{"id": 1}, {"id": 2}], {"id": {"type": "int4"}}, [{"id": "1"}, {"id": "2"}])


@pytest.mark.parametrize(
    ("method", "missing", "extra"),
    [
        ("to_arrow", "pyarrow", "arrow"),
        ("to_polars", "polars", "polars"),
        ("to_polars", "pyarrow", "polars"),
        ("to_pandas", "pandas", "pandas"),
        ("to_pandas", "pyarrow", "pandas"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, method: str, missing: str, extra: str
) -> None:
    """
    The error says what to install.
    """
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExtraMissingError, match=re.escape(f'pip install "penstock[{extra}]"')):
        getattr(rows(), method)()


def test_streams_of_batches_ask_for_the_library_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nobody waits for the first change to be told.
    """
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with penstock.Client("http://127.0.0.1:9") as client, pytest.raises(ExtraMissingError):
        client.stream_arrow("items")


def test_rows_are_a_tuple_everywhere_else() -> None:
    """
    They are equal to one, can be kept and sent elsewhere, and know themselves as a table.
    """
    found = rows()
    assert isinstance(found, tuple)
    assert [*found] == [{"id": 1}, {"id": 2}]
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == found
    assert found.to_arrow().to_pylist() == [{"id": 1}, {"id": 2}]
    assert "<td" in found._repr_html_()


def test_types_of_ones_own_are_dictionaries_and_those_of_extensions_texts() -> None:
    """
    The schema gives a name only, so what is built in or known of extensions is told apart by it.
    """
    names = ["mood", "citext", "geometry", "tsvector", "int4range"]
    schema = arrow_schema({name: {"type": name} for name in names})
    kinds = {field.name: str(field.type).partition("<")[0] for field in schema}
    assert kinds == {
        "mood": "dictionary",
        "citext": "string",
        "geometry": "string",
        "tsvector": "string",
        "int4range": "string",
    }


class _Seen(HTMLParser):
    """
    Notes tags and texts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert all(name in {"style", "title", "class"} for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_holds_nothing_but_a_table_whatever_is_in_the_rows() -> None:
    """
    Names, types and values are escaped; rows, columns and values are bounded.
    """
    evil = "\"><script>alert('x')</script>&amp;"
    schema = {evil: {"type": evil, "dims": 1}} | {f"c{number}": {"type": "text"} for number in range(100)}
    found = [{evil: evil, "c0": None, "c1": "y" * 10_000}] * 100
    seen = _Seen()
    seen.feed(html_table(schema, found, len(found), evil, rows_max=7))
    assert set(seen.tags) == {"div", "table", "thead", "tbody", "tr", "th", "td"}
    assert seen.tags.count("tr") == 8
    assert seen.tags.count("th") == COLUMNS_MAX
    assert seen.texts.count(evil) == 8
    assert max(map(len, seen.texts)) < 2 * TEXT_CHARS_MAX
    assert f"100 rows; the first 7 are shown; {COLUMNS_MAX} of 101 columns are shown; {evil}" in seen.texts


async def test_a_shape_shows_itself_also_before_and_after() -> None:
    """
    Without rows and connection there is an empty table that says so; what needs rows says that there are none yet.
    """
    async with penstock.AsyncClient("http://127.0.0.1:9") as client:
        shape = client.shape("items")
        assert "0 rows; not followed yet" in shape._repr_html_()
        for ask in (shape.live, shape.to_arrow):
            with pytest.raises(ClientError, match="no rows yet"):
                ask()

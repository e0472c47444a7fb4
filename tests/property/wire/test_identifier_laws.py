from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import DecodeError
from penstock.postgres.quoting import quote_identifier
from penstock.wire.identifiers import parse_columns, parse_identifier, parse_relation

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=63)


@given(NAMES)
def test_quoting_keeps_every_name(name: str) -> None:
    """
    Whatever a name holds, its quoted form stands for it.
    """
    assert parse_identifier(quote_identifier(name)) == name


@given(NAMES, NAMES)
def test_quoted_relations_keep_both_names(schema: str, table: str) -> None:
    """
    No dot or quote inside the names divides them.
    """
    assert parse_relation(f"{quote_identifier(schema)}.{quote_identifier(table)}") == (schema, table)


@given(st.lists(NAMES, min_size=1, max_size=6))
def test_quoted_columns_keep_their_names_and_order(names: list[str]) -> None:
    """
    No comma or quote inside the names divides them.
    """
    assert parse_columns(",".join(quote_identifier(name) for name in names)) == tuple(names)


@given(st.text(max_size=80))
def test_rubbish_is_refused_with_our_error(text: str) -> None:
    """
    Nothing else comes out of the parser, and what it accepts has a length within the limit.
    """
    with contextlib.suppress(DecodeError):
        assert 0 < len(parse_identifier(text)) <= 63
    with contextlib.suppress(DecodeError):
        parse_relation(text)
    with contextlib.suppress(DecodeError):
        parse_columns(text)

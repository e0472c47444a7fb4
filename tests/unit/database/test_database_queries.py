from __future__ import annotations

import pytest

from penstock.database.queries import (
    PublicationState,
    alter_publication,
    copy_snapshot,
    parse_publication_state,
    parse_table,
)
from penstock.database.snapshots import is_as_defined
from penstock.postgres.quoting import quote_identifier, quote_literal
from penstock.postgres.relation import Column, Table, TableId
from penstock.shapes.definition import ShapeColumn, ShapeDefinition

ITEMS = TableId(16384, "public", "items")


def _definition(columns: dict[str, int], *, is_explicit: bool = False, where: str | None = None) -> ShapeDefinition:
    first = next(iter(columns))
    return ShapeDefinition(
        table=ITEMS,
        columns=tuple(ShapeColumn(name, oid, -1) for name, oid in columns.items()),
        key_columns=(first,),
        has_primary_key=True,
        selected=tuple(sorted(columns)),
        is_explicit=is_explicit,
        where=where,
    )


@pytest.mark.parametrize(
    ("text", "literal"), [("a", "'a'"), ("it's", "'it''s'"), ("a\\b", "E'a\\\\b'"), ("\\'", "E'\\\\'''")]
)
def test_quotes_constants_for_both_string_settings(text: str, literal: str) -> None:
    """
    A backslash is written so that it means itself whatever the server's setting is.
    """
    assert quote_literal(text) == literal


def test_quotes_names() -> None:
    """
    A quote inside a name is doubled.
    """
    assert quote_identifier('a"b') == '"a""b"'


def test_a_clause_cannot_hide_what_follows() -> None:
    """
    A comment at the end of the clause ends with its line.
    """
    sql = copy_snapshot(_definition({"id": 20}, where="id > 1 -- more"), is_partitioned=False)
    assert "WHERE (\nid > 1 -- more\n)" in sql


def test_reads_a_table() -> None:
    """
    Every field of a description lands in its place.
    """
    columns = '[["id",20,-1,"int8",0,true,false,0,false,null],["t",1009,-1,"text",1,false,true,null,false,"C"]]'
    table = parse_table(("16384", "public", "items", "p", "f", "16000", columns))
    assert table == Table(
        ITEMS,
        (
            Column("id", 20, -1, "int8", is_not_null=True, pk_index=0),
            Column("t", 1009, -1, "text", dims=1, is_generated=True, collation="C"),
        ),
        root_oid=16000,
        replica_identity="f",
        is_partitioned=True,
    )


def test_reads_the_state_of_a_publication() -> None:
    """
    A missing publication, a missing table and a full answer are told apart.
    """
    assert not parse_publication_state([]).is_there
    gone = parse_publication_state([("t", "t", "f", None, None, None, None, "f", None, None, None, None)])
    assert gone == PublicationState(is_there=True, is_ours=True, publishes_all=True)
    tree = '[[16384,"public","items",true],[16390,"public","items_1",false]]'
    full = parse_publication_state(
        [("t", "t", "t", "16384", "public", "items", "17000", "f", tree, "[]", "t", '["sum"]')]
    )
    assert full.membership == 17000
    assert full.table == ITEMS
    assert full.weak == (ITEMS,)
    assert full.tree == (16384, 16390)
    assert full.form == "[]"
    assert full.is_via_root
    assert full.unpublished == ("sum",)


def test_alters_only_what_must_be() -> None:
    """
    A member with full identity needs no DDL, hence no lock; a narrowed member joins anew.
    """
    state = PublicationState(is_there=True, is_ours=True, table=ITEMS, membership=1)
    assert alter_publication("p", state, lock_timeout_ms=1) is None
    narrowed = PublicationState(is_there=True, is_ours=True, table=ITEMS, is_narrowed=True, weak=(ITEMS,))
    assert alter_publication('p"q', narrowed, lock_timeout_ms=7) == (
        "BEGIN; SET LOCAL lock_timeout = 7; "
        'ALTER PUBLICATION "p""q" DROP TABLE ONLY "public"."items"; '
        'ALTER PUBLICATION "p""q" ADD TABLE ONLY "public"."items"; '
        'ALTER TABLE ONLY "public"."items" REPLICA IDENTITY FULL; COMMIT'
    )


def test_compares_a_table_with_a_definition() -> None:
    """
    A dropped, renamed or retyped column, a new key and a new name matter; an added column, when none were listed.
    """
    columns = (Column("id", 20, -1, "int8", pk_index=0), Column("a", 25, -1, "text"))
    table = Table(ITEMS, columns, ITEMS.oid, "f")
    wider = Table(ITEMS, (*columns, Column("b", 25, -1, "text")), ITEMS.oid, "f")
    definition = _definition({"id": 20, "a": 25})
    listed = _definition({"id": 20, "a": 25}, is_explicit=True)
    assert is_as_defined(table, definition)
    assert is_as_defined(wider, listed)
    assert not is_as_defined(wider, definition)
    assert not is_as_defined(Table(ITEMS, columns[:1], ITEMS.oid, "f"), listed)
    assert not is_as_defined(Table(TableId(1, *ITEMS[1:]), columns, 1, "f"), definition)
    assert not is_as_defined(table, _definition({"id": 20, "a": 1043}))
    assert not is_as_defined(table, _definition({"a": 25, "id": 20}))

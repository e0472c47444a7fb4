from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.compiled import choice
from penstock.postgres.relation import StreamColumn
from penstock.wire.messages import change_message, escape, headers_end, json_string, row_key
from penstock.wire.rows import PLAIN_TYPE_OIDS, Elements, RowEncoder, RowForm, compile_encoder

# Postgres text holds any character but NUL; surrogates are not characters.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
PLAIN = st.from_regex(r"[0-9a-zA-Z:+. -]{0,8}", fullmatch=True)
TEXT_OID, PLAIN_OID = 25, 23
KINDS = st.lists(st.booleans(), min_size=1, max_size=5)


@given(TEXTS)
def test_escaping_equals_the_standard_librarys(text: str) -> None:
    """
    A text as a JSON string is what the standard library writes, byte for byte.
    """
    assert json_string(text.encode()) == json.dumps(text, ensure_ascii=False).encode()


@given(st.binary(max_size=30))
def test_escaping_never_raises_and_leaves_nothing_unsafe(data: bytes) -> None:
    """
    Whatever the bytes, the result has no bare quote and no control character.
    """
    escaped = escape(data)
    assert not any(byte < 0x20 for byte in escaped)
    assert b'"' not in escaped.replace(b"\\\\", b"").replace(b'\\"', b"")


@st.composite
def tables(draw: st.DrawFn) -> tuple[tuple[StreamColumn, ...], RowForm, list[tuple[bytes | None, ...]]]:
    """
    Draw a table, what is served of it, and two rows.
    """
    kinds = draw(KINDS)
    columns = tuple(
        StreamColumn(f"c{place}", PLAIN_OID if is_plain else TEXT_OID, -1, is_key=True)
        for place, is_plain in enumerate(kinds)
    )
    names = [column.name for column in columns]
    selected = tuple(sorted(draw(st.sets(st.sampled_from(names), min_size=1))))
    keys = tuple(draw(st.permutations(selected))[: draw(st.integers(1, len(selected)))])
    is_all_keyed = set(keys) == set(names)
    form = RowForm("public", "t", keys, selected, draw(st.booleans()))

    def cell(column: StreamColumn) -> st.SearchStrategy[bytes | None]:
        text = (PLAIN if column.type_oid == PLAIN_OID else TEXTS).map(str.encode)
        may_be_null = is_all_keyed or column.name not in keys
        return st.none() | text if may_be_null else text

    first = tuple(draw(cell(column)) for column in columns)
    second = tuple(
        value if draw(st.booleans()) else draw(cell(column)) for column, value in zip(columns, first, strict=True)
    )
    return columns, form, [first, second]


def plain_update(
    columns: tuple[StreamColumn, ...], form: RowForm, old: tuple[bytes | None, ...], new: tuple[bytes | None, ...]
) -> Elements:
    """
    Make the messages of an update the plain way.
    """
    names = [column.name for column in columns]
    before, after = dict(zip(names, old, strict=True)), dict(zip(names, new, strict=True))
    old_key = row_key(form.schema, form.table, [before[name] for name in form.key_columns])
    new_key = row_key(form.schema, form.table, [after[name] for name in form.key_columns])
    relation = (form.schema, form.table)
    if any(before[name] != after[name] for name in form.key_columns):
        gone = form.selected if form.is_full else form.key_columns
        return (
            (
                6,
                change_message(
                    operation="delete",
                    relation=relation,
                    key=old_key,
                    value={name: before[name] for name in gone},
                    xid=9,
                    commit_lsn=77,
                    op_position=6,
                    key_change_to=new_key,
                ),
            ),
            (
                7,
                change_message(
                    operation="insert",
                    relation=relation,
                    key=new_key,
                    value={name: after[name] for name in form.selected},
                    xid=9,
                    commit_lsn=77,
                    op_position=7,
                    key_change_from=old_key,
                ),
            ),
        )
    changed = [name for name in form.selected if before[name] != after[name]]
    if not changed:
        return ()
    served = form.selected if form.is_full else (*form.key_columns, *changed)
    message = change_message(
        operation="update",
        relation=relation,
        key=new_key,
        value={name: after[name] for name in served},
        old_value={name: before[name] for name in changed} if form.is_full else None,
        xid=9,
        commit_lsn=77,
        op_position=6,
    )
    return ((6, message),)


@settings(max_examples=150)
@given(tables())
def test_generated_encoders_equal_the_plain_builder(
    table: tuple[tuple[StreamColumn, ...], RowForm, list[tuple[bytes | None, ...]]],
) -> None:
    """
    For any table, projection and rows the generated code writes what the plain builder writes, byte for byte.
    """
    columns, form, (old, new) = table
    for is_compiled in (False, True):
        choice.want(is_compiled)
        check(compile_encoder(columns, form), columns, form, old, new)


def check(
    made: RowEncoder,
    columns: tuple[StreamColumn, ...],
    form: RowForm,
    old: tuple[bytes | None, ...],
    new: tuple[bytes | None, ...],
) -> None:
    """
    Compare all that an encoder makes of two rows with what the plain builder makes.
    """
    end = headers_end(9, 77)
    names = [column.name for column in columns]
    cells = dict(zip(names, old, strict=True))
    key = row_key(form.schema, form.table, [cells[name] for name in form.key_columns])
    for operation, call, served in (
        ("insert", made.insert, form.selected),
        ("delete", made.delete, form.selected if form.is_full else form.key_columns),
    ):
        plain = change_message(
            operation=operation,
            relation=("public", "t"),
            key=key,
            value={name: cells[name] for name in served},
            xid=9,
            commit_lsn=77,
            op_position=6,
        )
        assert call(old, end, 6) == ((6, plain),)
        assert json.loads(plain)["value"] == {
            name: None if value is None else value.decode() for name, value in cells.items() if name in served
        }
    assert made.update(old, new, end, 6) == plain_update(columns, form, old, new)


def test_the_plain_types_of_the_laws_are_plain() -> None:
    """
    The law above draws its unescaped values for a type that the encoders do not escape.
    """
    assert PLAIN_OID in PLAIN_TYPE_OIDS
    assert TEXT_OID not in PLAIN_TYPE_OIDS

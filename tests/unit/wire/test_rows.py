from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from penstock.errors import ShapeError
from penstock.postgres.relation import StreamColumn
from penstock.wire.messages import headers_end, mark_last
from penstock.wire.rows import RowEncoder, RowForm, compile_encoder

pytestmark = pytest.mark.usefixtures("each_core")

INT, TEXT, BYTEA = 23, 25, 17
COLUMNS = (StreamColumn("id", INT, -1, is_key=True), StreamColumn("title", TEXT, -1, is_key=True))
END = headers_end(771, 24337000)


def encoder(
    columns: Sequence[StreamColumn] = COLUMNS, keys: tuple[str, ...] = ("id",), *, is_full: bool = False
) -> RowEncoder:
    names = tuple(sorted(column.name for column in columns))
    return compile_encoder(columns, RowForm("public", "issues", keys, names, is_full))


def headers(operation: str, op: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "operation": operation,
        "relation": ["public", "issues"],
        **more,
        "txids": [771],
        "lsn": "24337000",
        "op_position": op,
    }


def test_an_insert_carries_every_selected_column() -> None:
    """
    An insert is the whole row, byte for byte in the order of the contract's example.
    """
    (element,) = encoder().insert((b"42", b"x"), END, 4)
    assert element == (
        4,
        (
            b'{"key":"\\"public\\".\\"issues\\"/\\"42\\"","value":{"id":"42","title":"x"},"headers":{"operation":"insert",'
            b'"relation":["public","issues"],"txids":[771],"lsn":"24337000","op_position":4}}'
        ),
    )


def test_the_last_element_differs_in_its_end_only() -> None:
    """
    `last` stands behind everything else.
    """
    ((_, element),) = encoder().insert((b"42", b"x"), END, 4)
    assert mark_last(element) == element[:-2] + b',"last":true}}'
    assert json.loads(mark_last(element))["headers"] == headers("insert", last=True)


def test_a_null_is_null() -> None:
    """
    NULL is JSON null, not an empty string.
    """
    ((_, element),) = encoder().insert((b"42", None), END, 4)
    assert json.loads(element)["value"] == {"id": "42", "title": None}
    ((_, element),) = encoder().insert((b"42", b""), END, 4)
    assert json.loads(element)["value"] == {"id": "42", "title": ""}


@pytest.mark.parametrize("text", ['"', "\\", "a\nb\tc\x01", "größer ☃ \U0001f600", "/", "\x7f", '\\"'])
def test_text_is_escaped_as_json_demands_and_no_more(text: str) -> None:
    """
    Quotes, backslashes and control characters are escaped, also beside a NULL; everything else passes through.
    """
    columns = (*COLUMNS, StreamColumn("z", TEXT, -1, is_key=True))
    for third in (b"plain", None):
        ((_, element),) = encoder(columns).insert((b"1", text.encode(), third), END, 0)
        assert json.loads(element)["value"]["title"] == text
        assert json.dumps(text, ensure_ascii=False).encode() in element


def test_a_bytea_keeps_its_backslash() -> None:
    """
    The text form of a bytea begins with a backslash, which JSON escapes.
    """
    columns = (COLUMNS[0], StreamColumn("data", BYTEA, -1, is_key=True))
    ((_, element),) = encoder(columns).insert((b"1", b"\\x00ff"), END, 0)
    assert json.loads(element)["value"]["data"] == "\\x00ff"


def test_an_update_carries_key_and_changed_columns() -> None:
    """
    By default an update's value is the key and what changed.
    """
    columns = (*COLUMNS, StreamColumn("n", INT, -1, is_key=True))
    ((op, element),) = encoder(columns).update((b"1", b"a", b"5"), (b"1", None, b"5"), END, 6)
    assert op == 6
    assert json.loads(element) == {
        "key": '"public"."issues"/"1"',
        "value": {"id": "1", "title": None},
        "headers": headers("update", 6),
    }


def test_a_full_update_carries_the_row_and_what_it_replaced() -> None:
    """
    With `replica=full` the value is the new row and `old_value` holds the previous values of what changed.
    """
    columns = (*COLUMNS, StreamColumn("n", INT, -1, is_key=True))
    ((_, element),) = encoder(columns, is_full=True).update((b"1", b"a", b"5"), (b"1", b"b", None), END, 6)
    assert json.loads(element) == {
        "key": '"public"."issues"/"1"',
        "value": {"id": "1", "n": None, "title": "b"},
        "old_value": {"n": "5", "title": "a"},
        "headers": headers("update", 6),
    }


@pytest.mark.parametrize("is_full", [False, True])
def test_an_update_that_changes_nothing_served_is_silent(is_full: bool) -> None:  # noqa: FBT001 - parametrised
    """
    An update of other columns gives no message.
    """
    form = RowForm("public", "issues", ("id",), ("id",), is_full)
    assert compile_encoder(COLUMNS, form).update((b"1", b"a"), (b"1", b"b"), END, 0) == ()


@pytest.mark.parametrize(("is_full", "gone"), [(False, {"id": "1"}), (True, {"id": "1", "title": "a"})])
def test_a_changed_key_is_a_delete_and_an_insert(is_full: bool, gone: dict[str, str]) -> None:  # noqa: FBT001 - see above
    """
    The delete stands at the operation's position and names the new key, the insert at the next one and names the old.
    """
    first, second = encoder(is_full=is_full).update((b"1", b"a"), (b"2", b"b"), END, 4)
    assert (first[0], second[0]) == (4, 5)
    old, new = '"public"."issues"/"1"', '"public"."issues"/"2"'
    assert json.loads(first[1]) == {"key": old, "value": gone, "headers": headers("delete", 4, key_change_to=new)}
    assert json.loads(second[1]) == {
        "key": new,
        "value": {"id": "2", "title": "b"},
        "headers": headers("insert", 5, key_change_from=old),
    }


@pytest.mark.parametrize(("is_full", "value"), [(False, {"id": "1"}), (True, {"id": "1", "title": "a"})])
def test_a_delete_carries_the_key_or_the_row(is_full: bool, value: dict[str, str]) -> None:  # noqa: FBT001 - see above
    """
    A delete's value is the key, with `replica=full` the old row.
    """
    ((_, element),) = encoder(is_full=is_full).delete((b"1", b"a"), END, 8)
    assert json.loads(element) == {"key": '"public"."issues"/"1"', "value": value, "headers": headers("delete", 8)}


def test_a_key_of_several_columns_follows_key_order_and_doubles_slashes() -> None:
    """
    Parts of a key stand in key order; slashes in them are doubled.
    """
    ((_, element),) = encoder(keys=("title", "id")).insert((b"1", b'a/"b'), END, 0)
    assert json.loads(element)["key"] == '"public"."issues"/"a//"b"/"1"'


def test_without_a_primary_key_null_is_a_bare_underscore_in_the_key() -> None:
    """
    A table without primary key is keyed by all columns: NULL is `_`, an empty string `""`; updates change the key.
    """
    made = encoder(keys=("id", "title"))
    ((_, element),) = made.insert((b"1", None), END, 0)
    assert json.loads(element)["key"] == '"public"."issues"/"1"/_'
    ((_, element),) = made.insert((b"1", b""), END, 0)
    assert json.loads(element)["key"] == '"public"."issues"/"1"/""'
    first, second = made.update((b"1", b"a"), (b"1", None), END, 0)
    assert [json.loads(half)["headers"]["operation"] for _, half in (first, second)] == ["delete", "insert"]
    assert made.update((b"1", b"a"), (b"1", b"a"), END, 0) == ()


def test_a_partition_may_order_its_columns_differently() -> None:
    """
    Values are found by name: the message does not depend on the order of columns in the stream.
    """
    turned = tuple(reversed(COLUMNS))
    assert encoder(turned).insert((b"x", b"42"), END, 4) == encoder().insert((b"42", b"x"), END, 4)


def test_odd_names_are_quoted_and_escaped() -> None:
    """
    Names with quotes, backslashes and percent signs come through.
    """
    name = 'we"ird\\%s%%'
    columns = (StreamColumn(name, TEXT, -1, is_key=True),)
    made = compile_encoder(columns, RowForm('s"c', "t%b", (name,), (name,), is_full=True))
    ((_, element),) = made.insert((b"v",), END, 0)
    message = json.loads(element)
    assert message["key"] == '"s""c"."t%b"/"v"'
    assert message["value"] == {name: "v"}
    assert message["headers"]["relation"] == ['s"c', "t%b"]
    assert made.update((b"v",), (b"v",), END, 0) == ()


def test_a_missing_column_is_refused_when_compiling() -> None:
    """
    A form that the stream's table cannot fill is an error of the shape.
    """
    with pytest.raises(ShapeError, match="title"):
        compile_encoder(COLUMNS[:1], RowForm("public", "issues", ("id",), ("id", "title"), is_full=False))

"""
The elements of a shape log as JSON: change messages and control messages.

Owns their exact form; `wire.rows` makes the same change messages by generated code, and the plain builder here is what
it is compared with. All text comes and goes as UTF-8 bytes and is passed through; only what JSON demands is escaped.

The headers of a change message keep an order that makes sharing cheap: what all shapes of a projection have in common
comes first, and the place of `last` is the very end, so that one element becomes the last of its transaction by
exchanging two bytes.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from penstock.postgres.quoting import quote_identifier
from penstock.postgres.snapshot import Snapshot, SnapshotBounds

MUST_REFETCH: Final = b'{"headers":{"control":"must-refetch"}}'
"""The only element of a 409 body: the log the client has is over."""

UNSAFE_CHARACTERS: Final = b'"\\' + bytes(range(0x20))
"""What a JSON string cannot hold as it is. Deleting them all by `translate` is the fastest way to look for any."""

_NULL: Final = b"null"
_CONTROL_CHARACTERS: Final = bytes(range(0x20))
_CONTROL: Final = re.compile(rb"[\x00-\x1f]")
_SHORT_ESCAPES: Final = {
    b"\b": rb"\b",
    b"\t": rb"\t",
    b"\n": rb"\n",
    b"\f": rb"\f",
    b"\r": rb"\r",
}
_ESCAPES: Final = {bytes([code]): b"\\u%04x" % code for code in range(0x20)} | _SHORT_ESCAPES


def escape(text: bytes) -> bytes:
    """
    Escape quotes, backslashes and control characters as RFC 8259 (section 7) demands; everything else passes through.
    """
    if text.translate(None, UNSAFE_CHARACTERS) == text:
        return text
    # What is common goes by replacement, which is several times as fast as a search.
    text = text.replace(b"\\", rb"\\").replace(b'"', rb"\"").replace(b"\n", rb"\n")
    if text.translate(None, _CONTROL_CHARACTERS) == text:
        return text
    return _CONTROL.sub(lambda match: _ESCAPES[match[0]], text)


def json_string(text: bytes) -> bytes:
    """
    Give a text as a JSON string.
    """
    return b'"%b"' % escape(text)


def json_value(text: bytes | None) -> bytes:
    """
    Give a column's text as a JSON string, NULL as `null`.
    """
    return _NULL if text is None else b'"%b"' % escape(text)


def relation_text(schema: str, table: str) -> bytes:
    """
    Give the beginning of every key of a table: its quoted names, not yet escaped for JSON.
    """
    return f"{quote_identifier(schema)}.{quote_identifier(table)}".encode()


def row_key(schema: str, table: str, values: Sequence[bytes | None]) -> bytes:
    """
    Name a row by the values of its key columns: text, not yet escaped for JSON.

    In each value `/` is doubled; NULL, which only a table without a primary key can have there, is a bare `_`.
    """
    parts = [b"_" if value is None else b'"%b"' % value.replace(b"/", b"//") for value in values]
    return b"/".join([relation_text(schema, table), *parts])


def _object(row: Mapping[str, bytes | None]) -> bytes:
    return b"{%b}" % b",".join(b"%b:%b" % (json_string(name.encode()), json_value(row[name])) for name in row)


def headers_end(xid: int, commit_lsn: int) -> bytes:
    """
    Give what ends the headers of every change message of a transaction, up to the number of the operation position.
    """
    return b',"txids":[%d],"lsn":"%d","op_position":' % (xid, commit_lsn)


def change_message(
    *,
    operation: str,
    relation: tuple[str, str],
    key: bytes,
    value: Mapping[str, bytes | None],
    xid: int,
    commit_lsn: int,
    op_position: int,
    old_value: Mapping[str, bytes | None] | None = None,
    key_change_to: bytes | None = None,
    key_change_from: bytes | None = None,
    is_last: bool = False,
) -> bytes:
    """
    Build one change message, the plain way.

    Args:
        operation: `insert`, `update` or `delete`.
        relation: schema and table of the shape's root table.
        key: as `row_key` gives it; so are both halves of a key change.
        value: columns in the order wanted.
        xid: 32-bit transaction id.
        commit_lsn: as a number.
        op_position: place in the transaction.
        old_value: previous values, only with `replica=full`.
        key_change_to: on the delete of a key change.
        key_change_from: on the insert of a key change.
        is_last: whether it is the shape's last message of the transaction.
    """
    parts = [b'{"key":%b,"value":%b' % (json_string(key), _object(value))]
    if old_value is not None:
        parts.append(b',"old_value":%b' % _object(old_value))
    schema, table = (json_string(name.encode()) for name in relation)
    parts.append(b',"headers":{"operation":"%b","relation":[%b,%b]' % (operation.encode(), schema, table))
    if key_change_to is not None:
        parts.append(b',"key_change_to":%b' % json_string(key_change_to))
    if key_change_from is not None:
        parts.append(b',"key_change_from":%b' % json_string(key_change_from))
    parts.append(b"%b%d}}" % (headers_end(xid, commit_lsn), op_position))
    message = b"".join(parts)
    return mark_last(message) if is_last else message


def mark_last(element: bytes) -> bytes:
    """
    Turn a change message into the shape's last one of its transaction.
    """
    assert element.endswith(b"}}"), element[-2:]
    return element[:-2] + b',"last":true}}'


def up_to_date(last_seen_lsn: int) -> bytes:
    """
    Tell the client that it has everything there was.

    Args:
        last_seen_lsn: the position this holds for, as a number.
    """
    return b'{"headers":{"control":"up-to-date","global_last_seen_lsn":"%d"}}' % last_seen_lsn


def snapshot_end(snapshot: Snapshot) -> bytes:
    """
    End the initial snapshot by telling which transactions it saw.
    """
    running = b",".join(b'"%d"' % xid for xid in sorted(snapshot.running))
    return b'{"headers":{"control":"snapshot-end","xmin":"%d","xmax":"%d","xip_list":[%b]}}' % (
        snapshot.xmin,
        snapshot.xmax,
        running,
    )


def subset_metadata(bounds: SnapshotBounds, mark: int) -> bytes:
    """
    Tell which transactions a subset shows, and the position below which all of them lie.

    Args:
        bounds: what the subset's query saw.
        mark: the number that the subset's rows carry.
    """
    snapshot = bounds.snapshot
    running = b",".join(b'"%d"' % xid for xid in sorted(snapshot.running))
    return b'{"xmin":"%d","xmax":"%d","xip_list":[%b],"snapshot_mark":%d,"database_lsn":"%d"}' % (
        snapshot.xmin,
        snapshot.xmax,
        running,
        mark,
        bounds.horizon.value,
    )

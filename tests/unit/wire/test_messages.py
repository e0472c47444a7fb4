from __future__ import annotations

import json

from penstock.postgres.snapshot import Snapshot
from penstock.wire.messages import MUST_REFETCH, change_message, snapshot_end, up_to_date


def test_up_to_date_names_the_position_in_decimal() -> None:
    """
    The control message holds the position as a decimal string.
    """
    assert up_to_date(2**64 - 1) == (
        b'{"headers":{"control":"up-to-date","global_last_seen_lsn":"18446744073709551615"}}'
    )


def test_must_refetch_says_nothing_else() -> None:
    """
    The element of a 409 body is one control header.
    """
    assert json.loads(MUST_REFETCH) == {"headers": {"control": "must-refetch"}}


def test_snapshot_end_names_what_was_seen() -> None:
    """
    Bounds are strings of 64-bit ids; the list is sorted, and empty without running transactions.
    """
    assert snapshot_end(Snapshot(771, 775, frozenset({774, 772}))) == (
        b'{"headers":{"control":"snapshot-end","xmin":"771","xmax":"775","xip_list":["772","774"]}}'
    )
    assert json.loads(snapshot_end(Snapshot(2**33, 2**33, frozenset())))["headers"]["xip_list"] == []


def test_a_change_message_is_the_contracts_example() -> None:
    """
    The plain builder gives the example of the contract.
    """
    message = change_message(
        operation="update",
        relation=("public", "issues"),
        key=b'"public"."issues"/"42"',
        value={"id": b"42", "title": b"x"},
        xid=771,
        commit_lsn=24337000,
        op_position=4,
        is_last=True,
    )
    assert json.loads(message) == {
        "key": '"public"."issues"/"42"',
        "value": {"id": "42", "title": "x"},
        "headers": {
            "operation": "update",
            "relation": ["public", "issues"],
            "txids": [771],
            "lsn": "24337000",
            "op_position": 4,
            "last": True,
        },
    }

from __future__ import annotations

import pytest

from penstock.database.failures import (
    DeadlineError,
    PoolBusyError,
    ServerRefusedError,
    judge,
    refuse,
    snapshot_too_slow,
)
from penstock.errors import ConnectionLostError, RequestError, ShapeError, SourceError

LATE = refuse(503, "late")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (PoolBusyError("x"), 503, "Snapshot creation failed because of a connection pool queue timeout"),
        (ConnectionLostError("x"), 503, "Database connection not available"),
        (DeadlineError("x"), 503, "late"),
        (ServerRefusedError("x", sqlstate="57014"), 503, "late"),
        (ServerRefusedError("x", sqlstate="55P03"), 503, "late"),
        (ServerRefusedError("x", sqlstate="53300"), 503, "Database connection not available"),
        (
            ServerRefusedError("permission denied for table items", sqlstate="42501"),
            503,
            "Unable to create initial snapshot: permission denied for table items",
        ),
        (ServerRefusedError("bad", sqlstate="0A000"), 500, "Unexpected error while creating snapshot: bad"),
        (
            ServerRefusedError('invalid input syntax for type integer: "secret"', sqlstate="22P02"),
            500,
            "Unexpected error while creating snapshot: SQLSTATE 22P02",
        ),
    ],
)
def test_gives_each_cause_its_answer(error: SourceError, status: int, message: str) -> None:
    """
    Every error of the database has a status and a text, and values of rows stay out of it.
    """
    judged = judge(error, when_late=LATE)
    assert isinstance(judged, RequestError)
    assert (judged.status, judged.message) == (status, message)
    assert judged.is_known == (status == 503)
    assert (judged.retry_after_s is not None) == (status == 503)


@pytest.mark.parametrize("sqlstate", ["42P01", "42703", "42704", "3F000"])
def test_what_is_undefined_ends_the_shape(sqlstate: str) -> None:
    """
    When a table, a column or a type is gone the definition is out of date.
    """
    assert isinstance(judge(ServerRefusedError("gone", sqlstate=sqlstate), when_late=LATE), ShapeError)


def test_names_the_time_in_milliseconds() -> None:
    """
    The text for a slow first row has the wording that clients know.
    """
    assert snapshot_too_slow(30.0).message.startswith(
        "Snapshot query took too long to return data (cancelled after 30000ms). Please ensure"
    )

"""
What an error of the database means for the request that met it.

Owns the texts of `503` answers about the database and the table from SQLSTATEs to our errors. Pure values.
"""

from __future__ import annotations

from typing import Final

from penstock.errors import ConnectionLostError, PenstockError, RequestError, ShapeError, SourceError

RETRY_AFTER_S: Final = 10

TABLE_LOCKED: Final = "Snapshot timed out while waiting for a table lock"
DATABASE_AWAY: Final = "Database connection not available"
POOL_BUSY: Final = "Snapshot creation failed because of a connection pool queue timeout"

_INSUFFICIENT_PRIVILEGE: Final = "42501"
# undefined_table, undefined_column, undefined_object, invalid_schema_name; not undefined_function: that is the condition's
# fault, or ours, and would be so again at the next attempt.
_UNDEFINED: Final = frozenset({"42P01", "42703", "42704", "3F000"})
# lock_not_available, query_canceled
_OUT_OF_TIME: Final = frozenset({"55P03", "57014"})
# Connection exceptions, insufficient resources, operator intervention, system error.
_PASSING_CLASSES: Final = frozenset({"08", "53", "57", "58"})
_DATA_EXCEPTIONS: Final = "22"
# Syntax error or access rule violation; program limit exceeded.
_AT_FAULT_CLASSES: Final = frozenset({"42", "54"})


class ServerRefusedError(SourceError):
    """
    The server answered a query with an error; `sqlstate` says which, the message is the server's own.
    """


class DeadlineError(SourceError):
    """
    The server did not answer in time; the query was abandoned and is being cancelled.
    """


class PoolBusyError(ConnectionLostError):
    """
    Every connection of a pool stayed in use. Raise the pool's size, or see what the queries wait for.
    """


def refuse(status: int, message: str) -> RequestError:
    """
    Make the answer to a request that may be tried again later.
    """
    is_passing = status == 503
    return RequestError(status, message, retry_after_s=RETRY_AFTER_S if is_passing else None, is_known=is_passing)


def snapshot_too_slow(first_data_s: float) -> RequestError:
    """
    Make the answer for a snapshot whose first rows did not come in time.
    """
    return refuse(
        503,
        f"Snapshot query took too long to return data (cancelled after {round(first_data_s * 1000)}ms). Please ensure"
        " snapshot queries are using an index to avoid taking up all database connections.",
    )


def judge(error: SourceError, *, when_late: RequestError) -> PenstockError:
    """
    Say what a request is told about an error of the database.

    Args:
        error: what happened.
        when_late: the answer where the database did not do it in time.

    Returns:
        A `RequestError`, or a `ShapeError` when what the shape names is not there any more.
    """
    if isinstance(error, PoolBusyError):
        return refuse(503, POOL_BUSY)
    if isinstance(error, DeadlineError):
        return when_late
    if not isinstance(error, ServerRefusedError):
        return refuse(503, DATABASE_AWAY)
    sqlstate = error.sqlstate or ""
    if sqlstate in _OUT_OF_TIME:
        return when_late
    if sqlstate == _INSUFFICIENT_PRIVILEGE:
        return refuse(503, f"Unable to create initial snapshot: {error.message}")
    if sqlstate in _UNDEFINED:
        return ShapeError(error.message)
    if sqlstate[:2] in _PASSING_CLASSES:
        return refuse(503, DATABASE_AWAY)
    # Messages of this class quote values, which may be those of rows that the client is not to see.
    detail = f"SQLSTATE {sqlstate}" if sqlstate.startswith(_DATA_EXCEPTIONS) else error.message
    return refuse(500, f"Unexpected error while creating snapshot: {detail}")


def refuse_subset(error: ServerRefusedError) -> RequestError | None:
    """
    Say what a client is told about an error that its own subset met; None when the subset is not at fault.

    Messages about values quote them, and they may be those of rows that the client is not to see: of these only the code
    is told.
    """
    sqlstate = error.sqlstate or ""
    if sqlstate.startswith(_DATA_EXCEPTIONS):
        told = f"the condition cannot be evaluated (SQLSTATE {sqlstate})"
    elif sqlstate[:2] in _AT_FAULT_CLASSES and sqlstate != _INSUFFICIENT_PRIVILEGE and sqlstate not in _UNDEFINED:
        told = error.message
    else:
        return None
    return RequestError(400, "Invalid request", errors={"subset": {"where": told}})

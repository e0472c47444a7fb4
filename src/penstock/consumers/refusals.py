"""
What clients are told when a shape cannot be found, made or read.

A shell, as it logs what only operators are to know.
"""

from __future__ import annotations

from typing import Final

import structlog

from penstock.consumers.snapshotter import RETRY_AFTER_S
from penstock.errors import ConnectionLostError, InvalidShapeError, PenstockError, RequestError, RuleError, ShapeError
from penstock.shapes.reading import FORBIDDEN, Refused, Rotated

_log: Final = structlog.get_logger(__name__)

_CANNOT_VERIFY: Final = "Cannot connect to the database to verify the shape. Please try again later."
CANNOT_CREATE: Final = "Failed to create shape, please retry"
NO_SHAPE: Final = "No existing shape found"
HANDLE_MISMATCH: Final = (
    "The specified shape definition and handle do not match. Please ensure the shape definition is correct or omit the"
    " shape handle from the request to obtain a new one."
)


def refusal(error: PenstockError) -> Refused | Rotated:
    """
    Say what a client is told about an error.
    """
    match error:
        case RuleError():
            _log.error("a request was denied, because what authorize added cannot be used", problem=error.message)
            return FORBIDDEN
        case InvalidShapeError():
            return Refused(400, "Invalid request", errors={error.field: [error.message]})
        case RequestError():
            return Refused(error.status, error.message, error.errors, error.retry_after_s, error.is_known)
        case ConnectionLostError():
            return Refused(503, _CANNOT_VERIFY, retry_after_s=1)
        case ShapeError():
            return Rotated()
        case _:
            _log.error("shape cannot be read", error=error.message)
            return Refused(500, f"Unable to retrieve shape log: {error.message}")


def refusal_of_creation(error: Exception) -> PenstockError:
    """
    Say what the waiting requests are told.
    """
    match error:
        case RequestError() | ShapeError():
            return error
        case ConnectionLostError():
            return RequestError(503, "Database connection not available", retry_after_s=RETRY_AFTER_S, is_known=True)
        case PenstockError():
            return RequestError(503, CANNOT_CREATE, retry_after_s=1)
        case _:
            return RequestError(500, f"Unexpected error while creating snapshot: {type(error).__name__}")


def reason_of(error: Exception) -> str:
    """
    Say in the log why something failed, without values of rows.
    """
    return error.message if isinstance(error, PenstockError) else type(error).__name__

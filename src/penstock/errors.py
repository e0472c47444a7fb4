"""
Every error that Penstock raises on purpose, in one tree.

Each class says who meets it and what to do about it, and states one policy that shells read instead of matching on
text. This module imports nothing of ours.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar, Final, TypeAlias

Problems: TypeAlias = dict[str, list[str] | dict[str, list[str] | str]]
"""What is wrong with the parameters of a request, by parameter; for `subset` by its own parts."""


class Policy(Enum):
    """
    What a shell does when it meets an error.
    """

    RETRY = "retry"
    """The world may get better by itself: try again with backoff."""
    ROTATE = "rotate"
    """The log of one shape can no longer be trusted: give it up and let clients refetch."""
    REFUSE = "refuse"
    """The request is at fault: answer it with the error and go on."""
    STOP = "stop"
    """Nothing helps but a person: end the service with this one sentence."""


class PenstockError(Exception):
    """
    The root of the tree; never raised itself.

    Attributes:
        policy: what a shell does about it.
        message: one sentence for a person, naming the fix where there is one. Never holds row values or secrets.
    """

    policy: ClassVar[Policy] = Policy.STOP

    def __init__(self, message: str) -> None:
        """
        Keep the sentence.
        """
        super().__init__(message)
        self.message: Final = message


class ConfigError(PenstockError):
    """
    Met at start by whoever runs the service: a setting is missing, malformed or contradicts another. Mend it.
    """


class SourceError(PenstockError):
    """
    Something between us and Postgres. Met by operators, in the log and in readiness.
    """

    policy = Policy.RETRY

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        """
        Keep the sentence and the SQLSTATE, if the server named one.
        """
        super().__init__(message)
        self.sqlstate: Final = sqlstate


class ConnectionLostError(SourceError):
    """
    A connection could not be made or ended. Penstock reconnects by itself.
    """


class SlotInUseError(SourceError):
    """
    Another connection holds the replication slot. Usually our predecessor for a moment; retried.
    """


class SlotLostError(SourceError):
    """
    The slot is gone or was invalidated. Penstock makes a new one under a new epoch and rotates all shapes.
    """


class MisconfiguredSourceError(SourceError):
    """
    The server refuses in a way that only a person can mend: `wal_level`, privileges, password, no such database.

    Fatal before the first success of a run, retried and named in readiness afterwards.
    """

    policy = Policy.STOP


class OwnershipLostError(SourceError):
    """
    Another instance has taken the slot's lock while our connection was away. We drain and leave: it goes on.
    """

    policy = Policy.STOP


class DecodeError(PenstockError):
    """
    Bytes or text that are not what their format says. Whoever reads them decides what it costs.
    """


class ShapeError(PenstockError):
    """
    A shape cannot be served as asked or can no longer be served.
    """

    policy = Policy.ROTATE


class InvalidShapeError(ShapeError):
    """
    Met by the developer of a client: the definition names something that is not there or not supported.

    Attributes:
        field: the request parameter at fault.
    """

    policy = Policy.REFUSE

    def __init__(self, field: str, message: str) -> None:
        """
        Keep the parameter's name and the sentence about it.
        """
        super().__init__(message)
        self.field: Final = field


class RuleError(InvalidShapeError):
    """
    Met by whoever wrote a service's `authorize`, in its log: the condition or the columns that it added do not fit the
    table. The client is told only that it may not.
    """

    def __init__(self, message: str) -> None:
        """
        Keep the sentence.
        """
        super().__init__("authorize", message)


class LogError(PenstockError):
    """
    A file of ours does not hold what it must, or did not take what it should.
    """

    policy = Policy.ROTATE


class CorruptLogError(LogError):
    """
    A checksum or a length does not fit. What follows the last good record is not served.
    """


class SyncFailedError(LogError):
    """
    A sync failed, so nothing is known about the bytes before it. It is never tried again on the same file.
    """


class DiskFullError(LogError):
    """
    A write found no space, or a file could not be opened because too many are. The shape waits and owes; free some
    space, or raise the limit of open files.
    """

    policy = Policy.RETRY


class FormatVersionError(LogError):
    """
    A file was written by newer code. Start the newer version, or another data folder.
    """

    policy = Policy.STOP


class RequestError(PenstockError):
    """
    Met by a client over HTTP: an answer that is not 200.

    Attributes:
        status: the HTTP status.
        errors: problems by parameter, for 400.
        retry_after_s: seconds after which a retry makes sense, if one does.
        is_known: whether to mark it as a known error for clients (`electric-internal-known-error`).
    """

    policy = Policy.REFUSE

    def __init__(
        self,
        status: int,
        message: str,
        *,
        errors: Problems | None = None,
        retry_after_s: int | None = None,
        is_known: bool = False,
    ) -> None:
        """
        Keep what the response will say.
        """
        super().__init__(message)
        self.status: Final = status
        self.errors: Final = errors
        self.retry_after_s: Final = retry_after_s
        self.is_known: Final = is_known


class ClientError(PenstockError):
    """
    Met by users of our Python clients: the server answered something that ends the subscription.
    """


class RefusedError(ClientError):
    """
    Met by users of our Python clients: the server refuses the request, and will refuse it again.

    Attributes:
        status: the HTTP status.
        problems: what is wrong with the parameters, by parameter, as the server said it; empty when it said nothing.
    """

    policy = Policy.REFUSE

    def __init__(self, status: int, message: str, *, problems: dict[str, object] | None = None) -> None:
        """
        Keep what the server said.
        """
        super().__init__(message)
        self.status: Final = status
        self.problems: Final = problems or {}


class InvalidRequestError(RefusedError):
    """
    The definition of the shape does not fit the database: mend the parameter that `problems` names.
    """


class UnauthorizedError(RefusedError):
    """
    The server, or what stands in front of it, does not let us read: give the client its `secret` or the right `headers`.
    """


class ProtocolError(ClientError):
    """
    An answer is not of the protocol: usually the URL is of something else, or a proxy or a cache changes answers.
    """


class StaleShapeError(ClientError):
    """
    The server has not confirmed for too long that we have everything. Reading goes on and may recover.

    Attributes:
        age_s: seconds since the last confirmation; infinite when there was none.
        failure: what went wrong with the last attempt; empty when the server is merely silent.
    """

    policy = Policy.RETRY

    def __init__(self, message: str, *, age_s: float, failure: str) -> None:
        """
        Keep how long, and why.
        """
        super().__init__(message)
        self.age_s: Final = age_s
        self.failure: Final = failure


class StateError(ClientError):
    """
    A saved state is not of this shape or not of this version: begin without it.
    """


class RowTypeError(ClientError):
    """
    A row does not fit the class that rows were asked as: mend the class, or restrict `columns`. The cause says where.
    """


class TableError(ClientError):
    """
    Rows cannot be made a table as they were asked for: take the column that it names as text.
    """


class ExtraMissingError(ClientError):
    """
    A library is not installed that only some users need: install the extra that it names.
    """

"""
Who may read which rows: what a service's `authorize` is asked, what it answers, and what becomes of the answer.

Whoever runs the service hands in a callable. It gets the request and the shape that the request means, as Penstock itself
understood them, and answers `Allow()`, `Deny()`, or `Allow(where=..., params=[...], columns=[...])`. What an `Allow` adds
becomes a rule of the request (`shapes.reading.ShapeRule`): the engine understands it apart from what the client wrote,
joins the two, and makes the result part of what the shape is. So a client's text cannot reach it, and a handle of a shape
with another rule is a handle of another shape.

Everything that is not an `Allow` denies. Pure values and functions; the callable is called in `authorising`.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from penstock.api.params import LogRequest, QueryValue
from penstock.errors import DecodeError
from penstock.shapes.reading import ShapeRequest, ShapeRule
from penstock.shapes.subset import SubsetRequest
from penstock.wire.identifiers import parse_identifier, parse_relation

FORBIDDEN_STATUS: Final = 403
MESSAGE_CHARACTERS_MAX: Final = 1_000

ParamValue: TypeAlias = (
    "str | int | float | bool | decimal.Decimal | uuid.UUID | dt.date | dt.time | Collection[ParamValue]"
)
"""What a parameter of an added condition may be; a collection becomes an array, for `= ANY($1)`."""


@dataclass(frozen=True, slots=True)
class Allow:
    """
    The request may go on, perhaps for fewer rows and columns than it asked for.

    Attributes:
        where: a condition that rows must meet besides the client's; None for no further one.
        params: values of its `$1`, `$2` and so on; they are not those of the client's condition.
        columns: the only columns that the client sees and may name, the key's among them; None for all.

    Raises:
        ValueError: the condition is blank, there are parameters without one, or no column is left.
        TypeError: a parameter has no text in Postgres, None among them; or a string stands where a list must.
    """

    where: str | None = None
    params: Sequence[ParamValue] = ()
    columns: Collection[str] | None = None

    def __post_init__(self) -> None:
        """
        Refuse what can only be a mistake, and would let more through than was meant.
        """
        if self.where is not None and not self.where.strip():
            raise ValueError("the condition of an Allow is blank: leave it out to add none")
        if isinstance(self.params, str | bytes) or isinstance(self.columns, str | bytes):
            raise TypeError("params and columns of an Allow are lists, not a string")
        if self.where is None and self.params:
            raise ValueError("an Allow has params and no where")
        if self.columns is not None and not self.columns:
            raise ValueError("an Allow without any column: answer Deny() instead")
        self.rule()

    def rule(self) -> ShapeRule:
        """
        Give it as a rule of a request.
        """
        columns = None if self.columns is None else tuple(sorted(set(map(_column, self.columns))))
        return ShapeRule(self.where, tuple(map(_text, self.params)), columns)


@dataclass(frozen=True, slots=True)
class Deny:
    """
    The request may not go on.

    Attributes:
        status: 401 when another token would help, else 403; any status from 400 to 499 but 409, which would make clients
            begin again, and 503 for "not now".
        message: what the client is told.
        challenge: the scheme that a 401 asks for.

    Raises:
        ValueError: another status.
    """

    status: int = FORBIDDEN_STATUS
    message: str = "Forbidden"
    challenge: str = "Bearer"

    def __post_init__(self) -> None:
        """
        Refuse statuses that clients would take for something else.
        """
        if self.status == 409 or not (400 <= self.status < 500 or self.status == 503):
            raise ValueError(f"a denial cannot have the status {self.status}: 400 to 499 but 409, or 503")
        if not self.challenge.isprintable() or not self.challenge.isascii():
            raise ValueError("the challenge of a denial is one line of ASCII")


Decision: TypeAlias = Allow | Deny

FORBIDDEN: Final = Deny()
"""For exceptions, None, and whatever else is no decision."""


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """
    Who asks.

    Attributes:
        method: GET, HEAD, POST or DELETE.
        path: as it was resolved, below the place where the application is mounted.
        headers: by name in lower case; what came in several lines is joined by commas.
        query: of the URL, decoded; of parameters given twice the last, as everywhere. What is asked for is in the shape,
            which knows what a body overrides.
        client: address and port of the peer, None when the server does not know.
        scope: of ASGI, with what the middleware around the application put there, such as `user`.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    query: Mapping[str, QueryValue] = field(repr=False)
    client: tuple[str, int] | None = None
    scope: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def bearer_token(self) -> str | None:
        """
        The token of the header `authorization: Bearer …`; None without one.
        """
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        token = token.strip()
        return token if scheme.lower() == "bearer" and token else None


@dataclass(frozen=True, slots=True)
class RequestedSubset:
    """
    Which rows of a shape are asked for once.

    Attributes:
        where: the client's clause as written; it sees no row and no column that the shape has not.
        params: its parameters.
        order_by: the client's clause as written.
        limit: how many rows at most.
        offset: how many rows to leave out first.
    """

    where: str | None
    params: tuple[str, ...]
    order_by: str | None
    limit: int | None
    offset: int | None


@dataclass(frozen=True, slots=True)
class RequestedShape:
    """
    What is asked for. Identifiers are as Postgres knows them, unquoted and folded.

    Attributes:
        schema: of the table, `public` when the client named none.
        table: its name, without schema.
        columns: what the client listed, None when it listed none.
        where: the client's condition as written.
        params: its parameters.
        replica: `default` or `full`.
        log: `full` or `changes_only`.
        is_live: whether the client waits for changes.
        subset: of a request for some rows, which ones.
        is_removal: whether the shape is to be removed, for everybody.
    """

    schema: str
    table: str
    columns: tuple[str, ...] | None = None
    where: str | None = None
    params: tuple[str, ...] = ()
    replica: str = "default"
    log: str = "full"
    is_live: bool = False
    subset: RequestedSubset | None = None
    is_removal: bool = False


Authorize: TypeAlias = Callable[[AccessRequest, RequestedShape], "Decision | Awaitable[Decision | None] | None"]
"""What `authorize` is; None denies too. Plain functions run in threads, others in the loop that serves."""


@dataclass(frozen=True, slots=True)
class Grant:
    """
    A decision of the application around us about one request; with `authorize` both must allow.

    Attributes:
        decide: the decision, or what makes it.
        table: the only table that may be asked for, and the one that is meant when the client names none.
    """

    decide: Decision | Authorize
    table: str | None = None

    def __post_init__(self) -> None:
        """
        Refuse a table that is none.
        """
        if self.table is not None:
            parse_relation(self.table)


def by_table(rules: Mapping[str, Decision]) -> Authorize:
    """
    Decide by nothing but the table: what is not listed is denied.

    Args:
        rules: decisions by table, which is named as in requests: `items`, `audit.events`, `"Mixed"`.

    Raises:
        DecodeError: a key is no name of a table.
    """
    known = {parse_relation(name): decision for name, decision in rules.items()}

    def decide(_request: AccessRequest, shape: RequestedShape) -> Decision:
        return known.get((shape.schema, shape.table), FORBIDDEN)

    return decide


def describe(shape: ShapeRequest, subset: SubsetRequest | None = None, *, is_removal: bool = False) -> RequestedShape:
    """
    Say what a valid request asks for.
    """
    schema, table = parse_relation(shape.table)
    asked = None
    if subset is not None:
        asked = RequestedSubset(subset.where, subset.params, subset.order_by, subset.limit, subset.offset)
    return RequestedShape(
        schema=schema,
        table=table,
        columns=shape.columns,
        where=shape.where,
        params=shape.params if shape.where is not None else (),
        replica=shape.replica.value,
        log=shape.log.value,
        is_live=shape.is_live,
        subset=asked,
        is_removal=is_removal,
    )


def read_headers(lines: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """
    Give headers by name. Lines of one name are joined, so that nobody takes the first where another takes the last.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in lines:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name in headers:
            value = headers[name] + ("; " if name == "cookie" else ", ") + value
        headers[name] = value
    return headers


def restrict(request: LogRequest, rules: tuple[ShapeRule, ...]) -> LogRequest:
    """
    Put a request under rules.
    """
    return LogRequest(restrict_shape(request.shape, rules), request.cursor, request.is_sse)


def restrict_shape(shape: ShapeRequest, rules: tuple[ShapeRule, ...]) -> ShapeRequest:
    """
    Likewise for the shape alone.
    """
    assert rules, "whoever is allowed is so by at least one rule"
    values = {name: getattr(shape, name) for name in shape.__struct_fields__}
    return ShapeRequest(**{**values, "rules": (*shape.rules, *rules)})


def _column(name: object) -> str:
    """
    Read the name of a column: as in Postgres, or as clients write it when it is quoted.
    """
    if not isinstance(name, str):
        raise TypeError(f"a column of an Allow is named by a string, not by {type(name).__name__}")
    if name.startswith('"'):
        try:
            return parse_identifier(name)
        except DecodeError as cause:
            raise ValueError(cause.message) from cause
    return name


def _text(value: object) -> str:
    """
    Write a parameter as Postgres would.
    """
    match value:
        case str():
            text = value
        case bool():
            text = "true" if value else "false"
        case int() | float() | decimal.Decimal() | uuid.UUID():
            text = str(value)
        case dt.date() | dt.time():
            text = value.isoformat()
        case set() | frozenset():
            text = _array(sorted(map(_text, value)))
        case list() | tuple():
            text = _array([_text(item) for item in value])
        case _:
            raise TypeError(f"a parameter of an Allow cannot be of type {type(value).__name__}")
    if "\0" in text:
        raise ValueError("a parameter of an Allow holds the character 0")
    return text


def _array(items: Sequence[str]) -> str:
    escaped = (item.replace("\\", "\\\\").replace('"', '\\"') for item in items)
    return "{" + ",".join(f'"{item}"' for item in escaped) + "}"

"""
What a subscription is asked for by, and the form in which its place is kept.

Pure values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict, cast

from penstock.client.stream import Resume, ShapeStream
from penstock.client.values import Decoder
from penstock.errors import ClientError, StateError
from penstock.shapes.offset import LogOffset

State: TypeAlias = dict[str, Any]
"""Where a subscription stands; made of what JSON can hold. Treat it as opaque, and keep it as secret as the rows."""

STATE_VERSION: Final = 1
_SECRETS: Final = frozenset({"secret", "api_secret", "token", "access_token", "api_key", "password"})


class ShapeParts(Protocol):
    """
    What a shape is of, as `penstock.models` says it.
    """

    @property
    def table(self) -> str:
        """
        The table, with its schema and quoted where SQL needs it.
        """
        ...

    @property
    def where(self) -> str | None:
        """
        The condition, if there is one.
        """
        ...

    @property
    def params(self) -> Sequence[str]:
        """
        The values of its parameters.
        """
        ...

    @property
    def columns(self) -> Sequence[str]:
        """
        The columns, without quotes; none for all.
        """
        ...


class DefinesShape(Protocol):
    """
    Something made of a model that stands for a shape: what `penstock.shape(...)` gives.
    """

    @property
    def definition(self) -> ShapeParts:
        """
        The shape.
        """
        ...


class ShapeOptions(TypedDict, total=False):
    """
    Options of `stream()` and `shape()`; all may be left out.

    Attributes:
        where: the condition, as in SQL; with `$1`, `$2` … for values.
        params: the values of `$1`, `$2` …: text, or numbers, dates, UUIDs and booleans, which are written as text.
        columns: the columns to receive; all when left out. Those of the primary key must be among them.
        replica: `full` to receive whole rows with updates and deletes, and the values they had.
        log: `changes_only` for a log that begins without the rows, to be filled with `subset()`.
        sse: receive changes as server-sent events instead of by long polling: one connection stays open, and changes
            come a little sooner. A proxy that buffers makes it useless, in which case long polling is used by itself.
        decode: False to leave all values as the text that Postgres writes.
        decoders: by name of a type, what makes a value of the text of one, such as `{"mood": Mood}` for an enum; they go
            before the built-in ones. A text for which one raises `ValueError` stays text.
        state: go on from what `state` gave earlier.
        stale_after_s: seconds without a confirmation by the server after which `StaleShapeError` is raised; 120 by
            default, None for never. Servers confirm every 20 s or so.
        more: other query parameters, for a proxy that asks for them.
    """

    where: str | None
    params: Sequence[object]
    columns: Sequence[str]
    replica: Literal["default", "full"]
    log: Literal["full", "changes_only"]
    sse: bool
    decode: bool
    decoders: Mapping[str, Decoder]
    state: State | None
    stale_after_s: float | None
    more: Mapping[str, str]


def parameter_text(value: object) -> str:
    """
    Write a parameter as Postgres reads it.

    Raises:
        ClientError: there is no text for it.
    """
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case bytes():
            return "\\x" + value.hex()
        case None:
            raise ClientError("a parameter is None: write `IS NULL` in the condition instead")
        case list() | tuple() | dict() | set():
            raise ClientError(
                f"a parameter is a {type(value).__name__}: write it as text, such as '{{1,2}}' for an array"
            )
        case other:
            return str(other)


def complete_options(table: str | DefinesShape, options: ShapeOptions) -> tuple[str, ShapeOptions]:
    """
    Give the table's name, and the options with what a shape of a model says.

    Raises:
        ClientError: both say it.
    """
    if isinstance(table, str):
        return table, options
    parts = table.definition
    for name in ("where", "params", "columns"):
        if options.get(name):
            raise ClientError(f"the shape has {name} of its own: add them to it, as in `shape(Item).where(...)`")
    said = {"where": parts.where, "params": tuple(parts.params), "columns": tuple(parts.columns)}
    return parts.table, cast("ShapeOptions", {**options, **said})


def open_stream(
    table: str | DefinesShape, secret: str | None, options: ShapeOptions, *, is_from_now: bool = False
) -> ShapeStream:
    """
    Make the subscription that options describe.

    Raises:
        ClientError: an option is not one, or has a value that it cannot have.
    """
    table, options = complete_options(table, options)
    unknown = sorted(set(options) - set(ShapeOptions.__annotations__))
    if unknown:
        raise ClientError(f"unknown option {unknown[0]!r}: there are {', '.join(ShapeOptions.__annotations__)}")
    definition = ShapeStream(
        table,
        columns=options.get("columns", ()),
        where=options.get("where"),
        params=[parameter_text(value) for value in options.get("params", ())],
        replica=options.get("replica", "default"),
        log=options.get("log", "full"),
        secret=secret,
        more=options.get("more"),
        is_from_now=is_from_now,
    )
    state = options.get("state")
    if state is not None:
        definition.go_on(read_state(state, definition))
    return definition


def named_definition(stream: ShapeStream) -> dict[str, str]:
    """
    Give what a state is compared with: the definition without secrets.
    """
    return {name: value for name, value in stream.definition.items() if name.lower() not in _SECRETS}


def write_state(stream: ShapeStream, resume: Resume | None) -> State:
    """
    Give a state for a place.
    """
    return {
        "version": STATE_VERSION,
        "definition": named_definition(stream),
        "handle": resume and resume.handle,
        "offset": resume and str(resume.offset),
    }


def read_state(state: State, stream: ShapeStream) -> Resume | None:
    """
    Read a state's place; None when it was taken before the first answer.

    Raises:
        StateError: it is of another shape or version, or damaged.
    """
    if state.get("version") != STATE_VERSION:
        raise StateError(f"the state is of version {state.get('version')!r} and not {STATE_VERSION}: begin without it")
    if state.get("definition") != named_definition(stream):
        raise StateError("the state is of another shape: use it with the table and the options it was made with")
    handle, text = state.get("handle"), state.get("offset")
    if handle is None and text is None:
        return None
    offset = LogOffset.parse(text) if isinstance(text, str) else None
    if offset is None or not isinstance(handle, str):
        raise StateError("the state is damaged: begin without it")
    return Resume(handle, offset)

"""
The contract as an OpenAPI 3.1 document, for tools that read it. The words about it are in `docs/protocol/http.md`.

Pure values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from penstock.shapes.reading import SHAPE_ORDERS, SHAPES_LISTED_MAX
from penstock.wire import names

Json: TypeAlias = dict[str, Any]

_OFFSET: Final = r"^(-1(_0)?|now|[0-9]{1,20}_([0-9]{1,20}|inf))$"
_PLACE: Final = r"^(-1|[0-9]+_([0-9]+|inf))$"


def _text(description: str, **more: Any) -> Json:
    return {"schema": {"type": "string", **more}, "description": description}


def _parameter(name: str, schema: Json, description: str, *, is_required: bool = False, **more: Any) -> Json:
    found: Json = {"name": name, "in": "query", "schema": schema, "description": description, **more}
    return found | {"required": True} if is_required else found


def _string(**more: Any) -> Json:
    return {"type": "string", **more}


def _reference(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


_SUBSET_FIELDS: Final[Mapping[str, tuple[Json, str]]] = {
    "where": (_string(), "Condition on the rows, beside the shape's own. No subqueries."),
    "params": (_string(), "Values of `$1`, `$2` …: a JSON object."),
    "order_by": (_string(), "Columns with directions and places of NULLs; needed with `limit` and `offset`."),
    "limit": ({"type": "integer", "minimum": 1}, "How many rows at most."),
    "offset": ({"type": "integer", "minimum": 0}, "How many rows to leave out first."),
}

_SHAPE_PARAMETERS: Final = (
    _parameter(
        names.TABLE, _string(), "The table, with its schema if that is not `public`; quoted where SQL needs it.",
        is_required=True,
    ),
    _parameter(
        names.OFFSET, _string(pattern=_OFFSET), "Where the client is: `-1` before everything, `now` for the end.",
        is_required=True,
    ),
    _parameter(names.HANDLE, _string(), "The log the client reads; needed with any offset but `-1` and `now`."),
    _parameter(names.LIVE, _string(), "Wait for changes. Anything but `false` is true, an empty value too."),
    _parameter(names.LIVE_SSE, _string(), "Send changes as a stream of events; needs `live`."),
    _parameter(names.CURSOR, _string(), "What the last live response said."),
    _parameter(names.WHERE, _string(), "Condition on the rows."),
    _parameter(
        names.PARAMS,
        {"type": "object", "additionalProperties": _string()},
        "Values of `$1`, `$2` …, as `params[1]=…`.",
        style="deepObject",
        explode=True,
    ),
    _parameter(names.COLUMNS, _string(), "Columns to serve, separated by commas; all of the primary key among them."),
    _parameter(names.QUERYABLE_COLUMNS, _string(), "Columns that `columns` and subsets may name."),
    _parameter(names.REPLICA, {"enum": ["default", "full"]}, "How much of a row updates and deletes carry."),
    _parameter(names.LOG, {"enum": ["full", "changes_only"]}, "Whether the log begins with the rows."),
    _parameter(names.SECRET, _string(), "The server's secret, where it has one."),
)  # fmt: skip

_HEADERS: Final[Json] = {
    "electric-handle": _text("Name of the log."),
    "electric-offset": _text("Where the client is when it has read the body.", pattern=_PLACE),
    "electric-schema": _text("The columns, as JSON. Not with `live`."),
    "electric-cursor": _text("To be sent back with the next live request. With `live` only."),
    "electric-up-to-date": _text("There, and empty, when the body ends where the log does."),
    "electric-has-data": {"schema": {"enum": ["true", "false"]}, "description": "Whether the body may hold changes."},
    "electric-snapshot": {"schema": {"enum": ["true"]}, "description": "With subsets only."},
    "etag": _text("Names the content of the response."),
}

_CONTROL: Final[Json] = {
    "type": "object",
    "required": ["headers"],
    "properties": {
        "headers": {
            "type": "object",
            "required": ["control"],
            "properties": {"control": {"enum": ["up-to-date", "snapshot-end", "must-refetch"]}},
        }
    },
}

_SCHEMAS: Final[Json] = {
    "Row": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
    "Change": {
        "type": "object",
        "required": ["key", "value", "headers"],
        "properties": {
            "key": _string(),
            "value": _reference("schemas", "Row"),
            "old_value": _reference("schemas", "Row"),
            "headers": {
                "type": "object",
                "required": ["operation", "relation"],
                "properties": {
                    "operation": {"enum": ["insert", "update", "delete"]},
                    "relation": {"type": "array", "items": _string(), "minItems": 2, "maxItems": 2},
                    "txids": {"type": "array", "items": {"type": "integer"}},
                    "lsn": _string(pattern="^[0-9]+$"),
                    "op_position": {"type": "integer"},
                    "last": {"const": True},
                    "key_change_to": _string(),
                    "key_change_from": _string(),
                    "snapshot_mark": {"type": "integer"},
                },
            },
        },
    },
    "Control": _CONTROL,
    "Log": {
        "type": "array",
        "items": {"anyOf": [_reference("schemas", "Change"), _reference("schemas", "Control")]},
    },
    "Subset": {
        "type": "object",
        "required": ["metadata", "data"],
        "properties": {
            "metadata": {
                "type": "object",
                "required": ["xmin", "xmax", "xip_list", "snapshot_mark", "database_lsn"],
                "properties": {
                    "xmin": _string(),
                    "xmax": _string(),
                    "xip_list": {"type": "array", "items": _string()},
                    "snapshot_mark": {"type": "integer"},
                    "database_lsn": _string(),
                },
            },
            "data": {"type": "array", "items": _reference("schemas", "Change")},
        },
    },
    "SubsetRequest": {
        "type": "object",
        "properties": {
            name: {"type": "object", "additionalProperties": True} if name == "params" else schema
            for name, (schema, _) in _SUBSET_FIELDS.items()
        },
    },
    "Problems": {
        "type": "object",
        "required": ["message"],
        "properties": {
            "message": _string(),
            "code": _string(),
            "errors": {
                "type": "object",
                "additionalProperties": {
                    "anyOf": [
                        {"type": "array", "items": _string()},
                        {
                            "type": "object",
                            "additionalProperties": {
                                "anyOf": [{"type": "array", "items": _string()}, _string()],
                            },
                        },
                    ]
                },
            },
        },
    },
    "BodyError": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": _string(), "details": _string()},
    },
}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _answer(description: str, schema: Json | None = None, **more: Any) -> Json:
    return {"description": description, **({} if schema is None else {"content": _json(schema)}), **more}


_PROBLEMS: Final = _reference("schemas", "Problems")
_REFUSALS: Final[Json] = {
    "400": _answer(
        "The request cannot be served as asked. Empty when the query string cannot be decoded.",
        {"anyOf": [_PROBLEMS, _reference("schemas", "BodyError")]},
    ),
    "401": {"description": "The secret is missing or wrong, or whoever runs the service wants to know who asks."},
    "403": {"description": "Whoever runs the service does not let this client read this."},
    "409": _answer(
        "The log is over or never was: read again from `-1`, under the handle that the headers name.",
        {"type": "array", "items": _reference("schemas", "Control"), "minItems": 1, "maxItems": 1},
        headers={"electric-handle": _text("The current handle, where there is one.")},
    ),
    "414": {"description": "The path and query are too long."},
    "431": {"description": "The headers are too long."},
    "500": _answer("A fault of the server's, or an unexpected answer of the database.", {"type": "object"}),
    "503": _answer(
        "Not now: `retry-after` says when to ask again.",
        _PROBLEMS,
        headers={"retry-after": {"schema": {"type": "integer"}, "description": "Seconds."}},
    ),
}

_FOUND: Final[Json] = {
    "description": "A part of the log, or the rows of a subset.",
    "headers": _HEADERS,
    "content": {
        "application/json": {"schema": {"anyOf": [_reference("schemas", "Log"), _reference("schemas", "Subset")]}},
        "text/event-stream": {"schema": {"type": "string"}},
    },
}


def _operation(summary: str, parameters: Sequence[Json], responses: Json, **more: Any) -> Json:
    return {"summary": summary, "parameters": list(parameters), "responses": responses, **more}


def _subset_parameters() -> list[Json]:
    return [_parameter(f"{names.SUBSET_PREFIX}{name}", schema, told) for name, (schema, told) in _SUBSET_FIELDS.items()]


def _shape_path() -> Json:
    not_changed = {"304": {"description": "As the entity tag that was sent says."}}
    reading = _operation(
        "Read a shape's log, or a subset of its rows",
        [*_SHAPE_PARAMETERS, *_subset_parameters()],
        {"200": _FOUND, **not_changed, **_REFUSALS},
        operationId="readShape",
    )
    posting = _operation(
        "Read a shape's log, or a subset of its rows, with parameters in the body",
        _SHAPE_PARAMETERS,
        {"200": _FOUND, **not_changed, **_REFUSALS, "413": _answer("The body is too large.", {"type": "object"})},
        operationId="readSubset",
        requestBody={"content": _json(_reference("schemas", "SubsetRequest"))},
    )
    removing = _operation(
        "Remove a shape",
        [
            {key: value for key, value in parameter.items() if key != "required"}
            for parameter in _SHAPE_PARAMETERS
            if parameter["name"] not in {names.LIVE, names.LIVE_SSE, names.CURSOR}
        ],
        {
            "202": {"description": "It is removed."},
            "404": _answer("There is no such shape.", _PROBLEMS),
            "405": _answer("The server does not let clients remove shapes.", _PROBLEMS),
            **{status: _REFUSALS[status] for status in ("400", "401", "403", "414", "431", "500", "503")},
        },
        operationId="removeShape",
    )
    return {"get": reading, "post": posting, "delete": removing}


def _told(description: str) -> Json:
    status = {"type": "object", "required": ["status"], "properties": {"status": _string()}}
    return _answer(description, status)


def openapi_document(version: str) -> Json:
    """
    Give the document of a server of this version.
    """
    health = _operation(
        "Whether the server is up",
        [],
        {"200": _told("Active."), "202": _told("Starting, or waiting for its predecessor.")},
        operationId="health",
    )
    ready = _operation(
        "Whether clients should be sent here",
        [],
        {"200": _told("Yes."), "503": _told("Not now, and why.")},
        operationId="ready",
    )
    status = _operation(
        "What an operator may want to know",
        [_SHAPE_PARAMETERS[-1]],
        {"200": _answer("Positions, problems, processes.", {"type": "object"}), **{
            status: _REFUSALS[status] for status in ("400", "401", "414", "431", "503")
        }},
        operationId="status",
    )  # fmt: skip
    shapes = _operation(
        "Which shapes there are",
        [
            _parameter("order", _string(enum=list(SHAPE_ORDERS)), "The largest, the one read last, or the table first."),
            _parameter("limit", _string(pattern="^[0-9]{1,6}$"), f"How many at most, up to {SHAPES_LISTED_MAX}."),
            _parameter("skip", _string(pattern="^[0-9]{1,6}$"), "How many to leave out before them."),
            _parameter("table", _string(), "Only those on tables of this name, without its schema."),
            _SHAPE_PARAMETERS[-1],
        ],
        {"200": _answer("How many there are, and those of the page.", {"type": "object"}), **{
            status: _REFUSALS[status] for status in ("400", "401", "414", "431", "503")
        }},
        operationId="shapes",
    )  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock",
            "version": version,
            "description": "Live subsets of the tables of a Postgres database over HTTP.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            names.SHAPE_PATH: _shape_path(),
            names.HEALTH_PATH: {"get": health},
            names.READY_PATH: {"get": ready},
            names.STATUS_PATH: {"get": status},
            names.SHAPES_PATH: {"get": shapes},
        },
        "components": {"schemas": _SCHEMAS},
    }

"""
Penstock: a Postgres sync engine that never holds your write-ahead log back.

`penstock.asgi(database_url)` gives an ASGI application to mount in your own; `penstock.Client` and `penstock.AsyncClient`
follow shapes of any server of the protocol; `penstock serve` on the command line runs the service.

The packages are the stages of the data's way, and acknowledgements, which are positions and never data, take it back::

    Postgres ──▶ replication ──▶ relay ──▶ collector ──▶ consumers ──▶ shape_log ──▶ api ──▶ client
        ▲             │            │           │                           │
        └── standby ◀─┴─ durable ◀─┘           └─ flush tracker ◀─ settled ┘
                │
                └── or, with `acknowledge = shapes`: the flush boundary, once `control` has recorded it

`service` joins them; `control`, `database` and `liveness` stand beside; `postgres`, `where`, `shapes`, `wire` and `errors`
are the values that all of them speak in.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.api.authorisation import AccessRequest, Allow, Authorize, Deny, RequestedShape, by_table
    from penstock.api.authorisation_jwt import jwt_authorizer
    from penstock.client.arrow_streams import ArrowStream, AsyncArrowStream
    from penstock.client.async_shape import AsyncShape
    from penstock.client.async_stream import AsyncChangeStream
    from penstock.client.asynchronous import AsyncClient
    from penstock.client.blocking import ChangeStream, Client, Shape
    from penstock.client.changes import Change
    from penstock.client.freshness import Freshness
    from penstock.client.options import ShapeOptions
    from penstock.client.subset import SubsetOptions
    from penstock.client.tables import Rows
    from penstock.models.definition import ModelShape, TableShape
    from penstock.models.making import shape
    from penstock.service.embedding import BesideApp, EmbeddedApp, ShapeResponse, asgi, beside

__all__ = [
    "AccessRequest",
    "Allow",
    "ArrowStream",
    "AsyncArrowStream",
    "AsyncChangeStream",
    "AsyncClient",
    "AsyncShape",
    "Authorize",
    "BesideApp",
    "Change",
    "ChangeStream",
    "Client",
    "Deny",
    "EmbeddedApp",
    "Freshness",
    "ModelShape",
    "RequestedShape",
    "Rows",
    "Shape",
    "ShapeOptions",
    "ShapeResponse",
    "SubsetOptions",
    "TableShape",
    "asgi",
    "beside",
    "by_table",
    "jwt_authorizer",
    "shape",
]

_HOMES = {
    "AccessRequest": "api.authorisation",
    "Allow": "api.authorisation",
    "ArrowStream": "client.arrow_streams",
    "AsyncArrowStream": "client.arrow_streams",
    "AsyncChangeStream": "client.async_stream",
    "AsyncClient": "client.asynchronous",
    "AsyncShape": "client.async_shape",
    "Authorize": "api.authorisation",
    "BesideApp": "service.embedding",
    "Change": "client.changes",
    "ChangeStream": "client.blocking",
    "Client": "client.blocking",
    "Deny": "api.authorisation",
    "EmbeddedApp": "service.embedding",
    "Freshness": "client.freshness",
    "ModelShape": "models.definition",
    "RequestedShape": "api.authorisation",
    "Rows": "client.tables",
    "Shape": "client.blocking",
    "ShapeOptions": "client.options",
    "ShapeResponse": "service.embedding",
    "SubsetOptions": "client.subset",
    "TableShape": "models.definition",
    "asgi": "service.embedding",
    "beside": "service.embedding",
    "by_table": "api.authorisation",
    "jwt_authorizer": "api.authorisation_jwt",
    "shape": "models.making",
}


def __getattr__(name: str) -> object:
    """
    Load what is asked for only then: clients do without the service, and the service without clients.
    """
    home = _HOMES.get(name)
    if home is not None:
        return getattr(importlib.import_module(f"penstock.{home}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)

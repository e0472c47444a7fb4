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
    from penstock.client.arrow_streams import ArrowStream, AsyncArrowStream
    from penstock.client.asynchronous import AsyncChangeStream, AsyncClient, AsyncShape
    from penstock.client.blocking import ChangeStream, Client, Shape
    from penstock.client.changes import Change
    from penstock.client.freshness import Freshness
    from penstock.client.options import ShapeOptions
    from penstock.client.subset import SubsetOptions
    from penstock.client.tables import Rows
    from penstock.service.embedding import EmbeddedApp, asgi

__all__ = [
    "ArrowStream",
    "AsyncArrowStream",
    "AsyncChangeStream",
    "AsyncClient",
    "AsyncShape",
    "Change",
    "ChangeStream",
    "Client",
    "EmbeddedApp",
    "Freshness",
    "Rows",
    "Shape",
    "ShapeOptions",
    "SubsetOptions",
    "asgi",
]

_HOMES = {
    "ArrowStream": "client.arrow_streams",
    "AsyncArrowStream": "client.arrow_streams",
    "AsyncChangeStream": "client.asynchronous",
    "AsyncClient": "client.asynchronous",
    "AsyncShape": "client.asynchronous",
    "Change": "client.changes",
    "ChangeStream": "client.blocking",
    "Client": "client.blocking",
    "EmbeddedApp": "service.embedding",
    "Freshness": "client.freshness",
    "Rows": "client.tables",
    "Shape": "client.blocking",
    "ShapeOptions": "client.options",
    "SubsetOptions": "client.subset",
    "asgi": "service.embedding",
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

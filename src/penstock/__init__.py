"""
Penstock: a Postgres sync engine that never holds your write-ahead log back.

`penstock.asgi(database_url)` gives an ASGI application to mount in your own; `penstock.client` follows shapes of any server
of the protocol; `penstock serve` on the command line runs the service.

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

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.service.embedding import EmbeddedApp, asgi

__all__ = ["EmbeddedApp", "asgi"]


def __getattr__(name: str) -> object:
    """
    Load the service only when it is asked for: clients do without.
    """
    if name in __all__:
        from penstock.service import embedding  # noqa: PLC0415  that is the point

        return getattr(embedding, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)

from __future__ import annotations

import inspect

from penstock.consumers import abc as consumers
from penstock.database.inspector import CatalogInspector
from penstock.database.publication import PublicationTables
from penstock.database.snapshots import PostgresSnapshots, TakenSnapshot


def _as_ports(
    inspector: CatalogInspector, keeper: PublicationTables, source: PostgresSnapshots, snapshot: TakenSnapshot
) -> tuple[consumers.Inspector, consumers.PublicationKeeper, consumers.SnapshotSource, consumers.OpenSnapshot]:
    # The type checker is the test: each shell is what the consumers ask for.
    return inspector, keeper, source, snapshot


def test_every_port_has_its_shell() -> None:
    """
    The shells offer the calls that the consumers' ports name.
    """
    ports = inspect.signature(_as_ports, eval_str=True)
    shells = [parameter.annotation for parameter in ports.parameters.values()]
    for port, shell in zip(ports.return_annotation.__args__, shells, strict=True):
        names = {name for name in vars(port) if not name.startswith("_")}
        assert all(hasattr(shell, name) for name in names)

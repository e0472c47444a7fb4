"""
The tables of the control store, as steps from one version to the next.

`PRAGMA user_version` counts the steps that were taken. A step is never edited once it was released; the next one mends it.
Positions are stored as the text people read in logs: they take 64 bits without a sign, which SQLite's integers have not.

Pure.
"""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """
        CREATE TABLE life (
            only INTEGER PRIMARY KEY CHECK (only = 1),
            epoch INTEGER,
            epoch_reason TEXT NOT NULL,
            boundary TEXT NOT NULL,
            incarnation_next INTEGER NOT NULL,
            handle_us_max INTEGER NOT NULL,
            is_clean INTEGER NOT NULL
        )
        """,
        "INSERT INTO life VALUES (1, NULL, '', '0/0', 1, 0, 0)",
        """
        CREATE TABLE shapes (
            incarnation INTEGER PRIMARY KEY,
            epoch INTEGER NOT NULL,
            handle TEXT NOT NULL UNIQUE,
            definition BLOB NOT NULL,
            chunk_bytes_max INTEGER NOT NULL,
            state TEXT NOT NULL,
            snapshot TEXT,
            horizon TEXT,
            settled TEXT NOT NULL,
            reason TEXT,
            condemned_at TEXT
        )
        """,
        """
        CREATE TABLE facts (
            kind TEXT NOT NULL,
            key TEXT NOT NULL,
            value BLOB NOT NULL,
            PRIMARY KEY (kind, key)
        ) WITHOUT ROWID
        """,
    ),
    (
        # Definitions that were given up, with the times in seconds since 1970, newest last.
        """
        CREATE TABLE sheds (
            definition BLOB PRIMARY KEY,
            name TEXT NOT NULL,
            reason TEXT NOT NULL,
            times TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        # Which code last served bytes from these shapes; the code before this step called itself 1.
        "ALTER TABLE life ADD COLUMN replay_version INTEGER NOT NULL DEFAULT 1",
    ),
)

SCHEMA_VERSION: Final = len(MIGRATIONS)


def steps_from(version: int) -> tuple[str, ...]:
    """
    Give the statements that lead from a version to the newest, the new version's mark included.
    """
    assert 0 <= version <= SCHEMA_VERSION
    if version == SCHEMA_VERSION:
        return ()
    statements = tuple(statement for step in MIGRATIONS[version:] for statement in step)
    return (*statements, f"PRAGMA user_version = {SCHEMA_VERSION}")

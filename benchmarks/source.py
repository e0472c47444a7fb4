"""
The Postgres that is measured against: a throwaway server, a table of ordinary rows, and ways to fill it fast.

Its disk is not what is measured, so it syncs nothing, never checkpoints meanwhile and keeps all its WAL; what follows
it writes and syncs to a real disk.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from benchmarks.progress import say
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

SERVER_SETTINGS: Final = {
    "fsync": "off",
    "shared_buffers": "256MB",
    "max_wal_size": "64GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}
TABLE: Final = "events"
PUBLICATION: Final = "penstock_publication_bench"
"""The service makes it."""
SLOT: Final = "penstock_slot_bench"
"""Of the service."""

# Row number n. About 150 bytes as Postgres keeps it and 350 as JSON. One text has quotes in nine rows of ten, and is NULL
# in the tenth, so that no row takes the shortest way.
_ROW: Final = """
    n,
    n % 1000,
    'Event number ' || n,
    CASE n % 3 WHEN 0 THEN 'todo' WHEN 1 THEN 'doing' ELSE 'done' END,
    CASE WHEN n % 10 = 0 THEN NULL ELSE 'She said "later" and went on with turbine ' || n % 97 END,
    n % 5,
    n % 2 = 0,
    timestamptz '2026-01-01 00:00:00+00' + n * interval '1 second'
"""
_WIDE_TIMES: Final = 22
"""So many times the text is repeated in a wide row, which is about a KiB then, and still whole in its page."""
_SCHEMA: Final = f"""
CREATE TABLE {TABLE} (
    id bigint PRIMARY KEY,
    account int NOT NULL,
    title text NOT NULL,
    status text NOT NULL,
    body text,
    priority int NOT NULL,
    is_open boolean NOT NULL,
    changed_at timestamptz NOT NULL
);
CREATE PROCEDURE insert_one_by_one(first bigint, count bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN first .. first + count - 1 LOOP
        INSERT INTO {TABLE} VALUES ({_ROW});
        COMMIT;
    END LOOP;
END
$$;
CREATE PROCEDURE insert_in_groups(first bigint, count bigint, size bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR start IN 0 .. (count - 1) / size LOOP
        INSERT INTO {TABLE} SELECT {_ROW} FROM generate_series(
            first + start * size, least(first + start * size + size, first + count) - 1
        ) AS numbers (n);
        COMMIT;
    END LOOP;
END
$$;
CREATE PROCEDURE insert_wide(first bigint, count bigint, size bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR start IN 0 .. (count - 1) / size LOOP
        INSERT INTO {TABLE} SELECT id, account, title, status, repeat(coalesce(body, title), {_WIDE_TIMES}), priority, is_open,
            changed_at FROM (SELECT {_ROW} FROM generate_series(
                first + start * size, least(first + start * size + size, first + count) - 1
            ) AS numbers (n)) AS made (id, account, title, status, body, priority, is_open, changed_at);
        COMMIT;
    END LOOP;
END
$$;
CREATE PROCEDURE update_one_by_one(first bigint, count bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN first .. first + count - 1 LOOP
        UPDATE {TABLE} SET status = 'done "again"', priority = priority + 1 WHERE id = n;
        COMMIT;
    END LOOP;
END
$$;
"""
MARKER_ACCOUNT: Final = 1_000_000
"""The account of the row that marks the end of a load, and of no other."""
_GENERATING_S_MAX: Final = 1800


class Source:
    """
    A running server with one database; a context manager.
    """

    def __init__(self) -> None:
        """
        Choose binaries; nothing is started yet.
        """
        self.server: Final = ThrowawayPostgres(settings=SERVER_SETTINGS)
        self._count = 0

    def __enter__(self) -> Self:
        say(f"starting a throwaway Postgres ({self.server.flavour})")
        self.server.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.server.close()

    @property
    def version(self) -> str:
        """
        The server's version.
        """
        return str(self.server.query("SHOW server_version")[0][0])

    def make_database(self) -> ThrowawayDatabase:
        """
        Make an empty database with the table. Only one is there at a time: slots are names of the whole server.
        """
        self._count += 1
        database = self.server.create_database(f"bench{self._count}")
        database.execute(_SCHEMA)
        return database


def insert_one_by_one(database: ThrowawayDatabase, first: int, count: int) -> None:
    """
    Insert rows, each in a transaction of its own.
    """
    _call(database, f"{count:,} transactions of one row", "insert_one_by_one", first, count)


def insert_in_groups(database: ThrowawayDatabase, first: int, count: int, *, size: int) -> None:
    """
    Insert rows, so many in a transaction.
    """
    _call(database, f"{count:,} rows in transactions of {size:,}", "insert_in_groups", first, count, size)


def insert_wide(database: ThrowawayDatabase, first: int, count: int, *, size: int) -> None:
    """
    Insert rows of about a KiB, so many in a transaction.
    """
    _call(database, f"{count:,} wide rows in transactions of {size:,}", "insert_wide", first, count, size)


def update_one_by_one(database: ThrowawayDatabase, first: int, count: int) -> None:
    """
    Update rows that are there, each in a transaction of its own.
    """
    _call(database, f"{count:,} updates, each a transaction", "update_one_by_one", first, count)


def _call(database: ThrowawayDatabase, words: str, procedure: str, *args: int) -> None:
    began = time.monotonic()
    say(f"generating {words}")
    with database.connect() as connection:
        connection.execute(f"SET synchronous_commit = off; SET statement_timeout = '{_GENERATING_S_MAX}s'".encode())
        connection.execute(f"CALL {procedure}({', '.join(map(str, args))})".encode())
    say(f"generated in {time.monotonic() - began:.1f} s")


def insert_at_once(database: ThrowawayDatabase, first: int, count: int) -> None:
    """
    Insert rows in one transaction.
    """
    began = time.monotonic()
    say(f"generating one transaction of {count:,} rows")
    with database.connect() as connection:
        connection.execute(f"SET statement_timeout = '{_GENERATING_S_MAX}s'".encode())
        connection.execute(
            f"INSERT INTO {TABLE} SELECT {_ROW} FROM generate_series({first}::bigint, {first + count - 1}) AS n".encode()
        )
    say(f"generated in {time.monotonic() - began:.1f} s")


def insert_command(key: str) -> str:
    """
    Write the command that inserts one row; its key as SQL.
    """
    return f"INSERT INTO {TABLE} SELECT {_ROW} FROM (VALUES ({key}::bigint)) AS numbers (n)"


def insert_marker(database: ThrowawayDatabase, key: int) -> int:
    """
    Mark the end of a load by one more row; gives a WAL position between the load and the mark.
    """
    position = database.query("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0][0]
    values = f"{key}, {MARKER_ACCOUNT}, 'the end', 'done', NULL, 1, true, '2026-01-01 00:00:00+00'"
    database.execute(f"INSERT INTO {TABLE} VALUES ({values})")
    return int(position)


def copy_slot(database: ThrowawayDatabase, source: str, target: str) -> None:
    """
    Make a slot that stands where another one does.
    """
    database.query("SELECT pg_copy_logical_replication_slot(%s::name, %s::name)", source, target)


def drop_slot(database: ThrowawayDatabase, name: str) -> None:
    """
    Drop a slot as soon as nobody holds it any more; fine when there is none.
    """
    deadline = time.monotonic() + 20
    while True:
        held = database.query("SELECT active FROM pg_replication_slots WHERE slot_name = %s", name)
        if not held:
            return
        if not held[0][0]:
            database.query("SELECT pg_drop_replication_slot(%s)", name)
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"somebody still holds the slot {name}")
        time.sleep(0.02)

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from psycopg.conninfo import make_conninfo

from harness.certificates import certify, make_authority, switch_tls_on
from harness.service import Service, started
from harness.waiting import until
from penstock.database.failures import ServerRefusedError
from penstock.database.session import Session
from penstock.database.urls import parse_database_url
from penstock.errors import ConnectionLostError, MisconfiguredSourceError
from penstock.replication.link import Link, resolve
from penstock.replication.waiting import Waiter
from penstock.service.settings import Settings
from penstock.testing.postgres import ThrowawayPostgres

pytestmark = pytest.mark.postgres

NO_TLS, WRONG_CA, WRONG_NAME = "TLS", "certificate", "host name"


class Secured(NamedTuple):
    """
    A server with TLS, certified for `localhost`, and the authorities.
    """

    server: ThrowawayPostgres
    ours: Path
    other: Path
    port: int

    def url(self, host: str = "localhost", query: str = "", user: str = "postgres") -> str:
        return f"postgresql://{user}@{host}:{self.port}/postgres{query}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """
    The system's Postgres with TLS.
    """
    folder = tmp_path_factory.mktemp("certificates")
    ours, other = make_authority(folder, "ours"), make_authority(folder, "other")
    with ThrowawayPostgres() as server:
        if server.query("SELECT setting FROM pg_config WHERE name = 'CONFIGURE' AND setting LIKE '%openssl%'") == []:
            pytest.skip("the Postgres at hand was built without TLS")
        switch_tls_on(server, *certify(folder, ours, "localhost"))
        with server.connect() as connection:
            port = connection.info.port
        yield Secured(server, ours, other, port)


def connect_both(url: str, ca: Path | None) -> set[bool]:
    """
    Connect as the pools do and as the receiver does; tells whether what came is encrypted.

    Raises:
        MisconfiguredSourceError: the receiver's words for a refusal. The pool must have been refused too.
    """
    settings = Settings(database_url=url, database_ca_certificate_file=ca)

    async def pooled() -> bool:
        parsed = parse_database_url(url, ca_file=None if ca is None else str(ca))
        session = await Session.connect(parsed, application_name="test", timeout_s=10)
        try:
            rows = await session.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", timeout_s=10)
        finally:
            session.close()
        return rows[0][0] == "t"

    with contextlib.closing(Waiter()) as waiter:
        conninfo = resolve(make_conninfo(**settings.connection_options()))
        try:
            link = Link.open(conninfo, waiter=waiter, clock=time.monotonic, timeout_s=10)
        except MisconfiguredSourceError:
            with pytest.raises(ConnectionLostError):
                asyncio.run(pooled())
            raise
        with contextlib.closing(link):
            return {link.is_encrypted, asyncio.run(pooled())}


@pytest.mark.parametrize(
    ("host", "query", "ca", "is_encrypted"),
    [
        ("localhost", "", None, True),
        ("localhost", "?sslmode=disable", None, False),
        ("localhost", "?sslmode=prefer", None, True),
        ("127.0.0.1", "?sslmode=require", None, True),
        ("127.0.0.1", "?sslmode=verify-ca", "ours", True),
        ("localhost", "?sslmode=verify-full", "ours", True),
        ("localhost", "", "ours", True),
        ("localhost", "?sslmode=require", "ours", True),
    ],
)
def test_connections_are_as_secure_as_the_url_says(
    secured: Secured, host: str, query: str, ca: str | None, *, is_encrypted: bool
) -> None:
    """
    A20, H25: TLS is used where the server has it unless it is switched off, and verified as far as was asked for, on both
    kinds of connection.
    """
    authority = None if ca is None else secured.ours
    assert connect_both(secured.url(host, query), authority) == {is_encrypted}


@pytest.mark.parametrize(
    ("host", "query", "ca"),
    [
        ("127.0.0.1", "?sslmode=verify-full", "ours"),
        ("127.0.0.1", "", "ours"),
        ("127.0.0.1", "?sslmode=require", "ours"),
        ("localhost", "?sslmode=verify-ca", "other"),
        ("localhost", "", "other"),
    ],
)
def test_what_does_not_verify_is_refused_for_good(secured: Secured, host: str, query: str, ca: str) -> None:
    """
    A20: a certificate for another host, or of an authority that is not trusted, ends the start with words about it; a CA
    file alone means full verification, with `sslmode=require` too.
    """
    authority = secured.ours if ca == "ours" else secured.other
    with pytest.raises(MisconfiguredSourceError, match=r"(?i)certificate"):
        connect_both(secured.url(host, query), authority)


@pytest.mark.parametrize(("query", "with_ca"), [("?sslmode=require", False), ("", True)])
def test_a_server_without_tls_is_refused_where_tls_was_asked_for(
    postgres_server: ThrowawayPostgres, secured: Secured, query: str, *, with_ca: bool
) -> None:
    """
    A20, H25: without TLS on the server `require` and a CA file end the start; everything else falls back to plain text.
    """
    with pytest.raises(MisconfiguredSourceError, match="TLS"):
        connect_both(postgres_server.url + query, secured.ours if with_ca else None)
    assert connect_both(postgres_server.url, None) == {False}
    assert connect_both(postgres_server.url + "?sslmode=prefer", None) == {False}


@pytest.mark.slow
async def test_a_service_works_over_verified_tls_with_a_password(secured: Secured, tmp_path: Path) -> None:
    """
    A20: with a CA file, SCRAM and a password full of special characters everything works, all of it encrypted; without
    TLS the same role is not let in.
    """
    name = "over_tls"
    database = secured.server.create_database(name)
    try:
        database.execute("CREATE TABLE items (id int PRIMARY KEY)")
        url = secured.url(user="secured:a%20b%40%2F%3A%25").replace("/postgres", f"/{name}")
        async with Service(url, tmp_path, env={"ELECTRIC_DATABASE_CA_CERTIFICATE_FILE": str(secured.ours)}) as service:
            first = await service.get("/v1/shape", table="items", offset="-1")
            assert first.status_code == 200
            rows = database.query(
                "SELECT count(*), bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)"
                " WHERE a.usename = 'secured'"
            )
            assert rows[0][0] >= 2
            assert rows[0][1] is True
            assert "a b@" not in service.log_tail(10_000)
    finally:
        database.drop()


HOSTS: Final = "[::1]:{port},127.0.0.1:{port}"


@pytest.mark.slow
async def test_an_address_that_does_not_answer_is_passed_over(
    postgres_server: ThrowawayPostgres, tmp_path: Path
) -> None:
    """
    A8, H25: where a host has an IPv6 address that nobody listens on, all connections take the other one.
    """
    name = "by_ipv4"
    database = postgres_server.create_database(name)
    try:
        database.execute("CREATE TABLE items (id int PRIMARY KEY)")
        with postgres_server.connect() as connection:
            port = connection.info.port
        url = f"postgresql://postgres@{HOSTS.format(port=port)}/{name}"
        async with Service(
            url,
            tmp_path,
            env={"ELECTRIC_DATABASE_USE_IPV6": "true", "ELECTRIC_POOLED_DATABASE_URL": url},
        ) as service:
            assert (await service.get("/v1/shape", table="items", offset="-1")).status_code == 200
    finally:
        database.drop()


@pytest.mark.slow
async def test_too_few_connections_are_waited_for(postgres_server: ThrowawayPostgres, tmp_path: Path) -> None:
    """
    A5: while the server has no connection for us the service tries on and says why; it becomes active without a restart
    once there are enough.
    """
    name, role = "crowded", "crowded_role"
    database = postgres_server.create_database(name)
    postgres_server.execute(f"CREATE ROLE {role} LOGIN REPLICATION CONNECTION LIMIT 0")
    postgres_server.execute(f"GRANT CREATE ON DATABASE {name} TO {role}")
    try:
        async with started(Service(database.url.replace("postgres@", f"{role}@"), tmp_path)) as service:

            async def is_told() -> bool:
                return "too many connections" in service.log_tail(500)

            await until("it says why it waits", is_told)
            assert service.process is not None
            assert service.process.poll() is None
            await asyncio.to_thread(postgres_server.execute, f"ALTER ROLE {role} CONNECTION LIMIT -1")
            await service.wait_active()
    finally:
        database.drop()
        postgres_server.execute(f"DROP ROLE {role}")


@pytest.mark.slow
async def test_a_temporary_slot_leaves_nothing_behind(postgres_server: ThrowawayPostgres, tmp_path: Path) -> None:
    """
    With `CLEANUP_REPLICATION_SLOTS_ON_SHUTDOWN` and a random name the slot is gone with the service, and the next start
    gives every shape a new handle.
    """
    name = "for_a_while"
    database = postgres_server.create_database(name)
    slots = "SELECT slot_name, temporary FROM pg_replication_slots WHERE database = current_database()"
    try:
        database.execute("CREATE TABLE items (id int PRIMARY KEY)")
        env = {
            "CLEANUP_REPLICATION_SLOTS_ON_SHUTDOWN": "true",
            "ELECTRIC_TEMPORARY_REPLICATION_SLOT_USE_RANDOM_NAME": "true",
        }
        async with Service(database.url, tmp_path, env=env) as service:
            first = await service.get("/v1/shape", table="items", offset="-1")
            [(slot, is_temporary)] = database.query(slots)
            assert is_temporary
            assert len(slot) == len("penstock_slot_") + 32
            await service.stop()
            assert database.query(slots) == []
            service.start()
            await service.wait_active()
            again = await service.get(
                "/v1/shape", table="items", offset="0_inf", handle=first.headers["electric-handle"]
            )
            assert again.status_code == 409
    finally:
        database.drop()


@pytest.mark.parametrize("query", ["?sslmode=require", "?sslmode=disable"])
def test_a_copy_is_the_same_with_tls_and_without(secured: Secured, query: str) -> None:
    """
    Rows come whole and in order whether libpq decrypts them or they are read past it; an error among them is told, and
    the connection is good for more after both.
    """
    rows = "SELECT i, repeat('x', i % 3000) FROM generate_series(1, 2000) i"

    async def read(session: Session, sql: str) -> list[bytes]:
        await session.start_copy(sql, timeout_s=60)
        blocks = []
        while block := await session.read_copy(100_000, silence_s=60):
            blocks.append(block)
        return blocks

    async def scenario() -> None:
        session = await Session.connect(
            parse_database_url(secured.url(query=query)), application_name="test", timeout_s=60
        )
        try:
            for _ in range(2):
                blocks = await read(session, f"COPY ({rows}) TO STDOUT")
                expected = "".join(f"{i}\t{'x' * (i % 3000)}\n" for i in range(1, 2001))
                assert b"".join(blocks).decode() == expected
                assert 1 < len(blocks) < 200
                for failing in (
                    "COPY (SELECT 1 / 0) TO STDOUT",
                    f"COPY (SELECT 1 / (1000 - i) FROM ({rows}) r) TO STDOUT",
                ):
                    with pytest.raises(ServerRefusedError, match="division by zero") as caught:
                        await read(session, failing)
                    assert caught.value.sqlstate == "22012"
                assert await session.query("SELECT 1", timeout_s=60) == [("1",)]
                assert session.is_reusable
        finally:
            session.close()

    asyncio.run(scenario())

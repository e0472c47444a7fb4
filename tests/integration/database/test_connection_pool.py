from __future__ import annotations

import asyncio
import socket

import pytest

from harness.database import connected, until
from penstock.database.failures import DeadlineError, PoolBusyError, ServerRefusedError
from penstock.database.pool import ConnectionPool
from penstock.database.urls import parse_database_url
from penstock.errors import ConnectionLostError
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

pytestmark = pytest.mark.postgres


def test_lends_connections_again(database: ThrowawayDatabase) -> None:
    """
    One after the other gets the same connection; two at once get two.
    """

    async def scenario() -> None:
        async with connected(database.url, application_name="lender") as pool:
            pids = [await pool.query("SELECT pg_backend_pid(), current_setting('application_name')") for _ in range(3)]
            assert pids[0] == pids[1] == pids[2]
            assert pids[0][0][1] == "lender"
            async with pool.session() as one, pool.session() as two:
                assert pool.in_use_count == 2
                rows = await asyncio.gather(*(s.query("SELECT pg_backend_pid()", timeout_s=5) for s in (one, two)))
                assert rows[0] != rows[1]
            assert (pool.in_use_count, pool.idle_count) == (0, 2)
            pool.close_idle()
            assert pool.idle_count == 0

    asyncio.run(scenario())


def test_parameters_and_nulls_pass(database: ThrowawayDatabase) -> None:
    """
    Values travel as text, None as NULL; a script gives the rows of each statement.
    """

    async def scenario() -> None:
        async with connected(database.url) as pool:
            assert await pool.query("SELECT $1::text, $2::int + 1, NULL", ["ü'\\", "41"]) == [("ü'\\", "42", None)]
            assert await pool.query("SELECT $1::text", [None]) == [(None,)]
            assert await pool.script("SELECT 1; SET LOCAL lock_timeout = 1; SELECT 2, 3") == [
                [("1",)],
                [],
                [("2", "3")],
            ]

    asyncio.run(scenario())


def test_a_refused_query_leaves_the_connection_in_order(database: ThrowawayDatabase) -> None:
    """
    An error in a query, or inside a transaction, costs no connection.
    """

    async def scenario() -> None:
        async with connected(database.url, size=1) as pool:
            before = await pool.query("SELECT pg_backend_pid()")
            with pytest.raises(ServerRefusedError) as caught:
                await pool.query("SELECT 1/0")
            assert caught.value.sqlstate == "22012"
            with pytest.raises(ServerRefusedError):
                await pool.script("BEGIN; SELECT 1/0; COMMIT")
            assert await pool.query("SELECT pg_backend_pid()") == before

    asyncio.run(scenario())


def test_waiting_in_line_has_an_end(database: ThrowawayDatabase) -> None:
    """
    With all connections lent out the next in line is told so, and gets one when one is free.
    """

    async def scenario() -> None:
        async with connected(database.url, size=1, wait_s_max=0.05) as pool:
            async with pool.session():
                with pytest.raises(PoolBusyError):
                    await pool.query("SELECT 1")
            assert await pool.query("SELECT 1") == [("1",)]

    asyncio.run(scenario())


def running(database: ThrowawayDatabase, marker: str) -> bool:
    """
    Whether a query with this text runs on the server.
    """
    sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE %s AND state = 'active' AND pid <> pg_backend_pid()"
    return bool(database.query(sql, f"%{marker}%"))


def test_a_query_past_its_deadline_is_abandoned_and_cancelled(database: ThrowawayDatabase) -> None:
    """
    The caller goes on at once, the server stops, the pool makes another connection.
    """

    async def scenario() -> None:
        async with connected(database.url, size=1) as pool:
            with pytest.raises(DeadlineError):
                await pool.query("SELECT pg_sleep(601)", timeout_s=0.1)
            assert await pool.query("SELECT 1") == [("1",)]
            await until(lambda: not running(database, "pg_sleep(601)"))

    asyncio.run(scenario())


def test_a_cancelled_task_leaves_no_query_behind(database: ThrowawayDatabase) -> None:
    """
    Cancellation is immediate for the task and soon for the server.
    """

    async def scenario() -> None:
        async with connected(database.url, size=1) as pool:
            task = asyncio.create_task(pool.query("SELECT pg_sleep(602)", timeout_s=60))
            await until(lambda: running(database, "pg_sleep(602)"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert pool.in_use_count == 0
            await until(lambda: not running(database, "pg_sleep(602)"))
            assert await pool.query("SELECT 1") == [("1",)]

    asyncio.run(scenario())


def test_a_dead_connection_is_replaced(database: ThrowawayDatabase) -> None:
    """
    A connection that the server ended while it was idle is not lent again; one that ends in a query is told as lost.
    """

    async def scenario() -> None:
        async with connected(database.url, size=1) as pool:
            ((pid,),) = await pool.query("SELECT pg_backend_pid()")
            database.query("SELECT pg_terminate_backend(%s, 5000)", int(pid or 0))
            ((other,),) = await pool.query("SELECT pg_backend_pid()")
            assert other != pid
            with pytest.raises(ConnectionLostError):
                await pool.query("SELECT pg_terminate_backend(pg_backend_pid())")
            assert await pool.query("SELECT 1") == [("1",)]

    asyncio.run(scenario())


def test_reconnects_after_a_crash() -> None:
    """
    While the server is away calls fail soon; afterwards they work.
    """
    with ThrowawayPostgres() as server:

        async def scenario() -> None:
            async with connected(server.url) as pool:
                await pool.query("SELECT 1")
                await asyncio.to_thread(server.kill)
                for _ in range(3):
                    with pytest.raises(ConnectionLostError):
                        await pool.query("SELECT 1")
                await asyncio.to_thread(server.start)

                async def works() -> bool:
                    try:
                        return await pool.query("SELECT 1") == [("1",)]
                    except ConnectionLostError:
                        return False

                while not await works():  # noqa: ASYNC110 - the server sends no event
                    await asyncio.sleep(0.05)

        asyncio.run(scenario())


def test_a_server_that_says_nothing_does_not_hold_us() -> None:
    """
    Connecting has a deadline, and the loop is free meanwhile.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"postgresql://u:hunter2@127.0.0.1:{listener.getsockname()[1]}/d"

        async def scenario() -> None:
            pool = ConnectionPool(parse_database_url(url), size=1, connect_s_max=0.2)
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.01)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            with pytest.raises(ConnectionLostError) as caught:
                await pool.query("SELECT 1")
            ticking.cancel()
            assert ticks > 3
            assert "hunter2" not in caught.value.message
            await pool.close()
            with pytest.raises(ConnectionLostError, match="closed"):
                await pool.query("SELECT 1")

        asyncio.run(scenario())


def test_a_large_statement_passes(database: ThrowawayDatabase) -> None:
    """
    A statement larger than the buffers of the socket is written piece by piece.
    """

    async def scenario() -> None:
        async with connected(database.url) as pool:
            text = "x" * 20_000_000
            assert await pool.query("SELECT length($1::text)", [text]) == [("20000000",)]

    asyncio.run(scenario())

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.service import Service

pytestmark = pytest.mark.postgres

REPOSITORY = Path(__file__).parents[3]
# What else is in its folder speaks to no server.
CONTRACT = "tests/conformance/test_http_contract.py"
FOLLOW = "table=items&offset=-1"


async def test_the_contract_holds_for_the_real_service(database: Any, tmp_path: Path) -> None:
    """
    The suite of the contract passes against a running service as it does against an application of its own.
    """
    database.execute("CREATE TABLE items (id bigint PRIMARY KEY)")
    database.execute("INSERT INTO items VALUES (1), (2)")
    # Some of it waits for as long as a long poll does.
    async with Service(database.url, tmp_path, env={"PENSTOCK_LONG_POLL_TIMEOUT_S": "1"}) as service:
        suite = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "pytest", CONTRACT, "-q", "-p", "no:cacheprovider", "-p", "no:randomly"],
            cwd=REPOSITORY,
            env={**os.environ, "PENSTOCK_CONFORMANCE_URL": service.url, "PENSTOCK_CONFORMANCE_TABLE": "items"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert suite.returncode == 0, suite.stdout[-4000:]


# Query, and the parameter that the answer blames.
REFUSED = [
    ("table=items&offset=x", "offset"),
    ("table=items&offset=0_", "offset"),
    ("table=items&offset=%EF%BC%91_0&handle=1-1", "offset"),
    ("table=items&offset=-2", "offset"),
    ("table=items&offset=" + "9" * 4000 + "_0&handle=1-1", "offset"),
    ("table=items", "offset"),
    ("table=items&offset=0_0", "handle"),
    ("offset=-1", "table"),
    ("table=&offset=-1", "table"),
    ("table=nowhere&offset=-1", "table"),
    ("table=public.nowhere&offset=-1", "table"),
    ("table=no.such.place&offset=-1", "table"),
    ("table=pg_catalog.pg_class&offset=-1", "table"),
    ("table=a_view&offset=-1", "table"),
    ("table=an_unlogged_one&offset=-1", "table"),
    ("table=%22items&offset=-1", "table"),
    ("table=items%00&offset=-1", "table"),
    ("table=" + "t" * 5000 + "&offset=-1", "table"),
    ("table=items;drop+table+items&offset=-1", "table"),
    ("table[]=items&offset=-1", "table"),
    ("table=items&offset=-1&columns=nothing", "columns"),
    ("table=items&offset=-1&columns=note", "columns"),
    ("table=items&offset=-1&columns=id,%22", "columns"),
    ("table=items&offset=-1&columns=id%00", "columns"),
    ("table=items&offset=-1&columns=" + ",".join(f"c{number}" for number in range(1500)), "columns"),
    ("table=items&offset=-1&replica=both", "replica"),
    ("table=items&offset=-1&log=none", "log"),
    ("table=items&offset=-1&live=maybe", "live"),
]


async def test_what_cannot_be_served_is_refused_by_its_name(database: Any, tmp_path: Path) -> None:
    """
    Every malformed request is answered with 400 and the parameter at fault; none disturbs the shape next to it.
    """
    database.execute('CREATE TABLE items (id bigint PRIMARY KEY, note text, "select ""x""" text)')
    database.execute("INSERT INTO items VALUES (1, 'a', 'b')")
    database.execute("CREATE UNLOGGED TABLE an_unlogged_one (id int PRIMARY KEY)")
    database.execute("CREATE VIEW a_view AS SELECT * FROM items")
    found: dict[str, tuple[int, list[str]]] = {}
    async with Service(database.url, tmp_path) as service, httpx.AsyncClient(base_url=service.url) as client:
        for query, _ in REFUSED:
            answer = await client.get(f"/v1/shape?{query}")
            named = answer.json().get("errors", {}) if answer.status_code == 400 else {}
            found[query[:50]] = (answer.status_code, list(named))
        assert found == {query[:50]: (400, [parameter]) for query, parameter in REFUSED}
        everything = await service.get("/v1/shape", table="items", offset="-1")
        assert [message["value"] for message in everything.json() if "value" in message] == [
            {"id": "1", "note": "a", 'select "x"': "b"}
        ]
        odd = await service.get("/v1/shape", table="items", offset="-1", columns='id,"select ""x"""')
        assert [list(message["value"]) for message in odd.json() if "value" in message] == [["id", 'select "x"']]
        assert (await service.status())["shape_count"] == 2


async def raw(service: Service, data: bytes) -> bytes:
    """
    Send bytes that no client library would, and give the status line of the answer; empty when the connection is closed.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(20):
            return (await reader.readline()).strip()
    finally:
        writer.close()


async def test_what_is_no_request_of_ours_is_turned_away(database: Any, tmp_path: Path) -> None:
    """
    Wrong methods, wrong handles, undecodable queries, huge lines and noise: a 4xx each, and the service goes on.
    """
    database.execute("CREATE TABLE items (id bigint PRIMARY KEY)")
    async with Service(database.url, tmp_path) as service, httpx.AsyncClient(base_url=service.url) as client:
        handle = (await service.get("/v1/shape", table="items", offset="-1")).headers["electric-handle"]
        for method in ("PUT", "PATCH", "TRACE", "PROPFIND"):
            assert (await client.request(method, "/v1/shape?table=items&offset=-1")).status_code == 404, method
        for wrong in ("1-1", "x", handle[:-1], "%27", "h" * 3000):
            answer = await client.get(f"/v1/shape?table=items&offset=0_0&handle={wrong}")
            assert (answer.status_code, answer.headers["electric-handle"]) == (409, handle), wrong
        for query in ("table=%ff&offset=-1", "table=%c3%28&offset=-1", "table=items&offset=-1&x=%", "%ff=1"):
            answer = await client.get(f"/v1/shape?{query}")
            assert (answer.status_code, answer.content) == (400, b""), query
        for line in (
            b"GET /v1/shape?table=" + b"x" * 1_000_000 + b"&offset=-1 HTTP/1.1\r\nhost: a\r\n\r\n",
            b"GET /v1/shape?table=items&offset=-1 HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n",
            b"GET /v1/shape?table=\xff HTTP/1.1\r\nhost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"NONSENSE\r\n\r\n",
        ):
            status = await raw(service, line)
            assert not status or status.split()[1].startswith(b"4"), (line[:40], status)
        assert (await service.get("/v1/shape", table="items", offset="-1")).headers["electric-handle"] == handle
        assert "Traceback" not in service.log_tail(100_000)

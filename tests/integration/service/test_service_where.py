"""Shapes with conditions, end to end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.oracle import Audience
from harness.service import Service
from harness.workload import SHAPES, WHERE_SHAPES, Workload

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


async def test_conditions_equal_the_query_whenever_clients_joined(database: Any, tmp_path: Path) -> None:
    """
    Rows move in and out, keys change, clients join at any moment, and each shape equals the query with its condition
    (C21).
    """
    workload = Workload(database.url, seed=4711, large_rows=300)
    await workload.create_schema()
    async with (
        Service(database.url, tmp_path) as service,
        Audience(service.url, database.url) as audience,
        asyncio.TaskGroup() as group,
    ):
        audience.join(*WHERE_SHAPES, name="from the start")
        writers = group.create_task(workload.run(), name="workload")
        await workload.committed(150).wait()
        audience.join(*WHERE_SHAPES, *SHAPES, name="late")
        await workload.committed(250).wait()
        workload.stop()
        await writers
        audience.join(*WHERE_SHAPES, name="afterwards")
        await audience.agree()
        assert set(audience.rotations) == {0}, "a healthy run gives nothing up"
        assert (await service.status())["shed_count"] == 0


async def test_conditions_are_known_again_after_the_engine_was_killed(database: Any, tmp_path: Path) -> None:
    """
    Shapes go on from their stored definitions, under the handles they had, however often the engine is killed.
    """
    workload = Workload(database.url, seed=4712, large_rows=300)
    await workload.create_schema()
    async with (
        Service(database.url, tmp_path) as service,
        Audience(service.url, database.url) as audience,
        asyncio.TaskGroup() as group,
    ):
        audience.join(*WHERE_SHAPES)
        await audience.agree()
        writers = group.create_task(workload.run(), name="workload")
        for _ in range(2):
            await workload.committed(80).wait()
            killed = await service.kill("engine")
            await service.pid("engine", other_than=killed)
            await service.wait_active()
        await workload.committed(80).wait()
        workload.stop()
        await writers
        await audience.agree()
        assert set(audience.rotations) == {0}
        assert {len(client.handles) for client in audience.clients} == {1}


REFUSED = (
    ("1 x 1", (), 'At location 17: syntax error at or near "x"'),
    ("id", (), "WHERE clause must return a boolean"),
    ("nope = 1", (), "At location 0: unknown reference nope"),
    ("id = 'abc'", (), "At location 5: invalid syntax for type int8: abc"),
    ("m = 'merry'", (), "At location 4: invalid syntax for type enum mood: merry"),
    ("id = $2", ("1",), "At location 5: parameter $2 was not provided"),
    ("id = 1; DROP TABLE items", (), 'unescaped ";" causing statement split'),
    ("id = 1 ORDER BY id", (), "malformed query ending with SQL clauses"),
)


async def ask(service: Service, where: str, *params: str) -> httpx.Response:
    numbered = {f"params[{index}]": value for index, value in enumerate(params, start=1)}
    return await service.get("/v1/shape", table="items", offset="-1", where=where, **numbered)


async def test_bad_conditions_are_refused_and_parameters_are_values(database: Any, tmp_path: Path) -> None:
    """
    B13, B14: a 400 with the sentence of the language under `where`, or under `params` for gaps; many parameters are fine.

    B22: the text of a parameter is never read as a part of the condition.
    """
    workload = Workload(database.url, seed=1)
    await workload.create_schema()
    async with Service(database.url, tmp_path) as service:
        for where, params, message in REFUSED:
            answer = await ask(service, where, *params)
            assert answer.status_code == 400, (where, answer.text)
            body = answer.json()
            assert body["message"] == "Invalid request"
            (found,) = body["errors"]["where"]
            assert found.startswith(message), where

        many = [str(number) for number in range(1, 13)]
        assert (await ask(service, " OR ".join(f"t = ${number}" for number in many), *many)).status_code == 200
        gapped = {"params[1]": "1", "params[3]": "3"}
        answer = await service.get("/v1/shape", table="items", offset="-1", where="t = $1", **gapped)
        assert (answer.status_code, list(answer.json()["errors"])) == (400, ["params"])

        injected = "'nonexistent' OR TRUE"
        inline, as_value = await ask(service, f"t = {injected}"), await ask(service, "t = $1", injected)
        assert [message for message in inline.json() if "key" in message]
        assert not [message for message in as_value.json() if "key" in message]


async def test_a_condition_that_fails_in_the_snapshot_is_an_error(database: Any, tmp_path: Path) -> None:
    """
    What Postgres refuses because of the data answers with a 500 and leaves no shape behind; other shapes go on.
    """
    database.execute("CREATE TABLE texts (id int PRIMARY KEY, t text)")
    database.execute("INSERT INTO texts VALUES (1, 'no number')")
    async with Service(database.url, tmp_path) as service:
        answer = await service.get("/v1/shape", table="texts", offset="-1", where="t::int4 = 1")
        assert answer.status_code == 500, answer.text
        assert "no number" not in answer.text
        assert (await service.get("/v1/shape", table="texts", offset="-1", where="t = '1'")).status_code == 200
        database.execute("UPDATE texts SET t = '1'")
        assert (await service.get("/v1/shape", table="texts", offset="-1", where="t::int4 = 1")).status_code == 200

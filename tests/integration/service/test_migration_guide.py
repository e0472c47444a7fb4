from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Final

import httpx
import pytest

from harness.service import PYTHON
from harness.waiting import until
from penstock.testing.postgres import ThrowawayDatabase, free_port

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(150)]

GUIDE: Final = Path(__file__).parents[3] / "docs" / "guides" / "migration.md"


async def test_the_environment_of_another_server_serves(database: ThrowawayDatabase, tmp_path: Path) -> None:
    """
    With the guide's variables alone, but for what differs on each machine, the service runs and says which do nothing.
    """
    (block,) = re.findall(r"```ini\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    given = dict(line.strip().split("=", 1) for line in block.splitlines() if line.strip())
    port, secret = free_port(), given["ELECTRIC_SECRET"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PENSTOCK_", "ELECTRIC_"))}
    # A slot is a name of the whole server, which other tests use as well.
    own = {
        "DATABASE_URL": database.url,
        "ELECTRIC_STORAGE_DIR": str(tmp_path / "kept"),
        "ELECTRIC_PORT": str(port),
        "ELECTRIC_REPLICATION_STREAM_ID": "migrated",
    }
    database.execute("CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items VALUES (7)")
    with (tmp_path / "log").open("wb") as log:
        service = await asyncio.create_subprocess_exec(
            PYTHON, "-m", "penstock", "serve", cwd=tmp_path, env=kept | given | own, stdout=log, stderr=log
        )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30.0) as client:

        async def is_active() -> bool:
            assert service.returncode is None, (tmp_path / "log").read_text()
            try:
                return (await client.get("/v1/health")).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        try:
            await until("the service is active", is_active, 90.0)
            shape = {"table": "items", "offset": "-1"}
            assert (await client.get("/v1/shape", params=shape)).status_code == httpx.codes.UNAUTHORIZED
            answer = await client.get("/v1/shape", params=shape | {"secret": secret})
            assert [message["value"] for message in answer.json() if "value" in message] == [{"id": "7"}]
        finally:
            service.terminate()
            await service.wait()
    assert (tmp_path / "kept").is_dir()
    (line,) = [line for line in (tmp_path / "log").read_text().splitlines() if "have no effect here" in line]
    assert [name for name in given if name in line] == ["ELECTRIC_SHAPE_DB_CACHE_SIZE"]

from __future__ import annotations

import asyncio
import os
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from harness.service import Service, serving
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(300)]

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
GUIDE: Final = Path(__file__).parents[2] / "docs" / "guides" / "notebooks.md"
PRINTED_URL: Final = "http://127.0.0.1:3000"
PATIENCE_S: Final = 120.0
TABLE: Final = "CREATE TABLE orders (id int PRIMARY KEY, customer text NOT NULL, amount numeric(10,2) NOT NULL, status text NOT NULL)"


@pytest.fixture(scope="module")
def followed(
    postgres_server: ThrowawayPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ThrowawayDatabase, Service]]:
    """
    The table that the examples follow, with two orders, and a service.
    """
    database = postgres_server.create_database(f"test_{uuid.uuid4().hex[:16]}")
    database.execute(TABLE)
    service = Service(database.url, tmp_path_factory.mktemp("examples"))
    try:
        with serving(service):
            yield database, service
    finally:
        database.drop()


@pytest.fixture
def database(followed: tuple[ThrowawayDatabase, Service]) -> ThrowawayDatabase:
    """
    The table has two orders again, one of them with a name that is no HTML.
    """
    database, _ = followed
    database.execute("DELETE FROM orders; INSERT INTO orders VALUES (1, 'Ada <b>', 10, 'open'), (2, 'Bob', 5, 'sold')")
    return database


@pytest.fixture
def environment(followed: tuple[ThrowawayDatabase, Service]) -> dict[str, str]:
    """
    Where the examples are told to look.
    """
    database, service = followed
    return {**os.environ, "DATABASE_URL": database.url, "PENSTOCK_URL": service.url}


def html_of(cell: Any) -> str:
    """
    What a cell shows.
    """
    return "".join(output.get("data", {}).get("text/html", "") for output in cell["outputs"])


async def next_painting(runner: Any, live: Any) -> None:
    """
    Take the next message about what a cell shows, as front ends do also while no cell runs.
    """
    while True:
        message = await runner.kc.get_iopub_msg(timeout=PATIENCE_S)
        if message["msg_type"] == "update_display_data":
            runner.process_message(message, live, 0)
            return


def make_runner(notebook: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """
    Give what runs a notebook headless: in the interpreter of the tests, without a trace in the user's own folders.
    """
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(folder / name))
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=int(PATIENCE_S), kernel_name="python3", resources=resources)


# The kernel's packages say among themselves what they are going to change.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore::DeprecationWarning:jupyter_client")
async def test_the_notebook_repaints_itself(
    database: ThrowawayDatabase, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Run headless: its table shows what is written later, stays bounded and escaped, and says at the end that it is old.
    """
    text = (EXAMPLES / "notebook" / "live_orders.ipynb").read_text()
    # nbformat says no types.
    notebook: Any = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    *cells, last = [cell for cell in notebook.cells if cell.cell_type == "code"]
    live = next(cell for cell in cells if "live(" in cell.source)
    frame = next(cell for cell in cells if "group_by" in cell.source)
    runner = make_runner(notebook, tmp_path, monkeypatch)
    async with asyncio.timeout(2 * PATIENCE_S), runner.async_setup_kernel(env=environment):
        for cell in cells:
            await runner.async_execute_cell(cell, notebook.cells.index(cell))
        assert "2 rows; live" in html_of(live) or "4 rows; live" in html_of(live)
        assert "104.00" in frame["outputs"][0]["data"]["text/plain"]
        await asyncio.to_thread(
            database.execute, "INSERT INTO orders SELECT i, 'many', i, 'open' FROM generate_series(5, 30) AS i"
        )
        while "30 rows" not in html_of(live):
            await next_painting(runner, live)
        assert html_of(live).endswith("30 rows; the first 10 are shown; live</div></div>")
        assert html_of(live).count("<tr>") == 11
        assert "Ada &lt;b&gt;" in html_of(live)
        runner.kc.execute(last.source)
        while "live<" in html_of(live):
            await next_painting(runner, live)
    assert html_of(live).count("<table") == 1
    assert html_of(live).endswith("30 rows; the first 10 are shown; not followed any more</div></div>")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore::DeprecationWarning:jupyter_client")
async def test_the_cells_of_the_guide_work(
    database: ThrowawayDatabase, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One after the other, as in a notebook: a table, one that repaints itself, and a frame.
    """
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    cells = [new_code_cell(block.replace(PRINTED_URL, environment["PENSTOCK_URL"])) for block in blocks]  # type: ignore[no-untyped-call]
    notebook = new_notebook(cells=[*cells, new_code_cell("orders.close(); client.close()")])  # type: ignore[no-untyped-call]
    async with asyncio.timeout(2 * PATIENCE_S):
        await make_runner(notebook, tmp_path, monkeypatch).async_execute(env=environment)
    still, live, frame = cells
    assert "2 rows; live" in html_of(still)
    assert "2 rows; " in html_of(live)
    assert "10.00" in frame["outputs"][0]["data"]["text/plain"]


async def test_the_report_follows_the_orders(
    database: ThrowawayDatabase, environment: dict[str, str], tmp_path: Path
) -> None:
    """
    It is printed at the start, and again when an order has changed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / "polars_report" / "report.py"),
        env=environment,
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    told = ""

    async def read_until(report: str) -> None:
        nonlocal told
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while report not in told:
                part = await process.stdout.readline()
                assert part, told
                told += part.decode()

    try:
        await read_until("customer,orders,owes\nAda <b>,1,10.00\n")
        await asyncio.to_thread(database.execute, "UPDATE orders SET status = 'open' WHERE id = 2")
        await read_until("customer,orders,owes\nAda <b>,1,10.00\nBob,1,5.00\n")
    finally:
        process.kill()
        await process.communicate()

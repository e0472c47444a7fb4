"""
Shows the example: a database with a table, the page built, the application.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import psycopg
import uvicorn

from penstock.testing.postgres import ThrowawayPostgres

HERE = Path(__file__).parent
TABLE = """
    CREATE TABLE IF NOT EXISTS tasks (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        team text NOT NULL,
        title text NOT NULL,
        done boolean NOT NULL DEFAULT false,
        note text
    )
"""
FIRST = """
    INSERT INTO tasks (team, title, note)
    SELECT * FROM (VALUES ('engine', 'Oil the wheel', 'squeaks'), ('kitchen', 'Buy salt', 'the good one')) AS first
    WHERE NOT EXISTS (SELECT FROM tasks)
"""


def build_page() -> None:
    """
    Build the page, unless it is there already.
    """
    page = HERE / "page"
    if (page / "dist" / "main.js").exists():
        return
    for command in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
        subprocess.run(command, cwd=page, check=True, stdout=sys.stderr)  # noqa: S603 - our own commands


def main() -> None:
    """
    Run until Ctrl-C.
    """
    build_page()
    with (
        tempfile.TemporaryDirectory() as folder,
        nullcontext() if "DATABASE_URL" in os.environ else ThrowawayPostgres() as server,
    ):
        if server is not None:
            os.environ["DATABASE_URL"] = server.create_database("board").url
        os.environ.setdefault("BOARD_FOLDER", folder)
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(TABLE)
            connection.execute(FIRST)
        port = int(os.environ.get("PORT", "8000"))
        print(f"The page: http://127.0.0.1:{port}\nThe table: psql '{os.environ['DATABASE_URL']}'", flush=True)
        sys.path.insert(0, str(HERE))
        uvicorn.run("board:app", port=port, log_level="info")


if __name__ == "__main__":
    main()

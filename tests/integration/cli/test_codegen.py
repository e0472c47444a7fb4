from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

import penstock
from harness.checkers import run_mypy
from harness.service import Service
from penstock.cli.codegen import ENUM_STYLES, PYTHON_TYPES, STYLES
from penstock.cli.main import cli
from penstock.client.values import _DECODERS

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(200)]

KINDS = [(style, enums) for style in STYLES for enums in ENUM_STYLES]
TABLES = """
CREATE TYPE mood AS ENUM ('calm', 'so-so', '1st "x"', 'name');
CREATE DOMAIN small AS int CHECK (VALUE < 10);
CREATE TABLE orders (
  id int PRIMARY KEY, total numeric(10,2) NOT NULL, note text, at timestamptz NOT NULL DEFAULT '2024-05-01', day date,
  spent time, span interval, mark uuid, raw bytea, doc jsonb, tags text[] NOT NULL DEFAULT '{a,NULL}', grid int[][],
  mood mood NOT NULL DEFAULT 'so-so', moods mood[], size small, ok bool, part float8, address inet
);
CREATE TABLE other_things (id bigint PRIMARY KEY, at timetz);
CREATE SCHEMA shop;
CREATE TABLE shop."Odd, Names" ("Key A" int PRIMARY KEY, "class" text, json text, "int" int, "_x" int, "key_a" int, "1" int);
INSERT INTO orders (id, total) VALUES (1, 1.5);
INSERT INTO orders VALUES
  (2, 2, '', now(), now(), '10:00', '1 day', gen_random_uuid(), '\\x00', '{"a": [1]}', '{}', '{{1,2}}', 'name', '{calm,NULL}',
   3, true, 'NaN', '10.0.0.1');
INSERT INTO shop."Odd, Names" VALUES (1, 'c', 'j', 2, 3, 4, 5);
"""


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["codegen", *words])


def load(path: Path) -> ModuleType:
    """
    Import a file as what it is called.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Types that are written as text are looked up where the module is.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def check(folder: Path, *files: Path) -> None:
    """
    Have mypy look at files, as strictly as at this tree (whose cache it uses), and the formatter.
    """
    assert run_mypy(*files) == (0, "")
    formatted = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "120", "--diff", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert formatted.returncode == 0, formatted.stdout


def test_types_are_those_that_clients_decode() -> None:
    """
    Neither knows a type that the other does not.
    """
    assert PYTHON_TYPES.keys() == _DECODERS.keys()


async def test_rows_can_be_made_as_what_was_written(
    database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each style is the same each time, passes mypy, and takes rows of the tables it was written for; odd names are renamed.
    """
    database.execute(TABLES)
    files = {(style, enums): tmp_path / f"rows_{style}_{enums}.py" for style, enums in KINDS}
    odd = 'shop."Odd, Names"'
    for (style, enums), path in files.items():
        tables = ["orders", "other_things", *([] if style == "dataclass" else [odd])]
        words = ["--database-url", database.url, "--style", style, "--enums", enums, *tables]
        written = run(*words, "--to", str(path))
        assert written.exit_code == 0, written.output
        assert run(*words).output == path.read_text()
    check(tmp_path, *files.values())
    async with Service(database.url, tmp_path) as service, penstock.AsyncClient(service.url) as client:
        for (style, enums), path in files.items():
            module = load(path)
            monkeypatch.setitem(sys.modules, path.stem, module)
            rows: Any = await client.subset("orders", row_type=module.Orders, order_by="id")
            if style == "typeddict":
                assert [row["mood"] for row in rows] == ["so-so", "name"]
                assert rows[1]["moods"] == ["calm", None]
            else:
                assert [row.mood for row in rows] == ["so-so", "name"]
                assert rows[1].moods == ["calm", None]
            if enums == "enum":
                assert type(rows[0]["mood"] if style == "typeddict" else rows[0].mood) is module.Mood
            if style != "dataclass":
                (found,) = await client.subset(odd, row_type=module.OddNames)
                assert found["Key A"] == 1 if style == "typeddict" else (found.Key_A, found.class_) == (1, "c")


def test_mistakes_name_the_fix(database: Any, tmp_path: Path) -> None:
    """
    Tables that are not there, columns that are not, names that cannot be, and folders.
    """
    database.execute('CREATE TABLE "odd ones" ("Key A" int PRIMARY KEY, "plain" int)')
    url = ("--database-url", database.url)
    for words, sentence in (
        (["ordes"], "there is no table ordes"),
        (['"odd ones"'], "choose --style msgspec, pydantic or typeddict"),
        (['"odd ones"', "--columns", "plian"], "has no column plian; it has Key A, plain"),
        (["--columns", "plain", '"odd ones"', "--to", str(tmp_path / "no" / "file.py")], "cannot be written"),
    ):
        answer = run(*url, *words)
        assert (answer.exit_code, sentence in answer.output) == (2, True), answer.output
    assert "class OddOnes" in run(*url, '"odd ones"', "--columns", "plain").output
    away = run("--database-url", "postgresql://127.0.0.1:9/nowhere", "items")
    assert (away.exit_code, "cannot be asked" in away.output) == (2, True)


def test_shells_complete_names_of_tables(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Those of the database that DATABASE_URL names, quoted where SQL needs it; none where it does not answer.
    """
    database.execute('CREATE TABLE orders (id int); CREATE SCHEMA shop; CREATE TABLE shop."Odd" (id int)')

    def complete(typed: str) -> str:
        environment = {"_PENSTOCK_COMPLETE": "bash_complete", "COMP_WORDS": f"penstock tail {typed}", "COMP_CWORD": "2"}
        return CliRunner().invoke(cli, [], prog_name="penstock", env=environment).output

    monkeypatch.setenv("DATABASE_URL", database.url)
    assert complete("or") == "plain,orders\n"
    assert complete("shop.") == 'plain,shop."Odd"\n'
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:9/nowhere")
    assert complete("or").strip() == ""

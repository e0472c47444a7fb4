from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from build import BuildException
from build.env import DefaultIsolatedEnv, Installer

from harness.service import PYTHON, Service

pytestmark = pytest.mark.timeout(300)

ROOT: Final = Path(__file__).parents[2]
MODULES: Final = ("copying", "stream")
# Builds as each value of the variable says, in a place where there is no compiler.
BUILDING: Final = """
import json, os, sys
from hatchling.build import build_wheel

os.environ["CC"] = os.environ["CXX"] = "/nowhere/cc"
told = {}
for wanted in ("never", "auto", "always"):
    os.environ["PENSTOCK_BUILD_COMPILED"] = wanted
    folder = os.path.join(sys.argv[1], wanted)
    os.mkdir(folder)
    print("building:", wanted, file=sys.stderr, flush=True)
    try:
        told[wanted] = os.path.join(folder, build_wheel(folder))
    except (Exception, SystemExit) as problem:
        told[wanted] = f"refused: {problem}"
print(json.dumps(told))
"""
# Where each compiled module lies, what the wheel says about itself, and which core is chosen.
ASKING: Final = """
import importlib.metadata, importlib.util, json
from penstock.compiled import choice

found = {name: importlib.util.find_spec("penstock.compiled." + name) for name in ("copying", "stream")}
print(json.dumps({
    "places": {name: spec.origin for name, spec in found.items() if spec},
    "core": choice.describe(),
    "wheel": importlib.metadata.distribution("penstock").read_text("WHEEL"),
}))
"""


def ask(python: str) -> Any:
    """
    What an interpreter's Penstock is made of.
    """
    done = subprocess.run([python, "-c", ASKING], capture_output=True, text=True, check=True, timeout=120, cwd="/")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compiled() -> Any:
    """
    The installed Penstock, of which the whole suite is run: that of the wheel, in `make test`.
    """
    told = ask(PYTHON)
    if not told["places"] and os.environ.get("CI") != "true":
        pytest.skip(told["core"])
    return told


class Builds:
    """
    What came of building without a compiler.

    Attributes:
        told: the path of the wheel or why there is none, by what was wanted.
        said: what the person who builds is shown, by what was wanted.
    """

    def __init__(self, folder: Path, installer: Installer) -> None:
        """
        Build, in an environment of its own as an installer would.
        """
        needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        with DefaultIsolatedEnv(installer=installer) as environment:
            environment.install(needed)
            done = subprocess.run(
                [environment.python_executable, "-c", BUILDING, str(folder)],
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
                cwd=ROOT,
                env={**os.environ, **(environment.make_extra_environ() or {})},
            )
        assert done.returncode == 0, done.stderr
        self.told: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        parts = done.stderr.split("building: ")[1:]
        self.said = {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """
    Builds without a compiler.
    """
    try:
        return Builds(tmp_path_factory.mktemp("builds"), "uv")
    except (BuildException, subprocess.CalledProcessError):
        # It does not read pip's settings, and so may not find what they name.
        return Builds(tmp_path_factory.mktemp("builds"), "pip")


@pytest.fixture(scope="module")
def pure(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A folder with what the pure wheel installs.
    """
    folder = tmp_path_factory.mktemp("pure")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-index", "--target", str(folder), builds.told["auto"]], check=True, timeout=120)
    return folder


def test_with_a_compiler_both_modules_are_in_the_wheel(compiled: Any) -> None:
    """
    The wheel is one of this machine, its modules lie in the package, and they are used.
    """
    assert {name: Path(place).suffix for name, place in compiled["places"].items()} == dict.fromkeys(MODULES, ".so")
    assert compiled["core"] == "compiled"
    if sys.executable != PYTHON:  # an editable installation, as of a developer, names no machine
        assert "Root-Is-Purelib: false" in compiled["wheel"]
        assert "Tag: py3-none-any" not in compiled["wheel"]


@pytest.mark.parametrize("wanted", ["never", "auto"])
def test_without_a_compiler_the_wheel_is_pure(builds: Builds, wanted: str) -> None:
    """
    Asked for or not, it is for every machine, and has the sources but no libraries.
    """
    assert builds.told[wanted].endswith("-py3-none-any.whl"), builds.told[wanted] + builds.said[wanted]
    with zipfile.ZipFile(builds.told[wanted]) as wheel:
        names = wheel.namelist()
    assert {f"penstock/compiled/{name}.pyx" for name in MODULES} <= set(names)
    assert [name for name in names if name.endswith(".so")] == []


def test_a_compiler_that_is_missing_is_said_in_one_line(builds: Builds) -> None:
    """
    Who builds is told what comes of it and why; who asked for no core is told nothing.
    """
    (line,) = [line for line in builds.said["auto"].splitlines() if "compiled core" in line]
    assert "Penstock will run in pure Python" in line
    assert "/nowhere/cc" in line
    assert "compiled core" not in builds.said["never"]


def test_who_must_have_the_core_gets_no_wheel_without_it(builds: Builds) -> None:
    """
    `PENSTOCK_BUILD_COMPILED=always` is for those who would not look at a line.
    """
    assert builds.told["always"].startswith("refused: ")
    assert "/nowhere/cc" in builds.told["always"]


@pytest.mark.postgres
@pytest.mark.parametrize("modules", [(), ("stream",), ("copying",)], ids=["neither", "stream", "copying"])
async def test_a_service_does_with_what_was_built(
    compiled: Any, pure: Path, database: Any, tmp_path: Path, modules: tuple[str, ...]
) -> None:
    """
    Rows are copied and followed with any of the modules missing, and one line says what runs and how to have more.
    """
    installed = shutil.copytree(pure, tmp_path / "installed")
    for name in modules:
        shutil.copy(compiled["places"][name], installed / "penstock" / "compiled")
    database.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")
    database.execute("INSERT INTO items SELECT g, 'row ' || g FROM generate_series(1, 100) g")
    env = {"PYTHONPATH": str(installed)}
    service = Service(database.url, tmp_path, "--single-process", env=env, python=sys.executable)
    async with service, httpx.AsyncClient(base_url=service.url, timeout=60) as http:
        first = await http.get("/v1/shape", params={"table": "items", "offset": "-1"})
        assert sum("value" in message for message in first.json()) == 100
        place = {"handle": first.headers["electric-handle"], "offset": first.headers["electric-offset"]}
        database.execute("UPDATE items SET name = 'changed' WHERE id = 7")
        values: list[Any] = []
        while not values:
            answer = await http.get("/v1/shape", params={"table": "items", "live": "true", **place})
            assert answer.status_code == 200, answer.text
            place["offset"] = answer.headers["electric-offset"]
            values = [message["value"] for message in answer.json() if "value" in message]
        assert values == [{"id": "7", "name": "changed"}]
    log = service.log_path.read_text()
    said = [line for line in log.splitlines() if "rows are decoded and encoded" in line]
    assert len(said) == 1, log
    if "stream" in modules:
        assert "pure Python" not in log
    else:
        assert log.count("pure Python") == 1
        assert "install Penstock again where a C compiler is" in said[0]
        assert "pip install" in said[0]

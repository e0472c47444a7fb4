from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Final

import penstock
from harness.longest import LONGEST

ROOT: Final = Path(penstock.__file__).parent
REPOSITORY: Final = Path(__file__).parent.parent

# Every module is in exactly one of these lists, so that neither goes stale. A package's name stands for all in it.
CONTRACTS: Final = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
PURE: Final = {
    module.removeprefix("penstock.")
    for contract in CONTRACTS
    if contract["name"].startswith("Pure modules")
    for module in contract["source_modules"]
}
SHELL: Final = {
    "__init__",
    "__main__",
    "api.app",
    "api.authorisation_jwt",
    "api.authorising",
    "api.exchange",
    "api.fast.connection",
    "api.fast.deadlines",
    "api.fast.hub",
    "api.fast.limits",
    "api.fast.request",
    "api.fast.sending",
    "api.files",
    "api.live",
    "api.other_requests",
    "api.remote",
    "api.server",
    "api.shape_route",
    "cli",
    "client.aio",
    "client.async_shape",
    "client.async_stream",
    "client.asynchronous",
    "client.blocking",
    "client.connection",
    "client.loop_thread",
    "client.notebook",
    "client.reader",
    "collector.feed",
    "collector.intake",
    "consumers.burial",
    "consumers.catalog",
    "consumers.catch_up",
    "consumers.compactor",
    "consumers.delivery",
    "consumers.entries",
    "consumers.evictor",
    "consumers.opening",
    "consumers.refusals",
    "consumers.registry",
    "consumers.resolver",
    "consumers.settling",
    "consumers.snapshotter",
    "consumers.spool",
    "consumers.stage",
    "consumers.subsets",
    "consumers.waiting",
    "control.store",
    "database.inspector",
    "database.pool",
    "database.publication",
    "database.session",
    "database.snapshots",
    "database.subsets",
    "database.watch",
    "liveness.black_box",
    "liveness.board",
    "django",
    "models.django",
    "relay.batches",
    "relay.disk",
    "relay.epoch_folders",
    "relay.kept_segments",
    "relay.log",
    "relay.reader",
    "relay.segment_writer",
    "relay.startup",
    "relay.verify",
    "relay.watched_disk",
    "relay.writer",
    "replication.connection",
    "replication.link",
    "replication.streaming",
    "replication.unblocking",
    "replication.waiting",
    "service.cells",
    "service.declarations",
    "service.disk_watch",
    "service.embedding",
    "service.engine",
    "service.facts",
    "service.faults",
    "service.folder",
    "service.foundation",
    "service.handover",
    "service.lifecycle",
    "service.observed",
    "service.receiver",
    "service.settings",
    "service.settings_sources",
    "service.single",
    "service.sleep",
    "service.standby",
    "service.supervisor",
    "service.sweep",
    "service.trail",
    "service.wal_budget",
    "service.web",
    "shape_log.compactor",
    "shape_log.disk",
    "shape_log.log",
    "shape_log.pool",
    "shape_log.reader",
    "shape_log.store",
    "shape_log.writer",
    "telemetry",
    "testing",
}
# Packages that users import names from.
PUBLIC: Final = {"models"}
# What a pure module must not touch: the world and the clock.
WORLD: Final = {
    "asyncio",
    "io",
    "logging",
    "mmap",
    "os",
    "pathlib",
    "psycopg",
    "httpx",
    "random",
    "secrets",
    "select",
    "signal",
    "socket",
    "sqlite3",
    "starlette",
    "structlog",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uvicorn",
}
REFUSED_NAMES: Final = re.compile(r"(^|_)(util|utils|common|helpers?|manager|misc)(_|$)")


def modules() -> dict[str, Path]:
    """
    All modules of the package by dotted name below it, packages by their folder's name.
    """
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def listed(name: str, names: set[str]) -> bool:
    """
    Whether a module or a package above it is in a list.
    """
    parts = name.split(".")
    return any(".".join(parts[: length + 1]) in names for length in range(len(parts)))


def is_package_root(name: str) -> bool:
    """
    Whether it is the `__init__` of a stage, which holds a docstring and nothing else.
    """
    return (ROOT / name.replace(".", "/")).is_dir()


def test_every_module_is_either_pure_or_a_shell() -> None:
    """
    Each module stands in exactly one list, and each entry of a list stands for a module.
    """
    names = [name for name in modules() if not is_package_root(name)]
    unlisted = [name for name in names if not listed(name, PURE) and not listed(name, SHELL)]
    both = [name for name in names if listed(name, PURE) and listed(name, SHELL)]
    assert unlisted == []
    assert both == []
    known = set(modules())
    assert PURE - known == set()
    assert SHELL - known == set()


def test_pure_modules_touch_neither_the_world_nor_the_clock() -> None:
    """
    No pure module imports anything that reads a clock, a file, a socket or chance.
    """
    offenders = []
    for name, path in modules().items():
        if is_package_root(name) or not listed(name, PURE):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            imported = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported = [node.module]
            offenders += [(name, module) for module in imported if module.partition(".")[0] in WORLD]
    assert offenders == []


def test_every_module_says_what_it_owns() -> None:
    """
    Each module has a docstring, and each stage's `__init__` holds nothing else; of a package that is public, its names.
    """
    for name, path in modules().items():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), name
        if is_package_root(name) and name != "__init__" and name not in PUBLIC:
            assert len(tree.body) == 1, f"{name}/__init__.py holds more than a docstring"


def test_names_say_something() -> None:
    """
    No module is called after having no subject.
    """
    assert [name for name in modules() if REFUSED_NAMES.search(name.rpartition(".")[2])] == []


def test_every_test_says_what_should_hold() -> None:
    """
    Each test function has a docstring, and none sleeps in the thread.
    """
    silent = []
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                if not ast.get_docstring(node):
                    silent.append(f"{path.name}:{node.name}")
                calls = [ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)]
                assert "time.sleep" not in calls, f"{path.name}:{node.name} sleeps"
    assert silent == []


def test_the_files_that_come_first_are_there() -> None:
    """
    The list of the files that take longest does not outlive them.
    """
    names = [file.name for file in (REPOSITORY / "tests").rglob("test_*.py") if "node_modules" not in file.parts]
    assert [name for name in LONGEST if names.count(name) != 1] == []
    assert len(set(LONGEST)) == len(LONGEST)


def test_links_between_documents_lead_somewhere() -> None:
    """
    Every relative link in a document names a file that exists.
    """
    broken = []
    for path in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]:
        targets = re.findall(r"\]\(([^)#\s]+)", path.read_text())
        gone = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
        broken += [f"{path.relative_to(REPOSITORY)}: {target}" for target in gone]
    assert broken == []

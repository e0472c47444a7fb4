"""
Fixtures for the tests of who uses Penstock: a pytest plugin that is there when Penstock is installed.

Shell. Everything is imported when a fixture is asked for, so that tests without any of them notice nothing of it. Fixtures that
are to be otherwise are overridden by the same name in a `conftest.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import pytest

if TYPE_CHECKING:
    from penstock.client.blocking import Client
    from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres
    from penstock.testing.service import ThrowawayService

SCOPES: Final = ("function", "module", "session")
_SCOPE: Final = "penstock_scope"
_Scope = Literal["function", "module", "session"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    Declare the options of ours.
    """
    parser.addini(
        _SCOPE,
        f"How long the database and the service of a test live: {', '.join(SCOPES)}.",
        default=SCOPES[0],
    )


def pytest_configure(config: pytest.Config) -> None:
    """
    Declare the marker of ours.
    """
    config.addinivalue_line(
        "markers",
        "penstock(settings={}, faults=[]): settings of the fixture penstock_service by name, and faults inside of it"
        " as NAME:TABLE:WORD",
    )


def _scope(fixture_name: str, config: pytest.Config) -> _Scope:  # noqa: ARG001  pytest's signature
    chosen = config.getini(_SCOPE)
    if chosen not in SCOPES:
        raise pytest.UsageError(f"{_SCOPE} = {chosen}: choose one of {', '.join(SCOPES)}")
    return cast("_Scope", chosen)


@pytest.fixture(scope="session")
def penstock_postgres() -> Iterator[ThrowawayPostgres]:
    """
    A Postgres server of its own: the one that is installed, else that of `penstock[demo]`. Lives for the session.
    """
    from penstock.testing.postgres import PostgresMissingError, ThrowawayPostgres  # noqa: PLC0415

    try:
        server = ThrowawayPostgres()
    except PostgresMissingError as missing:
        # Not skipped: nobody would notice that nothing is tested any more.
        pytest.fail(missing.message, pytrace=False)
    with server:
        yield server


@pytest.fixture(scope=_scope)
def penstock_database(penstock_postgres: ThrowawayPostgres) -> Iterator[ThrowawayDatabase]:
    """
    An empty database; dropped afterwards.
    """
    import uuid  # noqa: PLC0415

    database = penstock_postgres.create_database(f"test_{uuid.uuid4().hex[:16]}")
    yield database
    database.drop()


@pytest.fixture(scope=_scope)
def penstock_settings() -> dict[str, str]:
    """
    Settings of the service, by name as text; override it to have others than the defaults.
    """
    return {}


@pytest.fixture(scope=_scope)
def penstock_service(
    request: pytest.FixtureRequest, penstock_database: ThrowawayDatabase, penstock_settings: dict[str, str]
) -> Iterator[ThrowawayService]:
    """
    A Penstock on that database, with all its processes, on a free port.
    """
    from penstock.testing.service import ThrowawayService  # noqa: PLC0415

    settings, faults = dict(penstock_settings), cast("list[str]", [])
    # The nearest one last, so that it wins.
    for marker in reversed(list(request.node.iter_markers("penstock"))):
        settings |= marker.kwargs.get("settings", {})
        faults += marker.kwargs.get("faults", [])
    service = ThrowawayService(penstock_database.url, settings=settings)
    try:
        service.plan_faults(faults)
        service.start()
        yield service
    finally:
        service.close()


@pytest.fixture(scope=_scope)
def penstock_client(penstock_service: ThrowawayService) -> Iterator[Client]:
    """
    A client of that service.
    """
    with penstock_service.client() as client:
        yield client


@pytest.fixture(scope=_scope)
def wait_for_sync(penstock_service: ThrowawayService) -> Callable[..., None]:
    """
    What waits until all that was committed has reached the service, and the shapes that are given to it.
    """
    wait: Callable[..., Any] = penstock_service.wait_for_sync
    return wait

"""
One guarded service for all of these tests, and its two doors: its own server, and the plain application in another process.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest

import penstock
from harness import guard
from harness.asgi_site import site
from harness.service import Service, serving
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

TIMEOUT_MS: Final = 4_000
"""What a callable may take here: long for a loaded machine, short for whoever waits for it to be given up."""

SETTINGS: Final = {
    "enable_integration_testing": "true",
    "long_poll_timeout_s": "2",
    "authorize_timeout_s": f"{TIMEOUT_MS}ms",
}
HARNESS: Final = Path(guard.__file__).parent.parent


class Door(NamedTuple):
    """
    A way into the service.
    """

    database: ThrowawayDatabase
    client: httpx.Client

    def ask(self, user: str | None, *, method: str = "GET", path: str = "/v1/shape", **params: str) -> httpx.Response:
        """
        Ask for a shape as somebody; names of parameters may be given as `params_1` for `params[1]`.
        """
        named = {"table": "items", "offset": "-1", **params}
        named = {name.replace("params_", "params[") + "]" * ("params_" in name): text for name, text in named.items()}
        headers = {} if user is None else {"x-user": user}
        return self.client.request(method, path, params=named, headers=headers)

    def raw(self, user: str, query: str, *, method: str = "GET", **more: Any) -> httpx.Response:
        """
        Ask with a query as it is.
        """
        return self.client.request(method, f"/v1/shape?{query}", headers={"x-user": user}, **more)


def rows(answer: httpx.Response) -> list[dict[str, Any]]:
    """
    Give the rows of an answer that must be one.
    """
    assert answer.status_code == 200, answer.text
    messages = answer.json()
    if isinstance(messages, dict):
        messages = messages["data"]
    return [message["value"] for message in messages if "value" in message]


def owners(answer: httpx.Response) -> set[str]:
    """
    Whose rows an answer holds.
    """
    return {row["owner"] for row in rows(answer)}


@pytest.fixture(scope="session")
def guarded(postgres_server: ThrowawayPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """
    A database with rows of two people, and a service that lets each see their own.
    """
    database = postgres_server.create_database(f"test_{uuid.uuid4().hex[:16]}")
    database.execute("CREATE TABLE items (id int PRIMARY KEY, owner text NOT NULL, title text, salary int)")
    database.execute(
        "INSERT INTO items VALUES (1, 'alice', 'a1', 10), (2, 'alice', 'a2', 20), (3, 'bob', 'b1', 100), (4, 'bob', 'b2', 200)"
    )
    database.execute("CREATE TABLE hidden (id int PRIMARY KEY, owner text)")
    database.execute("INSERT INTO hidden VALUES (1, 'alice')")
    env = {f"PENSTOCK_{name.upper()}": text for name, text in SETTINGS.items()}
    path = os.pathsep.join(filter(None, [str(HARNESS), os.environ.get("PYTHONPATH")]))
    # Guards are copies: every worker has its own.
    env |= {"PENSTOCK_WEB_WORKERS": "2"}
    env |= {"PENSTOCK_AUTHORIZE": "harness.guard:authorize", "PYTHONPATH": path}
    service = Service(database.url, tmp_path_factory.mktemp("guarded"), env=env)
    try:
        with serving(service):
            yield database, service
    finally:
        database.drop()


@pytest.fixture(scope="session")
def plain_url(guarded: Any) -> Iterator[str]:
    """
    The same shapes by the plain application, with a coroutine function for a guard.
    """
    _, service = guarded
    application = penstock.beside(service.data_dir, authorize=guard.authorize_later, **SETTINGS)
    with site(application) as url:
        yield url


@pytest.fixture(params=["own server", "plain application"])
def door(request: pytest.FixtureRequest, guarded: Any, plain_url: str) -> Iterator[Door]:
    """
    Each door in turn.
    """
    database, service = guarded
    url = service.url if request.param == "own server" else plain_url
    with httpx.Client(base_url=url, timeout=60) as client:
        yield Door(database, client)

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from harness.service import Service, serving
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(300)]

SITE: Final = Path(__file__).parents[3] / "examples" / "django_live"
SECRET: Final = "of the test alone"
SET_UP: Final = """
from importlib import import_module
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.core.management import call_command
from board.models import Task

call_command("migrate", verbosity=0)
Task.objects.bulk_create([Task(title="seen"), Task(title="hidden", is_public=False)])
user = User.objects.create_user("ada", password="lovelace")
session = import_module(settings.SESSION_ENGINE).SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.create()
print("session", session.session_key)
"""


@dataclass
class Site:
    """
    The example's site with its service.
    """

    database: ThrowawayDatabase
    service: Service
    session: str

    async def titles(self, session: str | None = None, **params: str) -> set[str] | int:
        """
        The titles that a visitor gets, or the status of a refusal.
        """
        query = {"table": "board_task", "offset": "-1", **params}
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.get(f"{self.service.url}/v1/shape", params=query, headers=_cookie(session))
        if answer.status_code != 200:
            return answer.status_code
        return {message["value"]["title"] for message in answer.json() if "key" in message}


def _cookie(session: str | None) -> dict[str, str]:
    return {} if session is None else {"cookie": f"other=1; sessionid={session}"}


def manage(database: str, *arguments: str) -> str:
    """
    Run `manage.py` from another folder; gives what it prints.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "DJANGO_"))}
    done = subprocess.run(
        [sys.executable, str(SITE / "manage.py"), *arguments],
        env={**kept, "DATABASE_URL": database, "SITE_SECRET": SECRET},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def site(postgres_server: ThrowawayPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """
    Its tables, a user with a session, and its service as `manage.py penstock` runs it.
    """
    database = postgres_server.create_database(f"test_{uuid.uuid4().hex[:16]}")
    try:
        printed = manage(database.url, "shell", "--verbosity", "0", "-c", SET_UP)
        service = Service(
            database.url,
            tmp_path_factory.mktemp("site"),
            command=(str(SITE / "manage.py"), "penstock"),
            python=sys.executable,
            # Who may read is said by the site, and not by the harness.
            env={"PENSTOCK_INSECURE": "", "SITE_SECRET": SECRET},
        )
        with serving(service):
            yield Site(database, service, printed.partition("session ")[2].strip())
    finally:
        database.drop()


async def test_a_queryset_says_what_a_visitor_sees(site: Site) -> None:
    """
    Strangers get the rows and columns of their queryset whatever they ask for, users those of theirs, and other tables
    nobody.
    """
    assert await site.titles() == {"seen"}
    assert await site.titles(where="is_public = false OR true") == 400, (
        "no column that the queryset leaves out is named"
    )
    assert await site.titles(where="title = 'hidden' OR true") == {"seen"}
    assert await site.titles(site.session) == {"seen", "hidden"}
    assert await site.titles("x" * 32) == {"seen"}, "a session that is none is a stranger's"
    assert await site.titles(site.session, table="auth_user") == 403


async def test_a_session_that_ends_sees_no_more(site: Site) -> None:
    """
    What a user may read is asked anew at each request.
    """
    session = "y" * 32
    await asyncio.to_thread(
        site.database.execute,
        f"INSERT INTO django_session SELECT '{session}', session_data, expire_date FROM django_session LIMIT 1",
    )
    assert await site.titles(session) == {"seen", "hidden"}
    await asyncio.to_thread(site.database.execute, f"DELETE FROM django_session WHERE session_key = '{session}'")
    assert await site.titles(session) == {"seen"}


def test_the_site_s_commands_know_its_database(site: Site) -> None:
    """
    `manage.py penstock doctor` finds the server fit, and `manage.py check` has nothing against it.
    """
    found: Any = manage(site.database.url, "penstock", "doctor", "--stream", site.service.stream)
    assert "wal_level" in found
    assert "penstock.E" not in manage(site.database.url, "check", "--database", "default")

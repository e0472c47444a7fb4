from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from harness import catalogue
from penstock.api.authorisation import AccessRequest, Allow, Deny, RequestedShape
from penstock.errors import ConfigError

catalogue.set_django_up()

from django.conf import settings as django_settings  # noqa: E402
from django.core.management import CommandError, call_command  # noqa: E402  once Django is set up
from django.test import override_settings  # noqa: E402

from harness.catalogue_app.models import Thing  # noqa: E402
from penstock.django import access, checks, conf  # noqa: E402
from penstock.django.asgi import make_app  # noqa: E402

ENGINE = "django.db.backends.postgresql"
SHAPE = RequestedShape("public", "catalogue_things")


@pytest.mark.parametrize(
    ("database", "wanted"),
    [
        ({"NAME": "shop"}, {"dbname": "shop"}),
        (
            {"NAME": "my shop", "USER": "a@b", "PASSWORD": "p/:?#%", "HOST": "db.example.com", "PORT": 5433},
            {"dbname": "my shop", "user": "a@b", "password": "p/:?#%", "host": "db.example.com", "port": "5433"},
        ),
        ({"NAME": "shop", "HOST": "/var/run/postgresql"}, {"dbname": "shop", "host": "/var/run/postgresql"}),
        ({"NAME": "shop", "HOST": "::1", "PORT": "1"}, {"dbname": "shop", "host": "::1", "port": "1"}),
        (
            {"NAME": "s", "HOST": "h", "OPTIONS": {"sslmode": "verify-full", "sslrootcert": "/a b.pem", "pool": True}},
            {"dbname": "s", "host": "h", "sslmode": "verify-full", "sslrootcert": "/a b.pem"},
        ),
        ({"NAME": None, "OPTIONS": {"service": "shop"}}, {"service": "shop"}),
    ],
)
def test_a_database_becomes_a_url(database: dict[str, Any], wanted: dict[str, str]) -> None:
    """
    Libpq reads what Django was told, TLS options too; what is Django's alone is left out.
    """
    assert conninfo_to_dict(conf.write_url({"ENGINE": ENGINE, **database})) == wanted


def test_settings_are_those_of_the_service() -> None:
    """
    Names are in capitals, values become text, and authorisation goes through what sets Django up.
    """
    said = {"ACKNOWLEDGE": "shapes", "DATA_DIR": Path("/data"), "WEB_WORKERS": 2, "DEMO_PAGE": True}
    with override_settings(PENSTOCK={**said, "AUTHORIZE": "a.b", "DATABASE_URL": "postgresql:///x"}):
        assert conf.service_settings() == {
            "acknowledge": "shapes",
            "data_dir": "/data",
            "web_workers": "2",
            "demo_page": "true",
            "authorize": conf.ACCESS,
            "database_url": "postgresql:///x",
        }


@pytest.mark.parametrize(
    ("settings", "databases", "id_", "words"),
    [
        ({"ACKNOWLEGE": "shapes"}, None, "penstock.E001", "ACKNOWLEGE"),
        ([], None, "penstock.E001", "dictionary"),
        ({"DATABASE": "other", "SECRET": "x"}, None, "penstock.E002", "DATABASES has no 'other'"),
        ({"SECRET": "x"}, {"default": {"ENGINE": "django.db.backends.sqlite3"}}, "penstock.E002", "sqlite3"),
        ({"AUTHORIZE": "no.such.thing"}, None, "penstock.E003", "no.such.thing"),
        ({}, None, "penstock.W001", "who may read"),
    ],
)
def test_the_checks_name_what_is_wrong(settings: Any, databases: Any, id_: str, words: str) -> None:
    """
    Each mistake in the settings has its message.
    """
    # Looked at by hand: Django warns of settings of databases that change.
    with override_settings(PENSTOCK=settings), pytest.MonkeyPatch.context() as patch:
        if databases is not None:
            patch.setattr(django_settings, "DATABASES", databases)
        found = {message.id: message.msg for message in checks.check_settings()}
    assert words in str(found[id_])


def test_whoever_forgets_who_may_read_serves_nobody() -> None:
    """
    A site without a word about it does not start to serve shapes.
    """
    with override_settings(PENSTOCK={}), pytest.raises(ConfigError, match="who may read"):
        make_app()


def test_the_command_says_what_is_wrong() -> None:
    """
    An alias that the settings do not have ends it with a sentence.
    """
    with pytest.raises(CommandError, match="DATABASES has no 'other'"):
        call_command("penstock", "doctor", database="other")


def decide_by_cookie(request: Any, shape: RequestedShape) -> Any:
    """
    What the tests' site decides.
    """
    answers = {
        "queryset": Thing.objects.filter(n=1).only("title"),
        "manager": Thing.objects,
        "allow": Allow(),
        "deny": Deny(401),
        "true": True,
        "table": shape.table,
    }
    return answers.get(request.COOKIES.get("wants"))


async def decide_later(request: Any, shape: RequestedShape) -> Any:
    """
    The same, as a coroutine.
    """
    return decide_by_cookie(request, shape)


@pytest.mark.parametrize("decide", [decide_by_cookie, decide_later])
@pytest.mark.parametrize(
    ("wants", "wanted"),
    [
        ("queryset", Allow('"n" = $1', ("1",), ("id", "title"))),
        ("manager", Allow()),
        ("allow", Allow()),
        ("deny", Deny(401)),
        ("true", Deny()),
        ("table", Deny()),
        ("nothing", Deny()),
    ],
)
def test_answers_become_decisions(decide: Any, wants: str, wanted: Allow | Deny) -> None:
    """
    A queryset allows its rows and columns; whatever is no decision denies.
    """
    request = AccessRequest("GET", "/v1/shape", {"cookie": f"a=b; wants={wants}"}, {})
    with override_settings(PENSTOCK={"AUTHORIZE": decide}):
        assert access.authorize(request, SHAPE) == wanted


def test_a_queryset_of_another_table_denies() -> None:
    """
    It says nothing about the table that is asked for.
    """
    request = AccessRequest("GET", "/v1/shape", {"cookie": "wants=queryset"}, {})
    with override_settings(PENSTOCK={"AUTHORIZE": decide_by_cookie}):
        assert access.authorize(request, RequestedShape("public", "other")) == Deny()
        assert access.authorize(request, RequestedShape("private", "catalogue_things")) == Deny()

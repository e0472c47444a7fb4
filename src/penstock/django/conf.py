"""
What the site's settings say: the dictionary `PENSTOCK`, and the database that `DATABASES` names.

`PENSTOCK` has any setting of the service by its name, in capitals as Django's are, and three of its own: `DATABASE`, the
alias of a database, `AUTHORIZE`, who may read which rows, and `DATABASE_URL`, where another URL than Django's own is wanted.
Shell: reads the site's settings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from psycopg import pq

from penstock.errors import ConfigError, ExtraMissingError
from penstock.service.declarations import DECLARATIONS

try:
    from django.conf import settings
    from django.utils.module_loading import import_string
except ModuleNotFoundError as _missing:
    raise ExtraMissingError('the Django app needs django: pip install "penstock[django]"') from _missing

NAME: Final = "PENSTOCK"
ACCESS: Final = "penstock.django.access:authorize"
ENGINES: Final = frozenset({"django.db.backends.postgresql", "django.contrib.gis.db.backends.postgis"})
_OWN: Final = frozenset({"database"})
_OURS: Final = frozenset({"host", "port", "dbname", "user", "password"})


def read() -> dict[str, Any]:
    """
    Give the dictionary, with its keys in lower case.

    Raises:
        ConfigError: it is none, or a key is no setting.
    """
    said = getattr(settings, NAME, {})
    if not isinstance(said, Mapping):
        raise ConfigError(f"{NAME} in the settings is to be a dictionary")
    known = {declaration.name for declaration in DECLARATIONS} | _OWN
    for key in said:
        if str(key).lower() not in known:
            raise ConfigError(f"{NAME}[{key!r}] is not a setting: `manage.py penstock settings` lists them")
    return {str(key).lower(): value for key, value in said.items()}


def database_alias() -> str:
    """
    Give the alias of the database that is followed. Errors as for `read`.
    """
    return str(read().get("database", "default"))


def database_url(alias: str | None = None) -> str:
    """
    Write the URL of a database of the site's; holds its password.

    Raises:
        ConfigError: there is none, or it is not of Postgres.
    """
    url = read().get("database_url")
    if url is not None and alias is None:
        return str(url)
    name = alias or database_alias()
    databases: Mapping[str, Any] = settings.DATABASES
    if name not in databases:
        raise ConfigError(f"DATABASES has no {name!r}: set {NAME}['DATABASE'] to one of {', '.join(databases)}")
    return write_url(databases[name], name)


def write_url(database: Mapping[str, Any], alias: str = "default") -> str:
    """
    Write a database of `DATABASES` as a URL, with those of its OPTIONS that libpq knows: TLS among them.

    Raises:
        ConfigError: it is not of Postgres.
    """
    engine = database.get("ENGINE", "")
    if engine not in ENGINES:
        raise ConfigError(
            f"DATABASES[{alias!r}] is of {engine or 'no engine'}: shapes are of Postgres, so set ENGINE to "
            "django.db.backends.postgresql"
        )
    host, port = str(database.get("HOST") or ""), str(database.get("PORT") or "")
    options = {str(key): str(value) for key, value in (database.get("OPTIONS") or {}).items() if value is not None}
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} - _OURS
    query = {key: value for key, value in options.items() if key in known}
    place = ""
    if host and not any(mark in host for mark in "/,:@"):
        place = host + (f":{port}" if port else "")
    else:
        # A folder of sockets, several hosts, an address with colons.
        query |= {key: value for key, value in (("host", host), ("port", port)) if value}
    user, password = str(database.get("USER") or ""), str(database.get("PASSWORD") or "")
    who = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    parameters = "&".join(f"{key}={quote(value, safe='')}" for key, value in sorted(query.items()))
    return (
        f"postgresql://{who}{'@' if who else ''}{place}/{quote(str(database.get('NAME') or ''), safe='')}"
        f"{'?' if parameters else ''}{parameters}"
    )


def service_settings(alias: str | None = None) -> dict[str, str]:
    """
    Give the settings of the service as text, by name, the database's URL among them.

    Raises:
        ConfigError: something is missing or malformed.
    """
    said = {name: value for name, value in read().items() if name not in _OWN and value is not None}
    texts = {name: _text(value) for name, value in said.items() if name != "authorize"}
    if said.get("authorize") is not None:
        # Where the service authorises, Django is to be set up first.
        texts["authorize"] = ACCESS
    return texts | {"database_url": database_url(alias)}


def find_authorize() -> Callable[..., Any] | None:
    """
    Give what the site decides with; None when it says nothing.

    Raises:
        ConfigError: it cannot be imported.
    """
    said = read().get("authorize")
    if said is None or callable(said):
        return said
    try:
        found = import_string(str(said).replace(":", "."))
    except ImportError as cause:
        raise ConfigError(f"{NAME}['AUTHORIZE']: {said} is not to be had: {cause}") from cause
    if not callable(found):
        raise ConfigError(f"{NAME}['AUTHORIZE']: {said} is not a function")
    checked: Callable[..., Any] = found
    return checked


def is_guarded() -> bool:
    """
    Whether somebody has said who may read. Errors as for `read`.
    """
    said = read()
    return any(said.get(name) for name in ("secret", "authorize", "insecure"))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)

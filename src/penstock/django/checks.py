"""
System checks: what `manage.py check` says about the settings, and with `--database` about the server. Shell.

What is wrong with a server is a warning and no error, because Django runs these checks before it migrates, and a database
without logical WAL can be migrated; `manage.py penstock doctor` ends with a status of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.core.checks import CheckMessage, Tags

from penstock.cli.doctor import read_facts
from penstock.django import conf
from penstock.errors import ConfigError, ConnectionLostError
from penstock.liveness.checkup import Level, examine
from penstock.service.settings import PUBLICATION_PREFIX, SLOT_PREFIX


@checks.register("penstock")
def check_settings(**_: Any) -> list[CheckMessage]:
    """
    Look at the settings alone: is the database of Postgres, is every key one, and who may read?
    """
    found: list[CheckMessage] = []
    try:
        conf.read()
    except ConfigError as error:
        return [checks.Error(error.message, id="penstock.E001")]
    try:
        conf.service_settings()
    except ConfigError as error:
        found.append(checks.Error(error.message, id="penstock.E002"))
    try:
        conf.find_authorize()
    except ConfigError as error:
        found.append(checks.Error(error.message, id="penstock.E003"))
    if not conf.is_guarded():
        found.append(
            checks.Warning(
                "Nobody has said who may read shapes.",
                hint=f"Set {conf.NAME}['AUTHORIZE'] to a function of the site, or {conf.NAME}['SECRET'] for a server behind it.",
                id="penstock.W001",
            )
        )
    return found


@checks.register(Tags.database)
def check_database(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """
    Ask the server whether it can be followed: `wal_level`, slots, privileges, replica identities.
    """
    try:
        alias = conf.database_alias()
        if alias not in (databases or ()):
            return []
        said = conf.read()
        stream = str(said.get("replication_stream_id", "default"))
        facts = read_facts(
            conf.database_url(),
            str(said.get("slot_name", SLOT_PREFIX + stream)),
            str(said.get("publication_name", PUBLICATION_PREFIX + stream)),
        )
    except ConfigError:
        # Said by the check of the settings.
        return []
    except ConnectionLostError as error:
        return [checks.Warning(error.message, id="penstock.W002")]
    return [
        checks.Warning(finding.text, hint=finding.remedy or None, id="penstock.W003")
        for finding in examine(facts)
        if finding.level is not Level.FINE
    ]

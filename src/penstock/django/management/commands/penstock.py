"""
`manage.py penstock`: the commands of `penstock`, with the settings of the site. Shell.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import click
from django.core.management.base import BaseCommand, CommandError, CommandParser, handle_default_options
from django.db import connections

from penstock.cli.main import cli
from penstock.django import conf
from penstock.errors import PenstockError

_WITH_URL: Final = frozenset({"doctor", "slots"})
"""Commands whose first argument is the database."""


class Command(BaseCommand):
    """
    Runs a command of `penstock` on the site's database; `serve` when none is named.
    """

    help = (
        "Serves live subsets of the site's tables. Other commands of penstock may be named first (doctor, slots, explain, "
        "tail, settings ...), and its options are passed on: manage.py penstock --port 3001, manage.py penstock doctor."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """
        Take the alias of the database.
        """
        parser.add_argument("--database", help="Alias of the database.  [default: as PENSTOCK['DATABASE'] says]")
        if not self._called_from_command_line:
            parser.add_argument("args", nargs="*")

    def run_from_argv(self, argv: list[str]) -> None:
        """
        Take Django's own options, and pass the others on.
        """
        self._called_from_command_line = True
        parser = self.create_parser(argv[0], argv[1])
        options, passed = parser.parse_known_args(argv[2:])
        handle_default_options(options)
        try:
            self.execute(*passed, **vars(options))
        except CommandError as error:
            self.stderr.write(str(error))
            sys.exit(error.returncode)
        finally:
            connections.close_all()

    def handle(self, *args: str, **options: Any) -> None:
        """
        Run it; ends with its exit status when that is not 0.

        Raises:
            CommandError: it ended with a sentence.
        """
        name, rest = (args[0], list(args[1:])) if args and not args[0].startswith("-") else ("serve", list(args))
        try:
            settings = conf.service_settings(options["database"])
        except PenstockError as error:
            raise CommandError(error.message, returncode=2) from error
        if name in _WITH_URL:
            rest.insert(0, settings["database_url"])
        # The processes of the service find the site's modules where this one does.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (sys.path[0], os.environ.get("PYTHONPATH"))))
        for setting, text in settings.items():
            # What the environment says goes before what the site says, and options before both.
            os.environ.setdefault(f"PENSTOCK_{setting.upper()}", text)
        try:
            status = cli.main([name, *rest], prog_name="manage.py penstock", standalone_mode=False)
        except click.ClickException as error:
            raise CommandError(error.format_message(), returncode=error.exit_code) from error
        except click.Abort:
            sys.exit(130)
        if isinstance(status, int) and status:
            sys.exit(status)

"""
`penstock serve`.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from penstock.service.settings_sources import load
from penstock.service.supervisor import Outcome, serve
from penstock.telemetry import logs
from penstock.testing.faults import check_allowed

if TYPE_CHECKING:
    from collections.abc import Mapping


def run_service(flags: Mapping[str, str], file: str | None) -> Outcome:
    """
    Read the settings and serve until the end.

    Args:
        flags: settings from the command line, by name.
        file: a settings file, None for the usual one.

    Raises:
        ConfigError: it cannot start.
    """
    here = Path.cwd()
    loaded = load(flags, os.environ, here, file=here / file if file else None, token=secrets.token_hex(16))
    settings = loaded.settings
    check_allowed(os.environ, settings)
    queue = logs.configure(level=settings.log_level, process="supervisor", colors=settings.log_colors)
    for warning in loaded.warnings:
        structlog.get_logger().warning(warning)
    try:
        return serve(settings)
    finally:
        queue.flush()

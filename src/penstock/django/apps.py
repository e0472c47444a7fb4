"""
The app as Django knows it: `INSTALLED_APPS = [..., "penstock.django"]`. Shell.
"""

from __future__ import annotations

from penstock.errors import ExtraMissingError

try:
    from django.apps import AppConfig
except ModuleNotFoundError as _missing:
    raise ExtraMissingError('the Django app needs django: pip install "penstock[django]"') from _missing


class PenstockConfig(AppConfig):
    """
    Brings the command and the checks; no models.
    """

    name = "penstock.django"
    label = "penstock"
    verbose_name = "Penstock"

    def ready(self) -> None:
        """
        Register the checks.
        """
        from penstock.django import checks  # noqa: F401, PLC0415  importing it registers them

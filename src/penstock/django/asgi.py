"""
Shapes on the site's own address, for `asgi.py`::

    application = mount(get_asgi_application())

Then clients ask `/sync/v1/shape`, with the cookies that the site has given them. Shell.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.types import ASGIApp

from penstock.django import conf
from penstock.errors import ConfigError
from penstock.service.embedding import MountableApp, asgi, beside

PATH: Final = "/sync"
_OF_THE_SERVICE: Final = frozenset({"long_poll_timeout_s", "cache_max_age_s", "cache_stale_age_s", "send_timeout_s"})


def mount(
    application: Callable[[Any, Any, Any], Awaitable[Any]], path: str = PATH, *, is_beside: bool = False
) -> ASGIApp:
    """
    Serve shapes below a path, and the site everywhere else.

    Args:
        application: of Django, as `get_asgi_application()` gives it.
        path: what clients put before `/v1/shape`.
        is_beside: serve the shapes of a `manage.py penstock` that runs on this machine, instead of running the engine in
            this process. Any number of workers may do so, where an engine can be in one process only.

    Raises:
        ConfigError: the settings do not say who may read, or something is missing or malformed.
    """
    return make_app(is_beside=is_beside).in_front_of(application, path)


def make_app(*, is_beside: bool = False) -> MountableApp:
    """
    Give the application that serves the shapes, by the site's settings. Arguments and errors as for `mount`.
    """
    if not conf.is_guarded():
        raise ConfigError(
            f"nobody has said who may read: set {conf.NAME}['AUTHORIZE'] to a function, or {conf.NAME}['INSECURE'] to True "
            "to let everybody read every table"
        )
    settings = conf.service_settings()
    url, folder = settings.pop("database_url"), settings.pop("data_dir", "persistent")
    authorize = settings.pop("authorize", None)
    if is_beside:
        kept = {name: value for name, value in settings.items() if name in _OF_THE_SERVICE | {"secret", "insecure"}}
        return beside(folder, authorize=authorize, **kept)
    return asgi(url, data_dir=folder, authorize=authorize, **settings)

"""
Who may read which rows, decided by the site: with its sessions, its users and its querysets.

`PENSTOCK["AUTHORIZE"]` names a function of a Django request and of the shape that is asked for. It answers as the service's
own `authorize` does, or with a queryset: then rows and columns are those of the queryset, whatever the client asked for::

    def authorize(request, shape):
        if shape.table == "shop_order" and request.user.is_authenticated:
            return Order.objects.filter(customer=request.user).only("id", "status")

Everything else denies, also what raises. The request has the session and the user, as the middlewares of Django's own
`sessions` and `auth` make them, and cookies, headers and the query; other middlewares do not run. Shell.
"""

from __future__ import annotations

import asyncio
import inspect
from importlib import import_module
from typing import Any

import django
from django.apps import apps
from django.conf import settings
from django.db import close_old_connections, models
from django.http import HttpRequest, QueryDict, parse_cookie
from django.utils.functional import SimpleLazyObject

from penstock.api.authorisation import FORBIDDEN, AccessRequest, Allow, Decision, Deny, RequestedShape
from penstock.django import conf
from penstock.models.definition import ModelShape
from penstock.models.making import shape as shape_of
from penstock.wire.identifiers import parse_relation

if not apps.ready:
    # The processes of a service know nothing of the site until somebody asks.
    django.setup()


def authorize(request: AccessRequest, shape: RequestedShape) -> Decision:
    """
    Ask the site. In a thread: its queries may wait.

    Raises:
        ConfigError: the site's function is not to be had.
    """
    decide = conf.find_authorize()
    if decide is None:
        return FORBIDDEN
    close_old_connections()
    try:
        answer = decide(read_request(request), shape)
        if inspect.isawaitable(answer):
            answer = asyncio.run(_wait(answer))
        return read_answer(answer, shape)
    finally:
        close_old_connections()


def read_request(request: AccessRequest) -> HttpRequest:
    """
    Make a request of Django, with its session and its user.
    """
    made = HttpRequest()
    made.method, made.path, made.path_info = request.method, request.path, request.path
    made.META = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()}
    if request.client is not None:
        made.META["REMOTE_ADDR"] = request.client[0]
    made.COOKIES = parse_cookie(request.headers.get("cookie", ""))
    query = QueryDict(mutable=True)
    for name, value in request.query.items():
        query[name] = str(value)
    made.GET = query  # type: ignore[assignment]  # the stubs want one that cannot be changed
    if apps.is_installed("django.contrib.sessions"):
        engine: Any = import_module(settings.SESSION_ENGINE)
        made.session = engine.SessionStore(made.COOKIES.get(settings.SESSION_COOKIE_NAME))
        if apps.is_installed("django.contrib.auth"):
            made.user = SimpleLazyObject(lambda: _find_user(made))  # type: ignore[assignment]  # stands for a user
    return made


def read_answer(answer: object, shape: RequestedShape) -> Decision:
    """
    Make a decision of what the site answered.

    Raises:
        InvalidShapeError: a queryset has what a shape cannot have.
    """
    if isinstance(answer, Allow | Deny):
        return answer
    if not isinstance(answer, ModelShape | models.QuerySet | models.Manager):
        return FORBIDDEN
    allowed = (answer if isinstance(answer, ModelShape) else shape_of(answer)).definition
    if parse_relation(allowed.table) != (shape.schema, shape.table):
        return FORBIDDEN
    return Allow(where=allowed.where, params=allowed.params, columns=allowed.columns or None)


def _find_user(request: HttpRequest) -> Any:
    from django.contrib.auth import get_user  # noqa: PLC0415  its models exist once Django is set up

    return get_user(request)


async def _wait(answer: Any) -> Any:
    return await answer

"""
A Django project in one file, with shapes in front of it; run by uvicorn in a process of its own, as Django is configured
once in a process.
"""

from __future__ import annotations

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

import penstock


def hello(_: HttpRequest) -> HttpResponse:
    return HttpResponse("hello from Django")


urlpatterns = [path("hello", hello)]
settings.configure(
    DEBUG=False, SECRET_KEY="for tests", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[], USE_TZ=True
)

sync = penstock.asgi(
    os.environ["SITE_DATABASE_URL"], data_dir=os.environ["SITE_DATA"], replication_stream_id=os.environ["SITE_STREAM"]
)
application = sync.in_front_of(get_asgi_application(), "/sync")

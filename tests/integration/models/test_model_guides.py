from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from integration.models.conftest import Ground

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(300)]

GUIDES: Final = Path(__file__).parents[3] / "docs" / "guides"
TESTS: Final = Path(__file__).parents[2]
PRINTED_URL: Final = "http://127.0.0.1:3000"
SETTINGS: Final = """
from pathlib import Path
BASE_DIR = Path(__file__).parent.parent
SECRET_KEY = "of the test alone"
ROOT_URLCONF = "shop.urls"
ALLOWED_HOSTS = ["127.0.0.1"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", "NAME": "{name}", "HOST": "{host}", "PORT": "{port}",
                          "USER": "{user}"}}}}
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
MODELS: Final = """
from django.contrib.auth.models import User
from django.db import models

class Order(models.Model):
    customer = models.ForeignKey(User, models.CASCADE)
    status = models.CharField(max_length=10)
    secret = models.TextField(default="")
"""
RUN: Final = """
import django
from importlib import import_module

django.setup()
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from shop.models import Order

settings.PENSTOCK["REPLICATION_STREAM_ID"] = "guide"
call_command("migrate", verbosity=0)
with connection.schema_editor() as editor:
    editor.create_model(Order)
call_command("check", databases=["default"])
ada, bob = User.objects.create_user("ada"), User.objects.create_user("bob")
Order.objects.bulk_create(Order(customer=who, status=status) for who in (ada, bob) for status in ("open", "sold"))
session = import_module(settings.SESSION_ENGINE).SessionStore()
session[SESSION_KEY] = str(ada.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = ada.get_session_auth_hash()
session.create()
cookie = f"sessionid={session.session_key}"

from harness.asgi_site import site
from shop.asgi import application

with site(application) as url:
    program = open("follow.py").read().replace("http://127.0.0.1:3000", url)
    exec(program)
"""


def blocks(guide: str, language: str) -> list[str]:
    """
    The guide's pieces of code in a language.
    """
    return re.findall(rf"^```{language}\n(.*?)^```$", (GUIDES / guide).read_text(), re.MULTILINE | re.DOTALL)


async def run(program: str, folder: Path, **environ: str) -> str:
    """
    Run a program with what the tests have installed; gives what it prints.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        cwd=folder,
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    return output


async def test_the_samples_of_the_guide_to_sqlalchemy_work(ground: Ground, tmp_path: Path) -> None:
    """
    They print the rows, and the definition that the guide shows.
    """
    (table,) = blocks("sqlalchemy.md", "sql")
    (shown,) = re.findall(r"^TableShape.*\n", (GUIDES / "sqlalchemy.md").read_text(), re.MULTILINE)
    await asyncio.to_thread(ground.database.execute, table)
    program = "\n".join(blocks("sqlalchemy.md", "python")).replace(PRINTED_URL, ground.service.url)
    assert await run(program, tmp_path) == f"['Gear', 'Nut']\n{shown}"


async def test_the_files_of_the_guide_to_django_make_a_site(ground: Ground, tmp_path: Path) -> None:
    """
    A project of them has a live table on its own address, in which a user sees the rows of her own.
    """
    files = {block.partition("\n")[0].removeprefix("# "): block for block in blocks("django.md", "python")}
    parts = urlsplit(ground.database.url)
    settings = SETTINGS.format(
        name=parts.path.removeprefix("/"), host=parts.hostname, port=parts.port, user=parts.username or ""
    )
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "__init__.py").touch()
    (shop / "models.py").write_text(MODELS)
    (shop / "urls.py").write_text("urlpatterns = []\n")
    (shop / "settings.py").write_text(settings + files["settings.py"])
    (shop / "access.py").write_text(files["access.py"])
    (shop / "asgi.py").write_text(files["asgi.py"])
    (tmp_path / "follow.py").write_text(files["follow.py"])
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    output = await run(RUN, tmp_path, DJANGO_SETTINGS_MODULE="shop.settings", PYTHONPATH=path)
    assert "({'id': 1, 'status': 'open'},)" in output, output
    assert "application = mount(get_asgi_application(), is_beside=True)" in files["asgi_beside.py"]

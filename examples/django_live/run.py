"""
Shows the example: a database, its tables, the site.
"""

import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import django
import uvicorn
from django.core.management import call_command

from penstock.testing.postgres import ThrowawayPostgres

sys.path.insert(0, str(Path(__file__).parent))
os.environ["DJANGO_SETTINGS_MODULE"] = "site_live.settings"


def main() -> None:
    """
    Run until Ctrl-C.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        nullcontext() if "DATABASE_URL" in os.environ else ThrowawayPostgres() as server,
    ):
        if server is not None:
            os.environ["DATABASE_URL"] = server.create_database("live").url
        os.environ.setdefault("SYNC_FOLDER", folder)
        port = int(os.environ.get("PORT", "8000"))
        django.setup()
        call_command("migrate", verbosity=0)
        print(f"The page: http://127.0.0.1:{port}\nThe table: psql '{os.environ['DATABASE_URL']}'", flush=True)
        # Pages wait for changes all the time: without a bound, Ctrl-C would wait for them.
        uvicorn.run("site_live.asgi:application", port=port, log_level="info", timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()

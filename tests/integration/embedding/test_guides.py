"""
The samples of the guides about embedding and authorisation, as they stand there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

import penstock
from harness.asgi_site import site
from penstock.service.embedding import MountableApp
from penstock.testing.postgres import ThrowawayDatabase

GUIDES: Final = Path(__file__).parents[3] / "docs" / "guides"


def samples(guide: str) -> list[str]:
    """
    The pieces of Python of a guide.
    """
    text = (GUIDES / f"{guide}.md").read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(name: str, text: str, **given: Any) -> dict[str, Any]:
    """
    Run a sample as a module, which its annotations must find.
    """
    module = type(sys)(name)
    module.__dict__.update(given)
    sys.modules[name] = module
    exec(compile(text, name, "exec"), module.__dict__)
    return module.__dict__


@pytest.fixture(autouse=True)
def _forget_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Keep the samples' modules out of other tests.
    """
    for name in ("access", "shop", "tokens", "inside"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))


def values(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return [message["value"] for message in answer.json() if "value" in message]


@pytest.mark.postgres
def test_the_guides_for_fastapi_and_authorisation_work(
    database: ThrowawayDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Both routes of the one and the guard of the other let users see their own rows, and nobody anything else.
    """
    database.execute("CREATE TABLE items (id int PRIMARY KEY, owner_id int, title text, price int)")
    database.execute("INSERT INTO items VALUES (1, 7, 'mine', 5), (2, 8, 'theirs', 5)")
    database.execute("CREATE TABLE categories (id int PRIMARY KEY, name text, margin int)")
    database.execute("INSERT INTO categories VALUES (1, 'tools', 50)")
    monkeypatch.setenv("DATABASE_URL", f"{database.url}")
    monkeypatch.setenv("SYNC_FOLDER", str(tmp_path / "data"))
    asgi = penstock.asgi
    # Slots are names of the whole cluster.
    monkeypatch.setattr(
        penstock, "asgi", lambda url, **more: asgi(url, replication_stream_id=database.name, **more), raising=False
    )
    access = run("access", samples("authorisation")[0])
    one, several, mounted = samples("fastapi")
    shop = run("shop", one + several)
    shop["app"].add_api_route("/guarded", lambda: shop["sync"].respond(access["authorize"]))
    monkeypatch.setattr(penstock, "beside", lambda _, **more: penstock.BesideApp(shop["sync"]._settings, **more))
    run("inside", mounted, **{**shop, "authorize": access["authorize"]})
    with site(shop["app"]) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/v1/items?offset=-1").status_code == 401
        mine = client.get("/v1/items?offset=-1", headers={"x-user": "7"})
        assert [row["title"] for row in values(mine)] == ["mine"]
        several_tables = {
            table: client.get(f"/v1/shape?table={table}&offset=-1", headers={"x-user": "8"})
            for table in ("items", "categories", "pg_class")
        }
        assert [row["title"] for row in values(several_tables["items"])] == ["theirs"]
        assert values(several_tables["categories"]) == [{"id": "1", "name": "tools"}]
        assert several_tables["pg_class"].status_code == 403
        guarded = "/guarded?table=items&offset=-1"
        assert client.get(guarded).status_code == 401
        let_in = {"authorization": "Bearer let-me-in"}
        assert values(client.get(guarded, headers=let_in)) == [{"id": "1", "owner_id": "7", "title": "mine"}]
        assert client.get("/guarded?table=categories&offset=-1", headers=let_in).status_code == 403


def test_the_other_samples_can_be_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    The tokens' authoriser denies who has none, and applications are made without a database at hand.
    """
    tokens = run("tokens", samples("authorisation")[1])
    denied = tokens["authorize"](
        penstock.AccessRequest("GET", "/v1/shape", {}, {}), penstock.RequestedShape("public", "items")
    )
    assert denied == penstock.Deny(401, "A bearer token is needed")
    assert tokens["rows_of"]({"user_id": 7}, penstock.RequestedShape("public", "items")).params == [7]
    monkeypatch.chdir(tmp_path)
    for text in samples("embedding"):
        assert isinstance(run("inside", text, penstock=penstock)["sync"], MountableApp)

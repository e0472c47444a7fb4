from __future__ import annotations

import asyncio
import re
from collections.abc import MutableMapping
from typing import Any

from penstock.dashboard.page import DemoPage


def ask(method: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """
    Send a request to the page; give status, headers and body.
    """
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b""}

    asyncio.run(DemoPage()({"type": "http", "method": method, "path": "/demo"}, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_the_page_is_served_whole() -> None:
    """
    GET answers with the page and its length, HEAD with the same headers alone.
    """
    status, headers, body = ask("GET")
    assert status == 200
    assert headers[b"content-type"] == b"text/html; charset=utf-8"
    assert int(headers[b"content-length"]) == len(body)
    assert body.startswith(b"<!doctype html>")
    assert ask("HEAD") == (200, headers, b"")


def test_other_methods_are_refused() -> None:
    """
    The page takes nothing.
    """
    status, headers, _ = ask("POST")
    assert status == 405
    assert headers[b"allow"] == b"GET, HEAD"


def test_nothing_comes_from_elsewhere() -> None:
    """
    The page loads nothing but shapes from its own server, and writes values as text, never as markup.
    """
    text = ask("GET")[2].decode()
    assert set(re.findall(r"https?://[^/'\"\s]+", text)) <= {"http://www.w3.org"}
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"'](?!data:)", text)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_the_page_is_small() -> None:
    """
    A page for looking at, not an application.
    """
    assert len(ask("GET")[2]) < 20_000

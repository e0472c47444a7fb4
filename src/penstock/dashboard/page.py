"""
The page that shows a table changing live: one HTML file without anything from elsewhere.

It follows a shape as any client does, by long polling from the same server. A pure view, with the thinnest of ASGI
skins.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

PATH: Final = "/demo"

_POLICY: Final = (
    b"default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    b"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class DemoPage:
    """
    Answers a request for the page; an ASGI application.

    Attributes:
        body: the page.
        headers: what goes with it, `content-length` included.
    """

    def __init__(self) -> None:
        """
        Read the page.
        """
        self.body: Final = files("penstock.dashboard").joinpath("demo.html").read_bytes()
        self.headers: Final = [*_HEADERS, (b"content-length", b"%d" % len(self.body))]

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """
        Answer GET and HEAD with the page, anything else with 405.
        """
        assert scope["type"] == "http"
        del receive
        if scope["method"] not in {"GET", "HEAD"}:
            await send({"type": "http.response.start", "status": 405, "headers": [(b"allow", b"GET, HEAD")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body if scope["method"] == "GET" else b""})

"""
An `authorize` for tests: who asks is said by a header, and many of them are trouble.

The service under test imports it as `harness.guard:authorize`; it may know nothing of the tests.
"""

from __future__ import annotations

import threading

from starlette.exceptions import HTTPException

from penstock import AccessRequest, Allow, Deny, RequestedShape

COLUMNS = ("id", "owner", "title")
"""What users see of `items`; `salary` they do not."""


class GuardError(Exception):
    """
    What the guard's own faults are like: their text is nobody's business.
    """


def authorize(request: AccessRequest, shape: RequestedShape) -> Allow | Deny | None:
    """
    Let users see their own rows of `items`, administrators everything, and nobody anything else.
    """
    user = request.headers.get("x-user")
    match user:
        case None:
            return Deny(401, "who are you?")
        case "admin":
            return Allow()
        case "raises":
            raise GuardError("the guard's own secret")
        case "raises-http":
            raise HTTPException(401, "sign in again", {"WWW-Authenticate": 'Bearer realm="x"'})
        case "raises-odd-http":
            raise HTTPException(302, "go elsewhere", {"location": "https://example.org"})
        case "truth":
            return True  # type: ignore[return-value]  # what a careless function might answer
        case "hangs":
            threading.Event().wait()
        case "strange-rule":
            return Allow("no_such_column = 1")
        case "keyless":
            return Allow(columns=["title"])
        case "unfinished-rule":
            return Allow("owner = 'x' OR (true")
        case _ if shape.table == "items" and shape.schema == "public":
            return Allow("owner = $1", [user], COLUMNS)
    return None


async def authorize_later(request: AccessRequest, shape: RequestedShape) -> Allow | Deny | None:
    """
    The same as a coroutine function, which hangs in an await.
    """
    if request.headers.get("x-user") == "hangs":
        import asyncio  # noqa: PLC0415 - only here

        await asyncio.get_running_loop().create_future()
    return authorize(request, shape)

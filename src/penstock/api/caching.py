"""
What caches are told: `cache-control`, entity tags, and the cursor that lets many clients share one live request.

The rules are tables of the contract. Time and randomness are arguments. Pure functions.
"""

from __future__ import annotations

from typing import Final

from penstock.api.params import LogRequest
from penstock.api.settings import SSE_LIFE_S, ApiSettings
from penstock.shapes.offset import BEFORE_ALL

CURSOR_EPOCH_UNIX_S: Final = 1_728_432_000
"""2024-10-09T00:00:00Z: cursors count seconds from here."""

CURSOR_STEP_S_MAX: Final = 3_600

DEFAULT_CACHE_CONTROL: Final = b"max-age=0, private, must-revalidate"
"""For everything that no rule names."""

PRIVATE: Final = b"private, no-cache"
"""
For what one client was authorised to see. Whom else it may be shown is decided by code that no cache knows, from
whatever it looks at, so no cache may share it, and not even a browser's own may give it again without asking: somebody
else may be using the browser by then, or the right may be gone.
"""

NO_CACHE: Final = b"no-cache"
NO_STORE: Final = b"no-store"
HEALTH_CACHE_CONTROL: Final = b"no-cache, no-store, must-revalidate"


def log_cache_control(request: LogRequest, settings: ApiSettings) -> bytes:
    """
    Give the rule for a successful GET or a 304.
    """
    if request.shape.offset == BEFORE_ALL:
        return b"public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746"
    if request.is_sse:
        return b"public, max-age=%d" % max(1, int(SSE_LIFE_S) - 1)
    if request.shape.is_live:
        return b"public, max-age=5, stale-while-revalidate=5"
    return b"public, max-age=%d, stale-while-revalidate=%d" % (settings.cache_max_age_s, settings.cache_stale_age_s)


def refetch_cache_control(*, has_handle: bool) -> bytes:
    """
    Give the rule for a 409.
    """
    return b"public, max-age=%d, must-revalidate" % (60 if has_handle else 1)


def etag(handle: str, offset_text: str, chunk_end: str, unique: int | None = None) -> str:
    """
    Name the content of a response, without quotes; `unique` makes a tag that never matches again.
    """
    tag = f"{handle}:{offset_text}:{chunk_end}"
    return tag if unique is None else f"{tag}:{unique}"


def matches_etag(if_none_match: list[bytes], tag: str) -> bool:
    """
    Tell whether a client presents this tag. `*` and weak tags have no meaning here.
    """
    wanted = tag.encode()
    return any(part.strip().strip(b'"') == wanted for line in if_none_match for part in line.split(b","))


def next_cursor(previous: int, *, timeout_s: int, now_unix_s: float, step_s: int) -> int:
    """
    Choose the cursor of a live response.

    All clients that poll in the same window get the same one, so that a cache can give them one response; a client
    that already has it gets another, so that nobody ever asks the same question twice.

    Args:
        previous: the cursor that the client echoed, 0 without one.
        timeout_s: how long live requests wait, in whole seconds.
        now_unix_s: the time.
        step_s: a random number from 1 to 3600.
    """
    assert 1 <= step_s <= CURSOR_STEP_S_MAX
    if timeout_s <= 0:
        return 0
    elapsed = now_unix_s - CURSOR_EPOCH_UNIX_S
    coming = int(-(-elapsed // timeout_s)) * timeout_s
    return coming if coming > previous else previous + step_s

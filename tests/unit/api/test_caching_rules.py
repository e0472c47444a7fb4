from __future__ import annotations

import pytest

from penstock.api import caching
from penstock.api.params import LogRequest, decode_query, validate
from penstock.api.settings import ApiSettings


def request(query: str) -> LogRequest:
    found = validate(decode_query(f"table=t&handle=h&{query}".encode()))
    assert isinstance(found, LogRequest)
    return found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("offset=-1", b"public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746"),
        ("offset=0_0", b"public, max-age=61, stale-while-revalidate=301"),
        ("offset=now", b"public, max-age=61, stale-while-revalidate=301"),
        ("offset=0_0&live=true", b"public, max-age=5, stale-while-revalidate=5"),
        ("offset=0_0&live=true&live_sse=true", b"public, max-age=59"),
    ],
)
def test_cache_control_of_log_responses(query: str, expected: bytes) -> None:
    """
    Each kind of response may be kept as long as its content can be right.
    """
    settings = ApiSettings(cache_max_age_s=61, cache_stale_age_s=301)
    assert caching.log_cache_control(request(query), settings) == expected


def test_refetch_is_cached_for_less_when_nothing_is_known() -> None:
    """
    A 409 that names the next handle may be kept for a minute, one that does not for a second.
    """
    assert caching.refetch_cache_control(has_handle=True) == b"public, max-age=60, must-revalidate"
    assert caching.refetch_cache_control(has_handle=False) == b"public, max-age=1, must-revalidate"


@pytest.mark.parametrize(
    ("lines", "matches"),
    [
        ([b'"h:0_0:5_0"'], True),
        ([b"h:0_0:5_0"], True),
        ([b'"x", "h:0_0:5_0"'], True),
        ([b'"x"', b' "h:0_0:5_0" '], True),
        ([b'"h:0_0:5_0:123"'], False),
        ([b"*"], False),
        ([b'W/"h:0_0:5_0"'], False),
        ([b""], False),
    ],
)
def test_if_none_match_is_compared_with_the_tag(lines: list[bytes], *, matches: bool) -> None:
    """
    Any listed tag may match; `*` and weak tags have no meaning.
    """
    assert caching.matches_etag(lines, caching.etag("h", "0_0", "5_0")) is matches


EPOCH = caching.CURSOR_EPOCH_UNIX_S


@pytest.mark.parametrize(
    ("previous", "elapsed_s", "cursor"),
    [
        (0, 0.0, 0 + 7),
        (0, 0.1, 20),
        (0, 20.0, 20),
        (0, 20.1, 40),
        (20, 20.0, 27),
        (39, 20.1, 40),
        (40, 20.1, 47),
        (10_000, 20.1, 10_007),
        (-5, 20.1, 40),
    ],
)
def test_cursor_is_the_end_of_the_window_or_moves_on(previous: int, elapsed_s: float, cursor: int) -> None:
    """
    Everybody in a window gets its end; whoever has that or more gets a random step beyond (I11).
    """
    found = caching.next_cursor(previous, timeout_s=20, now_unix_s=EPOCH + elapsed_s, step_s=7)
    assert found == cursor


def test_cursor_without_a_timeout_is_zero() -> None:
    """
    Where live requests do not wait there are no windows.
    """
    assert caching.next_cursor(5, timeout_s=0, now_unix_s=EPOCH + 5, step_s=7) == 0

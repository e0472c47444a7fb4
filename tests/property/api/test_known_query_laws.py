"""
Laws of `penstock.api.fast.queries`.
"""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from penstock.api.admission import Admission
from penstock.api.fast.queries import KnownQueries
from penstock.api.gate import Gate
from penstock.api.params import LogRequest
from penstock.api.plan import Planner
from penstock.api.settings import ApiSettings

SETTINGS = ApiSettings(secret="sesame")

PLACES = st.sampled_from(
    [b"0_0", b"7_1", b"08_1", b"9_inf", b"-1", b"now", b"", b"8_1%30", b"x", b"99999999999999999999_0"]
)
CURSORS = st.sampled_from([b"1", b"0099", b"-3", b"", b"x", b"1234567890123456789"])
OTHERS = st.sampled_from(
    [
        b"live=true",
        b"live_sse=true",
        b"where=id%3D%241",
        b"params%5B1%5D=7",
        b"offset",
        b"offset=5_0",
        b"%6fffset=5_0",
        b"offset[x]=5_0",
        b"cursor=5",
        b"c%75rsor=5",
        b"cursor%5B%5D=5",
        b"+offset=5_0",
        b"offsets=5_0",
        b"subset__limit=1",
        b"",
        b"a=%",
    ]
)
QUERIES = st.lists(OTHERS, max_size=4)


def make() -> KnownQueries:
    admission = Admission(initial_max=1, existing_max=1, known_handles_max=1)
    return KnownQueries(Gate(SETTINGS, admission, Planner(SETTINGS), lambda low, _: low))


def read(queries: KnownQueries, raw: bytes) -> tuple[str | None, LogRequest] | None:
    known = queries.find(raw)
    return None if known is None else (known.handle, known.request)


@given(QUERIES, st.lists(st.tuples(PLACES, CURSORS), min_size=2, max_size=4), st.integers(0, 1), st.randoms())
def test_query_means_the_same_whatever_was_seen_before(
    others: list[bytes],
    places: list[tuple[bytes, bytes]],
    cursors_count: int,
    random: Random,
) -> None:
    """
    One that is known but for its place is read as one that nobody has seen before, however it is spelt.
    """
    rest = [b"table=items", b"handle=1-1", b"secret=sesame", *others]
    order = [*range(len(rest)), -1, -2]
    random.shuffle(order)
    seen = make()
    for place, cursor in places:
        pairs = {-1: b"offset=" + place, -2: b"cursor=" + cursor}
        raw = b"&".join(pairs.get(at) or rest[at] for at in order if cursors_count or at != -2)
        assert read(seen, raw) == read(make(), raw)

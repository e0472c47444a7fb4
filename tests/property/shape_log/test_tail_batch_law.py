from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.shape_log.tail import Tail

ELEMENTS = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4).map(
    lambda bodies: [(2 * place, body) for place, body in enumerate(bodies)]
)
TRANSACTIONS = st.lists(ELEMENTS, max_size=8).map(lambda all_elements: list(enumerate(all_elements, start=1)))


@given(TRANSACTIONS, TRANSACTIONS, st.integers(1, 100), st.integers(0, 100), st.integers(0, 12))
def test_transactions_together_are_those_one_by_one(
    first: list[tuple[int, list[tuple[int, bytes]]]],
    then: list[tuple[int, list[tuple[int, bytes]]]],
    chunk_bytes_max: int,
    chunk_bytes: int,
    settled: int,
) -> None:
    """
    Handed over in one call or each by itself, before and after some left for the files, a tail holds the same.
    """
    chunk_bytes %= chunk_bytes_max
    together, apart = Tail(chunk_bytes_max, chunk_bytes), Tail(chunk_bytes_max, chunk_bytes)
    later = [(tx + len(first), elements) for tx, elements in then]
    for batch in (first, later):
        if batch:
            together.append_whole(batch)
        ends = [together.commit()]
        for tx, elements in batch:
            apart.append(tx, elements)
            ends.append(apart.commit())
        assert ends[0] == ends[-1] or not batch
        for name in Tail.__slots__:
            assert getattr(together, name) == getattr(apart, name), name
        assert together.join(together.base, together.past) == apart.join(apart.base, apart.past)
        for tail in (together, apart):
            tail.drop(min(settled, tail.committed))

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session

from harness.catalogue import VALUES, Thing
from integration.models.conftest import Ground
from penstock.models import shape

pytestmark = pytest.mark.postgres

ORDERED: Final = ("n", "small", "big", "price", "ratio", "day", "clock", "naive", "at", "span", "token", "raw")
EQUAL: Final = (*ORDERED, "done", "single", "title", "code", "pad", "mood", "tags", "nums", "doc")
WHOLE: Final = ("n", "small", "big")
COMPARISONS: Final[tuple[Callable[[Any, Any], Any], ...]] = (
    lambda column, value: column < value,
    lambda column, value: column <= value,
    lambda column, value: column > value,
    lambda column, value: column >= value,
)
PATTERNS: Final = ("a%", "%b%", "a\\%b", "_", "", "%", "É%", "x%y", "a_b")


def column(name: str) -> Any:
    """
    An attribute of the class.
    """
    return getattr(Thing, name)


def valued(names: tuple[str, ...]) -> st.SearchStrategy[tuple[Any, Any]]:
    """
    Columns, each with a value of its type.
    """
    return st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(column(name)), st.sampled_from(VALUES[name])),
    )


def several(name: str) -> st.SearchStrategy[tuple[Any, list[Any]]]:
    """
    A column with values of its type.
    """
    return st.tuples(st.just(column(name)), st.lists(st.sampled_from(VALUES[name]), max_size=3))


text: Final = st.sampled_from(["title", "code"]).map(column)
number: Final = st.integers(-5, 5)

simple: Final[st.SearchStrategy[Any]] = st.one_of(
    st.tuples(st.sampled_from(COMPARISONS), valued(ORDERED)).map(lambda drawn: drawn[0](*drawn[1])),
    valued(EQUAL).map(lambda drawn: drawn[0] == drawn[1]),
    valued(EQUAL).map(lambda drawn: drawn[0] != drawn[1]),
    valued(EQUAL[:-1]).map(lambda drawn: drawn[0].is_distinct_from(drawn[1])),
    st.sampled_from(EQUAL).map(lambda name: column(name).is_(None)),
    st.sampled_from(EQUAL).map(lambda name: column(name).is_not(None)),
    st.sampled_from(EQUAL[:-1]).flatmap(several).map(lambda drawn: drawn[0].in_(drawn[1])),
    st.sampled_from(EQUAL[:-1]).flatmap(several).map(lambda drawn: drawn[0].not_in(drawn[1])),
    st.tuples(valued(("n",)), number).map(lambda drawn: drawn[0][0].between(drawn[1], drawn[0][1])),
    st.tuples(number, number).map(lambda drawn: ~column("price").between(*drawn, symmetric=True)),
)
of_text: Final[st.SearchStrategy[Any]] = st.one_of(
    st.tuples(text, st.sampled_from(PATTERNS)).map(lambda drawn: drawn[0].like(drawn[1])),
    st.tuples(text, st.sampled_from(PATTERNS)).map(lambda drawn: drawn[0].not_ilike(drawn[1])),
    st.tuples(text, st.sampled_from(PATTERNS)).map(lambda drawn: drawn[0].contains(drawn[1], autoescape=True)),
    st.tuples(text, st.sampled_from(["a", "É", "x"])).map(lambda drawn: drawn[0].icontains(drawn[1])),
    st.tuples(text, st.sampled_from(["a", "%", ""])).map(lambda drawn: ~drawn[0].startswith(drawn[1])),
    st.tuples(text, st.sampled_from(["a/%b", "a/_b", "\\"])).map(lambda drawn: drawn[0].like(drawn[1], escape="/")),
    st.just(column("title").startswith(column("code"))),
    st.tuples(text, st.sampled_from(["a", "b", ""])).map(lambda drawn: drawn[0].collate("C") < drawn[1]),
    st.tuples(text, number).map(lambda drawn: sa.func.length(drawn[0]) > drawn[1]),
    text.map(lambda drawn: sa.func.coalesce(sa.func.lower(drawn), "none") == "none"),
    text.map(lambda drawn: drawn + "!" != "a!"),
    text.map(lambda drawn: sa.func.upper(sa.func.replace(drawn, "a", "b")) == "B"),
    st.just(sa.cast(column("n"), sa.String) == "7"),
)
of_numbers: Final[st.SearchStrategy[Any]] = st.one_of(
    st.tuples(st.sampled_from(["n", "price"]), number, number).map(lambda d: column(d[0]) * d[1] + d[2] > d[2]),
    st.tuples(st.sampled_from(WHOLE), st.sampled_from([2, 3, -3])).map(lambda d: column(d[0]) % d[1] == 1),
    st.tuples(st.sampled_from(WHOLE), st.sampled_from([2, 3, -3])).map(lambda d: column(d[0]) // d[1] == 0),
    st.tuples(st.sampled_from(["n", "price"]), st.sampled_from([2, 3])).map(
        lambda d: column(d[0]) / d[1] > Decimal("0.5")
    ),
    st.just(-column("n") < column("small")),
    st.just(column("n") > 1.5),
    st.just(column("big") > 2**62),
    st.just(sa.func.abs(column("n")) >= sa.func.greatest(column("small"), 1)),
    st.just(sa.case((column("n") > 0, "more"), (column("n") < 0, "less"), else_="none") == "less"),
    st.just(column("n").op("&")(3) == 1),
)
of_times: Final[st.SearchStrategy[Any]] = st.one_of(
    st.sampled_from(["year", "month", "day", "dow"]).map(lambda field: sa.extract(field, column("day")) > 5),
    st.just(column("at") - dt.timedelta(days=1) > dt.datetime(2024, 1, 30, tzinfo=dt.UTC)),
    st.just(column("naive") > dt.date(2000, 1, 1)),
    st.just(column("span") + dt.timedelta(hours=1) > dt.timedelta(days=1)),
)
of_many: Final[st.SearchStrategy[Any]] = st.one_of(
    several("nums").map(lambda drawn: drawn[0].contains(drawn[1][0] if drawn[1] else [1])),
    st.sampled_from([["a"], ["b c", "x"], []]).map(lambda items: column("tags").overlap(items)),
    st.sampled_from([["a"], ["a", "b", "c"]]).map(lambda items: column("tags").contained_by(items)),
    st.sampled_from(["a", "NULL", ""]).map(lambda item: sa.literal(item) == sa.any_(column("tags"))),
    number.map(lambda item: item != sa.all_(column("nums"))),
    number.map(lambda item: column("n") == sa.any_(array([item, 7]))),
    st.just(column("nums")[1] == 7),
    st.just(column("nums")[1:2] == [7, 7]),
    st.just(column("doc")["a"].astext == "x"),
    st.just(column("doc")[("a", "b")].astext == "5"),
    st.just(column("doc").contains({"a": {"b": 5}})),
    st.just(column("doc").has_key("a")),
    st.just(column("doc").has_any(array(["a", "text"]))),
)
leaves: Final = st.one_of(simple, of_text, of_numbers, of_times, of_many)
conditions: Final[st.SearchStrategy[Any]] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda drawn: sa.and_(*drawn)),
        st.tuples(inner, inner).map(lambda drawn: sa.or_(*drawn)),
        inner.map(sa.not_),
    ),
    max_leaves=4,
)


@settings(max_examples=3, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(conditions, min_size=20, max_size=20), seed=st.integers(0, 2**16))
async def test_a_shape_has_the_rows_of_its_select(ground: Ground, drawn: list[Any], seed: int) -> None:
    """
    Whatever the condition: the rows of the shape are those that SQLAlchemy's own query gives, also after all have changed.
    """
    ground.fill(seed)
    queries = [sa.select(Thing).where(condition) for condition in drawn]
    with Session(ground.engine) as session:

        def ask(number: int) -> set[int]:
            session.rollback()
            return {thing.id for thing in session.scalars(queries[number])}

        await ground.agree([shape(query).columns(Thing.id) for query in queries], ask)

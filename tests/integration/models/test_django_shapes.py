from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness import catalogue
from harness.catalogue import VALUES
from integration.models.conftest import Ground
from penstock.models import shape

catalogue.set_django_up()

from django.db import connections  # noqa: E402  models can be imported once Django is set up
from django.db.models import Case, F, Q, TextField, Value, When  # noqa: E402
from django.db.models.functions import Abs, Cast, Coalesce, Concat, Length, Lower, StrIndex, Substr  # noqa: E402

from harness.catalogue_app.models import Thing  # noqa: E402

pytestmark = pytest.mark.postgres

ORDERED: Final = ("n", "small", "big", "price", "ratio", "day", "clock", "at", "span", "token", "raw")
EQUAL: Final = (*ORDERED, "done", "title", "code", "tags", "nums", "doc")
TEXTS: Final = ("title", "code")
SEARCHES: Final = ("contains", "icontains", "startswith", "istartswith", "endswith", "iendswith", "iexact")


def lookup(name: str, value: Any) -> Q:
    """
    One filter.
    """
    return Q(**{name: value})


def of(name: str) -> st.SearchStrategy[Any]:
    """
    A value for a field.
    """
    return st.sampled_from(VALUES[name])


number: Final = st.integers(-5, 5)
simple: Final[st.SearchStrategy[Any]] = st.one_of(
    st.tuples(st.sampled_from(ORDERED), st.sampled_from(["gt", "gte", "lt", "lte"])).flatmap(
        lambda drawn: of(drawn[0]).map(lambda value: lookup(f"{drawn[0]}__{drawn[1]}", value))
    ),
    st.sampled_from(EQUAL).flatmap(lambda name: of(name).map(lambda value: lookup(name, value))),
    st.sampled_from(EQUAL).flatmap(lambda name: st.booleans().map(lambda value: lookup(f"{name}__isnull", value))),
    st.sampled_from(EQUAL[:-1]).flatmap(
        lambda name: st.lists(of(name), max_size=3).map(lambda values: lookup(f"{name}__in", values))
    ),
    st.tuples(number, number).map(lambda drawn: Q(n__range=drawn)),
    st.tuples(st.sampled_from(TEXTS), st.sampled_from(SEARCHES), st.sampled_from(["a", "%", "É", "", "\\", "b"])).map(
        lambda drawn: lookup(f"{drawn[0]}__{drawn[1]}", drawn[2])
    ),
    st.sampled_from(["0", "-"]).map(lambda part: Q(n__contains=part)),
    st.sampled_from(["a0ee", "-0000-"]).map(lambda part: Q(token__icontains=part)),
)
computed: Final[st.SearchStrategy[Any]] = st.one_of(
    st.tuples(number, number).map(lambda drawn: Q(n__gt=F("small") * drawn[0] + drawn[1])),
    st.just(Q(n__lt=F("big") % Value(3))),
    st.just(Q(title=F("code"))),
    st.just(Q(title__contains=F("code"))),
    st.just(Q(code=Lower("title"))),
    st.just(Q(n=Length("title"))),
    st.just(Q(title=Concat("code", Value(""), Substr("title", 2)))),
    st.just(Q(n__gte=Abs("small"))),
    st.just(Q(n__gt=StrIndex("title", Value("b")))),
    number.map(lambda value: Q(n=Coalesce("small", Value(value)))),
    st.just(Q(n=Case(When(small__gt=0, then=1), When(title="a", then=F("n")), default=Value(0)))),
    st.just(Q(code=Cast("n", TextField()))),
    st.just(Q(at__gt=F("at") - dt.timedelta(days=1))),
    st.just(Q(price__gt=F("n") + Decimal("0.5"))),
)
of_times: Final[st.SearchStrategy[Any]] = st.one_of(
    st.sampled_from(["year", "year__gte", "iso_year", "year__lt"]).map(lambda part: lookup(f"day__{part}", 1999)),
    st.sampled_from(["year", "year__gt", "month__lt", "hour", "second__gte", "week_day"]).map(
        lambda part: lookup(f"at__{part}", 10)
    ),
    st.sampled_from(["month", "day__gte", "week_day", "iso_week_day", "quarter", "week"]).map(
        lambda part: lookup(f"day__{part}", 2)
    ),
    st.just(Q(at__date=dt.date(2024, 1, 31))),
    st.just(Q(at__time__gt=dt.time(9))),
    st.just(Q(clock__minute=34)),
)
of_many: Final[st.SearchStrategy[Any]] = st.one_of(
    st.sampled_from(["contains", "contained_by", "overlap"]).flatmap(
        lambda part: of("tags").map(lambda value: lookup(f"tags__{part}", value))
    ),
    number.map(lambda value: Q(nums__len=value)),
    st.just(Q(nums__0=7)),
    st.just(Q(nums__0_2=[7, 7])),
    st.sampled_from(["x", None, {"b": 5}]).map(lambda value: Q(doc__a=value)),
    st.just(Q(doc__a__b=5)),
    st.just(Q(doc__a__icontains="X")),
    st.just(Q(doc__a__isnull=False)),
    st.just(Q(doc__contains={"a": {"b": 5}})),
    st.just(Q(doc__has_key="a")),
    st.just(Q(doc__has_any_keys=["b", "text"])),
    st.just(Q(doc__a__in=["x", None])),
)
conditions: Final[st.SearchStrategy[Any]] = st.recursive(
    st.one_of(simple, computed, of_times, of_many),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda drawn: drawn[0] & drawn[1]),
        st.tuples(inner, inner).map(lambda drawn: drawn[0] | drawn[1]),
        inner.map(lambda drawn: ~drawn),
    ),
    max_leaves=4,
)


@settings(
    max_examples=3, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck), deadline=None
)
@given(drawn=st.lists(conditions, min_size=20, max_size=20), seed=st.integers(0, 2**16))
async def test_a_shape_has_the_rows_of_its_queryset(ground: Ground, drawn: list[Any], seed: int) -> None:
    """
    Whatever the filters: the rows of the shape are those that Django's own query gives, also after all have changed.
    """
    catalogue.use_database(ground.database.url)
    ground.fill(seed)
    queries = [Thing.objects.filter(condition) for condition in drawn]

    def ask(number: int) -> set[int]:
        try:
            return set(queries[number].values_list("id", flat=True))
        finally:
            # Of the thread that asked: Django has a connection for each.
            connections.close_all()

    await ground.agree([shape(query.only("id")) for query in queries], ask)

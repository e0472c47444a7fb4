from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pytest

from harness import catalogue
from penstock.errors import InvalidShapeError
from penstock.models import TableShape, shape

catalogue.set_django_up()

from django.db.models import Count, Exists, F, OuterRef, Q  # noqa: E402  once Django is set up
from django.db.models.functions import Lower, Now, Power, TruncMonth  # noqa: E402
from django.test import override_settings  # noqa: E402

from harness.catalogue_app.models import Author, Book, Comic, Mood, Thing  # noqa: E402


@pytest.mark.parametrize(
    ("condition", "where", "params"),
    [
        (Q(code="it's $1"), '"code" = $1', ("it's $1",)),
        (Q(code=Mood.OPEN), '"code" = $1', ("open",)),
        (Q(code=None), '"code" IS NULL', ()),
        (~Q(code="x"), 'NOT ("code" = $1 AND "code" IS NOT NULL)', ("x",)),
        (Q(n=1) | Q(done=True), '"n" = $1 OR "done" = TRUE', ("1",)),
        (Q(n__in=[1, None, 2]), '"n" IN ($1, $2)', ("1", "2")),
        (Q(n__in=[]), "FALSE", ()),
        (Q(n__range=(1, 5)), '"n" BETWEEN $1 AND $2', ("1", "5")),
        (Q(price__gte=Decimal("1.50")), '"price" >= $1', ("1.50",)),
        (Q(title__contains="a%"), '"title" LIKE $1', ("%a\\%%",)),
        (Q(title__istartswith="a"), 'upper("title") LIKE upper($1::text)', ("a%",)),
        (Q(at__year=2024), '"at" BETWEEN $1 AND $2', ("2024-01-01 00:00:00+00:00", "2024-12-31 23:59:59.999999+00:00")),
        (Q(at__date=dt.date(2024, 1, 1)), 'timezone($1::text, "at")::date = $2::date', ("UTC", "2024-01-01")),
        (Q(span__gt=dt.timedelta(days=-1, microseconds=1)), '"span" > $1', ("-1 days 0.000001 seconds",)),
        (Q(token=uuid.UUID(int=1)), '"token" = $1', ("00000000-0000-0000-0000-000000000001",)),
        (Q(raw=b"\0"), '"raw" = $1', ("\\x00",)),
        (Q(tags__contains=["a", "b"]), '"tags" @> $1', ('{"a","b"}',)),
        (Q(doc__a__b=5), '("doc" #> $1::text[]) = $2::jsonb', ('{"a","b"}', "5")),
        (Q(n__gt=F("small") + 1), '"n" > ("small" + $1::int4)', ("1",)),
        (Q(title=Lower("code")), '"title" = lower("code")', ()),
    ],
)
def test_filters_become_conditions_with_parameters(condition: Any, where: str, params: tuple[str, ...]) -> None:
    """
    Values are parameters, prepared as their fields prepare them.
    """
    definition = shape(Thing.objects.filter(condition)).definition
    assert (definition.where, definition.params) == (where, params)
    assert shape(Thing).where(condition).definition == definition


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (Q(title__regex="x"), "the lookup regex"),
        (Q(at__gt=Now()), "Now()"),
        (Q(n__lt=Power("small", 2)), "POWER"),
        (Q(at__gt=TruncMonth("at")), "TruncMonth"),
        (Q(n=1) ^ Q(n=2), "XOR"),
        (Exists(Author.objects.filter(id=OuterRef("n"))), "subquery"),
        (Q(n__in=Author.objects.values("id")), "subquery"),
        (Q(doc__a__gt=3), "operator"),
        ("n = 1", "as a condition"),
    ],
)
def test_what_a_shape_cannot_say_is_refused_by_name(condition: Any, words: str) -> None:
    """
    The sentence names the construct, and what to do instead.
    """
    with pytest.raises(InvalidShapeError, match=words.replace("()", r"\(\)")):
        shape(Thing).where(condition)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (Thing.objects.order_by("id"), "order_by"),
        (Thing.objects.all()[:3], "a slice"),
        (Thing.objects.distinct(), "distinct"),
        (Thing.objects.annotate(count=Count("id")), "annotate"),
        (Thing.objects.extra(where=["1=1"]), "extra"),
        (Thing.objects.union(Thing.objects.all()), "union"),
        (Thing.objects.select_for_update(), "select_for_update"),
        (Book.objects.select_related("author"), "select_related"),
        (Book.objects.prefetch_related("author"), "prefetch_related"),
        (Book.objects.filter(author__name="x"), "the join with catalogue_app_author"),
        (Book.objects.values("author__name"), "the join with catalogue_app_author"),
        (Book.objects.values("title"), "leave out id"),
        (Comic, "in its own table and in that of Book"),
        (Thing(), "a Thing"),
    ],
)
def test_queries_that_are_no_part_of_a_table_are_refused(query: Any, words: str) -> None:
    """
    Likewise for what stands around the filters.
    """
    with pytest.raises(InvalidShapeError, match=words):
        shape(query)


def test_columns_are_those_of_only_defer_and_values() -> None:
    """
    The key comes along as Django has it; an order of the model's own does not matter.
    """
    assert shape(Thing).definition == TableShape("catalogue_things")
    assert shape(Thing.objects.only("title")).definition.columns == ("id", "title")
    assert shape(Book.objects.defer("title")).definition.columns == ("id", "author_id")
    assert shape(Book.objects.values_list("pk", "author")).definition.columns == ("id", "author_id")
    assert shape(Book).columns("id", F("author"), Book.title).definition.columns == ("id", "author_id", "title")
    with pytest.raises(InvalidShapeError, match="the column nope"):
        shape(Thing).columns("id", "nope")


def test_a_foreign_key_is_a_column() -> None:
    """
    Comparing with an object or its key needs no other table.
    """
    wanted = TableShape("catalogue_app_book", '"author_id" = $1', ("3",))
    for condition in (Q(author=3), Q(author_id=3), Q(author__id=3), Q(author=Author(id=3))):
        assert shape(Book).where(condition).definition == wanted


def test_nothing_is_a_shape_too() -> None:
    """
    `none()` has no rows.
    """
    assert shape(Thing.objects.none()).definition.where == "FALSE"


def test_a_time_zone_other_than_utc_is_refused() -> None:
    """
    Its rules differ between machines: the sentence says which zone it is. Years are between moments, in any zone.
    """
    with override_settings(TIME_ZONE="Europe/Berlin"):
        with pytest.raises(InvalidShapeError, match="Europe/Berlin"):
            shape(Thing.objects.filter(at__hour=3))
        assert shape(Thing.objects.filter(at__year=2024)).definition.params[0] == "2023-12-31 23:00:00+00:00"

from __future__ import annotations

import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, load_only, mapped_column, relationship
from sqlmodel import Field, SQLModel
from sqlmodel import select as sqlmodel_select

import penstock
from penstock.errors import ClientError, InvalidShapeError
from penstock.models import TableShape, shape


class Mood(enum.Enum):
    happy = "h"
    sad = "s"


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    status: Mapped[str | None]
    price: Mapped[Decimal]
    done: Mapped[bool]
    mood: Mapped[Mood]
    small: Mapped[int] = mapped_column(sa.SmallInteger)
    at: Mapped[dt.datetime] = mapped_column(sa.DateTime(timezone=True))
    day: Mapped[dt.date]
    token: Mapped[uuid.UUID]
    raw: Mapped[bytes]
    tags: Mapped[list[str]] = mapped_column(postgresql.ARRAY(sa.Text))
    doc: Mapped[Any] = mapped_column(postgresql.JSONB)
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("authors.id"))
    author: Mapped[Author] = relationship()


class Vehicle(Base):
    __tablename__ = "vehicles"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "vehicle"}  # noqa: RUF012  as SQLAlchemy has it

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]


class Lorry(Vehicle):
    __mapper_args__ = {"polymorphic_identity": "lorry"}  # noqa: RUF012


class Ship(Vehicle):
    __tablename__ = "ships"
    __mapper_args__ = {"polymorphic_identity": "ship"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(sa.ForeignKey("vehicles.id"), primary_key=True)


class Order(SQLModel, table=True):
    __tablename__ = "Orders"
    __table_args__ = {"schema": "shop"}

    id: int = Field(primary_key=True)
    status: str


MIDNIGHT = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("condition", "where", "params"),
    [
        (Item.status == "it's $1", '"status" = $1', ("it's $1",)),
        (Item.status.is_(None), '"status" IS NULL', ()),
        (~Item.done, 'NOT ("done")', ()),
        (sa.or_(Item.id > 3, Item.done), '"id" > $1 OR "done"', ("3",)),
        (Item.id.in_([1, 2]), '"id" IN ($1, $2)', ("1", "2")),
        (Item.id.in_([]), "FALSE", ()),
        (Item.id > 1.5, '"id" > $1::float8', ("1.5",)),
        (Item.small == 2**20, '"small" = $1::int4', ("1048576",)),
        (Item.price >= Decimal("1e3"), '"price" >= $1', ("1000",)),
        (Item.mood == Mood.sad, '"mood" = $1', ("sad",)),
        (Item.at > MIDNIGHT, '"at" > $1', ("2024-01-01 00:00:00+00:00",)),
        (Item.raw == b"\0\xff", '"raw" = $1', ("\\x00ff",)),
        (Item.token == uuid.UUID(int=1), '"token" = $1', ("00000000-0000-0000-0000-000000000001",)),
        (Item.title.contains("a%", autoescape=True), '"title" LIKE $1', ("%a\\%%",)),
        (Item.tags.contains(['"', "\\"]), '"tags" @> $1', ('{"\\"","\\\\"}',)),
        (sa.literal("a") == sa.any_(Item.tags), '$1 = ANY ("tags")', ("a",)),
        (Item.doc.contains({"a": 1}), '"doc" @> $1', ('{"a": 1}',)),
        (Item.id + 1 > 2, '("id" + $1::int4) > $2::int4', ("1", "2")),
        (Item.author == Author(id=3), '$1 = "author_id"', ("3",)),
        (Item.title.collate("C") < "m", '("title" COLLATE "C") < $1::varchar', ("m",)),
    ],
)
def test_expressions_become_conditions_with_parameters(condition: Any, where: str, params: tuple[str, ...]) -> None:
    """
    Values are parameters, cast where the column beside them does not say their type.
    """
    definition = shape(Item).where(condition).definition
    assert (definition.where, definition.params) == (where, params)
    assert shape(sa.select(Item).where(condition)).definition == definition


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (sa.func.now() > Item.at, "now().*its value changes"),
        (sa.func.count(Item.id) > 1, "the aggregate count"),
        (sa.func.made_up(Item.id) == 1, "the function made_up"),
        (Author.name == "x", "authors.name: the shape is of items alone"),
        (Item.author.has(name="x"), "has()"),
        (sa.text("1 = 1"), "text()"),
        (Item.id.in_(sa.select(Author.id)), "subquery"),
        (Item.title.regexp_match("x"), "regexp_match"),
        (sa.tuple_(Item.id, Item.small) == (1, 2), "tuple_"),
        (sa.extract("year", Item.at) == 2024, "AT TIME ZONE 'UTC'"),
        (Item.mood < Mood.sad, "operator"),
        (Item.title.collate("de_DE") < "m", "the collation de_DE"),
        (sa.bindparam("later") == Item.id, "without a value"),
        (Item.title == "a\0b", "character 0"),
    ],
)
def test_what_a_shape_cannot_say_is_refused_by_name(condition: Any, words: str) -> None:
    """
    The sentence names the construct, and what to do instead.
    """
    with pytest.raises(InvalidShapeError, match=words.replace("()", r"\(\)")):
        shape(Item).where(condition)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (sa.select(Item).order_by(Item.id), "ORDER BY"),
        (sa.select(Item).limit(3), "LIMIT"),
        (sa.select(Item).offset(3), "OFFSET"),
        (sa.select(Item).distinct(), "DISTINCT"),
        (sa.select(Item).group_by(Item.id), "GROUP BY"),
        (sa.select(Item).join(Author), "JOIN"),
        (sa.select(Item).with_for_update(), "FOR UPDATE"),
        (sa.select(Item).options(load_only(Item.title)), "loader options"),
        (sa.select(Item, Author), "authors and items"),
        (sa.select(aliased(Item)), "alias"),
        (sa.select(sa.func.count()).select_from(Item), "aggregate"),
        (sa.select(Item.title), "leave out id"),
        (sa.select(1), "without a table"),
        (sa.union(sa.select(Item), sa.select(Item)), "UNION"),
        (Ship, "two classes"),
        (Item(), "an object of Item"),
        ("items", "a str"),
    ],
)
def test_queries_that_are_no_part_of_a_table_are_refused(query: Any, words: str) -> None:
    """
    Likewise for what stands around the condition.
    """
    with pytest.raises(InvalidShapeError, match=words):
        shape(query)


def test_columns_are_named_as_the_database_has_them() -> None:
    """
    Attributes, columns and names will do; the key must be among them.
    """
    assert shape(Item).columns(Item.id, "title", Item.__table__.c.done).definition.columns == ("id", "title", "done")
    assert shape(sa.select(Item.id, Item.title)).definition.columns == ("id", "title")
    with pytest.raises(InvalidShapeError, match="primary key of items"):
        shape(Item).columns(Item.title)
    with pytest.raises(InvalidShapeError, match="the column nope"):
        shape(Item).columns("nope")


def test_classes_that_share_a_table_have_their_own_rows() -> None:
    """
    What the ORM adds for single-table inheritance is part of the condition.
    """
    assert shape(Lorry).definition == TableShape("vehicles", '"kind" IN ($1)', ("lorry",))
    assert shape(Vehicle).definition == TableShape("vehicles")


def test_sqlmodel_is_sqlalchemy() -> None:
    """
    Its classes and selects are taken too; schemas and names are quoted where they must be.
    """
    made = shape(sqlmodel_select(Order).where(Order.status == "open"))
    assert made.definition == TableShape('shop."Orders"', '"status" = $1', ("open",))


def test_a_shape_is_a_value() -> None:
    """
    Each step gives another one, and conditions add up; the package's root has the function as well.
    """
    whole = penstock.shape(Item)
    part = whole.where(Item.id > 1).where(Item.done)
    assert whole.definition == TableShape("items")
    assert part.definition.where == '"id" > $1 AND "done"'
    assert part == penstock.shape(Item).where(Item.id > 1, Item.done)


def test_a_shape_and_options_do_not_both_say_it() -> None:
    """
    A condition beside a shape's own would be lost, so the client refuses it.
    """
    with penstock.Client("http://127.0.0.1:1") as client, pytest.raises(ClientError, match="where of its own"):
        client.stream(shape(Item), where="id > 1")

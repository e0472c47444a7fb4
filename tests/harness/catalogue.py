"""
A table of many types for shapes of models: as a class of SQLAlchemy, as a model of Django, and with rows that have been
trouble somewhere.
"""

from __future__ import annotations

import datetime as dt
import enum
import random
import uuid
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

import django
import sqlalchemy as sa
from django.conf import settings
from django.db import connections
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

TABLE: Final = "catalogue_things"
ROWS: Final = 24


class Mood(enum.Enum):
    """
    An enum whose labels are not its values.
    """

    happy = "h"
    sad = "s"
    so_so = "?"


class Base(DeclarativeBase):
    """
    Of all mapped classes.
    """


class Thing(Base):
    """
    A row of many types.
    """

    __tablename__ = TABLE

    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int | None]
    small: Mapped[int | None] = mapped_column(sa.SmallInteger)
    big: Mapped[int | None] = mapped_column(sa.BigInteger)
    price: Mapped[Decimal | None] = mapped_column(sa.Numeric(12, 3))
    ratio: Mapped[float | None]
    single: Mapped[float | None] = mapped_column(sa.REAL)
    done: Mapped[bool | None]
    title: Mapped[str | None] = mapped_column(sa.Text)
    code: Mapped[str | None] = mapped_column(sa.String(10))
    pad: Mapped[str | None] = mapped_column(sa.CHAR(5))
    day: Mapped[dt.date | None]
    clock: Mapped[dt.time | None]
    naive: Mapped[dt.datetime | None]
    at: Mapped[dt.datetime | None] = mapped_column(sa.DateTime(timezone=True))
    span: Mapped[dt.timedelta | None]
    token: Mapped[uuid.UUID | None]
    raw: Mapped[bytes | None]
    mood: Mapped[Mood | None]
    tags: Mapped[list[str] | None] = mapped_column(postgresql.ARRAY(sa.Text))
    nums: Mapped[list[int] | None] = mapped_column(postgresql.ARRAY(sa.Integer))
    doc: Mapped[Any | None] = mapped_column(postgresql.JSONB(none_as_null=True))


VALUES: Final[dict[str, list[Any]]] = {
    "n": [0, 1, -1, 2, 7, 1000, -1000],
    "small": [0, 1, -1, 5, 32767],
    "big": [0, 1, 2**40, -(2**62)],
    "price": [Decimal(0), Decimal("1.5"), Decimal("1.50"), Decimal("-2.125"), Decimal(100000000)],
    "ratio": [0.0, -0.0, 1.5, 0.1, 1e300, float("inf"), float("nan")],
    "single": [0.0, 1.5, 0.1, -3.25],
    "done": [True, False],
    "title": ["", "a", "A", "abc", "a%b", "a_b", "a\\b", "É", "é", "it's", "$1", "日本", "x y", '"'],
    "code": ["", "open", "OPEN", "a%", "50%", "\\"],
    "pad": ["ab", "a", "abcde", ""],
    "day": [dt.date(2024, 2, 29), dt.date(1999, 12, 31), dt.date(1, 1, 1), dt.date(9999, 12, 31)],
    "clock": [dt.time(0, 0), dt.time(12, 34, 56, 789000), dt.time(23, 59, 59, 999999)],
    "naive": [
        dt.datetime.fromisoformat("2024-01-31 10:00:00"),
        dt.datetime.fromisoformat("1969-12-31 23:59:59.500000"),
    ],
    "at": [
        dt.datetime(2024, 1, 31, 10, 0, tzinfo=dt.UTC),
        dt.datetime(2024, 1, 31, 12, 0, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        dt.datetime(1999, 12, 31, 23, 59, 59, 123456, dt.timezone(dt.timedelta(hours=-5, minutes=-30))),
    ],
    "span": [dt.timedelta(0), dt.timedelta(days=1), dt.timedelta(seconds=-0.5), dt.timedelta(days=-2, microseconds=1)],
    "token": [uuid.UUID(int=0), uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")],
    "raw": [b"", b"\0", b"\\x00", b"\xde\xad"],
    "mood": list(Mood),
    "tags": [[], ["a"], ["a", "b"], ["b c", 'q"', "\\"], ["NULL", ""]],
    "nums": [[], [1], [1, 2, 3], [7, 7]],
    "doc": [{}, {"a": "x"}, {"a": {"b": 5}}, {"a": None}, [1, "x"], "text", 1.5, True],
}


def rows(seed: int) -> list[dict[str, Any]]:
    """
    Make rows; an eighth of the values are NULL.
    """
    chance = random.Random(seed)
    return [
        {"id": number + 1}
        | {name: None if chance.random() < 0.125 else chance.choice(values) for name, values in VALUES.items()}
        for number in range(ROWS)
    ]


ROTATE: Final = sa.text(
    f"UPDATE {TABLE} t SET ({', '.join(VALUES)}) = (SELECT {', '.join(VALUES)} FROM {TABLE} s"
    f" WHERE s.id = t.id % {ROWS} + 1)"
)
"""Gives each row the values of the next one."""


def engine_of(url: str) -> sa.Engine:
    """
    An engine whose sessions are in UTC.
    """
    return sa.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1), connect_args={"options": "-c timezone=UTC"}
    )


def set_django_up() -> None:
    """
    Make Django know the model, whatever the database is; once for a process.
    """
    if settings.configured:
        return
    settings.configure(
        INSTALLED_APPS=["harness.catalogue_app", "penstock.django"],
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none"}},
        USE_TZ=True,
        TIME_ZONE="UTC",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()


def use_database(url: str) -> None:
    """
    Have Django's default connection be to this database.
    """
    parts = urlsplit(url)
    # Connections share this, and are made anew in each thread.
    connections.databases["default"].update(
        NAME=parts.path.removeprefix("/"),
        HOST=parts.hostname,
        PORT=str(parts.port),
        USER=parts.username or "",
        PASSWORD=parts.password or "",
    )

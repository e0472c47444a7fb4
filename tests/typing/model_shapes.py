"""
What types shapes of models promise: checked, never run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, assert_type

from django.core.asgi import get_asgi_application
from django.db import models
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import penstock
from penstock import shape
from penstock.django.asgi import mount


class Base(DeclarativeBase):
    """
    Of all mapped classes.
    """


class Item(Base):
    """
    A row, for SQLAlchemy.
    """

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]


class Order(models.Model):
    """
    A row, for Django.
    """

    status: models.CharField[str, str] = models.CharField(max_length=10)

    def __str__(self) -> str:
        return self.status


def made() -> None:
    """
    Models, selects and querysets give shapes, which are values of text.
    """
    is_open = shape(Item).where(Item.status == "open").columns(Item.id)
    assert_type(is_open, penstock.ModelShape)
    assert_type(is_open.definition, penstock.TableShape)
    assert_type(is_open.definition.where, str | None)
    assert_type(is_open.definition.params, tuple[str, ...])
    assert_type(is_open.definition.columns, tuple[str, ...])
    assert_type(shape(select(Item)), penstock.ModelShape)
    assert_type(shape(Order._default_manager.filter(status="open")), penstock.ModelShape)
    assert_type(shape(Order).where(models.Q(status="open")), penstock.ModelShape)


async def followed(client: penstock.Client, asynchronous: penstock.AsyncClient) -> None:
    """
    They stand where a table may, and so do their definitions.
    """
    assert_type(client.stream(shape(Item)), penstock.ChangeStream[dict[str, Any]])
    assert_type(client.shape(shape(Item).definition), penstock.Shape[dict[str, Any]])
    assert_type(client.subset(shape(Item), order_by="id", limit=3), penstock.Rows[dict[str, Any]])
    async with asynchronous.shape(shape(Item)) as items:
        assert_type(items.by_key, Mapping[str, dict[str, Any]])


def decided() -> penstock.Allow:
    """
    What authorisation adds.
    """
    definition = shape(Item).where(Item.status == "open").definition
    return penstock.Allow(where=definition.where, params=definition.params, columns=definition.columns or None)


def mounted() -> Callable[..., Awaitable[None]]:
    """
    Django's application goes in, and one comes out.
    """
    return mount(get_asgi_application(), "/sync", is_beside=True)

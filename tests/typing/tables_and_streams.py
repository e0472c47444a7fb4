"""
What types the public API promises beside rows and changes: checked by mypy and pyright, never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

import msgspec
import pandas as pd
import polars as pl
from pydantic import BaseModel

import penstock
from penstock.client.notebook import LiveTable
from penstock.errors import ClientError, PenstockError, StaleShapeError
from penstock.testing.postgres import ThrowawayDatabase, ThrowawayPostgres
from penstock.testing.service import ThrowawayService


@dataclass
class Item:
    """
    A row.
    """

    id: int
    name: str


class Keyed(TypedDict):
    """
    A row as well.
    """

    id: int


class Packed(msgspec.Struct):
    """
    A row as well.
    """

    id: int


class Checked(BaseModel):
    """
    A row as well.
    """

    id: int


OPEN: penstock.ShapeOptions = {"where": "status = $1", "params": ["open"], "replica": "full"}
NEWEST: penstock.SubsetOptions = {"order_by": "id DESC", "limit": 10}


def options_are_kept(client: penstock.Client) -> None:
    """
    Options can be kept in a variable and given as they are.
    """
    assert_type(client.shape("items", **OPEN), penstock.Shape[dict[str, Any]])
    assert_type(client.subset("items", **NEWEST), penstock.Rows[dict[str, Any]])


def rows_have_classes(client: penstock.Client) -> None:
    """
    Every kind of class that rows can be made as.
    """
    assert_type(client.subset("items", row_type=Item)[0].name, str)
    assert_type(client.subset("items", row_type=Keyed)[0]["id"], int)
    assert_type(client.subset("items", row_type=Packed)[0].id, int)
    assert_type(client.subset("items", row_type=Checked)[0].id, int)


def rows_are_tables(client: penstock.Client) -> None:
    """
    Frames have the types of their libraries.
    """
    with client.shape("items", row_type=Item) as shape:
        assert_type(shape.to_polars(), pl.DataFrame)
        assert_type(shape.to_pandas(misfits="null"), pd.DataFrame)
        assert_type(shape.live(rows_max=5), LiveTable)
    rows = client.subset("items")
    assert_type(rows.to_polars(text=["added"]), pl.DataFrame)
    whole: Sequence[dict[str, Any]] = rows
    assert whole is rows
    opened = client.shape("items").open()
    opened.close()


def errors_say_what(shape: penstock.Shape[Item]) -> float:
    """
    The errors are a tree, with facts in them.
    """
    try:
        return float(len(shape.rows))
    except StaleShapeError as error:
        assert_type(error.age_s, float)
        base: ClientError = error
        root: PenstockError = base
        assert_type(root.message, str)
        return error.age_s


def the_test_kit(penstock_database: ThrowawayDatabase, penstock_service: ThrowawayService) -> None:
    """
    What fixtures give, and the same without pytest.
    """
    assert_type(penstock_database.url, str)
    with penstock_service.client() as client:
        assert_type(client, penstock.Client)
        with client.shape("items") as shape:
            penstock_service.wait_for_sync(shape, timeout_s=5)
    with ThrowawayPostgres() as server, ThrowawayService(server.url, settings={"chunk_bytes_max": "1000"}) as service:
        assert_type(service.url, str)


def it_can_be_mounted() -> None:
    """
    The application is one of ASGI.
    """
    app = penstock.asgi("postgresql://localhost/shop", data_dir="persistent", acknowledge="shapes")
    assert_type(app, penstock.EmbeddedApp)


async def tables_come_with_asyncio(client: penstock.AsyncClient) -> None:
    """
    The same.
    """
    async with client.shape("items", row_type=Packed) as shape:
        assert_type(shape.to_polars(), pl.DataFrame)
        assert_type(shape.live(), LiveTable)
    assert_type(await client.subset("items"), penstock.Rows[dict[str, Any]])

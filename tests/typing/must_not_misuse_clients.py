"""
Mistakes that type checkers must find: each line that ends with `# wrong`, and no other.
"""

from __future__ import annotations

from dataclasses import dataclass

import penstock


@dataclass
class Item:
    """
    A row.
    """

    id: int
    name: str


def options(client: penstock.Client) -> None:
    """
    Options have names and types.
    """
    client.stream("items", wher="id = 1")  # wrong
    client.shape("items", replica="some")  # wrong
    client.subset("items", limit="ten")  # wrong
    client.stream_arrow("items", misfits="ignore")  # wrong
    client.stream_arrow("items", row_type=Item)  # wrong
    client.shape(3)  # wrong
    kept: penstock.ShapeOptions = {"limit": 3}  # wrong
    client.shape("items", **kept)


def rows(client: penstock.Client) -> None:
    """
    Rows have the class that was asked for, and cannot be changed.
    """
    with client.shape("items", row_type=Item) as shape:
        print(shape.rows[0].prize)  # wrong  # noqa: T201
        print(shape.rows[0]["id"])  # wrong  # noqa: T201
        shape.rows = ()  # wrong
        shape.wait_until("771")  # wrong
        shape.on_change(len("x"))  # wrong


def waiting(client: penstock.AsyncClient) -> None:
    """
    What waits is awaited.
    """
    with client.shape("items") as shape:  # wrong
        print(shape)  # noqa: T201
    for change in client.stream("items"):  # wrong
        print(change)  # noqa: T201
    print(client.subset("items")[0])  # wrong  # noqa: T201

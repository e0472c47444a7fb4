"""
A report that is always current: what each customer owes, made again with polars whenever an order has changed.

    DATABASE has: CREATE TABLE orders (id int PRIMARY KEY, customer text NOT NULL, amount numeric(10,2) NOT NULL, status text)
    PENSTOCK_URL=http://127.0.0.1:3000 python report.py

Prints the report at the start and after each change; `--once` prints it once and ends.
"""

from __future__ import annotations

import argparse
import os
import queue
from typing import Any

import polars as pl

import penstock
from penstock.errors import StaleShapeError


def make_report(orders: pl.DataFrame) -> pl.DataFrame:
    """
    Sum up what is open, the largest first.
    """
    return (
        orders.filter(pl.col("status") == "open")
        .group_by("customer")
        .agg(pl.len().alias("orders"), pl.col("amount").sum().alias("owes"))
        .sort("owes", "customer", descending=[True, False])
    )


def print_report(shape: penstock.Shape[dict[str, Any]]) -> None:
    """
    Print the report of the rows as they are now, as CSV.
    """
    try:
        print(make_report(shape.to_polars()).write_csv(), flush=True)
    except StaleShapeError as error:
        print(f"no report: {error.message}", flush=True)


def main() -> None:
    """
    Follow the orders.
    """
    parser = argparse.ArgumentParser(description="What each customer owes, always current.")
    parser.add_argument("--once", action="store_true", help="print the report once and end")
    arguments = parser.parse_args()
    changed: queue.SimpleQueue[int] = queue.SimpleQueue()
    with (
        penstock.Client(os.environ.get("PENSTOCK_URL", "http://127.0.0.1:3000")) as client,
        client.shape("orders") as shape,
    ):
        # The client's own thread only says that there is something: the report is made here, once for many changes.
        shape.on_change(lambda changes: changed.put(len(changes)))
        print_report(shape)
        while not arguments.once:
            changed.get()
            while not changed.empty():
                changed.get_nowait()
            print_report(shape)


if __name__ == "__main__":
    main()

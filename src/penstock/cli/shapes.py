"""
`penstock shapes`: which shapes a service has, how large they are, and who reads them.

Shell; reads only.
"""

from __future__ import annotations

from typing import Any, Final

import httpx
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock.cli.explain import format_bytes
from penstock.errors import ConfigError, ConnectionLostError
from penstock.shapes.reading import ShapeListed, ShapesListed

TIMEOUT_S: Final = 10.0
_COLOURS: Final = {"live": "green", "idle": "dim", "ending": "red", "behind": "yellow"}


def fetch_shapes(url: str, secret: str | None, question: dict[str, str]) -> ShapesListed:
    """
    Ask a service for some of its shapes.

    Args:
        url: where it is.
        secret: its secret.
        question: `order`, `limit`, `skip` and `table`, as in the HTTP contract.

    Raises:
        ConnectionLostError: nobody answers there, or not now.
        ConfigError: the secret is wrong, or what answers is no Penstock, or an older one.
    """
    params = question if secret is None else {**question, "secret": secret}
    try:
        answer = httpx.get(f"{url.rstrip('/')}/v1/status/shapes", params=params, timeout=TIMEOUT_S)
    except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConnectionLostError(
            f"nobody answers at {url}: start `penstock serve`, or name the service with --url ({error})"
        ) from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise ConfigError("the service wants its secret: set PENSTOCK_SECRET in the environment")
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise ConnectionLostError("the engine is away: ask again, or ask `penstock explain` why")
    try:
        if answer.status_code != httpx.codes.OK:
            raise msgspec.DecodeError
        return msgspec.json.decode(answer.content, type=ShapesListed)
    except msgspec.DecodeError as error:
        raise ConfigError(f"what answers at {url} lists no shapes: it is no Penstock, or an older one") from error


def run_shapes(
    url: str, secret: str | None, question: dict[str, str], *, is_json: bool, console: Console | None = None
) -> None:
    """
    Ask and print. Errors as for `fetch_shapes`.
    """
    out = console or Console()
    listed = fetch_shapes(url, secret, question)
    if is_json:
        told: dict[str, Any] = msgspec.to_builtins(listed)
        out.out(msgspec.json.encode(told).decode(), highlight=False)
        return
    if not listed.shapes:
        out.print(
            "There are no such shapes." if listed.total == 0 else f"There are {listed.total:,}, all before these."
        )
        return
    out.print(_table(listed.shapes))
    if listed.total > len(listed.shapes):
        out.print(f"[dim]{len(listed.shapes):,} of {listed.total:,}; --limit and --skip show others[/]")


def _table(shapes: list[ShapeListed]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("table", "where", "waiting", "size", "position", "last read", "state", "handle"):
        is_number = name in {"waiting", "size", "last read"}
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for shape in shapes:
        where = "" if shape.where is None else shape.where
        if shape.columns is not None:
            where = f"{where} ({', '.join(shape.columns)})".strip()
        state = shape.state if shape.log == "full" else f"{shape.state}, changes only"
        colour = _COLOURS.get(shape.state, "default")
        table.add_row(
            escape(shape.table.removeprefix('"public".')),
            escape(where),
            f"{shape.clients:,}",
            "" if shape.bytes is None else format_bytes(shape.bytes),
            shape.last,
            "" if shape.read_s is None else format_age(shape.read_s),
            f"[{colour}]{state}[/]",
            escape(shape.handle),
        )
    return table


def format_age(seconds: float) -> str:
    """
    Write how long ago something was for people.
    """
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"

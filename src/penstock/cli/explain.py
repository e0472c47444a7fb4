"""
`penstock explain`: who holds the write-ahead log or our disk, since when, how many bytes, why, and what happens next.

Asks a running service; decides nothing.
"""

from __future__ import annotations

from typing import Any, Final

import httpx
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock.errors import ConfigError, ConnectionLostError
from penstock.liveness.explain import Explanation

TIMEOUT_S: Final = 10.0
_PROBLEMS_TOLD_MAX: Final = 8


def run_explain(url: str, secret: str | None, console: Console | None = None) -> int:
    """
    Ask and print; gives the exit status: 1 when the service is not ready, else 0.

    Raises:
        ConnectionLostError: nobody answers there.
        ConfigError: the secret is wrong, or what answers is no Penstock.
    """
    status = fetch_status(url, secret)
    print_status(status, console or Console())
    return 1 if status.get("unready") or status.get("state") != "active" else 0


def fetch_status(url: str, secret: str | None) -> dict[str, Any]:
    """
    Ask a service for its status. Errors as for `run_explain`.
    """
    try:
        params = {} if secret is None else {"secret": secret}
        answer = httpx.get(f"{url.rstrip('/')}/v1/status", params=params, timeout=TIMEOUT_S)
    except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConnectionLostError(f"nobody answers at {url}: {error}") from error
    if answer.status_code == 401:
        raise ConfigError("the service wants its secret: set PENSTOCK_SECRET")
    try:
        found = msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"what answers at {url} is not Penstock") from error
    if answer.status_code != 200:
        raise ConnectionLostError(f"the service at {url} does not tell its status (HTTP {answer.status_code})")
    return found


def print_status(status: dict[str, Any], console: Console) -> None:
    """
    Print one screen.
    """
    told = status.get("explain")
    explanation = None if told is None else msgspec.convert(told, Explanation)
    verdict = f"The engine is away: waiting for {status.get('waiting_for', 'it')}."
    if explanation is not None:
        verdict = explanation.verdict
    is_ready = status.get("state") == "active" and not status.get("unready")
    colour = "green" if is_ready else "red"
    console.print(f"[bold {colour}]{'ready' if is_ready else 'not ready'}[/]  {escape(verdict)}")
    if status.get("unready"):
        console.print(f"           {escape(status['unready'])}")
    if explanation is not None:
        console.print(
            f"[dim]kept on the primary[/] {format_bytes(explanation.wal_bytes)}   "
            f"[dim]relay log[/] {format_bytes(explanation.relay_log_bytes)}   "
            f"[dim]shapes[/] {status['shape_count']}   [dim]that owe[/] {status['owing_count']}   "
            f"[dim]behind[/] {status['behind_count']}   [dim]given up[/] {status['shed_count']}"
        )
        if explanation.holders:
            console.print(_holders(explanation))
    for problem in status.get("problems", [])[:_PROBLEMS_TOLD_MAX]:
        console.print(f"[yellow]![/] {escape(problem)}")
    for rest in status.get("resting", [])[:_PROBLEMS_TOLD_MAX]:
        console.print(
            f"[yellow]![/] {escape(rest['table'])} rests for {rest['retry_after_s']} s: "
            f"given up {rest['count']} times, {escape(rest['reason'])}"
        )
    positions = "  ".join(f"[dim]{name}[/] {value}" for name, value in status.get("positions", {}).items())
    console.print(positions)


def _holders(explanation: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("holds", "who", "bytes", "since", "why", "next"):
        table.add_column(name, justify="right" if name in {"bytes", "since"} else "left")
    for holder in explanation.holders:
        table.add_row(
            holder.holds,
            escape(holder.who),
            format_bytes(holder.bytes_count),
            "" if holder.since_s is None else f"{holder.since_s:.0f} s",
            escape(holder.why),
            escape(holder.next),
        )
    return table


def format_bytes(count: int) -> str:
    """
    Write a number of bytes for people.
    """
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"

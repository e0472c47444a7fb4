"""
A client that loads subsets and follows the log, as the protocol asks of one, and the question whether it lost anything.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


@dataclass
class Picture:
    """
    A subset that was loaded: what it shows, and of which rows.
    """

    xmin: int
    xmax: int
    running: frozenset[int]
    database_lsn: int
    keys: frozenset[str]

    def shows(self, xid: int) -> bool:
        """
        Whether a transaction, named by 32 bits, was visible.
        """
        distance = (xid - self.xmax) & _MASK
        wide = self.xmax + (distance - 2 * _HALF if distance >= _HALF else distance)
        return wide < self.xmin or (wide < self.xmax and wide not in self.running)


@dataclass
class SubsetClient:
    """
    Holds the rows of the subsets it has loaded, kept up to date from a log that begins with nothing.

    It adopts the offset of every response, that of a subset too; it does not read the log while it loads one.
    """

    url: str
    table: str
    draw: random.Random
    rows: dict[str, dict[str, str | None]] = field(default_factory=dict)
    offset: str = "now"
    handle: str | None = None
    pictures: list[Picture] = field(default_factory=list)
    left_out: int = 0
    is_current: bool = False
    last_seen_lsn: int = 0

    def __post_init__(self) -> None:
        self._http = httpx.AsyncClient(base_url=self.url, timeout=30)

    async def close(self) -> None:
        """
        Close its connections.
        """
        await self._http.aclose()

    async def load(self, **subset: Any) -> list[dict[str, Any]]:
        """
        Load a subset by GET or by POST; gives its rows.
        """
        if self.draw.random() < 0.5:
            fields = {f"subset__{k}": json.dumps(v) if k == "params" else str(v) for k, v in subset.items()}
            response = await self._http.get("/v1/shape", params=self._params() | fields)
        else:
            response = await self._http.post("/v1/shape", params=self._params(), json=subset)
        assert response.status_code == 200, response.text
        self._adopt(response)
        answer = response.json()
        told = answer["metadata"]
        keys = frozenset(row["key"] for row in answer["data"])
        self.pictures.append(
            Picture(
                int(told["xmin"]),
                int(told["xmax"]),
                frozenset(map(int, told["xip_list"])),
                int(told["database_lsn"]),
                keys,
            )
        )
        for row in answer["data"]:
            assert row["headers"]["snapshot_mark"] == told["snapshot_mark"]
            self.rows[row["key"]] = dict(row["value"])
        loaded: list[dict[str, Any]] = answer["data"]
        return loaded

    async def read(self, *, is_live: bool = False) -> None:
        """
        Read on in the log once.
        """
        more = {"live": "true"} if is_live and self.is_current else {}
        response = await self._http.get("/v1/shape", params=self._params() | more)
        assert response.status_code == 200, response.text
        self._adopt(response)
        self.is_current = "electric-up-to-date" in response.headers
        for message in response.json():
            self._take(message)

    def _params(self) -> dict[str, str]:
        params = {"table": self.table, "log": "changes_only", "offset": self.offset}
        return params if self.handle is None else params | {"handle": self.handle}

    def _adopt(self, response: httpx.Response) -> None:
        handle = response.headers["electric-handle"]
        assert self.handle in {None, handle}, "nothing gives the shape up"
        self.offset, self.handle = response.headers["electric-offset"], handle

    def _take(self, message: dict[str, Any]) -> None:
        headers = message["headers"]
        if "control" in headers:
            if headers["control"] == "up-to-date":
                self.last_seen_lsn = int(headers["global_last_seen_lsn"])
                self._retire(self.last_seen_lsn)
            return
        self._retire(int(headers["lsn"]))
        key, value = message["key"], message["value"]
        if any(key in picture.keys and picture.shows(headers["txids"][0]) for picture in self.pictures):
            self.left_out += 1
            return
        match headers["operation"]:
            case "insert":
                self.rows[key] = dict(value)
            case "update" if key in self.rows:
                self.rows[key] |= value
            case "delete":
                self.rows.pop(key, None)

    def _retire(self, lsn: int) -> None:
        self.pictures = [picture for picture in self.pictures if picture.database_lsn > lsn]

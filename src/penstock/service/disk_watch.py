"""
Looks at the space on our disks, and has done without what there is no room for.

Which step is due is decided in `penstock.liveness.disk_space`; what each costs is done by the parts that own it: the
catalog refuses, the evictor gives up, the budget sheds. Reading is stopped by the receiver, which looks for itself,
because an engine that is away must not keep it from doing so. Shell: one task. A disk that cannot be asked counts as it
did before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from penstock.errors import PenstockError
from penstock.liveness.disk_space import Scarcity, find_scarcity, limit_of, missing_bytes

_log: Final = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
"""How often the disks are asked."""

_DONE_WITHOUT: Final = {
    Scarcity.CREATE: "no new shapes are made",
    Scarcity.KEEP: "shapes that nobody reads are given up",
    Scarcity.PIN: "shapes that pin the relay log are given up",
    Scarcity.READ: "nothing more is read from Postgres",
}


class Space(NamedTuple):
    """
    What a disk says, and what is to stay free of it, in bytes.
    """

    free_bytes: int
    limit_bytes: int

    @property
    def scarcity(self) -> Scarcity:
        """
        How scarce that is.
        """
        return find_scarcity(self.free_bytes, self.limit_bytes)


def measure(folder: Path, asked: int | None) -> Space:
    """
    Ask the disk of a folder.

    Raises:
        OSError: it cannot be asked.
    """
    told = os.statvfs(folder)
    return Space(told.f_bavail * told.f_frsize, limit_of(asked, told.f_blocks * told.f_frsize))


def is_too_full_to_read(folder: Path, asked: int | None) -> bool:
    """
    Tell the receiver whether to stop reading; a disk that cannot be asked is left to say so when it is written to.
    """
    try:
        return measure(folder, asked).scarcity >= Scarcity.READ
    except OSError:
        return False


class DiskWatch:
    """
    Watches the disk of the shapes and that of the relay log, which may be the same.

    Attributes:
        data: what the disk of the shapes said last; None while it said nothing.
        relay: likewise the relay log's.
    """

    def __init__(
        self,
        data_dir: Path,
        relay_folder: Path,
        limit_bytes: int | None,
        *,
        make_room: Callable[[int], Awaitable[None]],
        look_s: float = LOOK_S,
    ) -> None:
        """
        Take what it looks at.

        Args:
            data_dir: on the disk of the shapes.
            relay_folder: on that of the relay log.
            limit_bytes: what is to stay free of each; None for a share of it.
            make_room: gives so many bytes of the disk of the shapes back, if it can.
            look_s: how often it looks.
        """
        self._data_dir: Final = data_dir
        self._relay_folder: Final = relay_folder
        self._limit_bytes: Final = limit_bytes
        self._make_room: Final = make_room
        self._look_s: Final = look_s
        self.data: Space | None = None
        self.relay: Space | None = None
        self._was = (Scarcity.NONE, Scarcity.NONE)

    async def run(self) -> None:
        """
        Look, until cancelled.
        """
        while True:
            await self.look()
            await asyncio.sleep(self._look_s)

    async def look(self) -> None:
        """
        Look once, and make room if the disk of the shapes needs it.
        """
        self.data = await self._ask(self._data_dir, self.data)
        self.relay = await self._ask(self._relay_folder, self.relay)
        now = (self._of(self.data), self._of(self.relay))
        if now != self._was:
            _log.warning("space on the disks", shapes=now[0].name.lower(), relay_log=now[1].name.lower())
            self._was = now
        if self.data is not None and now[0] >= Scarcity.KEEP:
            try:
                await self._make_room(missing_bytes(*self.data))
            except PenstockError as error:
                _log.warning("no room can be made", error=error.message)

    @property
    def may_create(self) -> bool:
        """
        Whether there is room for new shapes and what is to come of them.
        """
        return max(self._was) < Scarcity.CREATE

    @property
    def may_pin(self) -> bool:
        """
        Whether there is room for segments that only shapes keep.
        """
        return self._was[1] < Scarcity.PIN

    @property
    def problems(self) -> list[str]:
        """
        What an operator should know, in sentences.
        """
        names = ("disk of the shapes", "disk of the relay log")
        return [
            f"{name}: {space.free_bytes >> 20} MiB of {space.limit_bytes >> 20} MiB that should be free;"
            f" {_DONE_WITHOUT[scarcity]}"
            for name, space, scarcity in zip(names, (self.data, self.relay), self._was, strict=True)
            if space is not None and scarcity is not Scarcity.NONE
        ]

    async def _ask(self, folder: Path, before: Space | None) -> Space | None:
        try:
            return await asyncio.to_thread(measure, folder, self._limit_bytes)
        except OSError:
            return before

    @staticmethod
    def _of(space: Space | None) -> Scarcity:
        return Scarcity.NONE if space is None else space.scarcity

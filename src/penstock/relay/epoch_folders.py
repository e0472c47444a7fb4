"""
The folder of a relay log, and the folders of epochs in it.

* **O7**. An epoch's folder is built under another name, synced, renamed, and its parent synced, before `make` returns,
  and so before anything of it can be confirmed.
* A number is used once, also by a try that fails half way: `reserve` never gives one again.
* Only the newest epoch is gone on with. Older ones count as bytes until they are removed as a whole.

A shell.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from penstock.errors import CorruptLogError
from penstock.relay.disk import Disk, remove_tree
from penstock.relay.epochs import EPOCH_FILE, EpochHeader, decode_epoch, encode_epoch, epoch_name, epoch_numbers
from penstock.relay.kept_segments import write_segment
from penstock.relay.segments import SegmentHeader, segment_name, segment_numbers

UNFINISHED: Final = ".new"
"""How the names of folders and files end that are being made; what is found of them at start is removed."""


class EpochFolders:
    """
    The epochs of a relay log on disk.

    Attributes:
        older_bytes: bytes of all segments of all epochs but the newest; may be read from any thread.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        """
        Touch nothing yet; see `recover`.
        """
        self._folder = folder
        self._disk = disk
        self._floor = 0
        self._older: dict[int, int] = {}
        self.older_bytes = 0

    def path(self, epoch: int) -> Path:
        """
        Name the folder of an epoch.
        """
        return self._folder / epoch_name(epoch)

    def recover(self) -> EpochHeader | None:
        """
        Find what the last process left, and remove what it did not complete; give the newest epoch, if it is whole.

        Raises:
            FormatVersionError: newer code wrote it.
            OSError: the disk refuses.
        """
        self._disk.make_folder(self._folder)
        # All that is synced later would be gone with the name of the folder itself. Whoever made it may have died before
        # this, so it is done at every start.
        self._disk.sync_folder(self._folder.parent)
        self._remove_unfinished()
        numbers = epoch_numbers(self._disk.names(self._folder))
        self.skip_to(max(numbers, default=0))
        for number in numbers:
            self.retire(number, self._segment_bytes(number))
        # Only the newest is asked: an older one may not stand in for it, its slot has been left behind.
        newest = self._read(numbers[-1]) if numbers else None
        if newest is not None:
            self._forget(newest.epoch)
        return newest

    def skip_to(self, epoch: int) -> None:
        """
        Use no number up to this one any more.
        """
        self._floor = max(self._floor, epoch)

    def reserve(self) -> int:
        """
        Give the number of a new epoch, greater than all there ever were.
        """
        self._floor += 1
        return self._floor

    def make(self, header: EpochHeader, segment: SegmentHeader) -> tuple[int, int]:
        """
        Make an epoch with its first segment, durably; give an open handle of that and its length.

        The segment is a part of the epoch, so that one without any has lost something.

        Raises:
            OSError: the disk refuses; what is there of the epoch never counts.
        """
        disk = self._disk
        folder = self.path(header.epoch)
        unfinished = folder.with_name(folder.name + UNFINISHED)
        self._remove_unfinished()
        disk.make_folder(unfinished)
        document = disk.create(unfinished / EPOCH_FILE)
        try:
            disk.write(document, (encode_epoch(header),))
            disk.sync(document)
        finally:
            disk.close(document)
        handle, size = write_segment(disk, unfinished, segment, is_synced=True)
        try:
            disk.sync_folder(unfinished)
            disk.rename(unfinished, folder)
            disk.sync_folder(self._folder)
        except OSError:
            disk.close(handle)
            self.retire(header.epoch, size)
            raise
        return handle, size

    def retire(self, epoch: int, size: int) -> None:
        """
        Count an epoch among the older ones, with this many bytes of segments.
        """
        self._older[epoch] = size
        self._count()

    def remove_older(self) -> None:
        """
        Remove all epochs but the newest. What the disk refuses stays for later.
        """
        for number in list(self._older):
            if remove_tree(self._disk, self.path(number)):
                self._forget(number)

    def _forget(self, epoch: int) -> None:
        del self._older[epoch]
        self._count()

    def _count(self) -> None:
        self.older_bytes = sum(self._older.values())

    def _remove_unfinished(self) -> None:
        """
        Remove epochs that were not completed.
        """
        for name in self._disk.names(self._folder):
            if name.endswith(UNFINISHED):
                remove_tree(self._disk, self._folder / name)

    def _read(self, number: int) -> EpochHeader | None:
        try:
            handle = self._disk.open(self.path(number) / EPOCH_FILE)
        except FileNotFoundError:
            return None
        try:
            header = decode_epoch(partial(self._disk.read, handle))
        except CorruptLogError:
            return None
        finally:
            self._disk.close(handle)
        return header if header.epoch == number else None

    def _segment_bytes(self, epoch: int) -> int:
        folder = self.path(epoch)
        total = 0
        for number in segment_numbers(self._disk.names(folder)):
            handle = self._disk.open(folder / segment_name(number))
            try:
                total += self._disk.size(handle)
            finally:
                self._disk.close(handle)
        return total

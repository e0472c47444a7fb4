"""
Looks through a relay log and says what is wrong with it, without changing anything.

Form: a generator over the folder; a shell that only reads. It may run beside a writer: what lies beyond the end that
counts is noted and not blamed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from penstock.errors import CorruptLogError, FormatVersionError
from penstock.relay.disk import read_at
from penstock.relay.epochs import epoch_name
from penstock.relay.reader import epochs_in, read_epoch
from penstock.relay.recovery import RecoveredSegment, recover_segment
from penstock.relay.segments import segment_name, segment_numbers


@dataclass(frozen=True, slots=True)
class VerifyFinding:
    """
    Something to know about a relay log.

    Attributes:
        path: the folder or file.
        is_fault: whether data that counted cannot be read; else it is a note.
        text: what, in words.
    """

    path: Path
    is_fault: bool
    text: str


def verify_folder(path: Path) -> Iterator[VerifyFinding]:
    """
    Verify all epochs in a relay folder, oldest first: a note for each thing that is well, a fault for each that is not.
    """
    epochs = epochs_in(path)
    if not epochs:
        yield VerifyFinding(path, is_fault=False, text="no epoch")
    for epoch in epochs:
        yield from _verify_epoch(path, epoch)


def _verify_epoch(path: Path, epoch: int) -> Iterator[VerifyFinding]:
    folder = path / epoch_name(epoch)
    try:
        header = read_epoch(path, epoch)
    except (CorruptLogError, FormatVersionError) as cause:
        yield VerifyFinding(folder, is_fault=True, text=cause.message)
        return
    text = f"slot {header.slot_name} of system {header.system_id} on timeline {header.timeline} from {header.start}: {header.reason}"
    yield VerifyFinding(folder, is_fault=False, text=text)
    numbers = segment_numbers(entry.name for entry in folder.iterdir())
    if not numbers:
        yield VerifyFinding(folder, is_fault=True, text="no segment")
    previous: RecoveredSegment | None = None
    for number in numbers:
        file = folder / segment_name(number)
        try:
            found, size = _recovered(file)
        except FileNotFoundError:
            yield VerifyFinding(file, is_fault=False, text="removed meanwhile")
            continue
        except (CorruptLogError, FormatVersionError) as cause:
            yield VerifyFinding(file, is_fault=number != numbers[-1], text=cause.message)
            previous = None
            continue
        if found.header.number != number or found.header.epoch != epoch:
            text = f"says that it is segment {found.header.number} of epoch {found.header.epoch}"
            yield VerifyFinding(file, is_fault=True, text=text)
            previous = None
            continue
        yield from _judge_predecessor(folder, previous, found)
        yield VerifyFinding(
            file, is_fault=False, text=f"{found.valid_end} bytes from {found.header.start} to {found.end}"
        )
        if number == numbers[-1] and found.valid_end < size:
            reason = found.damage or "no commit follows"
            yield VerifyFinding(
                file, is_fault=False, text=f"{size - found.valid_end} bytes at the end do not count: {reason}"
            )
        previous = found


def _judge_predecessor(
    folder: Path, previous: RecoveredSegment | None, found: RecoveredSegment
) -> Iterator[VerifyFinding]:
    """
    A segment names the byte up to which the one before counts: it must verify up to there, and with it the position.
    """
    if previous is None:
        return
    file = folder / segment_name(previous.header.number)
    if found.header.number != previous.header.number + 1:
        missing = f"{segment_name(previous.header.number + 1)} is not there"
        yield VerifyFinding(folder, is_fault=True, text=missing)
    elif previous.verified_end < found.header.predecessor_end:
        text = f"counts up to byte {found.header.predecessor_end}, verifies up to {previous.verified_end}: {previous.damage}"
        yield VerifyFinding(file, is_fault=True, text=text)
    elif previous.valid_end == found.header.predecessor_end and previous.end != found.header.start:
        text = f"ends at {previous.end}, its successor starts at {found.header.start}"
        yield VerifyFinding(file, is_fault=True, text=text)


def _recovered(file: Path) -> tuple[RecoveredSegment, int]:
    handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(handle).st_size
        return recover_segment(partial(read_at, handle), size), size
    finally:
        os.close(handle)

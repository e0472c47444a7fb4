"""
The data folder and its one owner. A shell.

A service owns a data folder while it holds a lock on the file `lock` in it. Those of its processes that write there
inherit the lock: should the supervisor be killed, the folder stays taken until the last of them has gone, and a
successor waits for that instead of writing beside it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_LOCK_NAME: Final = "lock"
_POLL_INTERVAL_S: Final = 0.05
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_MAY: Final = stat.S_IRWXG | stat.S_IRWXO


def prepare_folder(folder: Path) -> None:
    """
    Make a folder that is ours alone, or make an existing one so.

    Raises:
        ConfigError: it cannot be made, is no folder, or others may write in it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
    except FileExistsError:
        raise ConfigError(f"{folder} is not a folder: choose another --data-dir") from None
    except OSError as cause:
        raise ConfigError(f"the folder {folder} cannot be used: {cause.strerror}; choose another --data-dir") from cause
    if mode & _OTHERS_MAY_WRITE:
        # Whoever writes here can make us serve or delete anything. What is there may not be ours: do not mend it.
        raise ConfigError(f"others may write in {folder}: `chmod 700 {folder}` after a look at what is in it")
    if mode & _OTHERS_MAY:
        try:
            folder.chmod(0o700)
        except OSError:
            raise ConfigError(
                f"others may read {folder}, and it belongs to another user: choose another --data-dir"
            ) from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"{folder} cannot be written: choose another --data-dir, or mend its owner")


class FolderLock:
    """
    The right to write in a data folder.

    Attributes:
        descriptor: to be inherited by processes that write there; they hold the lock by having it.
    """

    def __init__(self, descriptor: int) -> None:
        """
        Keep a locked descriptor.
        """
        self.descriptor: Final = descriptor

    @classmethod
    def take(cls, folder: Path, *, patience_s: float) -> FolderLock:
        """
        Take the lock, waiting for what is left of a predecessor that has died, but not for one that lives.

        Raises:
            ConfigError: somebody else has it.
        """
        descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 32, 0).strip().decode("ascii", "replace")
                if _lives(owner) or time.monotonic() > deadline:
                    os.close(descriptor)
                    raise ConfigError(_describe_owner(folder, owner)) from None
                time.sleep(_POLL_INTERVAL_S)
                continue
            except OSError as cause:
                os.close(descriptor)
                raise ConfigError(
                    f"files in {folder} cannot be locked ({cause.strerror}): choose a local disk"
                ) from cause
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            return cls(descriptor)

    @classmethod
    def attempt(cls, folder: Path) -> FolderLock | None:
        """
        Take the lock if nobody has it now; None when somebody does.

        Raises:
            ConfigError: files there cannot be locked.
        """
        descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as cause:
            os.close(descriptor)
            raise ConfigError(f"files in {folder} cannot be locked ({cause.strerror}): choose a local disk") from cause
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """
        Give our hold up; the lock is free when all processes that inherited it have ended too.
        """
        os.close(self.descriptor)


def _lives(pid: str) -> bool:
    """
    Tell whether a process of that id exists; an unreadable id counts as living.
    """
    if not pid.isdigit() or int(pid) <= 0:
        return bool(pid)
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _describe_owner(folder: Path, owner: str) -> str:
    if _lives(owner):
        return f"{folder} is in use by another Penstock, process {owner}: stop that one, or choose another --data-dir"
    return (
        f"{folder} is still in use by processes that outlived their supervisor (process {owner}, which is gone): "
        "end them, or choose another --data-dir"
    )

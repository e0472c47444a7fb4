"""
A disk that hangs: a small library, compiled here and loaded into the service, whose syncs do not return. A shell.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import Final

from penstock.errors import PenstockError

COMPILE_TIMEOUT_S: Final = 60.0


class ShimMissingError(PenstockError):
    """
    Met where the library cannot be made; the faults that need it are skipped, with this reason.
    """


class SyncShim:
    """
    Decides for which folders a sync hangs, in processes started with `environment`.
    """

    def __init__(self, library: Path, control: Path) -> None:
        """
        Take what `compile_shim` made.
        """
        self._library: Final = library
        self._control: Final = control

    @property
    def environment(self) -> dict[str, str]:
        """
        What a process must have in its environment to be hurt.
        """
        return {"LD_PRELOAD": str(self._library), "PENSTOCK_SYNC_SHIM": str(self._control)}

    def hang(self, *folders: Path) -> None:
        """
        Let syncs hang below these folders from now on, and return for all others.
        """
        # By rename, so that nobody reads half of it.
        fresh = self._control.with_suffix(".new")
        fresh.write_text("".join(f"{folder}\n" for folder in folders))
        fresh.rename(self._control)


async def compile_shim(folder: Path) -> SyncShim:
    """
    Make the library in a folder.

    Raises:
        ShimMissingError: there is no C compiler here, or it cannot.
    """
    if sys.platform != "linux":
        raise ShimMissingError("a hanging sync can be staged on Linux only")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ShimMissingError("no C compiler here (cc or gcc)")
    source = folder / "sync_shim.c"
    source.write_text(resources.files(__package__).joinpath("sync_shim.c").read_text())
    library = folder / "sync_shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(COMPILE_TIMEOUT_S):
        _, complaint = await process.communicate()
    if process.returncode:
        last = complaint.decode(errors="replace").strip().splitlines()[-1:]
        raise ShimMissingError(f"the C compiler failed: {' '.join(last)}")
    shim = SyncShim(library, folder / "hung-folders")
    shim.hang()
    return shim

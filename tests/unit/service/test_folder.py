from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.errors import ConfigError
from penstock.service.folder import FolderLock, prepare_folder

HOLDS = """
import sys
from pathlib import Path
from penstock.service.folder import FolderLock
lock = FolderLock.take(Path(sys.argv[1]), patience_s=0.0)
print("held", flush=True)
sys.stdin.read()
"""

LEAVES_A_CHILD = """
import subprocess, sys
from pathlib import Path
from penstock.service.folder import FolderLock
lock = FolderLock.take(Path(sys.argv[1]), patience_s=0.0)
child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.descriptor], stdout=-3, stderr=-3)
print(child.pid, flush=True)
"""


def test_a_folder_is_made_for_us_alone(tmp_path: Path) -> None:
    """
    A missing folder is made with its parents, an open one of ours is closed.
    """
    prepare_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o755)
    prepare_folder(loose)
    assert stat.S_IMODE(loose.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    """
    What others may have put there is neither trusted nor deleted.
    """
    tmp_path.chmod(mode)
    with pytest.raises(ConfigError, match=r"chmod 700"):
        prepare_folder(tmp_path)
    tmp_path.chmod(0o700)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """
    A file in the place of the folder is named.
    """
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigError, match="not a folder"):
        prepare_folder(tmp_path / "data")


def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path) -> None:
    """
    While a process holds the folder another is refused at once, with the first one's id; afterwards it is not.
    """
    first = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdin is not None
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match=f"in use by another Penstock, process {first.pid}"):
        FolderLock.take(tmp_path, patience_s=60.0)
    first.kill()
    first.wait()
    first.stdin.close()
    first.stdout.close()
    lock = FolderLock.take(tmp_path, patience_s=0.0)
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_children_that_outlive_their_supervisor_still_hold_it(tmp_path: Path) -> None:
    """
    The folder is free only when everybody who inherited the lock has gone.
    """
    gone = subprocess.run([sys.executable, "-c", LEAVES_A_CHILD, tmp_path], check=True, capture_output=True, text=True)
    child = int(gone.stdout)
    with pytest.raises(ConfigError, match="outlived their supervisor"):
        FolderLock.take(tmp_path, patience_s=0.0)
    os.kill(child, 9)
    FolderLock.take(tmp_path, patience_s=30.0).release()

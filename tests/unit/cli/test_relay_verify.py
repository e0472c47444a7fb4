from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.cli.main import cli
from penstock.relay.epochs import epoch_name
from penstock.relay.limits import RelayLimits
from penstock.relay.segments import segment_name
from relay_disk import FaultyDisk
from relay_kit import Source, identity, make_log, recorded, rows, session

CLEAN = {"PENSTOCK_DATA_DIR": "", "PENSTOCK_RELAY_DIR": ""}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["relay", "verify", *arguments], env=CLEAN, prog_name="penstock")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder with a relay log of three segments."""
    disk = FaultyDisk(tmp_path / "scratch")
    log = make_log(tmp_path / "data" / "relay", disk, limits=RelayLimits(segment_bytes_max=1))
    log.open()
    log.begin_session(session(identity(is_new=True)), recorded())
    source = Source()
    for _ in range(3):
        source.commit(rows(random.Random(1), 3))
        log.append(source.send())
    disk.process_ends()
    return tmp_path / "data"


def test_a_whole_log_is_well(data_dir: Path) -> None:
    """Every file is named, the status is 0, and with --quiet there is nothing to read."""
    result = run("--data-dir", str(data_dir))
    assert result.exit_code == 0, result.output
    assert segment_name(2) in result.output
    assert "All of it can be read" in result.output
    quiet = run("--data-dir", str(data_dir), "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_damage_is_named_and_ends_with_one(data_dir: Path) -> None:
    """The faulty file is named, also with --quiet, and when the log is named by itself."""
    file = data_dir / "relay" / epoch_name(1) / segment_name(2)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    result = run("--relay-dir", str(data_dir / "relay"), "--quiet")
    assert result.exit_code == 1
    assert f"fault {epoch_name(1)}/{segment_name(2)}" in result.output
    assert segment_name(1) not in result.output


def test_a_place_without_a_log_is_a_mistake(tmp_path: Path) -> None:
    """One sentence says what to name; the status is 2."""
    result = run("--data-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "--relay-dir" in result.output
    assert "Traceback" not in result.output


def test_the_help_tells_statuses_and_examples() -> None:
    """Who reads it knows what a script may rely on."""
    output = run("--help").output
    for word in ("Exit status: 0", "--data-dir", "Changes nothing", "--quiet"):
        assert word in output

from __future__ import annotations

import json
from pathlib import Path

from penstock.liveness.black_box import FILE_NAME, FOLDER_NAME, OLDER_NAME, RECORD_BYTES_MAX, RECORDS_MAX, BlackBox


def lines(folder: Path, name: str) -> list[dict[str, object]]:
    """
    The records of one file.
    """
    return [json.loads(line) for line in (folder / FOLDER_NAME / name).read_text().splitlines()]


def test_records_are_kept_in_order_across_restarts(tmp_path: Path) -> None:
    """
    Each record is a line; another run adds to the same file, which nobody else may read.
    """
    for number in range(2):
        box = BlackBox(tmp_path)
        box.record({"handle": f"h-{number}", "reason": "it hung"})
        box.close()
    assert [record["handle"] for record in lines(tmp_path, FILE_NAME)] == ["h-0", "h-1"]
    assert (tmp_path / FOLDER_NAME / FILE_NAME).stat().st_mode & 0o077 == 0
    assert (tmp_path / FOLDER_NAME).stat().st_mode & 0o077 == 0


def test_number_and_length_are_bounded(tmp_path: Path) -> None:
    """
    A full file replaces the one before, and a record that is too long keeps only its name and reason.
    """
    box = BlackBox(tmp_path)
    box.record({"handle": "long", "reason": "x" * 9000, "more": "y" * 9000})
    box.close(10)
    (record,) = lines(tmp_path, FILE_NAME)
    assert record["handle"] == "long"
    assert record["is_cut"] is True
    assert len(json.dumps(record)) < RECORD_BYTES_MAX
    for start in range(0, 2 * RECORDS_MAX + 10, RECORDS_MAX):
        box = BlackBox(tmp_path)
        for number in range(start, start + RECORDS_MAX):
            box.record({"number": number})
        box.close(10)
    assert len(lines(tmp_path, FILE_NAME)) <= RECORDS_MAX
    assert len(lines(tmp_path, OLDER_NAME)) == RECORDS_MAX
    assert lines(tmp_path, FILE_NAME)[-1]["number"] == 3 * RECORDS_MAX - 1
    assert sorted(path.name for path in (tmp_path / FOLDER_NAME).iterdir()) == [OLDER_NAME, FILE_NAME]


def test_a_disk_that_refuses_costs_the_record_only(tmp_path: Path) -> None:
    """
    Where nothing can be written, records are dropped and counted.
    """
    (tmp_path / FOLDER_NAME).write_text("in the way")
    box = BlackBox(tmp_path)
    box.record({"handle": "h"})
    box.close(10)
    assert box.dropped_count == 1

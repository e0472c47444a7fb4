from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "penstock"
WALL_CLOCKS = {"time", "time_ns", "now", "utcnow"}
DISPLAY_ONLY = {
    "replication/streaming.py",  # the time in a status update, which the server shows
    "api/shape_route.py",  # the cursor, which counts from a date
    "relay/log.py",  # when an epoch began, for people
    "relay/writer.py",  # likewise
    "service/engine/parts.py",  # the time in a handle's name
    "service/sweep.py",  # the date of a black-box record, and of a rest that outlives this process
}


def modules() -> list[tuple[str, str]]:
    """
    List the service's modules by path.
    """
    return [
        (str(path.relative_to(SOURCE)), path.read_text())
        for path in sorted(SOURCE.rglob("*.py"))
        if path.relative_to(SOURCE).parts[0] not in {"testing", "cli", "client", "integrations", "dashboard"}
    ]


def test_nobody_moves_the_slot_but_the_stream() -> None:
    """
    No module advances a slot by SQL, and one alone builds the message that confirms a position (S5).
    """
    assert [name for name, text in modules() if "pg_replication_slot_advance" in text] == []
    builders = [
        name for name, text in modules() if "encode_standby_status(" in text and "def encode_standby" not in text
    ]
    assert builders == ["replication/streaming.py"]


def test_durations_are_never_measured_by_the_wall_clock() -> None:
    """
    Setting the clock must not make anybody late: outside of what is only shown, no module asks for the time of day.
    """
    asking: set[str] = set()
    for name, text in modules():
        for node in ast.walk(ast.parse(text)):
            is_asking = isinstance(node, ast.Attribute) and node.attr in WALL_CLOCKS
            if is_asking and ast.unparse(node).split(".")[0] in {"time", "datetime"}:
                asking.add(name)
    assert asking <= DISPLAY_ONLY, sorted(asking - DISPLAY_ONLY)

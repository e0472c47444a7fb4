from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from penstock.errors import ConfigError
from penstock.service.foundation import Foundation
from penstock.service.lifecycle import Role, describe_processes, heartbeat_cell, read_supervisor
from penstock.service.settings import Settings
from penstock.service.supervisor import Outcome, Supervisor

HERE = Path(__file__).parent
CHILD = HERE / "supervised_role.py"

SUPERVISES = """
import sys
from pathlib import Path
from penstock.service.foundation import Foundation
from penstock.service.settings import Settings
from penstock.service.supervisor import Supervisor
settings = Settings(database_url="postgresql://h/d", insecure=True, data_dir=Path(sys.argv[1]), host="127.0.0.1",
    port=0, drain_timeout_s=5.0)
with Foundation(settings) as foundation:
    outcome = Supervisor(foundation, command_of=lambda role: [sys.executable, sys.argv[2]]).run()
sys.exit(outcome.status)
"""


class Run:
    """
    A supervisor in a thread of this process, over real children.
    """

    def __init__(self, folder: Path, **changes: object) -> None:
        """
        Prepare it.
        """
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self.settings = Settings(
            **{  # type: ignore[arg-type]  # settings of many types, given by name
                "database_url": "postgresql://h/d",
                "insecure": True,
                "data_dir": folder,
                "host": "127.0.0.1",
                "port": 0,
                "drain_timeout_s": 8.0,
                **changes,
            }
        )
        self.foundation: Foundation
        self.supervisor: Supervisor
        self.outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self.foundation = Foundation(self.settings)
        self.supervisor = Supervisor(self.foundation, command_of=lambda _: [sys.executable, str(CHILD)])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.supervisor.request_stop()
            self.supervisor.request_stop()
        self.join()
        self.foundation.__exit__(None, None, None)

    def _run(self) -> None:
        self.outcome = self.supervisor.run()

    def join(self) -> Outcome:
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.outcome is not None
        return self.outcome

    def events(self, what: str) -> list[tuple[str, int]]:
        """
        Who has noted this so far: names and process ids.
        """
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        noted = [line.split() for line in lines]
        return [(name, int(pid)) for event, name, pid in noted if event == what]

    def ready(self) -> list[str]:
        """
        Who says on the board that it is ready.
        """
        return [str(process["role"]) for process in listed(self) if process.get("is_ready")]


def listed(run: Run) -> list[dict[str, object]]:
    """
    The processes as operators see them.
    """
    return describe_processes(run.foundation.board, time.monotonic())


def wait_until(is_so: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """
    Wait for something other processes do.
    """
    deadline = time.monotonic() + timeout_s
    never, writer = os.pipe()
    try:
        while not is_so():
            assert time.monotonic() < deadline, "waited in vain"
            select.select([never], [], [], 0.02)
    finally:
        os.close(never)
        os.close(writer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """
    A data folder.
    """
    made = tmp_path / "data"
    made.mkdir(mode=0o700)
    return made


def test_the_end_comes_in_order(folder: Path) -> None:
    """
    Asked to end, web goes first, then the engine, then the receiver; the status is 0.
    """
    with Run(folder, web_workers=2) as run:
        wait_until(lambda: sorted(run.ready()) == ["engine", "receiver", "web", "web"])
        run.supervisor.request_stop()
        assert run.join() == Outcome(0)
        order = [name for name, _ in run.events("ended")]
        assert sorted(order[:2]) == ["web0", "web1"]
        assert order[2:] == ["engine0", "receiver0"]


def test_processes_are_listed_for_operators(folder: Path) -> None:
    """
    Each part is listed with role, process and age, the supervisor too.
    """
    with Run(folder) as run:
        wait_until(lambda: len(run.ready()) == 3)
        processes = listed(run)
        assert [process["role"] for process in processes] == ["supervisor", "receiver", "engine", "web"]
        assert all(process["pid"] for process in processes)
        assert all(isinstance(age := process["uptime_s"], float) and age > 0 for process in processes)
        assert str(processes[1]["state"]).startswith("beat")


def test_a_killed_part_comes_back_alone(folder: Path) -> None:
    """
    A part that is killed is started again; the others do not notice.
    """
    with Run(folder) as run:
        wait_until(lambda: len(run.ready()) == 3)
        [(_, engine)] = [event for event in run.events("started") if event[0] == "engine0"]
        os.kill(engine, signal.SIGKILL)
        wait_until(lambda: len([e for e in run.events("started") if e[0] == "engine0"]) == 2)
        assert len(run.events("started")) == 4
        wait_until(lambda: len(run.ready()) == 3)
        assert [process["restarts"] for process in listed(run)[1:]] == [0, 1, 0]


def test_a_part_that_cannot_live_ends_the_service(folder: Path) -> None:
    """
    When the budget of restarts is used up the service ends with 70 and says which part it was.
    """
    (folder / "plan-engine0").write_text("die")
    with Run(folder, restarts_per_hour_max=3) as run:
        outcome = run.join()
        assert outcome.status == 70
        assert "the engine ended more than 3 times" in outcome.sentence
        assert "exit status 3" in outcome.sentence
        assert len([e for e in run.events("started") if e[0] == "engine0"]) == 4
        assert [name for name, _ in run.events("ended")] == ["web0", "receiver0"]


def test_a_fault_for_a_person_ends_the_service_with_its_sentence(folder: Path) -> None:
    """
    A part that says at its first start that only a person can help is not tried again.
    """
    (folder / "plan-receiver0").write_text("config")
    with Run(folder) as run:
        assert run.join() == Outcome(78, "wal_level is not logical: set it")
        assert len([e for e in run.events("started") if e[0] == "receiver0"]) == 1


def test_a_fault_after_success_is_retried(folder: Path) -> None:
    """
    Once a part was ready, the same fault is the world's, and the part is told so at its restart.
    """
    (folder / "plan-receiver0").write_text("once")
    with Run(folder) as run:
        wait_until(lambda: "receiver" in run.ready())
        # The supervisor has seen it once it has said something itself after that.
        before = time.monotonic()
        wait_until(lambda: (state := read_supervisor(run.foundation.board)) is not None and state.at_s > before + 0.3)
        (folder / "seen").write_text("")
        wait_until(lambda: len([e for e in run.events("started") if e[0] == "receiver0"]) == 2)
        wait_until(lambda: len(run.ready()) == 3)


def test_a_hung_part_is_killed_and_replaced(folder: Path) -> None:
    """
    A part whose heartbeat stands still past its limit is killed, also one that is stopped by a signal.
    """
    with Run(folder, engine_hang_s=1.0) as run:
        wait_until(lambda: len(run.ready()) == 3)
        [(_, engine)] = [event for event in run.events("started") if event[0] == "engine0"]
        os.kill(engine, signal.SIGSTOP)
        wait_until(lambda: len([e for e in run.events("started") if e[0] == "engine0"]) == 2)
        wait_until(lambda: "engine" in run.ready())
        (folder / "hang-engine0").write_text("")
        wait_until(lambda: len([e for e in run.events("started") if e[0] == "engine0"]) == 3)
        assert len([e for e in run.events("started") if e[0] == "receiver0"]) == 1


def test_who_does_not_end_in_time_is_killed(folder: Path) -> None:
    """
    A stubborn engine costs its share of the time; the receiver still ends in order, the status is 1.
    """
    (folder / "plan-engine0").write_text("stubborn")
    with Run(folder, drain_timeout_s=4.0) as run:
        wait_until(lambda: len(run.ready()) == 3)
        began = time.monotonic()
        run.supervisor.request_stop()
        assert run.join().status == 1
        assert time.monotonic() - began < 6.0
        assert [name for name, _ in run.events("ended")] == ["web0", "receiver0"]


def test_clients_keep_their_port_over_a_web_restart(folder: Path) -> None:
    """
    While the web worker is away connections are accepted by the waiting socket.
    """
    with Run(folder) as run:
        wait_until(lambda: len(run.ready()) == 3)
        [(_, web)] = [event for event in run.events("started") if event[0] == "web0"]
        os.kill(web, signal.SIGKILL)
        with socket.create_connection(("127.0.0.1", run.foundation.settings.port), timeout=5):
            wait_until(lambda: len([e for e in run.events("started") if e[0] == "web0"]) == 2)


def test_a_taken_port_is_named(folder: Path) -> None:
    """
    Somebody else's port ends the start with a sentence, and leaves the folder free.
    """
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = Settings(
            database_url="postgresql://h/d", data_dir=folder, host="127.0.0.1", port=other.getsockname()[1]
        )
        with pytest.raises(ConfigError, match="choose another with --port"):
            Foundation(settings)
    with Foundation(settings):
        pass


def test_a_long_folder_name_does_not_matter(tmp_path: Path) -> None:
    """
    The Unix socket moves to a short private folder where its path would be too long for the system.
    """
    folder = tmp_path / ("long-" * 20)
    settings = Settings(database_url="postgresql://h/d", data_dir=folder, host="127.0.0.1", port=0)
    with Foundation(settings) as foundation:
        path = foundation.engine_socket
        assert len(str(path)) < 100
        assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not path.parent.exists()


def test_memory_storage_leaves_nothing(tmp_path: Path) -> None:
    """
    With storage in memory a temporary folder is used and removed.
    """
    settings = Settings(database_url="postgresql://h/d", data_dir=tmp_path / "no", storage="memory", port=0)
    with Foundation(settings) as foundation:
        used = foundation.settings.data_dir
        assert used.exists()
    assert not used.exists()
    assert not (tmp_path / "no").exists()


def test_sigterm_to_everybody_still_ends_in_order(folder: Path) -> None:
    """
    A stop that signals every process at once, as service managers do, is carried out one after the other.
    """
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISES, folder, CHILD])
    noted = Run(folder)
    wait_until(lambda: len(noted.events("started")) == 3)
    for _, pid in noted.events("started"):
        os.kill(pid, signal.SIGTERM)
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 0
    assert [name for name, _ in noted.events("ended")] == ["web0", "engine0", "receiver0"]


def test_children_end_when_their_supervisor_is_killed(folder: Path) -> None:
    """
    End-of-file on the life pipe is the word to end, and a successor can start when they have.
    """
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISES, folder, CHILD])
    noted = Run(folder)
    wait_until(lambda: len(noted.events("started")) == 3)
    supervisor.kill()
    supervisor.wait()
    wait_until(lambda: len(noted.events("ended")) == 3)
    settings = Settings(database_url="postgresql://h/d", data_dir=folder, host="127.0.0.1", port=0)
    with Foundation(settings):
        pass


def test_every_role_has_a_cell_of_its_own() -> None:
    """
    No two processes write the same cell.
    """
    cells = [
        heartbeat_cell(Role.RECEIVER),
        heartbeat_cell(Role.ENGINE),
        *(heartbeat_cell(Role.WEB, n) for n in range(16)),
    ]
    assert len(set(cells)) == len(cells)

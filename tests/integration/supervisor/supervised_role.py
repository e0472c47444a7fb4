"""
A small real child program for the supervisor's tests: lives as the file `plan` in the data folder says.
"""

from __future__ import annotations

import os
import sys
import threading

from penstock.service.lifecycle import EXIT_CONFIG, RoleContext


def main() -> None:
    """
    Beat, note what happens in the file `events`, and do what the plan says.
    """
    context = RoleContext.receive()
    folder = context.settings.data_dir
    name = f"{context.role.value}{context.index}"

    def note(what: str) -> None:
        with (folder / "events").open("a") as file:
            file.write(f"{what} {name} {os.getpid()}\n")

    plan = (folder / f"plan-{name}").read_text() if (folder / f"plan-{name}").exists() else ""
    note("started")
    if plan == "die":
        sys.exit(3)
    if plan == "once":
        # Ready, then a fault that only a person can mend, then a good life.
        if not context.was_ready:
            context.heartbeat(is_ready=True)
            while not (folder / "seen").exists():
                context.stopping.wait(0.01)
            context.report("the password has changed")
            sys.exit(EXIT_CONFIG)
    elif plan == "config":
        context.report("wal_level is not logical: set it")
        sys.exit(EXIT_CONFIG)
    beats = 0
    while not context.stopping.wait(0.02):
        hangs = (folder / f"hang-{name}").exists()
        if not hangs:
            context.heartbeat(is_ready=True, state=f"beat {beats}")
            beats += 1
    note("stopping")
    if plan == "stubborn":
        threading.Event().wait()
    for listener in context.listeners:
        listener.close()
    note("ended")


if __name__ == "__main__":
    main()

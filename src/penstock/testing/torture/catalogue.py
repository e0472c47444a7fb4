"""
The faults of `penstock torture`: what each stages, whom it may cost a shape, and for how long it may hold the log.

Owns what is promised for each; staging is in `stages`, measuring in `runner`. Values only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

NOT_HELD_S: Final = 2.0
"""Where the log is said not to be held at all: time for a group sync, a status update, and looking at the slot."""
VERIFY_S_MAX: Final = 10.0
BUDGET_BYTES: Final = 16 << 20
"""The budget of the services that are tortured with bytes."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """
    The deadlines of the service that is tortured; see the settings of the same names.
    """

    flush_stall_grace_s: float = 20.0
    engine_hang_s: float = 20.0
    receiver_hang_s: float = 60.0
    web_hang_s: float = 30.0

    @property
    def verify_s(self) -> float:
        """
        How long a suspect has to show progress.
        """
        return min(VERIFY_S_MAX, self.flush_stall_grace_s / 2)

    @property
    def longest_s(self) -> float:
        """
        Longer than every one of them.
        """
        judged_s = self.flush_stall_grace_s + self.verify_s
        return 1.1 * max(judged_s, self.engine_hang_s, self.receiver_hang_s, self.web_hang_s)


DEFAULTS: Final = Deadlines()
SHORT: Final = Deadlines(flush_stall_grace_s=2.0, engine_hang_s=2.0, receiver_hang_s=3.0, web_hang_s=3.0)


class Cost(Enum):
    """
    Who may be made to start over.
    """

    NOBODY = "nobody"
    GUILTY = "the guilty"
    ALL = "all"


class Service(Enum):
    """
    Which service a fault is staged on: faults on one service are staged one after the other.
    """

    PLAIN = "plain"
    BUDGET = "with small budgets"


Bound = Callable[[Deadlines, str], float]
"""How long the log may be held, in seconds, by deadlines and mode."""


def _dead(_: Deadlines, mode: str) -> float:
    return NOT_HELD_S if mode == "relay" else 3.0


def _hung(deadlines: Deadlines, mode: str) -> float:
    return NOT_HELD_S if mode == "relay" else deadlines.flush_stall_grace_s + deadlines.verify_s + 5.0


def _struck_twice(deadlines: Deadlines, mode: str) -> float:
    return NOT_HELD_S if mode == "relay" else 2 * deadlines.engine_hang_s + 5.0


def _struck_once(deadlines: Deadlines, mode: str) -> float:
    return NOT_HELD_S if mode == "relay" else deadlines.engine_hang_s + 5.0


def _within(seconds: float) -> Bound:
    return lambda _deadlines, _mode: seconds


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """
    One fault.

    Attributes:
        name: by which it is chosen.
        what: what is done.
        promise: what must come of it.
        cost: who starts over. For `GUILTY` the guilty one must.
        bound: how long the log may be held.
        service: where it is staged.
        is_injected: whether the service itself has to fail, by PENSTOCK_FAULTS.
        needs_shim: whether a C compiler is needed.
    """

    name: str
    what: str
    promise: str
    cost: Cost
    bound: Bound
    service: Service = Service.PLAIN
    is_injected: bool = False
    needs_shim: bool = False

    @property
    def table(self) -> str:
        """
        The table of the shape that it strikes.
        """
        return "victim_" + self.name.replace("-", "_")


_GUILTY_ALONE: Final = "its shape starts over, no other"

CATALOGUE: Final = (
    FaultSpec(
        "consumer-killed",
        "a consumer vanishes after it took a change and before its flush; its table is quiet then",
        _GUILTY_ALONE,
        Cost.GUILTY,
        _dead,
        is_injected=True,
    ),
    FaultSpec(
        "consumer-ended",
        "a consumer raises after it took a change and before its flush; its table is quiet then",
        "it is replaced, nobody notices",
        Cost.NOBODY,
        _dead,
        is_injected=True,
    ),
    FaultSpec(
        "consumer-fails", "a consumer raises on one row, always", _GUILTY_ALONE, Cost.GUILTY, _dead, is_injected=True
    ),
    FaultSpec("consumer-hung", "a consumer waits for ever", _GUILTY_ALONE, Cost.GUILTY, _hung, is_injected=True),
    FaultSpec(
        "consumer-waits",
        "a consumer declares a wait and never ends it",
        _GUILTY_ALONE,
        Cost.GUILTY,
        _hung,
        is_injected=True,
    ),
    FaultSpec(
        "consumer-loops",
        "a consumer computes for ever: the engine's loop stands still",
        _GUILTY_ALONE,
        Cost.GUILTY,
        _struck_twice,
        is_injected=True,
    ),
    FaultSpec(
        "sync-hung",
        "fdatasync never returns in the folder of one shape",
        _GUILTY_ALONE,
        Cost.GUILTY,
        _hung,
        needs_shim=True,
    ),
    FaultSpec(
        "control-store-hung",
        "fdatasync does not return for the control store, then does",
        "nobody starts over; in shapes mode nothing is confirmed meanwhile, and the alarm names it",
        Cost.NOBODY,
        _dead,
        needs_shim=True,
    ),
    FaultSpec(
        "engine-stopped", "SIGSTOP to the engine", "it is replaced, nobody starts over", Cost.NOBODY, _struck_once
    ),
    FaultSpec("receiver-killed", "SIGKILL to the receiver", "nobody starts over", Cost.NOBODY, _within(10.0)),
    FaultSpec("web-killed", "SIGKILL to the web worker", "nobody starts over", Cost.NOBODY, _dead),
    FaultSpec(
        "rolling-restart",
        "the service is stopped and started again under load, twice",
        "nobody starts over",
        Cost.NOBODY,
        _within(20.0),
    ),
    FaultSpec(
        "everything-stopped",
        "SIGSTOP to every process for longer than every deadline, then SIGCONT",
        "nobody starts over",
        Cost.NOBODY,
        _within(10.0),
    ),
    FaultSpec(
        "slot-dropped",
        "the slot is dropped under the service",
        "every shape starts over, and the service goes on by itself",
        Cost.ALL,
        _within(15.0),
    ),
    FaultSpec(
        "consumer-slow",
        "a consumer is slower than its traffic for good",
        "its shape starts over before the budget is used up, no other",
        Cost.GUILTY,
        _hung,
        service=Service.BUDGET,
        is_injected=True,
    ),
    FaultSpec(
        "old-transaction",
        "a transaction of somebody else stays open while the log grows past the budget",
        "nobody starts over, and explain names it",
        Cost.NOBODY,
        _dead,
        service=Service.BUDGET,
    ),
)
"""All faults, in the order in which they are staged."""

BY_NAME: Final = {spec.name: spec for spec in CATALOGUE}
MODES: Final = ("relay", "shapes")

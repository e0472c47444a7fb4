"""
Who holds the write-ahead log or our disk: since when, how many bytes, why, and what happens next.

Owns the words in which the state of the service is told to a person who has a minute, and whether the service is ready
for clients. Answers from what is owed and from what each part last said, not from the slot: the slot tells that
something holds it, never what.

Pure. The chain is followed from the database to the files of shapes; each link that holds more than it should is named::

    server's WAL ──(server)──▶ slot's restart ──▶ confirmed ──(ours)──▶ received ──(link, queue)──▶ end of WAL
    relay log on our disk ──▶ flush boundary ──(shapes that owe)──▶ end of what was processed ──(engine)──▶ durable
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

HELD_BYTES_MIN: Final = 1 << 20
"""Less than this is on its way, and nobody's fault."""
SHAPES_TOLD_MAX: Final = 5


class OwingShape(msgspec.Struct, frozen=True, kw_only=True):
    """
    A shape among those that hold the flush boundary.

    Attributes:
        handle: its name.
        table: what it is on.
        owed_s: age of its oldest debt.
        flushed: how far it is durable, as a number.
        state: what its consumer is doing.
        verdict: what the progress sweep said of it last; empty when it is not stale.
        next: what follows.
    """

    handle: str
    table: str
    owed_s: float
    flushed: int
    state: str
    verdict: str = ""
    next: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known at one moment. Positions are numbers, 0 for unknown ones.

    Attributes:
        acknowledge: `relay` or `shapes`.
        not_active: what the engine waits for before it can serve; empty when it is active.
        phase: of the receiver's connection; empty when the receiver has said nothing.
        asleep_s: for how long all connections have been closed because nobody needed them; 0 when they are not.
        link_down_s: for how long it has not been streaming.
        receiver_silent_s: since when its process has not said anything.
        error: its last failure.
        server, received, durable, confirmed, processed, boundary: how far each part has got.
        restart: from where the server keeps WAL for our slot; 0 when that was not asked.
        server_held_by: what keeps that so far back, in words.
        relay_bytes, relay_bytes_max: size and budget of the relay log.
        relay_disk: what is wrong with its disk.
        control_failure: what is wrong with the control store.
        control_failure_s: since when.
        owing_count: how many shapes owe.
        owing: those that hold the boundary, least flushed first.
        oldest_owed_s: for how long the one that has stood still longest has been without durable progress, if stale.
        creating_count: shapes in the making that hold segments.
        alarms: what the sweep found that is no shape's fault.
        is_paused: whether the engine does not read on.
        shed_count: shapes given up because of a fault.
        resting_count: definitions that rest.
    """

    acknowledge: str = "relay"
    not_active: str = ""
    phase: str = ""
    asleep_s: float = 0.0
    link_down_s: float = 0.0
    receiver_silent_s: float = 0.0
    error: str = ""
    server: int = 0
    received: int = 0
    durable: int = 0
    confirmed: int = 0
    processed: int = 0
    boundary: int = 0
    restart: int = 0
    server_held_by: str = ""
    relay_bytes: int = 0
    relay_bytes_max: int = 0
    relay_disk: str = ""
    control_failure: str = ""
    control_failure_s: float = 0.0
    owing_count: int = 0
    owing: Sequence[OwingShape] = ()
    oldest_owed_s: float = 0.0
    creating_count: int = 0
    alarms: Sequence[str] = ()
    is_paused: bool = False
    shed_count: int = 0
    resting_count: int = 0


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """
    Something that holds bytes.

    Attributes:
        holds: `wal` on the primary, or `relay log` on our disk.
        who: in words, a shape by handle and table.
        bytes_count: how much.
        since_s: for how long; None when that is not known.
        why: the reason.
        next: what happens next, by itself or by whom.
    """

    holds: str
    who: str
    bytes_count: int
    since_s: float | None
    why: str
    next: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """
    The whole answer.

    Attributes:
        verdict: one sentence.
        wal_bytes: what the primary keeps because of us, as far as we know.
        relay_log_bytes: what our disk keeps.
        holders: who, the largest first.
    """

    verdict: str
    wal_bytes: int
    relay_log_bytes: int
    holders: Sequence[Holder]


class ReadyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """
    How old trouble may get before the service says that it is not ready.

    Attributes:
        owed_s: a debt without durable progress.
        link_s: a replication connection that does not stream, or a receiver that says nothing.
        control_s: a control store that takes nothing.
    """

    owed_s: float = 60.0
    link_s: float = 30.0
    control_s: float = 30.0


def explain(facts: Facts) -> Explanation:
    """
    Follow the chain.
    """
    start = facts.restart or facts.confirmed
    wal_bytes = _gap(start, facts.server)
    holders = [*_wal_holders(facts), *_relay_holders(facts)]
    holders.sort(key=lambda holder: -holder.bytes_count)
    return Explanation(
        verdict=_verdict(facts, holders),
        wal_bytes=wal_bytes,
        relay_log_bytes=facts.relay_bytes,
        holders=holders,
    )


def find_unready(facts: Facts, limits: ReadyLimits) -> str:
    """
    Say why clients should be sent elsewhere although the engine is active; empty when they should not.

    Names no shape and no table: the answer is open to everybody.
    """
    if facts.receiver_silent_s > limits.link_s:
        return f"the receiver has said nothing for {facts.receiver_silent_s:.0f} s"
    if facts.link_down_s > limits.link_s:
        why = f": {facts.error}" if facts.error else ""
        return f"the replication connection has not been streaming for {facts.link_down_s:.0f} s{why}"
    if facts.oldest_owed_s > limits.owed_s:
        return f"the flush boundary does not move: a debt has stood still for {facts.oldest_owed_s:.0f} s"
    if facts.control_failure and facts.control_failure_s > limits.control_s:
        return f"the control store has taken nothing for {facts.control_failure_s:.0f} s: {facts.control_failure}"
    return ""


def _gap(start: int, end: int) -> int:
    return max(0, end - start) if start else 0


def _wal_holders(facts: Facts) -> list[Holder]:
    found: list[Holder] = []
    server_held = _gap(facts.restart, facts.confirmed)
    if server_held >= HELD_BYTES_MIN:
        found.append(
            Holder(
                holds="wal",
                who="the server",
                bytes_count=server_held,
                since_s=None,
                why=facts.server_held_by or "decoding must begin there: a transaction was open, or is",
                next="ends with that transaction; Penstock has confirmed what lies behind it",
            )
        )
    found += _ours(facts)
    behind = _gap(facts.received, facts.server)
    if facts.phase and facts.phase != "streaming":
        found.append(
            Holder(
                holds="wal",
                who="the replication connection",
                bytes_count=behind or _gap(facts.confirmed, facts.server),
                since_s=facts.link_down_s,
                why=f"{facts.phase}{f': {facts.error}' if facts.error else ''}",
                next="it is tried again by itself",
            )
        )
    elif behind >= HELD_BYTES_MIN:
        is_full = "the relay log takes no more" if facts.relay_disk else "it is being received"
        found.append(
            Holder(
                holds="wal",
                who="the way from the server to us",
                bytes_count=behind,
                since_s=None,
                why=facts.relay_disk or is_full,
                next="goes on as soon as the relay log takes more" if facts.relay_disk else "arrives by itself",
            )
        )
    return found


def _ours(facts: Facts) -> list[Holder]:
    """
    Tell what lies between what we confirmed and what we received.
    """
    held = _gap(facts.confirmed, facts.received)
    if facts.acknowledge == "shapes":
        return _shape_holders(facts, "wal") if held >= HELD_BYTES_MIN or _is_stale(facts) else []
    if held < HELD_BYTES_MIN and not facts.relay_disk:
        return []
    return [
        Holder(
            holds="wal",
            who="the disk of the relay log",
            bytes_count=held,
            since_s=None,
            why=facts.relay_disk or "what was received is being synced",
            next="nothing is confirmed until it is durable" if facts.relay_disk else "is confirmed by itself",
        )
    ]


def _relay_holders(facts: Facts) -> list[Holder]:
    if facts.acknowledge == "shapes":
        return []
    found: list[Holder] = []
    unread = _gap(facts.processed, facts.durable)
    if unread >= HELD_BYTES_MIN:
        found.append(
            Holder(
                holds="relay log",
                who="the engine",
                bytes_count=unread,
                since_s=None,
                why="memory is full, it does not read on" if facts.is_paused else (facts.not_active or "it is reading"),
                next="goes on when files take what is in memory" if facts.is_paused else "is caught up by itself",
            )
        )
    if _gap(facts.boundary, facts.processed) >= HELD_BYTES_MIN or _is_stale(facts):
        found += _shape_holders(facts, "relay log")
    return found


def _is_stale(facts: Facts) -> bool:
    return any(shape.verdict for shape in facts.owing)


def _shape_holders(facts: Facts, holds: str) -> list[Holder]:
    end = facts.received if holds == "wal" else facts.processed
    if facts.control_failure:
        return [
            Holder(
                holds=holds,
                who="the control store",
                bytes_count=_gap(facts.boundary, end),
                since_s=facts.control_failure_s,
                why=facts.control_failure,
                next="the boundary moves when it can be recorded",
            )
        ]
    found = [
        Holder(
            holds=holds,
            who=f"shape {shape.handle} on {shape.table}",
            bytes_count=_gap(shape.flushed, end),
            since_s=shape.owed_s,
            why=shape.verdict or f"not settled yet ({shape.state})",
            next=shape.next or "is settled by itself",
        )
        for shape in facts.owing[:SHAPES_TOLD_MAX]
    ]
    if not found and facts.creating_count:
        found.append(
            Holder(
                holds=holds,
                who=f"{facts.creating_count} shapes in the making",
                bytes_count=_gap(facts.boundary, end),
                since_s=None,
                why="their snapshots are being taken",
                next="ends with their snapshots",
            )
        )
    return found


def _verdict(facts: Facts, holders: Sequence[Holder]) -> str:
    if facts.not_active:
        return f"Not serving yet: waiting for {facts.not_active}."
    if facts.asleep_s:
        return f"Asleep for {facts.asleep_s:.0f} s: without requests and changes no connection is kept; a request wakes it."
    if facts.phase and facts.phase != "streaming":
        return f"The replication connection is down ({facts.phase})."
    if facts.alarms:
        return f"{facts.alarms[0][:1].upper()}{facts.alarms[0][1:]}."
    if facts.control_failure:
        return "The control store takes nothing, so the flush boundary stands still."
    if _is_stale(facts):
        return "The flush boundary is held by shapes without durable progress; they are being looked into."
    held = [holder for holder in holders if holder.bytes_count >= HELD_BYTES_MIN]
    if not held:
        return "Nothing is held back."
    return f"All is moving; most is held by {held[0].who}."

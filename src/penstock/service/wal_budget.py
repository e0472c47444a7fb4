"""
Looks every few seconds at how many bytes are kept on our account, says so in time, and gives shapes up at the limit.

What is decided is in `penstock.liveness.budget`. Shell: one task, with a connection of its own, so that busy pools do
not blind it. While the database is away nothing is known and nobody is given up; the relay log's budget is looked at all
the same, because it is on our own disk.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Final

import structlog

from penstock.collector.flush_tracker import Debt, FlushTracker
from penstock.consumers.registry import ConsumerRegistry
from penstock.consumers.settling import Settler
from penstock.database.pool import ConnectionPool
from penstock.database.session import Row
from penstock.errors import SourceError
from penstock.liveness.budget import (
    SHED_MAX,
    Attribution,
    Debtor,
    Pressure,
    Retained,
    attribute,
    choose,
    find_budget,
    find_pressure,
)
from penstock.postgres.quoting import quote_literal
from penstock.service.cells import ReceiverReport
from penstock.service.settings import Settings

_log: Final = structlog.get_logger(__name__)

POLL_S: Final = 10.0
NAMED_MAX: Final = 3
OLD_TRANSACTION_S_MAX: Final = 30.0
"""A transaction that is open for longer is named when the server keeps log; less with a short grace, as in tests."""

_QUERY: Final = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'), pg_wal_lsn_diff(s.restart_lsn, '0/0'),
       pg_wal_lsn_diff(s.confirmed_flush_lsn, '0/0'), s.safe_wal_size, s.wal_status,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
       coalesce(r.sync_state, ''),
       coalesce(
           (SELECT format('transaction prepared %s s ago: %s', round(extract(epoch FROM now() - prepared)), gid)
            FROM pg_prepared_xacts WHERE prepared < now() - interval '{old_s} s' ORDER BY prepared LIMIT 1),
           (SELECT format('transaction open for %s s, pid %s', round(extract(epoch FROM now() - xact_start)), pid)
            FROM pg_stat_activity
            WHERE backend_xid IS NOT NULL AND xact_start < now() - interval '{old_s} s' ORDER BY xact_start LIMIT 1), '')
FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
WHERE s.slot_name = {slot}
"""


class WalBudget:
    """
    Watches the budgets.

    Attributes:
        retained: what the server said last; None while it has said nothing.
        attribution: whose that is.
    """

    def __init__(
        self,
        settings: Settings,
        pool: ConnectionPool,
        *,
        tracker: FlushTracker,
        registry: ConsumerRegistry,
        settler: Settler,
        report: Callable[[], ReceiverReport | None],
        clock: Callable[[], float],
        poll_s: float = POLL_S,
        may_poll: asyncio.Event | None = None,
        may_pin: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Take what it looks at.

        Args:
            settings: of the service.
            pool: connections of its own.
            tracker: the debts.
            registry: the shapes.
            settler: is asked to hurry.
            report: what the receiver said last.
            clock: the one that dates debts.
            poll_s: how often it looks.
            may_poll: looks wait until it is set; None for always.
            may_pin: whether the disk of the relay log has room for what only shapes keep.
        """
        self._may_pin: Final = may_pin
        self._may_poll: Final = may_poll
        self._settings: Final = settings
        self._pool: Final = pool
        self._tracker: Final = tracker
        self._registry: Final = registry
        self._settler: Final = settler
        self._report: Final = report
        self._clock: Final = clock
        self._poll_s: Final = poll_s
        self._old_s: Final = min(OLD_TRANSACTION_S_MAX, 1.5 * settings.flush_stall_grace_s)
        self.retained: Retained | None = None
        self.attribution: Attribution | None = None
        self.problems: list[str] = []
        self._was_pressed = Pressure.NONE

    async def run(self) -> None:
        """
        Look, until cancelled.
        """
        while True:
            if self._may_poll is not None:
                await self._may_poll.wait()
            await self.look()
            await asyncio.sleep(self._poll_s)

    async def look(self) -> None:
        """
        Look once.
        """
        try:
            rows = await self._pool.query(
                _QUERY.format(slot=quote_literal(self._settings.slot_name), old_s=self._old_s)
            )
            self._take(rows)
        except SourceError:
            # The connection itself tells that the database is away; what was known is out of date.
            self.retained = self.attribution = None
        self.problems = []
        self._judge_server()
        self._judge_ours()

    def _take(self, rows: list[Row]) -> None:
        report = self._report()
        if not rows or report is None:
            self.retained = self.attribution = None
            return
        end, restart, confirmed, safe, wal_status, keep_mib, sync_state, held_by = rows[0]
        self.retained = Retained(
            end=int(end or 0),
            restart=int(restart or 0),
            confirmed=int(confirmed or 0),
            acknowledged=report.confirmed,
            received=report.received,
            safe_bytes=None if safe is None else int(safe),
            keep_bytes=None if keep_mib is None or int(keep_mib) < 0 else int(keep_mib) << 20,
            wal_status=wal_status or "",
            held_by=held_by or "",
            is_synchronous=sync_state in {"sync", "quorum"},
        )
        self.attribution = attribute(self.retained)

    def _judge_server(self) -> None:
        retained, attribution = self.retained, self.attribution
        if retained is None or attribution is None:
            return
        if retained.is_synchronous:
            self.problems.append(
                "this service counts as a synchronous standby: every commit of the database waits for it; take it out of "
                "synchronous_standby_names"
            )
        budget = find_budget(self._settings.wal_bytes_max, retained.keep_bytes)
        if find_pressure(attribution.total, budget) is Pressure.NONE:
            return
        parts = {
            f"the server ({retained.held_by or 'an old transaction'})": attribution.server,
            "the connection": attribution.link,
            "shapes" if self._settings.acknowledge == "shapes" else "the relay log": attribution.ours,
            "what we have not received": attribution.queue,
        }
        largest = max(parts, key=lambda name: parts[name])
        self.problems.append(
            f"the primary keeps {attribution.total >> 20} MiB of {(budget or 0) >> 20} MiB, most of it held by {largest}"
        )

    def _judge_ours(self) -> None:
        """
        Look at what shapes may be given up for: bytes that only shapes hold.
        """
        # What the engine has not read yet is not theirs.
        held = self._tracker.last_seen_offset.value - self._tracker.last_global_flushed_offset.value
        budget: int | None = self._settings.relay_bytes_max
        if self._settings.acknowledge == "shapes":
            held = 0 if self.attribution is None else min(held, self.attribution.ours)
            keep_bytes = None if self.retained is None else self.retained.keep_bytes
            budget = find_budget(self._settings.wal_bytes_max, keep_bytes)
        pressure = find_pressure(held, budget)
        if held >= self._settings.relay_segment_bytes and not self._may_pin():
            # Less than a segment frees nothing.
            pressure = Pressure.HARD
        if pressure is not self._was_pressed:
            _log.warning("budget of bytes", pressure=pressure.value, held_bytes=held, budget_bytes=budget)
            self._was_pressed = pressure
        if pressure is Pressure.NONE:
            return
        debts = self._tracker.pinning_debts(SHED_MAX + 1)
        entries = [entry for debt in debts if (entry := self._registry.entry(debt.incarnation)) is not None]
        self._settler.ask([entry for entry in entries if entry.condemned is None])
        names = ", ".join(f"{entry.handle} on {entry.definition.table.name}" for entry in entries[:NAMED_MAX])
        self.problems.append(f"{held >> 20} MiB of {(budget or 0) >> 20} MiB are held by shapes that owe: {names}")
        if pressure is Pressure.HARD:
            self._shed(debts, held)

    def _shed(self, debts: list[Debt], held: int) -> None:
        """
        Give up whom the rule chooses among those that have had time: bytes that arrived just now are nobody's fault.
        """
        before = self._clock() - self._settings.flush_stall_grace_s
        old = list(itertools.takewhile(lambda debt: debt.since <= before, debts))
        end = debts[len(old)].flushed if len(old) < len(debts) else self._tracker.last_seen_offset
        debtors = []
        for debt in old:
            entry = self._registry.entry(debt.incarnation)
            if entry is None or entry.condemned is not None:
                # Somebody is going already: see first what that frees.
                return
            log = None if entry.consumer is None else entry.consumer.log
            size = 0 if log is None else log.file_bytes + log.tail_bytes
            debtors.append(Debtor(debt.incarnation, debt.flushed.value, size))
        for debtor in choose(debtors, end.value):
            entry = self._registry.entry(debtor.incarnation)
            if entry is not None:
                reason = f"budget: shapes hold {held >> 20} MiB and this one is the cheapest to start over"
                self._registry.condemn([entry], reason, is_fault=True)

"""
Keeps tables in the publication with replica identity full, and the barrier behind each addition. A shell.

Theory of the barrier
---------------------

Logical decoding judges a row by the catalog as it was when the row was written. A row that was written before its table
joined the publication and committed afterwards is therefore never sent. A snapshot taken in between does not show it
either, so it would be missing for good. Hence, once the addition is committed:

1. Look which transactions hold a lock under which rows of the table (or of a partition) may be written, and have an id.
   Whoever wrote before the addition and has not ended is among them: locks and id are kept to the end of a transaction.
   One without an id has not written yet, and what it writes from now on is sent.
2. Wait until all of these have ended, prepared ones included. Nothing is locked meanwhile, so nobody waits for us.
3. Record that the barrier was passed for this *membership*, named by the oid of the catalog row that makes the table a
   member. A table that left the publication and returned has another one, and the barrier is passed anew.

A snapshot taken after step 2 sees all that the stream does not carry. When a recorded membership is found to have
ended (somebody took the table out by hand), changes are missing for the shapes that are there: `on_lost` gives them up
durably, and only then the record is replaced.

Locks: the DDL queues for its locks at most `LOCK_TIMEOUT_MS` at a time, with pauses, because all other users of the table
queue behind it; after `ALTER_S_MAX` it is given up. The barrier goes on for as long as it takes, in a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

import structlog

from penstock.database.abc import BarrierFacts
from penstock.database.failures import DATABASE_AWAY, TABLE_LOCKED, DeadlineError, ServerRefusedError, judge, refuse
from penstock.database.forms import compare_forms, parse_form
from penstock.database.pool import QUERY_S_MAX, ConnectionPool
from penstock.database.queries import (
    ARRIVED_WITH_ROWS,
    LISTED_TABLES,
    STILL_RUNNING,
    WRITERS,
    PublicationState,
    add_to_publication,
    alter_publication,
    drop_from_publication,
    identity_full,
    parse_publication_state,
    publication_state,
    write_oids,
)
from penstock.errors import PenstockError, RequestError, SourceError
from penstock.postgres.quoting import quote_identifier
from penstock.postgres.relation import Table, TableId

WAIT_S_MAX: Final = 5.0
ALTER_S_MAX: Final = 5.0
LOCK_TIMEOUT_MS: Final = 1000
_LOCK_PAUSE_S: Final = 0.1
_POLL_S_MIN: Final = 0.02
_POLL_S_MAX: Final = 0.5
_RECENT_S: Final = 60.0  # a table that was asked for so lately is not superfluous: its shape is being made

# Somebody else changed the same thing at the same time; look again. duplicate_object, undefined_object,
# deadlock_detected, internal_error ("tuple concurrently updated").
_RACES: Final = frozenset({"42710", "42704", "40P01", "XX000"})
_LOCK_NOT_AVAILABLE: Final = "55P03"
_INVALID_PARAMETER_VALUE: Final = "22023"

_NAME: Final = "Penstock"
_MANUAL_SETTING: Final = "PENSTOCK_MANUAL_TABLE_PUBLISHING"

_log = structlog.get_logger(__name__)


class PublicationTables:
    """
    The tables of one publication. All calls in one event loop.

    Whoever calls `ensure` counts its shape from before the call, so that `release` for the last other shape does not
    come in between.

    Attributes:
        name: the publication.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        name: str,
        facts: BarrierFacts,
        *,
        on_lost: Callable[[int, str, frozenset[str] | None], Awaitable[None]],
        is_manual: bool = False,
        wait_s_max: float = WAIT_S_MAX,
    ) -> None:
        """
        Take the publication's name and what is needed around it.

        Args:
            pool: connections for catalog queries and DDL.
            name: the publication, which somebody else creates.
            facts: the record of passed barriers.
            on_lost: gives up, durably and for this reason, the shapes on a table of which the stream did not tell all: those
                that read one of these columns, or with None all of them.
            is_manual: whether tables are added by the operator; then nothing is altered, only verified.
            wait_s_max: how long a call of `ensure` waits.
        """
        self.name: Final = name
        self._pool: Final = pool
        self._facts: Final = facts
        self._on_lost: Final = on_lost
        self._is_manual: Final = is_manual
        self._wait_s_max: Final = wait_s_max
        self._works: Final[dict[int, asyncio.Task[None]]] = {}
        self._waiting_counts: Final[dict[int, int]] = {}
        self._releases: Final[dict[int, asyncio.Task[None]]] = {}
        self._asked_at: Final[dict[int, float]] = {}

    async def ensure(self, table: Table) -> None:
        """
        Return when every later commit on the table reaches the stream with its whole old rows.

        Calls for the same table share one piece of work, which goes on when their time is up.

        Raises:
            RequestError: 400 for a table that no publication takes; 503 with the text for what is missing, or after
                `wait_s_max`.
        """
        oid = table.id.oid
        self._asked_at[oid] = asyncio.get_running_loop().time()
        work = self._start(table)
        self._waiting_counts[oid] = self._waiting_counts.get(oid, 0) + 1
        late = refuse(503, TABLE_LOCKED)
        try:
            async with asyncio.timeout(self._wait_s_max):
                await asyncio.shield(work)
        except TimeoutError as cause:
            raise late from cause
        except asyncio.CancelledError as cause:
            task = asyncio.current_task()
            if work.cancelled() and task is not None and not task.cancelling():
                raise refuse(503, DATABASE_AWAY) from cause  # not we were cancelled, but the work by `close`
            raise
        except SourceError as cause:
            judged = judge(cause, when_late=late)
            raise judged if isinstance(judged, RequestError) else _gone(table.id) from cause
        finally:
            self._waiting_counts[oid] -= 1
            if not self._waiting_counts[oid]:
                del self._waiting_counts[oid]

    async def release(self, oid: int) -> None:
        """
        No shape is on this table any more: forget its barrier and take it out of the publication.

        Nothing happens while somebody waits in `ensure` for the table. A failure is only logged: the watch comes back
        to tables that nobody wants.
        """
        if oid in self._waiting_counts:
            return
        release = self._releases.get(oid)
        if release is None:
            # Out of the way at once, so that a call of `ensure` from now on begins anew, behind us.
            work = self._works.pop(oid, None)
            if work is not None:
                work.cancel()
            release = asyncio.get_running_loop().create_task(self._release(oid, work), name="table leaves publication")
            self._releases[oid] = release
            release.add_done_callback(lambda _: self._releases.pop(oid, None))
        await asyncio.shield(release)

    async def observe(
        self, oid: int, membership: int | None, form: str, partitions: frozenset[int] = frozenset()
    ) -> None:
        """
        Take note of a table's membership and form as the catalog has them, and act when they are not the recorded ones.

        Args:
            oid: the table.
            membership: what makes it a member; None for none.
            form: as the catalog has it.
            partitions: those that were recorded before the catalog was asked.

        Raises:
            SourceError: the database is away, or refuses.
        """
        if oid in self._works or oid in self._releases:
            return
        passed = await self._facts.passed(oid)
        if passed is not None and passed != membership:
            await self._lose(oid)
        elif passed is not None:
            await self._compare_form(oid, form, partitions)

    async def welcome(self, partition: int, above: Collection[int]) -> None:
        """
        Look at tables below which a relation was found to lie, before any of its rows is handed to their shapes.

        Raises:
            SourceError: the database is away, or refuses.
        """
        for oid in above:
            recorded = await self._facts.form(oid)
            if recorded is not None and partition not in parse_form(recorded).partitions:
                partitions = self._facts.partitions_of(oid)
                state = await self._read_state(oid)
                if state.form:
                    await self._compare_form(oid, state.form, partitions, found=partition)

    def partitions_of(self, oid: int) -> frozenset[int]:
        """
        Answer the partitions of a table that are recorded.
        """
        return self._facts.partitions_of(oid)

    def repair(self, table: Table) -> None:
        """
        Restore replica identity in the background, as far as we may.
        """
        if table.id.oid not in self._releases:
            self._start(table)

    async def drop_superfluous(self, wanted: Collection[int]) -> None:
        """
        Take tables that nobody wants out of the publication.

        Raises:
            SourceError: the database is away, or refuses.
        """
        if self._is_manual:
            return
        rows = await self._pool.query(LISTED_TABLES, [self.name])
        now = asyncio.get_running_loop().time()
        # Who asked for a table that has no shape now need not be remembered for longer than it is a reason to wait.
        for oid in [oid for oid, asked_at in self._asked_at.items() if asked_at + _RECENT_S <= now]:
            del self._asked_at[oid]
        for oid in [int(row[0]) for row in rows if row[0] is not None]:
            is_recent = now < self._asked_at.get(oid, now - 2 * _RECENT_S) + _RECENT_S
            if oid not in wanted and oid not in self._works and not is_recent:
                await self.release(oid)

    async def publishes_generated(self) -> bool:
        """
        Tell whether stored generated columns reach the stream (Postgres 18, if the publication says so).

        Raises:
            RequestError: 503, the publication is not there or the database is away.
        """
        try:
            state = await self._read_state(0)
        except SourceError as cause:
            raise judge(cause, when_late=refuse(503, TABLE_LOCKED)) from cause
        if not state.is_there:
            raise refuse(503, f'Publication "{self.name}" not found in the database')
        return state.publishes_generated

    async def close(self) -> None:
        """
        End the work in the background; what it has not done is begun anew after the next start.
        """
        tasks = [*self._works.values(), *self._releases.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, table: Table) -> asyncio.Task[None]:
        """
        Give the work on a table, begun if there is none.
        """
        oid = table.id.oid
        work = self._works.get(oid)
        if work is None:
            work = asyncio.get_running_loop().create_task(self._establish(table.id), name="table joins publication")
            self._works[oid] = work
            work.add_done_callback(lambda done: self._finish(table.id, done))
        return work

    def _finish(self, table: TableId, work: asyncio.Task[None]) -> None:
        """
        Make room for the next work; say why it failed where nobody waits any more.
        """
        if self._works.get(table.oid) is work:
            del self._works[table.oid]
        if work.cancelled():
            return
        error = work.exception()
        if error is not None and table.oid not in self._waiting_counts:
            text = error.message if isinstance(error, PenstockError) else type(error).__name__
            _log.warning("a table could not join the publication", schema=table.schema, table=table.name, error=text)

    async def _establish(self, table: TableId) -> None:
        """
        Alter what has to be altered, then pass the barrier and record it.
        """
        release = self._releases.get(table.oid)
        if release is not None:
            await asyncio.wait([release])
        partitions = self._facts.partitions_of(table.oid)
        state = await self._read_checked_state(table)
        # Before the barrier, so that whoever wrote to a partition before it was one has ended when a snapshot is taken.
        await self._compare_form(table.oid, state.form, partitions)
        passed = await self._facts.passed(table.oid)
        if passed is not None and passed != state.membership:
            await self._lose(table.oid)
            passed = None
        if state.membership is None or state.weak:
            state = await self._alter(table, state)
        if passed != state.membership:
            await self._pass_barrier(state.tree)
            await self._facts.record(table.oid, state.membership)

    async def _lose(self, oid: int) -> None:
        """
        Give up the shapes on a table that was out of the publication; the record goes when that is durable.
        """
        _log.warning("a table was taken out of the publication: its shapes begin anew", oid=oid)
        await self._on_lost(oid, "its table was not published for a while", None)
        await self._facts.record(oid, None)

    async def _compare_form(self, oid: int, text: str, partitions: frozenset[int], *, found: int | None = None) -> None:
        """
        Give up the shapes on a table whose rows became others without a word in the stream, and record its form.

        The order: shapes given up, what lies above each partition found anew, form recorded. Whatever stops us in
        between, all of it is done again. What lies above `found` is being found by whoever calls.
        """
        recorded = await self._facts.form(oid)
        if recorded == text and not partitions:
            return
        now = parse_form(text)
        known = now if recorded is None else parse_form(recorded)
        change = compare_forms(known, now, streamed=partitions)
        reason = change.reason
        if reason is None and change.gained and await self._have_arrived(oid, change.gained):
            reason = "a table with rows became a partition"
        if reason is not None:
            _log.warning("a table changed its rows: its shapes begin anew", oid=oid, reason=reason)
            await self._on_lost(oid, reason, change.columns if reason == change.reason else None)
        await self._facts.find_again((change.gained | change.lost) - {found})
        if recorded != text:
            await self._facts.record_form(oid, text)

    async def _have_arrived(self, oid: int, gained: Collection[int]) -> bool:
        """
        Tell whether one of these partitions had rows, or brought any by the stream, before it was one.
        """
        if any(self._facts.is_elsewhere(partition, oid) for partition in gained):
            return True
        return bool(await self._pool.query(ARRIVED_WITH_ROWS, [write_oids(sorted(gained))]))

    async def _read_state(self, oid: int) -> PublicationState:
        """
        Read what the catalog says about the publication and a table.
        """
        async with self._pool.session() as session:
            sql = publication_state(session.server_version)
            return parse_publication_state(await session.query(sql, [self.name, str(oid)], timeout_s=QUERY_S_MAX))

    async def _read_checked_state(self, table: TableId) -> PublicationState:
        """
        Read the state and refuse what we cannot or may not mend.
        """
        state = await self._read_state(table.oid)
        place = f'"{table.schema}.{table.name}"'
        if not state.is_there:
            raise refuse(503, f'Publication "{self.name}" not found in the database')
        if not state.publishes_all:
            raise refuse(
                503,
                f'Publication "{self.name}" does not publish all required operations: INSERT, UPDATE, DELETE, TRUNCATE',
            )
        if state.table != table:
            raise _gone(table)
        if state.unpublished:
            raise _harmful(table, state.unpublished)
        if state.is_via_root:
            raise refuse(
                503,
                f'Publication "{self.name}" publishes changes of partitions as changes of their root, so that those of'
                f" {place} cannot be told apart. Run: ALTER PUBLICATION {quote_identifier(self.name)} SET"
                " (publish_via_partition_root = false)",
            )
        if self._is_manual or not state.is_ours:
            reason = (
                f"the {_MANUAL_SETTING} setting prevents {_NAME} from adding it"
                if self._is_manual
                else f"{_NAME} lacks privileges to add it"
            )
            if state.membership is None:
                missing = "is listed with a row filter or column list in" if state.is_narrowed else "is missing from"
                raise refuse(
                    503,
                    f'Database table {place} {missing} the publication "{self.name}" and {reason}.'
                    f" Run: {add_to_publication(self.name, table, is_listed=state.is_narrowed)}",
                )
            if state.weak:
                statements = "; ".join(map(identity_full, state.weak))
                raise refuse(
                    503, f"Database table {place} does not have its replica identity set to FULL. Run: {statements}"
                )
        return state

    async def _alter(self, table: TableId, state: PublicationState) -> PublicationState:
        """
        Run the DDL, again after a lost race or a lock that was not to be had, up to the deadline.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ALTER_S_MAX
        while (sql := alter_publication(self.name, state, lock_timeout_ms=LOCK_TIMEOUT_MS)) is not None:
            remaining_s = deadline - loop.time()
            if remaining_s <= 0:
                raise DeadlineError("the table stayed locked")
            try:
                await self._pool.script(sql, timeout_s=remaining_s)
            except ServerRefusedError as error:
                if error.sqlstate == _INVALID_PARAMETER_VALUE:
                    raise _unpublishable(table) from error
                if error.sqlstate != _LOCK_NOT_AVAILABLE and error.sqlstate not in _RACES:
                    raise
                await asyncio.sleep(_LOCK_PAUSE_S)
            state = await self._read_checked_state(table)
        return state

    async def _pass_barrier(self, tree: tuple[int, ...]) -> None:
        """
        Wait until every transaction that may have written to these relations has ended.
        """
        writers: list[str | None] | None = None
        pause_s = _POLL_S_MIN
        while writers is None or writers:
            try:
                if writers is None:
                    rows = await self._pool.query(WRITERS, [write_oids(tree)])
                else:
                    rows = await self._pool.query(STILL_RUNNING, ["{" + ",".join(map(str, writers)) + "}"])
                writers = [row[0] for row in rows]
            except SourceError as error:
                # What was seen stays true; the database will be back.
                _log.info("the publication barrier waits for the database", error=error.message)
                pause_s = _POLL_S_MAX
            if writers is None or writers:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _POLL_S_MAX)

    async def _release(self, oid: int, work: asyncio.Task[None] | None) -> None:
        """
        End the work on the table. Then forget the barrier, so that a table that stays a member by a failure passes anew.
        """
        if work is not None:
            await asyncio.wait([work])
        await self._facts.record(oid, None)
        await self._facts.record_form(oid, None)
        self._asked_at.pop(oid, None)
        if self._is_manual:
            return
        try:
            state = await self._read_state(oid)
            if state.table is None or state.membership is None or not state.is_ours:
                return
            sql = drop_from_publication(self.name, state.table, lock_timeout_ms=LOCK_TIMEOUT_MS)
            await self._pool.script(sql, timeout_s=ALTER_S_MAX)
        except SourceError as error:
            if error.sqlstate not in _RACES:
                _log.warning("a table could not leave the publication", oid=oid, error=error.message)


def _gone(table: TableId) -> RequestError:
    """
    Make the answer for a table that is not what it was.
    """
    return refuse(503, f'Database table "{table.schema}.{table.name}" has been dropped or renamed')


def _harmful(table: TableId, columns: Sequence[str]) -> RequestError:
    """
    Make the answer for a table that nobody could update any more if we followed it.
    """
    text = (
        f'Table "{table.schema}"."{table.name}" cannot be followed: with replica identity full Postgres refuses every'
        f" update and delete of a table with generated columns that are not published: {', '.join(columns)}."
    )
    return RequestError(400, "Invalid request", errors={"table": [text]})


def _unpublishable(table: TableId) -> RequestError:
    """
    Make the answer for a table of which Postgres tells no changes.
    """
    text = (
        f'Table "{table.schema}"."{table.name}" cannot be followed: Postgres publishes no system, temporary or unlogged'
        " tables."
    )
    return RequestError(400, "Invalid request", errors={"table": [text]})

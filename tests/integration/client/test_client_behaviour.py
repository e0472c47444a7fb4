from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, TypedDict
from uuid import UUID

import httpx
import msgspec
import pytest

from harness.waiting import until
from harness.wire_proxy import WireProxy
from integration.client.conftest import KINDS, Ground, Kind, of_each_kind
from penstock.errors import ClientError, InvalidRequestError, ProtocolError, RowTypeError, StaleShapeError, StateError

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(150)]


def ids(rows: tuple[dict[str, Any], ...]) -> list[int]:
    """
    Name the rows.
    """
    return sorted(row["id"] for row in rows)


async def gather_changes(stream: Any, count: int) -> list[Any]:
    """
    Read so many changes, and the rest of the batch they end in.
    """
    changes: list[Any] = []
    while len(changes) < count:
        changes += await stream.next_batch()
    return changes


async def test_a_shape_is_complete_when_it_is_entered_and_stays_current(
    ground: Ground, kind: Kind, client: Any
) -> None:
    """
    Rows are there at once; inserts, updates, deletes and moves of a key show, each transaction whole.
    """
    table = ground.make_table()
    async with client.shape(table, sse=kind.sse) as shape:
        assert shape.rows == tuple({"id": i, "n": i * 10, "word": "w" * 100} for i in (1, 2, 3))
        before = shape.rows
        ground.database.execute(
            f"UPDATE {table} SET n = -1 WHERE id = 1; DELETE FROM {table} WHERE id = 2;"
            f"UPDATE {table} SET id = 9 WHERE id = 3"
        )
        rows = await shape.wait_for(lambda rows: ids(rows) == [1, 9] and rows[0]["n"] == -1)
        assert {row["word"] for row in rows} == {"w" * 100}
        assert ids(before) == [1, 2, 3], "rows that were handed out have changed"
        assert before[0]["n"] == 10


async def test_a_condition_and_columns_choose_what_a_stream_brings(ground: Ground, kind: Kind, client: Any) -> None:
    """
    Changes come in order, with what the condition and the columns leave of them, and say what they are of.
    """
    table = ground.make_table()
    stream = client.stream(table, where="n >= $1", params=[20], columns=["id", "n"], sse=kind.sse)
    async with stream:
        first = await gather_changes(stream, 2)
        assert [(change.operation, change.value) for change in first] == [
            ("insert", {"id": 2, "n": 20}),
            ("insert", {"id": 3, "n": 30}),
        ]
        txid = ground.write(table, 1000, 1000)
        ground.database.execute(f"UPDATE {table} SET n = 0 WHERE id = 2")
        then = await gather_changes(stream, 2)
        assert [(change.operation, change.value["id"]) for change in then] == [("insert", 1000), ("delete", 2)]
        assert then[0].txids == (txid,)
        assert then[0].is_last
        assert then[0].lsn < then[1].lsn
        assert then[0].row == {"id": 1000, "n": 10000}


async def test_a_write_is_waited_for_by_its_transaction(ground: Ground, kind: Kind, client: Any) -> None:
    """
    Also one that was there before the shape, and not one that never was.
    """
    table = ground.make_table(0)
    early = ground.write(table, 1, 1)
    async with client.shape(table, sse=kind.sse) as shape:
        await shape.wait_until(early)
        late = ground.write(table, 2, 2)
        await shape.wait_until(late)
        assert ids(shape.rows) == [1, 2]
        with pytest.raises(TimeoutError, match="if it changed this shape"):
            await shape.wait_until(late + 1_000_000, timeout_s=0.01)


async def test_a_stream_goes_on_where_its_state_was_saved(ground: Ground, kind: Kind, client: Any) -> None:
    """
    Through JSON, with nothing lost and nothing again; the state does not cover what is not taken to its end.
    """
    table = ground.make_table()
    async with client.stream(table, sse=kind.sse) as stream:
        await gather_changes(stream, 3)
        assert (await stream.next_batch()) is not None
        before = json.loads(json.dumps(stream.state))
        ground.write(table, 4, 4)
        assert [change.value["id"] for change in await gather_changes(stream, 1)] == [4]
        not_done = json.loads(json.dumps(stream.state))
        ground.write(table, 5, 5)
        await gather_changes(stream, 1)
        done = stream.state
    for state, expected in ((before, [4, 5]), (not_done, [4, 5]), (done, [5])):
        async with client.stream(table, sse=kind.sse, state=state) as again:
            assert [change.value["id"] for change in await gather_changes(again, len(expected))] == expected


async def test_a_shape_goes_on_with_its_rows(ground: Ground, kind: Kind, client: Any) -> None:
    """
    The state holds the rows; only what has changed since is asked for.
    """
    table = ground.make_table()
    async with client.shape(table, sse=kind.sse) as shape:
        state = json.loads(json.dumps(shape.state))
    ground.write(table, 4, 4)
    again = client.shape(table, sse=kind.sse, state=state)
    told: list[Any] = []
    again.on_change(told.extend)
    async with again as shape:
        assert ids(await shape.wait_for(lambda rows: len(rows) == 4)) == [1, 2, 3, 4]
        assert [change.value["id"] for change in told] == [4]


async def test_states_are_of_one_shape(ground: Ground, each_client: Any) -> None:
    """
    Another definition, and a stream's state for a shape, are refused; the secret is not in it.
    """
    table = ground.make_table()
    state = each_client.stream(table).state
    with pytest.raises(StateError, match="of another shape"):
        each_client.stream(table, where="n > 1", state=state)
    with pytest.raises(StateError, match="no rows"):
        each_client.shape(table, state=state)


async def test_a_rotation_is_read_over_and_swapped_in_whole(ground: Ground, kind: Kind, client: Any) -> None:
    """
    Rows of before stay until all of the new log is there, and watchers are told of a reset.
    """
    table = ground.make_table(300)
    async with client.shape(table, sse=kind.sse) as shape:
        told: list[Any] = []
        counts: set[int] = set()

        def watch(changes: list[Any]) -> None:
            told.extend(changes)
            counts.add(len(shape.last_rows))

        shape.on_change(watch)
        ground.database.execute(f"ALTER TABLE {table} ADD COLUMN more int DEFAULT 7")
        ground.write(table, 301, 301)
        rows = await shape.wait_for(lambda rows: len(rows) == 301 and "more" in rows[0])
        assert all(row["more"] == 7 for row in rows)
        assert shape.rotation_count >= 1
        assert "reset" in [change.operation for change in told]
        assert counts <= {300, 301}, "the rows were visible in part"


async def test_a_stream_says_that_it_begins_again(ground: Ground, kind: Kind, client: Any) -> None:
    """
    `reset`, and then all rows as inserts.
    """
    table = ground.make_table()
    async with client.stream(table, sse=kind.sse) as stream:
        await gather_changes(stream, 3)
        await stream.next_batch()
        ground.database.execute(f"TRUNCATE {table}")
        ground.write(table, 8, 8)
        changes = await gather_changes(stream, 2)
        assert [change.operation for change in changes] == ["reset", "insert"]
        assert changes[1].value["id"] == 8


async def test_a_connection_may_be_cut_at_any_byte(ground: Ground) -> None:
    """
    While the rows come and while changes come: nothing is lost and nothing is seen in part.
    """

    async def follow(kind: Kind) -> None:
        table = ground.make_table(500)
        with WireProxy(ground.service.port) as proxy:
            async with kind.connect(f"http://127.0.0.1:{proxy.port}") as client:
                proxy.cut_after(9000)
                async with client.shape(table, sse=kind.sse) as shape:
                    assert len(shape.rows) == 500
                    for round_index in range(3):
                        proxy.cut_after(1500 + 700 * round_index)
                        first = 501 + 40 * round_index
                        ground.write(table, first, first + 39)
                        rows = await shape.wait_for(lambda rows, last=first + 39: len(rows) >= last)
                        assert ids(rows) == list(range(1, first + 40))

    await of_each_kind(follow)


async def test_a_server_that_is_killed_and_comes_back_costs_nothing(ground: Ground) -> None:
    """
    All clients go on with the same log, say meanwhile that they have failed, and end with what the query gives.
    """
    table = ground.make_table(50)
    clients = [kind.connect(ground.url) for kind in KINDS]
    shapes = [client.shape(table, sse=kind.sse) for client, kind in zip(clients, KINDS, strict=True)]
    async with contextlib.AsyncExitStack() as stack:
        for entered in (*clients, *shapes):
            await stack.enter_async_context(entered)
        ground.service.kill_all()
        ground.write(table, 51, 60)
        for shape in shapes:
            await until("its attempt has failed", partial(is_failing, shape))
            assert len(shape.rows) == 50
        ground.service.start()
        await ground.service.wait_active()
        for shape in shapes:
            rows = await shape.wait_for(lambda rows: len(rows) == 60)
            assert ids(rows) == list(range(1, 61))
            assert shape.rotation_count == 0
            await until("it is up to date", partial(is_current, shape))


async def is_failing(shape: Any) -> bool:
    """
    Whether it knows of a failure.
    """
    return bool(shape.freshness.failure) and not shape.freshness.is_up_to_date


async def is_current(shape: Any) -> bool:
    """
    Whether it knows of none.
    """
    return shape.freshness.is_up_to_date and not shape.freshness.failure


class Unwilling(httpx.AsyncBaseTransport):
    """
    Sends requests on, unless told to answer them itself, or to hold them.
    """

    def __init__(self) -> None:
        self.refusals: list[httpx.Response] = []
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.silence_s = 0.05
        self._inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Refuse, hold, or send.
        """
        if self.refusals:
            return self.refusals.pop(0)
        if not self.is_open.is_set():
            await asyncio.sleep(self.silence_s)
            raise httpx.ReadTimeout("nothing came")
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """
        Close the connections.
        """
        await self._inner.aclose()


def busy(status: int) -> httpx.Response:
    """
    An answer that may be another one next time.
    """
    return httpx.Response(status, headers={"retry-after": "0"}, json={"message": "busy"})


async def test_a_server_that_is_busy_is_asked_again(ground: Ground) -> None:
    """
    At the beginning and later, whatever it says; what is final is not retried.
    """

    async def follow(kind: Kind) -> None:
        table = ground.make_table()
        transport = Unwilling()
        transport.refusals = [busy(429), busy(503)]
        async with kind.connect(ground.url, transport=transport) as client, client.shape(table, sse=kind.sse) as shape:
            assert ids(shape.rows) == [1, 2, 3]
            transport.refusals = [busy(502), busy(500), busy(503)]
            ground.write(table, 4, 4)
            await shape.wait_for(lambda rows: len(rows) == 4)

    await of_each_kind(follow)


async def test_a_shape_is_never_silently_stale(ground: Ground) -> None:
    """
    When nothing comes for too long, asking for rows fails and says why; old rows can be had; it recovers by itself.
    """

    async def follow(kind: Kind) -> None:
        table = ground.make_table()
        transport = Unwilling()
        async with (
            kind.connect(ground.url, transport=transport, silence_s_max=3) as client,
            client.shape(table, sse=kind.sse, stale_after_s=8) as shape,
        ):
            assert not shape.freshness.is_stale
            transport.is_open.clear()
            # A stream of events that is open already does not pass here again before it ends.
            await until("it is stale", lambda: is_stale(shape))
            with pytest.raises(StaleShapeError, match="has not confirmed") as caught:
                _ = shape.rows
            assert caught.value.age_s > 8
            assert ids(shape.last_rows) == [1, 2, 3]
            transport.is_open.set()
            await until("it is current", lambda: is_current(shape))
            assert ids(shape.rows) == [1, 2, 3]

    await of_each_kind(follow)


async def is_stale(shape: Any) -> bool:
    """
    Whether it says so.
    """
    return shape.freshness.is_stale and bool(shape.freshness.failure)


async def test_nobody_waits_for_ever_for_a_server_that_is_not_there() -> None:
    """
    Entering a shape and reading a stream end with the reason when nothing answers.
    """

    async def follow(kind: Kind) -> None:
        transport = Unwilling()
        transport.is_open.clear()
        async with kind.connect("http://127.0.0.1:9", transport=transport) as client:
            with pytest.raises(StaleShapeError, match="ReadTimeout: nothing came"):
                await client.shape("items", sse=kind.sse, stale_after_s=5).__aenter__()
            with pytest.raises(StaleShapeError, match="has not answered"):
                await client.stream("items", sse=kind.sse, stale_after_s=0.2).next_batch()

    await of_each_kind(follow)


async def test_refusals_name_what_to_mend(ground: Ground, each_client: Any) -> None:
    """
    A parameter, an option, a URL, a class, a parameter without a text.
    """
    table = ground.make_table()
    with pytest.raises(InvalidRequestError, match=r'table: Table "public"."nowhere" does not exist') as caught:
        await each_client.stream("nowhere").next_batch()
    assert "table" in caught.value.problems
    with pytest.raises(InvalidRequestError, match="where: "):
        await each_client.shape(table, where="no_such_column = 1").__aenter__()
    with pytest.raises(ClientError, match="unknown option 'wher'"):
        each_client.shape(table, wher="x")
    with pytest.raises(ClientError, match="IS NULL"):
        each_client.shape(table, where="n = $1", params=[None])
    with pytest.raises(ClientError, match="rows cannot be made as int"):
        each_client.shape(table, row_type=int)
    with pytest.raises(ClientError, match="begins with http"):
        Kind(is_blocking=False, sse=False).connect("localhost:3000")


async def test_what_is_not_the_protocol_is_said_to_be_that(ground: Ground) -> None:
    """
    Something else that answers 200 is not retried.
    """

    async def follow(kind: Kind) -> None:
        transport = Unwilling()
        transport.refusals = [httpx.Response(200, html="<p>Hello</p>")]
        async with kind.connect(ground.url, transport=transport) as client:
            with pytest.raises(ProtocolError, match="is a proxy removing them"):
                await client.stream("items").next_batch()

    await of_each_kind(follow)


async def test_a_watcher_that_fails_ends_the_shape_aloud(ground: Ground, kind: Kind, client: Any) -> None:
    """
    What it raised is raised from whatever is asked of the shape next.
    """
    table = ground.make_table()

    def fail(changes: list[Any]) -> None:
        raise ArithmeticError("a watcher's own fault")

    async def follow() -> None:
        async with client.shape(table, sse=kind.sse) as shape:
            shape.on_change(fail)
            ground.write(table, 4, 4)
            await shape.wait_for(lambda rows: len(rows) == 5)

    with pytest.raises(ArithmeticError, match="own fault"):
        await follow()


@dataclass
class AsDataclass:
    id: int
    n: int | None


class AsStruct(msgspec.Struct):
    id: int
    n: int | None


class AsTypedDict(TypedDict):
    id: int
    n: int | None


class AsModel:
    """
    What rows are made with in pydantic.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self.id = values["id"]
        if values["n"] == 66:
            raise ValueError("quotes 66")

    @classmethod
    def model_validate(cls, values: dict[str, Any]) -> AsModel:
        """
        Make one.
        """
        return cls(values)


async def test_rows_come_as_the_class_that_is_asked_for(ground: Ground, each_client: Any) -> None:
    """
    From shapes, streams and subsets.
    """
    table = ground.make_table(1)
    for row_type in (AsDataclass, AsStruct, AsTypedDict, AsModel):
        async with each_client.shape(table, row_type=row_type) as shape:
            (row,) = shape.rows
        async with each_client.stream(table, row_type=row_type) as stream:
            (change,) = await gather_changes(stream, 1)
        (found,) = await each_client.subset(table, row_type=row_type)
        for each in (row, change.row, found):
            assert (each["id"] if isinstance(each, dict) else each.id) == 1
            assert isinstance(each, dict if row_type is AsTypedDict else row_type)


class TooStrict(msgspec.Struct):
    id: int
    word: int


async def test_a_row_that_does_not_fit_is_an_error_without_its_values(ground: Ground, each_client: Any) -> None:
    """
    It names the class.
    """
    table = ground.make_table(0)
    ground.database.execute(f"INSERT INTO {table} VALUES (1, 66, 'secret word')")
    for row_type in (TooStrict, AsModel):
        with pytest.raises(RowTypeError, match=row_type.__name__) as caught:
            await each_client.stream(table, row_type=row_type).next_batch()
        assert "66" not in caught.value.message
        assert "secret word" not in caught.value.message


async def test_values_are_those_of_python_from_the_rows_and_from_changes(
    ground: Ground, kind: Kind, client: Any
) -> None:
    """
    Every type that is decoded, both ways they come; text with `decode=False`.
    """
    typed = (
        "i8 int8, n numeric(12, 3), f float8, b bool, t text, by bytea, d date, ti time, tz timestamptz, ts timestamp,"
        " iv interval, u uuid, j jsonb, ai int[], at text[][], ab bool[], m mood, c char(4), forever timestamptz, age interval"
    )
    if not ground.database.query("SELECT 1 FROM pg_type WHERE typname = 'mood'"):
        ground.database.execute("CREATE TYPE mood AS ENUM ('calm', 'wild')")
    table = ground.make_table(0, columns=typed)
    insert = (
        f"INSERT INTO {table} VALUES (%s, 9007199254740993, 1.50, 'Infinity', true, 'a;b', '\\x00ff', '2024-02-29',"
        " '10:00:00.25', '2024-05-01 10:00:00.5+02', '2024-05-01 10:00:00', '1 day -2 hours 0.5 seconds',"
        ' \'6c1f9a1e-0000-4000-8000-00000000000a\', \'{"a": [1, null]}\', \'{1,NULL,3}\', \'{{"a,b","NULL"},{"\\"",x;y}}\','
        " '{t,f}', 'calm', 'ab', 'infinity', '1 month')"
    )
    expected = {
        "i8": 9007199254740993,
        "n": Decimal("1.500"),
        "f": float("inf"),
        "b": True,
        "t": "a;b",
        "by": b"\x00\xff",
        "d": dt.date(2024, 2, 29),
        "ti": dt.time(10, 0, 0, 250_000),
        "tz": dt.datetime(2024, 5, 1, 8, 0, 0, 500_000, tzinfo=dt.UTC),
        "ts": dt.datetime(2024, 5, 1, 10, 0),  # noqa: DTZ001  that is what it is
        "iv": dt.timedelta(hours=22, seconds=0.5),
        "u": UUID("6c1f9a1e-0000-4000-8000-00000000000a"),
        "j": {"a": [1, None]},
        "ai": [1, None, 3],
        "at": [["a,b", "NULL"], ['"', "x;y"]],
        "ab": [True, False],
        "m": "calm",
        "c": "ab  ",
        "forever": "infinity",
        "age": "P1M",
    }
    ground.database.execute(insert, 1)
    async with client.shape(table, sse=kind.sse) as shape, client.shape(table, decode=False) as raw:
        ground.database.execute(insert, 2)
        rows = await shape.wait_for(lambda rows: len(rows) == 2)
        assert [{**row, "id": 0} for row in rows] == [{**expected, "id": 0}] * 2
        texts = await raw.wait_for(lambda rows: len(rows) == 2)
        assert {(row["i8"], row["n"], row["m"]) for row in texts} == {("9007199254740993", "1.500", "calm")}


async def test_a_subset_is_some_rows_in_order(ground: Ground, each_client: Any) -> None:
    """
    With a condition, an order, a limit and columns; a refusal names the field.
    """
    table = ground.make_table(9)
    rows = await each_client.subset(
        table, columns=["id", "n"], where="n > $1", params=[20], order_by="id DESC", limit=2, offset=1
    )
    assert rows == ({"id": 8, "n": 80}, {"id": 7, "n": 70})
    assert ids(await each_client.subset(table)) == list(range(1, 10))
    with pytest.raises(InvalidRequestError, match="order_by"):
        await each_client.subset(table, limit=1)


async def test_rows_that_are_loaded_stay_current(ground: Ground, kind: Kind, client: Any) -> None:
    """
    A shape without rows takes them in beside the log, follows them, and loads them again after a rotation.
    """
    table = ground.make_table(9)
    async with client.shape(table, log="changes_only", sse=kind.sse) as shape:
        assert shape.rows == ()
        assert [row["id"] for row in await shape.load(where="id <= 2", order_by="id DESC")] == [2, 1]
        assert ids(shape.rows) == [1, 2]
        ground.database.execute(f"UPDATE {table} SET n = 0 WHERE id IN (2, 7)")
        ground.write(table, 10, 10)
        rows = await shape.wait_for(lambda rows: len(rows) == 3)
        assert {row["id"]: row["n"] for row in rows} == {1: 10, 2: 0, 10: 100}
        ground.database.execute(f"ALTER TABLE {table} ADD COLUMN more int DEFAULT 7")
        ground.database.execute(f"UPDATE {table} SET n = 1 WHERE id = 1")
        rows = await shape.wait_for(
            lambda rows: all("more" in row and row["id"] < 3 for row in rows) and len(rows) == 2
        )
        assert {row["id"]: row["n"] for row in rows} == {1: 1, 2: 0}

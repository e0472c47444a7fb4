"""
Clients that mean harm, or are broken: each gets an answer that is documented, and costs nobody else anything.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.scripted_source import row
from harness.http_server import SETTINGS, Running, get, play, running, until
from penstock.api.fast.limits import PIPELINED_REQUESTS_MAX

GUARDED = msgspec.structs.replace(SETTINGS, secret="s", long_poll_timeout_s=0.3, source_timeout_s=0.2)
ITEMS = b"/v1/shape?table=items&offset=-1"
PING = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(autouse=True)
def event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let `asyncio.run` of a test use the loop that the service runs on.
    """

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)

    monkeypatch.setattr(asyncio, "run", run)


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


# --- smuggling -------------------------------------------------------------------------------------------------------

SMUGGLED = b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /v1/shape?table=items&offset=-1&secret=s HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "text",
    [
        POST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"content-length: 0\r\ncontent-length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
        POST + b"content-length: 2, 2\r\n\r\n{}" + SMUGGLED,
        POST + b"content-length: +2\r\n\r\n{}" + SMUGGLED,
        POST + b"content-length: 0x2\r\n\r\n{}" + SMUGGLED,
        POST + b"content-length: -1\r\n\r\n" + SMUGGLED,
        POST + b"content-length : 2\r\n\r\n{}" + SMUGGLED,
        POST + b"content-length: 99999999999999999999\r\n\r\n" + SMUGGLED,
        POST + b"transfer-encoding: identity, chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n" + SMUGGLED,
        POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n" + SMUGGLED,
        POST + b"x: y\r\n content-length: 3\r\nhost\0: x\r\n\r\n" + SMUGGLED,
        POST + b"x: a\rb\r\n\r\n" + SMUGGLED,
        b"GET /v1/shape HTTP/1.1\nhost: x\n\n" + SMUGGLED.replace(b"GET", b"G\0T"),
        b"GET  /v1/shape HTTP/1.1\r\n\r\n" + SMUGGLED.replace(b"HTTP/1.1", b"HTTP/9.9"),
        b"GET /v1/shape\r\n\r\n" + SMUGGLED,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
    ],
)
def test_ambiguous_requests_end_the_connection(tmp_path: Path, text: bytes) -> None:
    """
    What two servers could read in two ways is refused, or at most answered itself; what follows is never read as a
    request.
    """

    async def test(server: Running) -> None:
        answer = await server.raw(text)
        found = statuses(answer)
        assert set(found) <= {200, 400, 401}
        assert len(found) <= 2
        assert b'"status"' not in answer

    play(test, tmp_path, GUARDED)


def test_folded_header_is_one_header_or_refused(tmp_path: Path) -> None:
    """
    A line that continues another is never taken for a header of its own.
    """

    async def test(server: Running) -> None:
        answer = await server.raw(
            get(b"/v1/status", b"x: y", b" content-length: 30") + b"GET /v1/health HTTP/1.1\r\n\r\n"
        )
        assert statuses(answer)[0] in {400, 401}
        assert len(statuses(answer)) == 1

    play(test, tmp_path, GUARDED)


# --- the secret ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [b"/v1/shape", b"//v1/shape", b"/v1/shape/", b"/v1//shape", b"/v1/%73hape", b"/%76%31/shape", b"http://x/v1/shape"],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"DELETE"])
def test_no_spelling_gets_around_the_secret(tmp_path: Path, path: bytes, method: bytes) -> None:
    """
    Whatever way a request takes (B4).
    """
    wrong = [
        b"",
        b"&secret=",
        b"&secret=x",
        b"&secret=s%00",
        b"&secret=S",
        b"&secret=s&secret=x",
        b"&secret[]=s",
        b"&SECRET=s",
        b"&secret=x&api_secret=s",
        b"#&secret=s",
    ]

    async def test(server: Running) -> None:
        texts = [get(path + b"?table=items&offset=-1" + more).replace(b"GET", method, 1) for more in wrong]
        answers = await asyncio.gather(*(server.raw(text) for text in texts))
        assert {status for answer in answers for status in statuses(answer)} <= {401, 404}
        assert 401 in statuses(answers[0]) or path.startswith(b"http:")
        assert server.source.opens == 0

    play(test, tmp_path, GUARDED)


# --- many requests on one connection ---------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """
    Whichever way each of them takes, also behind one that is parked.
    """

    async def test(server: Running) -> None:
        client = await server.connect()
        ids = [b"x-request-id: " + b"%024d" % number for number in range(30)]
        targets = [server.live(), b"/", ITEMS, b"/v1/health", b"/v1/shape?table=items&offset=now"] * 6
        for target, request_id in zip(targets, ids, strict=True):
            client.send(target, request_id)
        await until(lambda: server.source.waits_under_way == 1)
        server.source.append("items", 900, row(2))
        for request_id in ids:
            assert request_id in (await client.answer())[0]

    play(test, tmp_path)


def test_line_of_requests_is_bounded(tmp_path: Path) -> None:
    """
    Thousands in one go: those that fit are answered, then the connection ends, whether or not anybody reads.
    """

    async def test(server: Running) -> None:
        answer = await server.raw(get(b"/").replace(b"connection: close\r\n", b"") * 5000)
        assert 1 <= len(statuses(answer)) <= PIPELINED_REQUESTS_MAX + 2
        assert set(statuses(answer)) == {200}
        parked = await server.raw(b"GET " + server.live() + b" HTTP/1.1\r\nhost: x\r\n\r\n" + PING * 5000)
        assert set(statuses(parked)) == {200}

    play(test, tmp_path, msgspec.structs.replace(GUARDED, secret=None))


def test_rubbish_behind_a_request_does_not_answer_it(tmp_path: Path) -> None:
    """
    The request gets its own answer, and the connection ends with it.
    """

    async def test(server: Running) -> None:
        answer = await server.raw(b"GET " + server.live() + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"\0rubbish\r\n\r\n")
        assert statuses(answer) == [200]
        assert b"up-to-date" in answer

    play(test, tmp_path, msgspec.structs.replace(GUARDED, secret=None))


# --- slow and large --------------------------------------------------------------------------------------------------


def test_many_who_drip_hold_nothing_up(tmp_path: Path) -> None:
    """
    A hundred who send a header now and then and a hundred who send a body so are closed in time; others are served.
    """

    async def drip(server: Running, text: bytes, part: bytes) -> bytes:
        client = await server.connect()
        client.writer.write(text)
        loop = asyncio.get_running_loop()
        # A connection that was reset may be written to no more.
        while not client.reader.at_eof() and not client.writer.is_closing():
            client.writer.write(part)
            try:
                async with asyncio.timeout_at(loop.time() + 0.1):
                    return await client.reader.read()
            except TimeoutError:
                continue
            except ConnectionError:
                return b""
        return b""

    async def test(server: Running) -> None:
        heads = [asyncio.create_task(drip(server, b"GET / HTTP/1.1\r\n", b"x: y\r\n")) for _ in range(100)]
        text = b"POST /v1/shape?table=items&offset=-1 HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
        bodies = [asyncio.create_task(drip(server, text, b" ")) for _ in range(100)]
        client = await server.connect()
        assert (await client.ask(ITEMS))[0].startswith(b"HTTP/1.1 200 ")
        assert set(await asyncio.gather(*heads)) == {b""}
        for answer in await asyncio.gather(*bodies):
            assert statuses(answer) in ([], [400], [408])

    play(test, tmp_path, msgspec.structs.replace(SETTINGS, header_timeout_s=0.4, idle_timeout_s=1))


def test_too_large_a_head_is_refused_whatever_it_is_made_of(tmp_path: Path) -> None:
    """
    One long header, many short ones, a name without end, and a first line without end.
    """

    async def test(server: Running) -> None:
        texts = {
            b"x: " + b"a" * 2_000_000: 431,
            b"x: a\r\n" * 100_000: 431,
            b"a" * 2_000_000: 431,
        }
        for more, status in texts.items():
            assert statuses(await server.raw(b"GET / HTTP/1.1\r\nhost: x\r\n" + more)) in ([status], [400])
        assert statuses(await server.raw(b"GET /" + b"a" * 2_000_000)) == [414]
        assert statuses(await server.raw(b"G" * 2_000_000)) == [400]

    play(test, tmp_path)


def test_too_large_a_body_is_refused(tmp_path: Path) -> None:
    """
    Whether its length is said before or not; nothing of it is kept.
    """

    async def test(server: Running) -> None:
        head = b"POST /v1/shape?table=items&offset=-1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        block = b" " * 1_000_000
        said = await server.raw(head + b"content-length: 20000000\r\n\r\n", *[block] * 20)
        assert statuses(said) == [413]
        unsaid = await server.raw(head + b"transfer-encoding: chunked\r\n\r\n", *[b"f4240\r\n" + block + b"\r\n"] * 20)
        assert statuses(unsaid) == [413]

    play(test, tmp_path)


# --- fuzz ------------------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(
    [
        "table",
        "offset",
        "handle",
        "live",
        "live_sse",
        "where",
        "columns",
        "params[1]",
        "params[x][y]",
        "replica",
        "log",
        "cursor",
        "secret",
        "subset__limit",
        "subset[where]",
    ]
)
_VALUES = st.one_of(
    st.sampled_from(
        [
            "items",
            "-1",
            "0_0",
            "0_inf",
            "now",
            "true",
            "false",
            "1",
            "%00",
            "%ff",
            "%",
            "",
            "id=1",
            "99999999999999999999_0",
            "full",
        ]
    ),
    st.text(max_size=12),
)
_QUERIES = st.lists(st.tuples(_NAMES, _VALUES), max_size=6).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode("utf-8", "surrogatepass")
)
_LINES = st.one_of(
    _QUERIES.map(lambda query: b"GET /v1/shape?" + query + b" HTTP/1.1"),
    st.builds(
        lambda method, path, version: b" ".join([method, path, version]),
        st.sampled_from([b"GET", b"HEAD", b"POST", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"get", b""]),
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [b"/v1/shape", b"*", b"/v1/shape?#", b"/v1/shape?&&==", b"x:1", b"//", b"/%2e%2e/v1/shape"]
            ),
        ),
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 ", b""]),
    ),
)


def test_any_first_line_has_a_documented_answer(tmp_path: Path) -> None:
    """
    Never a 500 and never silence: an answer, or a connection that is closed.
    """
    quick = msgspec.structs.replace(SETTINGS, long_poll_timeout_s=0.1, header_timeout_s=0.3, source_timeout_s=0.1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        serving = running(tmp_path, quick)
        server = runner.run(serving.__aenter__())

        async def answers(lines: list[bytes]) -> list[bytes]:
            texts = [line + b"\r\nhost: x\r\nconnection: close\r\n\r\n" for line in lines]
            return await asyncio.gather(*map(server.raw, texts))

        # Several at once, since some are answered by silence until the time for a head is over.
        @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(_LINES.filter(lambda line: b"live_sse" not in line), min_size=8, max_size=8))
        def ask(lines: list[bytes]) -> None:
            for line, answer in zip(lines, runner.run(answers(lines)), strict=True):
                allowed = {200, 202, 204, 400, 404, 405, 408, 409, 414, 503}
                assert set(statuses(answer[:12])) <= allowed, (line, answer[:300])

        ask()
        runner.run(serving.__aexit__(None, None, None))


# --- what is written down --------------------------------------------------------------------------------------------


def test_no_log_holds_a_query(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Whether it is answered, refused, cannot be read or meets a fault of ours: secrets and values stay out of the logs.
    """
    caplog.set_level(logging.DEBUG)
    hidden = b"&secret=hidden-secret&where=id%20%3D%20hidden-value&token=hidden-token"

    async def test(server: Running) -> None:
        target = b"/v1/shape?table=items&offset=-1" + hidden
        ask = [
            get(target),
            get(target + b"&secret=hidden-other"),
            get(target + b"&live=true"),
            get(b"/v1/status?" + hidden[1:]),
            get(target, b"content-length: 0"),
            get(target, b"connection: upgrade", b"upgrade: websocket"),
            get(target).replace(b"HTTP/1.1", b"HTTP/9"),
            get(target.replace(b"=items", b"=%zz")),
            get(target + b"&more=" + b"x" * 300_000),
        ]
        for text in ask:
            await server.raw(text)
        server.source.failure = RuntimeError("a fault")
        for text in (ask[0], ask[3], ask[4]):
            assert (await server.raw(text)).startswith(b"HTTP/1.1 500 ")

    play(test, tmp_path, msgspec.structs.replace(GUARDED, secret="hidden-secret"))
    written = caplog.text + "".join(capsys.readouterr())
    assert written.count("a fault") >= 3
    assert "hidden" not in written

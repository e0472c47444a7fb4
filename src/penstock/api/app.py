"""
The ASGI application: routes, secrets, and what every request goes through.

Shell. A bare callable that any ASGI server can run and that can be mounted in a larger application at any path.
Routing and authentication go by the resolved path, so that no other spelling of a path gets around the secret.
Nothing that a client sends ends in a 500; a fault of ours ends in one that tells nothing.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.api import caching, params, plan, subset
from penstock.api.abc import ShapeSource
from penstock.api.admission import Admission, Permit
from penstock.api.authorisation import Authorize, Deny, restrict, restrict_shape
from penstock.api.authorising import GRANT_KEY, Authoriser, LateError
from penstock.api.exchange import Exchange
from penstock.api.gate import UNAUTHORIZED, Gate
from penstock.api.listing import read_question
from penstock.api.openapi import openapi_document
from penstock.api.other_requests import OtherRequests
from penstock.api.plan import JSON_TYPE, TEXT_TYPE, Answer, Planner
from penstock.api.settings import ApiSettings
from penstock.api.shape_route import Events, ShapeRoute, World
from penstock.errors import ConnectionLostError
from penstock.shapes.reading import Health, ShapeRequest, ShapeRule, ShapesListed, ShapesQuestion
from penstock.shapes.subset import SubsetRequest
from penstock.wire import names

STATUS_TIMEOUT_S: Final = 5.0
PREFLIGHT_AGE_S: Final = 86_400
ALLOWED_REQUEST_HEADERS: Final = frozenset({"content-type", "if-none-match", "traceparent"})
AUTHORISED_REQUEST_HEADERS: Final = ALLOWED_REQUEST_HEADERS | {"authorization"}
"""The headers of requests from other sites, where somebody looks at who asks."""

_log = structlog.get_logger("penstock.api")

_NOT_FOUND: Final = Answer(404, (TEXT_TYPE,), b"Not found")
_TOO_LONG: Final = Answer(414, (TEXT_TYPE, (b"connection", b"close")), b"Request-URI Too Long")
_READING: Final = frozenset({"GET", "HEAD"})
_SHAPE_METHODS: Final = _READING | {"POST", "DELETE"}
_AWAY: Final = Health("starting", plan.REASON_SOURCE_AWAY)


class UnderWay(Protocol):
    """
    A request that has not been answered whole.
    """

    def stop(self) -> None:
        """
        The server stops: answer at once, unless the response has begun and will end by itself.
        """
        ...


class ShapeApp:
    """
    Serves the shapes of a source over HTTP.
    """

    def __init__(
        self,
        source: ShapeSource,
        settings: ApiSettings,
        data_dir: Path,
        world: World | None = None,
        *,
        pages: Mapping[str, ASGIApp] | None = None,
        authorize: Authorize | None = None,
    ) -> None:
        """
        Serve `source`; the files it names lie below `data_dir`.

        Args:
            source: owns the shapes.
            settings: bounds and deadlines.
            data_dir: what the paths in ranges are relative to.
            world: clock and chance; another one in tests.
            pages: further applications by path, open to everybody.
            authorize: decides who may read what; without it whoever has the secret may read everything.
        """
        self._pages = pages or {}
        self._source = source
        self._settings = settings
        self._server = f"Penstock/{settings.version}".encode()
        self._world = world or World()
        self.admission: Final = Admission(
            initial_max=settings.requests_initial_max,
            existing_max=settings.requests_existing_max,
            known_handles_max=settings.known_handles_max,
        )
        self.route: Final = ShapeRoute(source, settings, data_dir, self.admission, self._world)
        self._planner: Planner = self.route.planner
        self.authoriser: Final = Authoriser(
            authorize, timeout_s=settings.authorize_timeout_s, threads_max=settings.authorize_threads_max
        )
        self._others: Final = OtherRequests(source, settings, data_dir, self.admission, self._planner)
        self.gate: Final = Gate(settings, self.admission, self._planner, self._world.random.randint)
        self._document: Final = Answer(200, (JSON_TYPE,), msgspec.json.encode(openapi_document(settings.version)))
        self.readers: Final = ThreadPoolExecutor(settings.reader_threads, thread_name_prefix="penstock-reader")
        self.under_way: Final[set[UnderWay]] = set()
        self.is_stopping = False

    # --- life --------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one request, or follow the server's life.
        """
        match scope["type"]:
            case "http":
                await self._serve(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1000})
            case other:
                raise AssertionError(other)

    def begin_shutdown(self) -> None:
        """
        Answer every request that has no response yet, and all that still come, with 503.
        """
        self.is_stopping = True
        for request in tuple(self.under_way):
            request.stop()

    def close(self) -> None:
        """
        End the reader threads; call it when no request is under way any more.
        """
        self.begin_shutdown()
        self.authoriser.close()
        self.readers.shutdown(wait=False, cancel_futures=True)

    @property
    def requests_under_way(self) -> int:
        """
        How many requests have not been answered whole, parked ones included.
        """
        return len(self.under_way)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    # --- one request -------------------------------------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, server=self._server, send_timeout_s=self._settings.send_timeout_s)
        self.under_way.add(exchange)
        exchange.begin()
        try:
            try:
                if self.is_stopping:
                    await exchange.answer(self._planner.stopping())
                else:
                    await self._route(exchange)
            except asyncio.CancelledError:
                if not exchange.absorb_interrupt():
                    raise
                if exchange.is_stalled:
                    exchange.cut()
                elif not exchange.is_gone:
                    await exchange.answer(self._planner.stopping())
            except Exception:  # noqa: BLE001 - whatever it is, the client learns nothing and the log everything
                # As text: what renders tracebacks for an embedding program may show variables, and with them a secret.
                _log.error(
                    "request failed",
                    request_id=exchange.request_id,
                    path=exchange.path,
                    exception=traceback.format_exc(),
                )
                if exchange.is_started:
                    exchange.cut()
                else:
                    await exchange.answer(self._planner.error(500, {"error": "Internal server error"}))
        except asyncio.CancelledError:
            # The client left, or stopped reading, while it was told why it gets nothing.
            if not exchange.absorb_interrupt():
                raise
            exchange.cut()
        finally:
            exchange.end()
            self.under_way.discard(exchange)

    async def _route(self, exchange: Exchange) -> None:
        if exchange.target_bytes > self._settings.target_bytes_max:
            await exchange.answer(_TOO_LONG)
            return
        is_reading = exchange.method in _READING
        if exchange.path in self._pages:
            await exchange.hand_over(self._pages[exchange.path])
            return
        match exchange.path:
            case names.SHAPE_PATH if exchange.method in _SHAPE_METHODS:
                await self._serve_shape(exchange)
            case names.SHAPE_PATH if exchange.method == "OPTIONS":
                await exchange.answer(_preflight(exchange, self._allowed_headers(exchange)))
            case names.OPENAPI_PATH if is_reading:
                await exchange.answer(self._document)
            case names.STATUS_PATH if is_reading:
                await self._serve_status(exchange)
            case names.SHAPES_PATH if is_reading:
                await self._serve_shapes(exchange)
            case names.HEALTH_PATH if is_reading:
                await exchange.answer(_tell_health(await self._find_health()))
            case names.READY_PATH if is_reading:
                await exchange.answer(_tell_readiness(await self._find_health()))
            case "/" if is_reading:
                await exchange.answer(Answer(200))
            case _:
                await exchange.answer(_NOT_FOUND)

    async def _serve_shape(self, exchange: Exchange) -> None:
        query = await self._authenticate(exchange)
        if query is None:
            return
        if exchange.method == "DELETE":
            await exchange.answer(await self._remove(exchange, query))
            return
        permit = self.gate.admit(params.find_handle(query))
        if isinstance(permit, Answer):
            await exchange.answer(permit)
            return
        try:
            await self._serve_admitted(exchange, query, permit)
        finally:
            permit.release()

    async def _serve_admitted(self, exchange: Exchange, query: params.Query, permit: Permit) -> None:
        query, asked = subset.fold_query(query)
        is_post = exchange.method == "POST"
        if is_post:
            merged = await self._others.read_body(exchange, query, asked)
            if isinstance(merged, Answer):
                await exchange.answer(merged)
                return
            query, asked = merged
        request = params.validate(_with_table(exchange, query))
        if not isinstance(request, params.LogRequest):
            refused = self._planner.invalid(request)
            await exchange.answer(refused if asked is None and not is_post else plan.uncached(refused))
            return
        rows = None if asked is None else subset.read_subset(asked)
        is_judged = self.authoriser.concerns(exchange.scope)
        if is_judged:
            verdict = await self._decide(exchange, request.shape, rows)
            if isinstance(verdict, Answer):
                await exchange.answer(verdict)
                return
            request = restrict(request, verdict)
        if rows is not None:
            answer, body = await self._others.load_subset(request, rows, permit)
        else:
            if_none_match = exchange.header_lines(b"if-none-match")
            found = await self.route.answer(request, if_none_match, permit, self.readers)
            answer = plan.uncached(found.answer) if is_post else found.answer
            if isinstance(found, Events):
                await exchange.answer_stream(plan.private(answer) if is_judged else answer, found.parts)
                return
            body = found.body
        if is_judged:
            answer = plan.private(answer)
        try:
            await exchange.answer_open(answer, body, self.readers)
        finally:
            body.close()

    async def _authenticate(self, exchange: Exchange) -> params.Query | None:
        """
        Give the query of a request that may go on; any other has been answered.
        """
        query = self.gate.read(exchange.query_string)
        if query is UNAUTHORIZED:
            await exchange.answer_plain(UNAUTHORIZED)
        elif isinstance(query, Answer):
            await exchange.answer(query)
        else:
            return query
        return None

    # --- authorisation -----------------------------------------------------------------------------------------------

    async def _decide(
        self, exchange: Exchange, shape: ShapeRequest, rows: SubsetRequest | None = None, *, is_removal: bool = False
    ) -> tuple[ShapeRule, ...] | Answer:
        """
        Give the rules of a request that may go on, else what it is answered.
        """
        query = params.decode_query(exchange.query_string)
        deciding = self.authoriser.decide(exchange.scope, exchange.path, query, shape, rows, is_removal=is_removal)
        try:
            verdict = await deciding
        except LateError:
            return self._planner.unready(plan.REASON_AUTHORISING)
        return self._planner.denied(verdict) if isinstance(verdict, Deny) else verdict

    async def _remove(self, exchange: Exchange, query: params.Query) -> Answer:
        if not self.authoriser.concerns(exchange.scope):
            return await self._others.remove(query)

        async def authorise(shape: ShapeRequest) -> ShapeRequest | Answer:
            verdict = await self._decide(exchange, shape, is_removal=True)
            return verdict if isinstance(verdict, Answer) else restrict_shape(shape, verdict)

        return await self._others.remove(_with_table(exchange, query), authorise)

    def _allowed_headers(self, exchange: Exchange) -> frozenset[str]:
        return AUTHORISED_REQUEST_HEADERS if self.authoriser.concerns(exchange.scope) else ALLOWED_REQUEST_HEADERS

    # --- for operators -----------------------------------------------------------------------------------------------

    async def _find_health(self) -> Health:
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                return await self._source.health()
        except (ConnectionLostError, TimeoutError):
            return _AWAY

    async def _admit_operator(self, exchange: Exchange) -> params.Query | None:
        query = await self._authenticate(exchange)
        if query is not None and self.authoriser.asks_always and self._settings.secret is None:
            # Who may read rows is decided row by row; who may see everybody's shapes, by nothing but a secret.
            await exchange.answer_plain(UNAUTHORIZED)
            return None
        return query

    async def _serve_shapes(self, exchange: Exchange) -> None:
        query = await self._admit_operator(exchange)
        if query is None:
            return
        question = read_question(query)
        if not isinstance(question, ShapesQuestion):
            await exchange.answer(plan.uncached(self._planner.invalid(question)))
            return
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                listed = await self._source.list_shapes(question)
        except (ConnectionLostError, TimeoutError):
            await exchange.answer(self._planner.unready(plan.REASON_SOURCE_AWAY))
            return
        waiting = self.route.shared.count_waiting()
        shapes = [msgspec.structs.replace(shape, clients=waiting.get(shape.handle, 0)) for shape in listed.shapes]
        headers = (JSON_TYPE, (b"cache-control", caching.HEALTH_CACHE_CONTROL))
        await exchange.answer(Answer(200, headers, msgspec.json.encode(ShapesListed(listed.total, shapes))))

    async def _serve_status(self, exchange: Exchange) -> None:
        if await self._admit_operator(exchange) is None:
            return
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                status = await self._source.status()
        except (ConnectionLostError, TimeoutError):
            await exchange.answer(self._planner.unready(plan.REASON_SOURCE_AWAY))
            return
        headers = (JSON_TYPE, (b"cache-control", caching.HEALTH_CACHE_CONTROL))
        await exchange.answer(Answer(200, headers, msgspec.json.encode(status)))


def _with_table(exchange: Exchange, query: params.Query) -> params.Query:
    """
    Fill in the table that the application around us grants, where the client names none.
    """
    grant = exchange.scope.get(GRANT_KEY)
    table = getattr(grant, "table", None)
    named = query.get(names.TABLE)
    if table is None or (isinstance(named, str) and named.strip()):
        return query
    return {**query, names.TABLE: table}


def _preflight(exchange: Exchange, allowed_headers: frozenset[str]) -> Answer:
    lines = exchange.header_lines(b"access-control-request-headers")
    named = [name.strip() for line in lines for name in line.split(b",")]
    wanted = [name for name in named if name.decode("latin-1").lower() in allowed_headers]
    allowed = ((b"access-control-allow-headers", b",".join(wanted)),) if wanted else ()
    return Answer(204, ((b"access-control-max-age", b"%d" % PREFLIGHT_AGE_S), (b"connection", b"keep-alive"), *allowed))


def _tell_health(health: Health) -> Answer:
    state = health.state if health.state in {"active", "waiting"} else "starting"
    status = 200 if state == "active" else 202
    return _tell(status, {"status": state})


def _tell_readiness(health: Health) -> Answer:
    if health.state == "active":
        if health.unready:
            return _tell(503, {"status": "active", "reason": health.unready})
        # Whoever sends nobody to it would never wake it.
        return _tell(200, {"status": "asleep" if health.is_asleep else "active"})
    told = {"status": health.state, "reason": f"waiting for {health.reason}", "detail": health.detail}
    return _tell(503, {key: value for key, value in told.items() if value})


def _tell(status: int, content: dict[str, str]) -> Answer:
    headers = (JSON_TYPE, (b"cache-control", caching.HEALTH_CACHE_CONTROL))
    return Answer(status, headers, msgspec.json.encode(content))

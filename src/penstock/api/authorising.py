"""
Asks a service's `authorize`, within a time limit, and takes no answer but a decision for one.

Shell. Coroutine functions run in the loop that serves; plain functions in threads, because nobody knows what they wait
for. A call that takes longer than `authorize_timeout_s` is given up: its request gets a 503, nobody else anything. A task
is cancelled and, should it not heed that, left behind; a thread cannot be ended, so it is left behind and replaced, until
`LOST_THREADS_MAX` of them hang.

Whatever goes wrong denies: an exception, None, any other value. An `HTTPException` of Starlette or FastAPI denies with its
own status, so that what applications have for their other routes can be used as it is.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias, cast

import structlog
from starlette.exceptions import HTTPException

from penstock.api.authorisation import (
    FORBIDDEN,
    AccessRequest,
    Allow,
    Authorize,
    Decision,
    Deny,
    Grant,
    RequestedShape,
    describe,
    read_headers,
)
from penstock.api.params import Query
from penstock.errors import ConfigError
from penstock.shapes.reading import ShapeRequest, ShapeRule
from penstock.shapes.subset import SubsetRequest
from penstock.wire.identifiers import parse_relation

GRANT_KEY: Final = "penstock.grant"
"""Where in the scope of a request the application around us leaves its decision."""

DECIDED_KEY: Final = "penstock.decided"
"""Where our own server leaves the rules of a request that was authorised already."""

IDLE_THREAD_S: Final = 10.0
"""A thread that has had nothing to do for so long ends."""

LOST_THREADS_MAX: Final = 256
"""Threads that hang and were replaced; with more of them no plain function is called until one comes back."""

_log = structlog.get_logger("penstock.api")


class LateError(Exception):
    """
    The callable did not answer in time.
    """


Verdict: TypeAlias = tuple[ShapeRule, ...] | Deny
"""The rules of a request that may go on, at least one; or why it may not."""


class Authoriser:
    """
    Decides about requests. Belongs to one event loop.
    """

    def __init__(self, authorize: Authorize | None, *, timeout_s: float, threads_max: int) -> None:
        """
        Ask `authorize`, if there is one; without it only the grants of an application around us count.
        """
        self._authorize: Final = authorize
        self._timeout_s: Final = timeout_s
        self._threads: Final = _Threads(threads_max)

    @property
    def asks_always(self) -> bool:
        """
        Whether requests without a grant are asked about too.
        """
        return self._authorize is not None

    def concerns(self, scope: Mapping[str, Any]) -> bool:
        """
        Tell whether a request has to be decided about.
        """
        return self._authorize is not None or GRANT_KEY in scope

    async def decide(
        self,
        scope: Mapping[str, Any],
        path: str,
        query: Query,
        shape: ShapeRequest,
        subset: SubsetRequest | None = None,
        *,
        is_removal: bool = False,
    ) -> Verdict:
        """
        Decide about a valid request.

        Args:
            scope: of the request.
            path: as it was resolved.
            query: of its URL.
            shape: what it asks for.
            subset: which rows of it.
            is_removal: whether the shape shall go.

        Raises:
            LateError: nobody answered in time.
        """
        decided = scope.get(DECIDED_KEY)
        if decided is not None:
            return cast("tuple[ShapeRule, ...]", decided)
        grant = scope.get(GRANT_KEY)
        if grant is not None and not isinstance(grant, Grant):
            return FORBIDDEN
        if grant is not None and grant.table is not None and parse_relation(grant.table) != parse_relation(shape.table):
            return FORBIDDEN
        request = AccessRequest(
            method=scope["method"],
            path=path,
            headers=read_headers(list(scope["headers"])),
            query=query,
            client=_client(scope),
            scope=scope,
        )
        described = describe(shape, subset, is_removal=is_removal)
        rules: list[ShapeRule] = []
        for decide in (self._authorize, None if grant is None else grant.decide):
            if decide is None:
                continue
            decision = decide if isinstance(decide, Allow | Deny) else await self._ask(decide, request, described)
            if isinstance(decision, Deny):
                return decision
            rules.append(decision.rule())
        assert rules, "somebody was asked"
        return tuple(rules)

    def close(self) -> None:
        """
        Let the threads end.
        """
        self._threads.close()

    async def _ask(self, authorize: Authorize, request: AccessRequest, shape: RequestedShape) -> Decision:
        """
        Call it, and wait for no longer than the limit.
        """
        call = asyncio.get_running_loop().create_task(self._call(authorize, request, shape), name="authorize")
        try:
            await asyncio.wait({call}, timeout=self._timeout_s)
        finally:
            is_late = not call.done()
            if is_late:
                # Not waited for: it may not heed that.
                call.cancel()
        if is_late:
            _log.error("authorize did not answer in time", table=shape.table, timeout_s=self._timeout_s)
            raise LateError
        return FORBIDDEN if call.cancelled() else call.result()

    async def _call(self, authorize: Authorize, request: AccessRequest, shape: RequestedShape) -> Decision:
        try:
            decision: object
            if _is_async(authorize):
                decision = await cast("Awaitable[object]", authorize(request, shape))
            else:
                decision = await self._threads.call(lambda: authorize(request, shape))
                if inspect.isawaitable(decision):
                    decision = await decision
        except HTTPException as error:
            return _as_denial(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it denies, and the log learns everything
            # As text: what renders tracebacks for an embedding program may show variables, and with them a token.
            told = "".join(traceback.format_exception(error))
            _log.error("authorize failed, the request is denied", table=shape.table, exception=told)
            return FORBIDDEN
        if isinstance(decision, Allow | Deny):
            return decision
        if decision is not None:
            kind = type(decision).__name__
            _log.error("authorize answered neither Allow nor Deny, the request is denied", table=shape.table, kind=kind)
        return FORBIDDEN


def import_authorize(path: str) -> Authorize:
    """
    Find the callable that a setting names, `module:name`; modules in the working directory are found too.

    Raises:
        ConfigError: there is none.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f'authorize: "{path}" does not name a callable: write it as module:name')
    here = os.getcwd()  # noqa: PTH109 - a string is what the path has
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as cause:
        raise ConfigError(f'authorize: "{path}" is not to be had: {cause}') from cause
    if not callable(found):
        raise ConfigError(f'authorize: "{path}" is not a callable')
    return cast("Authorize", found)


def _is_async(call: object) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004 - its kind is asked for, not whether it is there


def _as_denial(error: HTTPException) -> Deny:
    """
    Deny as the application would on a route of its own.
    """
    challenge = next((value for name, value in (error.headers or {}).items() if name.lower() == "www-authenticate"), "")
    try:
        return Deny(error.status_code, str(error.detail), challenge or "Bearer")
    except ValueError:
        return FORBIDDEN


def _client(scope: Mapping[str, Any]) -> tuple[str, int] | None:
    client = scope.get("client")
    return None if client is None else (client[0], client[1])


class _State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    LEFT = "nobody waits, and it has not begun"
    LOST = "nobody waits, and it has not returned"


class _Work:
    __slots__ = ("call", "future", "state")

    def __init__(self, call: Callable[[], object], future: asyncio.Future[object]) -> None:
        self.call: Final = call
        self.future: Final = future
        self.state = _State.WAITING


class _Threads:
    """
    Daemon threads for calls that may never return. What is counted is under the lock.
    """

    def __init__(self, threads_max: int) -> None:
        self._threads_max: Final = threads_max
        self._queue: Final[SimpleQueue[_Work | None]] = SimpleQueue()
        self._lock: Final = threading.Lock()
        self._threads_count = 0
        self._busy_count = 0
        self._lost_count = 0

    async def call(self, call: Callable[[], object]) -> object:
        """
        Make a call in a thread; whoever cancels this leaves the thread behind.
        """
        loop = asyncio.get_running_loop()
        work = _Work(call, loop.create_future())
        with self._lock:
            if self._lost_count >= LOST_THREADS_MAX:
                raise RuntimeError("too many calls of authorize hang")
            self._busy_count += 1
            is_short = self._threads_count < min(self._threads_max, self._busy_count)
            self._threads_count += is_short
            self._queue.put(work)
        if is_short:
            threading.Thread(target=self._run, args=(loop,), name="penstock-authorize", daemon=True).start()
        try:
            return await work.future
        finally:
            with self._lock:
                self._busy_count -= 1
                if work.state is _State.WAITING:
                    work.state = _State.LEFT
                elif work.state is _State.RUNNING:
                    work.state = _State.LOST
                    self._lost_count += 1
                    self._threads_count -= 1

    def close(self) -> None:
        """
        Let all end that can.
        """
        with self._lock:
            for _ in range(self._threads_count):
                self._queue.put(None)
            self._threads_count = 0

    def _next(self) -> _Work | None:
        """
        Wait for something to do; None when the thread is to end.
        """
        while True:
            try:
                return self._queue.get(timeout=IDLE_THREAD_S)
            except Empty:
                with self._lock:
                    # Whatever is put after this finds one thread less.
                    if self._queue.empty() and self._threads_count:
                        self._threads_count -= 1
                        return None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while (work := self._next()) is not None:
            with self._lock:
                if work.state is not _State.WAITING:
                    continue
                work.state = _State.RUNNING
            result: object = None
            error: BaseException | None = None
            try:
                result = work.call()
            except BaseException as caught:  # noqa: BLE001 - handed to whoever waits
                error = caught
            with self._lock:
                is_lost = work.state is _State.LOST
                self._lost_count -= is_lost
                work.state = _State.DONE
            if is_lost:
                # Another one has its place.
                return
            try:
                loop.call_soon_threadsafe(_deliver, work.future, result, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more


def _deliver(future: asyncio.Future[object], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):
        # No future takes that one.
        future.set_exception(RuntimeError("authorize raised StopIteration"))
    else:
        future.set_exception(error)

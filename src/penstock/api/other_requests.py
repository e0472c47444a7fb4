"""
Requests for shapes that are not a plain reading of a log: subsets, bodies, removals.

Shell; what is answered is in `plan`, what the parameters mean in `params` and `subset`. Of these nothing is shared and
nothing is cached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from penstock.api import params, plan, subset
from penstock.api.abc import ShapeSource
from penstock.api.admission import Admission, Permit
from penstock.api.exchange import BodyFailedError, BodyTooLargeError, Exchange
from penstock.api.files import OpenBody
from penstock.api.live import RETRY_DELAY_S_MAX, RETRY_DELAY_S_MIN
from penstock.api.params import LogRequest
from penstock.api.plan import Answer, Planner
from penstock.api.settings import ApiSettings
from penstock.errors import ConnectionLostError
from penstock.shapes.reading import Refused, RemoveRequest, Rotated, ShapeRequest, SubsetLoaded, SubsetQuestion
from penstock.shapes.subset import SubsetRequest
from penstock.wire import names

AuthoriseRemoval: TypeAlias = Callable[[ShapeRequest], Awaitable[ShapeRequest | Answer]]

_T = TypeVar("_T")


class OtherRequests:
    """
    Subsets, bodies and removals.
    """

    def __init__(
        self, source: ShapeSource, settings: ApiSettings, data_dir: Path, admission: Admission, planner: Planner
    ) -> None:
        """
        Ask `source`; the files it names lie below `data_dir`.
        """
        self._source: Final = source
        self._settings: Final = settings
        self._data_dir: Final = data_dir
        self._admission: Final = admission
        self._planner: Final = planner

    async def read_body(
        self, exchange: Exchange, query: params.Query, asked: subset.JsonObject | None
    ) -> tuple[params.Query, subset.JsonObject | None] | Answer:
        """
        Read the body of a POST and merge it with the query; an answer says what is wrong with it.
        """
        try:
            body = await exchange.read_body(subset.BODY_BYTES_MAX, timeout_s=self._settings.header_timeout_s)
            return subset.merge_body(query, asked, subset.parse_body(body))
        except BodyTooLargeError:
            return _body_refused(413, {"error": "Request body too large"})
        except BodyFailedError:
            return _body_refused(400, {"error": "Failed to read request body"})
        except subset.BodyError as error:
            return _body_refused(400, error.envelope)

    async def load_subset(self, request: LogRequest, asked: SubsetRequest, permit: Permit) -> tuple[Answer, OpenBody]:
        """
        Find the answer to a request for a subset; whoever gets it closes the body.
        """
        question = SubsetQuestion(request.shape, asked)
        is_second_look = False
        while True:
            reply = await self._ask(lambda: self._source.load_subset(question))
            if isinstance(reply, Rotated) and request.shape.handle is not None:
                self._admission.forget(request.shape.handle)
            if isinstance(reply, SubsetLoaded):
                self._admission.remember(reply.handle)
                permit.become_existing()
            answer = self._planner.subset(request, reply)
            try:
                return answer, OpenBody.open(answer.body, self._data_dir)
            except FileNotFoundError:
                if is_second_look:
                    refused = plan.uncached(self._planner.unready(plan.REASON_SOURCE_AWAY))
                    return refused, OpenBody.open(refused.body, self._data_dir)
                is_second_look = True

    async def remove(self, query: params.Query, authorise: AuthoriseRemoval | None = None) -> Answer:
        """
        Find the answer to a request to remove a shape.

        Args:
            query: of the request.
            authorise: gives the shape under its rules, or what is answered instead. A handle alone does not say whose
                shape it is, so the request must then name the shape.
        """
        if not self._settings.allows_removal:
            return plan.uncached(self._planner.refuse(405, "DELETE not allowed"))
        request = params.validate_removal(query)
        if isinstance(request, dict):
            return plan.uncached(self._planner.invalid(request))
        if authorise is not None:
            if request.shape is None:
                return plan.uncached(self._planner.invalid({names.TABLE: ["can't be blank"]}))
            allowed = await authorise(request.shape)
            if isinstance(allowed, Answer):
                return allowed
            request = RemoveRequest(allowed, request.handle)
        return self._planner.removal(await self._ask(lambda: self._source.remove(request)))

    async def _ask(self, ask: Callable[[], Awaitable[_T]]) -> _T | Refused:
        """
        Ask, and ask again for a while when the engine is away.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.source_timeout_s
        delay_s = RETRY_DELAY_S_MIN
        while True:
            try:
                async with asyncio.timeout(self._settings.open_timeout_s):
                    return await ask()
            except TimeoutError:
                return _unready(plan.REASON_REPLAYING)
            except ConnectionLostError:
                if loop.time() + delay_s >= until:
                    return _unready(plan.REASON_SOURCE_AWAY)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_DELAY_S_MAX)


def _unready(reason: str) -> Refused:
    return Refused(503, f"Timeout waiting for {reason}", retry_after_s=plan.RETRY_UNREADY_S)


def _body_refused(status: int, envelope: dict[str, object]) -> Answer:
    return Answer(status, (plan.JSON_TYPE,), plan.encode(envelope))

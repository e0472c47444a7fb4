"""
The course of one request for a log: what to ask the engine, what to wait for, what to answer in the end.

Dialogue. It yields what is to be done next and is sent what came of it; whoever drives it holds the sockets and the
clock. Both ways by which requests are served drive the same one, so they cannot give different answers.

    Ask     sent back: the engine's reply, or a refusal when it stayed away until that moment
    Wait    sent back: the news, or None when the moment came first
    Answer  the end, unless a file of it is gone: then the dialogue goes on when it is resumed with None
    Stream  the end: events begin with what is in its range
    Nothing the end: a stream of events that ends at once
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeAlias

from penstock.api import plan
from penstock.api.params import LogRequest
from penstock.api.plan import Answer, Moment, Park, Planner, Reach, Stream
from penstock.shapes.offset import LogOffset
from penstock.shapes.reading import Advanced, LogRange, Opened, OpenReply, Refused, Rotated


class News:
    """
    What a parked request learns, with the body that all who learn it send.
    """

    __slots__ = ("body", "prebuilt", "reply", "whole")

    def __init__(self, reply: Advanced | Rotated) -> None:
        self.reply: Final = reply
        self.body: Final = plan.live_body(reply.range) if isinstance(reply, Advanced) else plan.LogBody()
        self.prebuilt: Final[dict[object, bytes]] = {}
        """Parts of responses, by what tells those who get different ones apart; for whoever sends them."""
        self.whole: Final[dict[object, bytes]] = {}
        """Small responses, all but their first lines, by the same; for whoever sends them."""


@dataclass(frozen=True, slots=True)
class Ask:
    """
    Ask the engine what the request reads, and ask again while it is away.

    Attributes:
        until: how long to ask, on the clock of the loop.
        retry_after_s: what the client is told when that was in vain.
    """

    until: float
    retry_after_s: int

    @property
    def refusal(self) -> Refused:
        """
        What to send back when it was.
        """
        return unready(plan.REASON_SOURCE_AWAY, self.retry_after_s)


@dataclass(frozen=True, slots=True)
class Wait:
    """
    Wait for something after this place, or for the end of the log.

    Attributes:
        handle, after: the place.
        until: how long, on the clock of the loop.
        is_parking: whether the request has everything and waits for a change, as it would with every other answer that
            says the same; otherwise its place was not reached.
    """

    handle: str
    after: LogOffset
    until: float
    is_parking: bool


@dataclass(frozen=True, slots=True)
class Nothing:
    """
    A stream of events for a place that was not reached: a head, and the end.
    """

    handle: str
    found: LogRange


Step: TypeAlias = Ask | Wait | Answer | Stream | Nothing
Reply: TypeAlias = OpenReply | News | None
Dialogue: TypeAlias = Generator[Step, Reply, None]


def converse(
    planner: Planner, request: LogRequest, if_none_match: list[bytes], started: float, take_moment: Callable[[], Moment]
) -> Dialogue:
    """
    Lead a valid request to its answer.

    Args:
        planner: the rules.
        request: what the client wants.
        if_none_match: the header's lines.
        started: when the request came, on the clock of the loop.
        take_moment: gives what an answer takes from the world.
    """
    settings = planner.settings
    live_until = started + settings.long_poll_timeout_s
    reach_until = started + settings.long_poll_timeout_s / 2
    patience_until = live_until if request.shape.is_live else started + settings.source_timeout_s
    reply = yield Ask(patience_until, plan.RETRY_UNREADY_S)
    is_live_over = is_reach_over = is_second_look = False
    while True:
        assert reply is not None
        assert not isinstance(reply, News)
        decision = planner.decide(request, reply, if_none_match, take_moment())
        answer: Answer | None = None
        match decision:
            case Answer():
                answer = decision
            case Stream():
                yield decision
                return
            case Park() if is_live_over:
                assert isinstance(reply, Opened)
                answer = planner.no_change(
                    request, reply.handle, reply.range.chunk_end, reply.last_seen_lsn, take_moment(), schema=None
                )
            case Park():
                news = yield Wait(decision.handle, decision.after, live_until, is_parking=True)
                is_live_over = news is None
                if isinstance(news, News):
                    answer = answer_news(planner, request, decision.handle, news, take_moment())
            case Reach() if is_reach_over:
                if request.is_sse and not decision.is_replaying and request.shape.offset is not None:
                    yield Nothing(decision.handle, LogRange(request.shape.offset, decision.last))
                    return
                answer = planner.out_of_bounds(is_replaying=decision.is_replaying)
            case Reach():
                is_reach_over = (yield Wait(decision.handle, decision.last, reach_until, is_parking=False)) is None
        if answer is not None:
            yield answer
            # A file of it is gone. Compaction: the next answer names others. Removal: the next answer says so.
            if is_second_look:
                yield planner.give_up(Rotated())
                return
            is_second_look = True
        patience_until = started if is_live_over or is_reach_over else live_until
        reply = yield Ask(patience_until, plan.RETRY_GONE_AT_TIMEOUT_S)


def unready(reason: str, retry_after_s: int) -> Refused:
    """
    Give the refusal for something that was waited for in vain.
    """
    return Refused(503, f"Timeout waiting for {reason}", retry_after_s=retry_after_s)


def answer_news(planner: Planner, request: LogRequest, handle: str, news: News, moment: Moment) -> Answer:
    """
    Answer a request that was parked.
    """
    if isinstance(news.reply, Rotated):
        return planner.give_up(news.reply)
    return planner.live_data(request, handle, news.reply.range, news.body, moment)

"""
Laws of questions to the engine that many requests share.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from penstock.api.live import Question, Shared
from penstock.errors import ConnectionLostError


class Asker:
    def __init__(self) -> None:
        self.answers: list[object] = []

    def told(self, answer: object) -> None:
        self.answers.append(answer)

    def failed(self, error: BaseException) -> None:
        self.answers.append(error)


class Engine:
    """
    Has a future for each question that was put to it.
    """

    def __init__(self) -> None:
        self.put: list[tuple[int, asyncio.Future[int]]] = []

    def ask(self, key: int) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.put.append((key, future))
        return future

    def find(self, key: int) -> asyncio.Future[int] | None:
        waiting = [future for asked, future in self.put if asked == key and not future.done()]
        assert len(waiting) <= 1, "the same was asked twice at the same time"
        return waiting[0] if waiting else None


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["join", "answer", "fail", "away"]), st.integers(0, 1)),
        st.tuples(st.just("leave"), st.integers(0, 5)),
        st.tuples(st.just("turn"), st.just(0)),
    ),
    max_size=30,
)


@given(_STEPS)
@example([("join", 0), ("answer", 0), ("leave", 0), ("turn", 0), ("join", 0)]).via("a stream fell silent")
def test_who_does_not_leave_is_told_once(steps: list[tuple[str, int]]) -> None:
    """
    Whatever moment somebody joins or leaves in: before the answer, with it, or before it is passed on.
    """

    async def test() -> None:
        engine = Engine()
        shared: Shared[Any] = Shared("test", put_again=engine.ask)
        joined: list[tuple[Asker, Question[Any]]] = []
        gone: dict[Asker, int] = {}
        for action, number in steps:
            match action:
                case "join":
                    asker = Asker()
                    joined.append((asker, shared.join(number, lambda key=number: engine.ask(key), asker)))  # type: ignore[misc]
                case "leave":
                    if number < len(joined):
                        asker, question = joined[number]
                        question.leave(asker)
                        gone.setdefault(asker, len(asker.answers))
                case "turn":
                    await asyncio.sleep(0)
                case _:
                    future = engine.find(number)
                    if future is None:
                        continue
                    if action == "answer":
                        future.set_result(number)
                    else:
                        future.set_exception(ConnectionLostError("away") if action == "away" else ValueError("no"))
        for _ in range(2 * len(steps) + 4):
            for key in range(2):
                future = engine.find(key)
                if future is not None:
                    future.set_result(key)
            await asyncio.sleep(0)
        for asker, _ in joined:
            assert len(asker.answers) == gone.get(asker, 1)
        assert shared.count == 0
        assert shared.askers_count == 0

    asyncio.run(test())

"""
How commands read a shape: one blocking loop around the client's core, which says what it waits for.

Shell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import httpx

from penstock.client.stream import Resume, ShapeStream, StreamEvent
from penstock.errors import ConfigError, ConnectionLostError, InvalidRequestError, UnauthorizedError
from penstock.shapes.offset import LogOffset

CONNECT_S_MAX: Final = 10.0
ANSWER_S_MAX: Final = 90.0
RETRY_S_MIN: Final = 0.25
RETRY_S_MAX: Final = 10.0
_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


def parse_since(text: str) -> Resume:
    """
    Read `HANDLE:OFFSET`, as commands print it when they are left.

    Raises:
        ConfigError: it is not that.
    """
    handle, _, place = text.rpartition(":")
    offset = LogOffset.parse(place)
    if not handle or offset is None:
        raise ConfigError(f"--since takes HANDLE:OFFSET as `penstock tail` prints it when it is left, and not {text!r}")
    return Resume(handle, offset)


def follow(
    url: str, stream: ShapeStream, *, is_live: bool, say: Callable[[str], None] = lambda _: None
) -> Iterator[list[StreamEvent]]:
    """
    Yield what each answer brings; ends at the first that is up to date unless `is_live`.

    A connection that is lost after the first answer is made again for as long as it takes, and `say` is told once.

    Raises:
        ConnectionLostError: nobody answers at all.
        ConfigError: what the user asked for is refused; the sentence names the fix.
        ClientError: the server breaks the protocol.
    """
    delay_s = RETRY_S_MIN
    is_first = True
    is_told = False
    address = url.rstrip("/") + "/v1/shape"
    with httpx.Client(timeout=httpx.Timeout(CONNECT_S_MAX, read=ANSWER_S_MAX)) as client:
        while True:
            retry_after_s = 0.0
            try:
                answer = client.get(address, params=stream.next_request(is_live=is_live))
                problem = f"the service answered {answer.status_code}" if answer.status_code in _RETRIED else ""
                said = answer.headers.get("retry-after", "")
                retry_after_s = min(float(said), RETRY_S_MAX) if said.isdigit() else 0.0
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise ConfigError(f"--url {url} is no address of a service: {error}") from error
            except httpx.TransportError as error:
                if is_first:
                    sentence = (
                        f"nobody answers at {url}: start `penstock serve`, or name the service with --url ({error})"
                    )
                    raise ConnectionLostError(sentence) from error
                problem = f"the connection is lost ({error})"
                answer = None
            if problem or answer is None:
                if not is_told:
                    say(f"{problem}; trying again")
                    is_told = True
                time.sleep(max(delay_s, retry_after_s))
                delay_s = min(delay_s * 2, RETRY_S_MAX)
                continue
            if is_told:
                say("connected again")
            is_told, delay_s = False, RETRY_S_MIN
            try:
                events = stream.handle_response(answer.status_code, answer.headers, answer.content)
            except UnauthorizedError as error:
                raise ConfigError("the service wants its secret: set PENSTOCK_SECRET in the environment") from error
            except InvalidRequestError as error:
                raise ConfigError(error.message) from error
            is_first = False
            yield events
            if stream.is_up_to_date and not is_live:
                return

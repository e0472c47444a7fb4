"""
An ASGI application under uvicorn, in a thread of this process, as users run theirs.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

import uvicorn

START_TIMEOUT_S: Final = 60.0


@contextlib.contextmanager
def site(application: Any, *, lifespan: str = "on") -> Iterator[str]:
    """
    Serve an application for as long as the block, with its lifespan; gives its URL.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    begun = threading.Event()
    server = _Server(
        uvicorn.Config(
            application,
            lifespan=lifespan,  # type: ignore[arg-type]  # one of uvicorn's words
            log_config=None,
            timeout_graceful_shutdown=10,
        ),
        begun,
    )
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.run(sockets=[sock])
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            failures.append(error)
        finally:
            begun.set()

    thread = threading.Thread(target=run, name="site", daemon=True)
    thread.start()
    try:
        assert begun.wait(START_TIMEOUT_S), "the server does not start"
        assert server.started, f"the server did not start: {failures}"
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(START_TIMEOUT_S)
        sock.close()
        assert not thread.is_alive(), "the server does not end"
        assert not failures, failures


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, begun: threading.Event) -> None:
        super().__init__(config)
        self._begun = begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

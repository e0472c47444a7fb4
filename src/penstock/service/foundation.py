"""
What must stand before any role starts, and stays when roles go and come: folder, lock, board, pipes, sockets. A shell.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from penstock.errors import ConfigError
from penstock.liveness.board import Board
from penstock.service.folder import FolderLock, prepare_folder
from penstock.service.lifecycle import WakePipe
from penstock.service.standby import stand_by

if TYPE_CHECKING:
    from penstock.service.settings import Settings

_BACKLOG: Final = 4096
_OPEN_FILES_MAX: Final = 1_048_576
_SOCKET_PATH_BYTES_MAX: Final = 100


class StandbyEndedError(Exception):
    """
    Met by whoever starts a service that was asked to end before the data folder was its own. Ends in order.
    """


class Foundation:
    """
    A context manager around a service's life.

    Attributes:
        settings: as given, with the temporary folder and the port that were chosen filled in.
        lock: the hold on the data folder.
        board: the board.
        engine_wake, receiver_wake: the wake-up pipes.
        listeners: the TCP sockets, listening.
        engine_socket: where the engine will listen for web.
    """

    def __init__(self, settings: Settings) -> None:
        """
        Lay it. While another service has the data folder, serve from there what can be served, and wait.

        Raises:
            ConfigError: the folder or the port is not to be had.
            StandbyEndedError: asked to end while waiting for the folder.
        """
        with contextlib.ExitStack() as undo:
            if settings.storage == "memory":
                temporary = Path(tempfile.mkdtemp(prefix="penstock-"))
                undo.callback(shutil.rmtree, temporary, ignore_errors=True)
                settings = msgspec.structs.replace(settings, data_dir=temporary)
            prepare_folder(settings.data_dir)
            if settings.relay_dir is not None:
                prepare_folder(settings.relay_dir)
            _raise_open_files()
            self.listeners: Final = _listen(settings.host, settings.port)
            for listener in self.listeners:
                undo.callback(listener.close)
            lock = FolderLock.attempt(settings.data_dir) or stand_by(settings, self.listeners)
            if lock is None:
                raise StandbyEndedError
            self.lock: Final = lock
            undo.callback(self.lock.release)
            self.board: Final = Board.create_in_memory()
            undo.callback(self.board.close)
            self.engine_wake: Final = WakePipe.create()
            undo.callback(self.engine_wake.close)
            self.receiver_wake: Final = WakePipe.create()
            undo.callback(self.receiver_wake.close)
            self.engine_socket = settings.data_dir / "engine.sock"
            if len(os.fsencode(self.engine_socket)) > _SOCKET_PATH_BYTES_MAX:
                folder = Path(tempfile.mkdtemp(prefix="penstock-"))
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
                self.engine_socket = folder / "engine.sock"
            port: int = self.listeners[0].getsockname()[1]
            self.settings: Final = msgspec.structs.replace(settings, port=port)
            self._cleanup: Final = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def stop_listening(self) -> None:
        """
        Close our hold on the TCP sockets: once the web workers have closed theirs, nobody connects any more.
        """
        for listener in self.listeners:
            listener.close()


def _listen(host: str, port: int) -> tuple[socket.socket, ...]:
    """
    Listen on all addresses that a host name has.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as cause:
        raise ConfigError(f'host: "{host}" is not an address to listen on: {cause.strerror}') from cause
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    listeners: list[socket.socket] = []
    with contextlib.ExitStack() as undo:
        for family, address in addresses:
            listener = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # `::` takes IPv4 along, which is what people who set it expect.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
            # A port of our choosing is the same on all addresses.
            chosen = port if port or not listeners else listeners[0].getsockname()[1]
            try:
                listener.bind((address[0], chosen, *address[2:]))
                listener.listen(_BACKLOG)
            except OSError as cause:
                raise ConfigError(
                    f"port {port} on {host} is not to be had ({cause.strerror}): choose another with --port"
                ) from cause
            listener.setblocking(False)
            listeners.append(listener)
        undo.pop_all()
    return tuple(listeners)


def _raise_open_files() -> None:
    """
    Allow ourselves and our children as many open files as we may: each waiting client is one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

"""Serving with several processes, which share a listening socket and take connections in turn.

Whoever wakes first would take every connection that waits: a client that opens eight at once would keep one core busy
and leave the others idle. So a process that has more connections than another lets that one be first.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import MutableSequence
from multiprocessing.connection import wait
from types import FrameType

import uvicorn

from app.core import memory

#: The status with which uvicorn ends when an application cannot start.
STARTUP_FAILURE = 3
#: Seconds for which a process with more connections leaves a new one to the others.
COURTESY_SECONDS = 0.001
#: More connections than anybody has: nobody waits for a process that does not take any.
_NOT_READY = 1 << 30


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """A socket that listens, and will not where another one does."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(backlog)
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror}") from error
    bound.setblocking(False)
    return bound


class Sharing(uvicorn.Server):
    """One of the processes: it takes connections from the common socket. `counts` has the connections of all."""

    def __init__(self, config: uvicorn.Config, listening: socket.socket, counts: MutableSequence[int], place: int):
        super().__init__(config)
        self._listening = listening
        self._counts = counts
        self._place = place
        self._opening: set[asyncio.Task[None]] = set()
        self._was_polite = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        await super().startup(sockets=[])
        if self.started:
            memory.settle()
            self._counts[self._place] = 0
            asyncio.get_running_loop().add_reader(self._listening, self._take)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, and finish those under way."""
        asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()
        self._counts[self._place] = _NOT_READY
        await super().shutdown(sockets=[])

    async def on_tick(self, counter: int) -> bool:
        """Tell the others now and then how many connections are left."""
        self._counts[self._place] = self._own()
        return await super().on_tick(counter)

    def _own(self) -> int:
        return len(self.server_state.connections) + len(self._opening)

    def _take(self) -> None:
        """Take the connections that wait, as long as no other process has fewer."""
        loop = asyncio.get_running_loop()
        while self._listening.fileno() >= 0:
            own = self._own()
            self._counts[self._place] = own
            if own > min(self._counts) and not self._was_polite:
                self._was_polite = True
                loop.remove_reader(self._listening)
                loop.call_later(COURTESY_SECONDS, self._take_again)
                return
            self._was_polite = False
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _take_again(self) -> None:
        if self._listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listening, self._take)
            self._take()

    async def _open(self, connection: socket.socket) -> None:
        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(protocol, connection, ssl=self.config.ssl)
        except OSError:  # the client is gone already
            connection.close()


def serve(config: uvicorn.Config) -> None:
    """Serve until told to stop."""
    with listen(config.host, config.port, config.backlog) as listening:
        config.port = listening.getsockname()[1]
        if config.workers == 1:
            _run(Sharing(config, listening, [0], 0))
        else:
            _supervise(config, listening)


def _run(server: uvicorn.Server) -> None:
    memory.give_back()
    server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _work(config: uvicorn.Config, listening: socket.socket, counts: MutableSequence[int], place: int) -> None:
    """What each process does; it ends with its parent, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    config.configure_logging()
    _run(Sharing(config, listening, counts, place))


def _supervise(config: uvicorn.Config, listening: socket.socket) -> None:
    """Keep as many processes as wanted; start another one for one that died."""
    context = multiprocessing.get_context("spawn")
    counts = context.RawArray("i", [_NOT_READY] * config.workers)

    def start(place: int) -> multiprocessing.process.BaseProcess:
        counts[place] = _NOT_READY
        process = context.Process(target=_work, args=(config, listening, counts, place))
        process.start()
        return process

    is_stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        is_stopping = True
        listening.close()  # new clients are refused while the last answers are given
        for process in processes:
            process.terminate()

    processes = [start(place) for place in range(config.workers)]
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    failed = False
    while any(process.is_alive() for process in processes) or not is_stopping:
        wait([process.sentinel for process in processes if process.is_alive()], timeout=1)
        for place, process in enumerate(processes):
            if process.is_alive() or is_stopping:
                continue
            if process.exitcode == STARTUP_FAILURE:
                failed = True
                stop(signal.SIGTERM, None)
                break
            processes[place] = start(place)
    if failed:
        sys.exit(STARTUP_FAILURE)

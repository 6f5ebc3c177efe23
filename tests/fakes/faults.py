"""A proxy that stands between a client and an HTTP store and makes the network bad, by plan or by chance.

It reads whole requests and answers, so a fault always hits one request: the store has either not seen it or has
carried it out in full. It serves HTTP/1.1 with keep-alive, chunked bodies and ``Expect: 100-continue``.

    with faults.proxy(store_url, seed=7) as net:
        net.chance.update({Fault.LOST_REPLY: 0.05, Fault.UNAVAILABLE: 0.1})   # by chance
        net.plan(Fault.LOST_REPLY)                                            # the next request
        net.mode = Mode.DEAD                                                  # from now on
        net.mode = Mode.NORMAL
        assert net.injected[Fault.LOST_REPLY]

The proxy runs in a thread of its own; all settings may be changed at any time from any thread.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import NamedTuple
from urllib.parse import urlsplit

HOST = "127.0.0.1"
LIMIT = 2**30


class Fault(Enum):
    """What may happen to one request."""

    NONE = "none"
    DELAY = "delay"  # answered late
    UNAVAILABLE = "503"  # not forwarded
    TOO_MANY = "429"  # not forwarded
    RESET = "reset"  # not forwarded, the connection is reset
    LOST_REPLY = "lost reply"  # carried out, the connection is closed without an answer
    ERROR_AFTER = "500"  # carried out, and answered with an error all the same


class Mode(Enum):
    """What happens to all connections."""

    NORMAL = "normal"
    DEAD = "dead"  # connections are accepted and never answered
    REFUSED = "refused"  # connections are refused, those that were open are reset


STATUS = {
    Fault.UNAVAILABLE: "503 Service Unavailable",
    Fault.TOO_MANY: "429 Too Many Requests",
    Fault.ERROR_AFTER: "500 Internal Server Error",
}


class Message(NamedTuple):
    """A request or an answer as it was on the wire."""

    head: bytes
    body: bytes

    @property
    def start(self) -> list[str]:
        return self.head.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)


class Proxy:
    """The settings and counts of a proxy under way.

    ``chance`` is the probability of each fault, drawn from one seeded generator in the order of requests.
    ``only`` limits chance and plan to requests for which it is true of (method, target). ``most`` limits how many
    faults are injected by chance. ``delay_seconds`` is the range of delays. ``injected`` counts faults by kind and
    ``forwarded`` the requests that reached the store.
    """

    def __init__(self, target: str, seed: int = 0) -> None:
        url = urlsplit(target)
        if url.hostname is None or url.port is None:
            raise ValueError(f"{target} needs a host and a port")
        self.target = url.hostname, url.port
        self.chance: dict[Fault, float] = {}
        self.only: Callable[[str, str], bool] = lambda method, target: True
        self.most: int | None = None
        self.delay_seconds = (0.0, 0.05)
        self.injected: Counter[Fault] = Counter()
        self.forwarded = 0
        self._planned: deque[Fault] = deque()
        self._random = random.Random(seed)
        self._mode = Mode.NORMAL
        self._revive = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop
        self._server: asyncio.Server | None = None
        # Bound and never listening: keeps the port ours while connections are refused.
        self._reserved = self._bound(0)
        self.port = int(self._reserved.getsockname()[1])
        self.url = f"http://{HOST}:{self.port}"

    def plan(self, *planned: Fault) -> None:
        """Let these faults happen to the next requests, one each; Fault.NONE lets one pass."""
        self._planned.extend(planned)

    def calm(self) -> None:
        """Inject nothing more."""
        self.chance.clear()
        self._planned.clear()
        self.mode = Mode.NORMAL

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        asyncio.run_coroutine_threadsafe(self._change(mode), self._loop).result(10)

    def _bound(self, port: int) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
        return bound

    async def _change(self, mode: Mode) -> None:
        self._mode = mode
        if mode is Mode.REFUSED:
            if self._server:
                self._server.close()
                self._server = None
            for writer in list(self._open):
                reset(writer)
        elif self._server is None:
            self._server = await asyncio.start_server(
                self._serve, sock=self._bound(self.port), limit=LIMIT, backlog=1024
            )
        if mode is Mode.DEAD:
            self._revive.clear()
        else:
            self._revive.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client's connection, over one of its own to the store."""
        self._open.add(writer)
        store: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while True:
                request = await read_request(reader, writer)
                await self._wait_while_dead()
                fault = self._choose(request)
                if fault is Fault.RESET:
                    reset(writer)
                    return
                if fault is Fault.DELAY:
                    await asyncio.sleep(self._random.uniform(*self.delay_seconds))
                if fault in (Fault.UNAVAILABLE, Fault.TOO_MANY):
                    answer = error(fault)
                else:
                    store = store or await asyncio.open_connection(*self.target, limit=LIMIT)
                    answer = await self._forward(request, *store)
                    if fault is Fault.LOST_REPLY:
                        return
                    if fault is Fault.ERROR_AFTER:
                        answer = error(fault)
                await self._wait_while_dead()
                writer.write(answer.head + answer.body)
                await writer.drain()
                if closes(answer) or closes(request):
                    return
        except (OSError, EOFError, asyncio.CancelledError):
            return
        finally:
            self._open.discard(writer)
            for each in (writer, *(store or ())[1:]):
                each.close()

    async def _wait_while_dead(self) -> None:
        if self._mode is Mode.DEAD:
            await self._revive.wait()

    def _choose(self, request: Message) -> Fault:
        method, target, *_ = request.start
        if not self.only(method, target):
            return Fault.NONE
        if self._planned:
            fault = self._planned.popleft()
        elif self.most is not None and self.injected.total() >= self.most:
            return Fault.NONE
        else:
            chance = dict(self.chance)
            none = max(0.0, 1.0 - sum(chance.values()))
            fault = self._random.choices([*chance, Fault.NONE], [*chance.values(), none])[0]
        if fault is not Fault.NONE:
            self.injected[fault] += 1
        return fault

    async def _forward(self, request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message:
        self.forwarded += 1
        writer.write(request.head + request.body)
        await writer.drain()
        return await read_answer(reader, request.start[0])

    async def _run(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await self._change(Mode.NORMAL)
        started.set()
        await self._stop.wait()
        await self._change(Mode.REFUSED)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reserved.close()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)


@contextmanager
def proxy(target: str, seed: int = 0) -> Iterator[Proxy]:
    """Run a proxy to the store at ``target``, a URL; give its ``url`` to the client instead."""
    made, started = Proxy(target, seed), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(made._run(started)), daemon=True)
    thread.start()
    if not started.wait(10):
        raise RuntimeError("the proxy did not start")
    try:
        yield made
    finally:
        made._end()
        thread.join(10)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a TCP reset."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def error(fault: Fault) -> Message:
    return Message(f"HTTP/1.1 {STATUS[fault]}\r\nContent-Length: 0\r\n\r\n".encode(), b"")


def header(head: bytes, name: bytes) -> bytes:
    """A header in lower case, empty if there is none."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().lower()
    return b""


def closes(message: Message) -> bool:
    return header(message.head, b"connection") == b"close"


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message:
    head = await reader.readuntil(b"\r\n\r\n")
    if header(head, b"expect") == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        lines = head.split(b"\r\n")
        head = b"\r\n".join(line for line in lines if not line.lower().startswith(b"expect:"))
    return Message(head, await read_body(reader, head))


async def read_answer(reader: asyncio.StreamReader, method: str) -> Message:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status >= 200:
            break
    if method == "HEAD" or status in (204, 304):
        return Message(head, b"")
    if header(head, b"content-length") or header(head, b"transfer-encoding"):
        return Message(head, await read_body(reader, head))
    return Message(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), await reader.read())


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """A body as it is on the wire, with the marks of its chunks if it has them."""
    if header(head, b"transfer-encoding") != b"chunked":
        return await reader.readexactly(int(header(head, b"content-length") or 0))
    parts = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if size == 0:
            parts.append(line)
            while parts[-1] != b"\r\n":
                parts.append(await reader.readuntil(b"\r\n"))
            return b"".join(parts)
        parts += [line, await reader.readexactly(size + 2)]

"""A load generator that costs as little as Python allows: prepared bytes out, counted bytes in, nothing decoded."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gc
import http.client
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with contextlib.suppress(ImportError):  # not on every platform; asyncio's own loop does the same more slowly
    from uvloop import new_event_loop

Buffer = bytes | memoryview
Request = tuple[Buffer, ...]  # what goes on the wire, in one piece or as head and large body

SMALL_BODY = 1 << 16
SCRATCH = 1 << 18
SAMPLE = 200
DRIBBLE = 1 << 14
BREATHER = 0.001


class Unanswered(Exception):
    """The server broke off or refused a request that the benchmark cannot do without."""


@dataclass(frozen=True)
class Target:
    """Where the server under test listens."""

    host: str
    port: int
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Target:
        parts = urllib.parse.urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url!r} is not a plain http:// address")
        return cls(parts.hostname, parts.port or 80, parts.path.rstrip("/"))

    def request(self, method: str, path: str, body: Buffer | None = None) -> Request:
        """Prepare the bytes of one request; a small body travels in the same piece as its head."""
        size = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = f"{method} {self.prefix}{path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{size}\r\n".encode()
        if body is None:
            return (head,)
        return (head + bytes(body),) if len(body) <= SMALL_BODY else (head, body)


class Server:
    """The same server for what is not measured: creating, loading, checking."""

    def __init__(self, target: Target, admin: str | None = None) -> None:
        self.target = target
        self._admin = admin

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(self.target.host, self.target.port, timeout=600)
        try:
            connection.request(method, self.target.prefix + path, body)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"{method} {path}: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise Unanswered(f"{method} {path}: {answer.status} {data[:SAMPLE].decode(errors='replace').strip()}")
        return data

    def get(self, path: str, body: bytes | None = None) -> bytes:
        return self.call("GET", path, body)

    def post(self, path: str, body: bytes | None = None) -> bytes:
        return self.call("POST", path, body)

    def create_repos_path(self) -> str:
        """Return the path that creates repos, with the administrator's token where there is one."""
        return "/api/repos" + (f"?admintoken={urllib.parse.quote(self._admin)}" if self._admin else "")


# ---------------------------------------------------------------- reading answers


class _State(enum.IntEnum):
    HEAD = 0
    BODY = 1
    CHUNK_SIZE = 2
    CHUNK = 3
    TRAILER = 4
    UNTIL_CLOSE = 5


class AnswerReader:
    """Follows the framing of HTTP/1.1 answers, however cut, and counts the bytes of their bodies."""

    __slots__ = ("_left", "_partial", "_state", "closes", "done", "sample", "size", "status")

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Expect a new answer."""
        self._state = _State.HEAD
        self._left = 0
        self._partial = b""
        self.status = 0
        self.size = 0
        self.closes = False
        self.done = False
        self.sample = b""

    def feed(self, data: bytearray | bytes, pos: int, end: int) -> int:
        """Take bytes up to `end` or to the end of the answer; return where it stopped."""
        while pos < end and not self.done:
            if self._state in (_State.BODY, _State.CHUNK, _State.UNTIL_CLOSE):
                pos = self._skip(data, pos, end)
            elif self._state is _State.HEAD:
                pos = self._head(data, pos, end)
            elif self._state is _State.TRAILER or self._partial:
                pos = self._line(data, pos, end)
            else:
                pos = self._line(data, self._whole_chunks(data, pos, end), end)
        return pos

    def closed(self) -> bool:
        """Say whether the end of the connection completes the answer."""
        self.done = self.done or self._state is _State.UNTIL_CLOSE
        return self.done

    def _skip(self, data: bytearray | bytes, pos: int, end: int) -> int:
        if self.status != 200 and len(self.sample) < SAMPLE:
            self.sample += bytes(data[pos : min(end, pos + SAMPLE)])
        if self._state is _State.UNTIL_CLOSE:
            self.size += end - pos
            return end
        take = min(self._left, end - pos)
        self._left -= take
        if not self._left:
            if self._state is _State.BODY:
                self.done = True
            else:
                self._state = _State.CHUNK_SIZE
        return pos + take

    def _head(self, data: bytearray | bytes, pos: int, end: int) -> int:
        known = len(self._partial)
        text = self._partial + bytes(data[pos : min(end, pos + 4096)])
        stop = text.find(b"\r\n\r\n", max(0, known - 3))
        if stop < 0:
            self._partial = text
            return pos + len(text) - known
        self._partial = b""
        self._begin_body(text[: stop + 2])
        return pos + stop + 4 - known

    def _begin_body(self, head: bytes) -> None:
        self.status = int(head[9:12])
        if self.status < 200:
            return  # an interim answer; the real one follows
        lower = head.lower()
        self.closes = b"\r\nconnection: close\r\n" in lower
        length = lower.find(b"\r\ncontent-length:")
        if b"\r\ntransfer-encoding: chunked" in lower:
            self._state = _State.CHUNK_SIZE
        elif length >= 0:
            self._state = _State.BODY
            self._left = self.size = int(lower[length + 17 : lower.index(b"\r\n", length + 2)])
            self.done = not self._left
        elif self.status in (204, 304):
            self.done = True
        else:
            self._state = _State.UNTIL_CLOSE
            self.closes = True

    def _whole_chunks(self, data: bytearray | bytes, pos: int, end: int) -> int:
        """Pass over the chunks that lie wholly within the data; DVID sends a megabyte in 512 of them."""
        while True:
            stop = data.find(b"\r\n", pos, end)
            if stop < 0 or b";" in data[pos:stop]:
                return pos
            size = int(data[pos:stop], 16)
            after = stop + size + 4
            if not size or after >= end:
                return pos
            self.size += size
            pos = after

    def _line(self, data: bytearray | bytes, pos: int, end: int) -> int:
        stop = data.find(b"\n", pos, end)
        if stop < 0:
            self._partial += bytes(data[pos:end])
            return end
        line = (self._partial + bytes(data[pos:stop])).strip()
        self._partial = b""
        if self._state is _State.TRAILER:
            self.done = not line
        else:
            size = int(line.split(b";", 1)[0], 16)
            self.size += size
            self._left = size + 2  # with the line break after the chunk
            self._state = _State.CHUNK if size else _State.TRAILER
        return stop + 1


# ---------------------------------------------------------------- load


@dataclass
class Outcome:
    """What one or several measured stretches brought."""

    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    received: int = 0
    sent: int = 0
    elapsed: float = 0.0
    cpu: float = 0.0
    first_pass: float | None = None  # seconds until every distinct request was answered once

    @property
    def answered(self) -> int:
        return len(self.latencies)

    @property
    def failed(self) -> int:
        return self.errors.total()

    def add(self, other: Outcome) -> None:
        self.latencies += other.latencies
        self.errors += other.errors
        self.received += other.received
        self.sent += other.sent
        self.elapsed += other.elapsed
        self.cpu += other.cpu


class _Connection(asyncio.BufferedProtocol):
    """One keep-alive connection with one request under way at a time."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._scratch = bytearray(SCRATCH)
        self._view = memoryview(self._scratch)
        self._reader = AnswerReader()
        self._waiting = False
        self._got = 0
        self._since = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one only in what it can do
        self._load.joined(self._transport)
        self._next()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        pos = 0
        while pos < nbytes and self._waiting:
            try:
                pos = self._reader.feed(self._scratch, pos, nbytes)
            except ValueError:
                self._give_up("not an HTTP answer")
                return
            if self._reader.done:
                self._finish()
                return
        self._got += nbytes
        if self._waiting and nbytes < DRIBBLE and self._got > 4 * DRIBBLE:
            self._rest()

    def _rest(self) -> None:
        """Let small pieces of a large answer gather, as reading each would take the server's time on this machine."""
        assert self._transport is not None
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(BREATHER, self._resume)

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting and self._reader.closed():
            self._record()
        elif self._waiting:
            self._waiting = False
            self._load.failed(f"connection lost: {exc or 'closed by the server'}")
        self._transport = None
        self._load.left()

    def _next(self) -> None:
        assert self._transport is not None
        request = self._load.take()
        if request is None:
            self._transport.close()
            return
        self._reader.start()
        self._waiting = True
        self._got = 0
        self._since = time.perf_counter()
        if len(request) == 1:
            self._transport.write(request[0])
        else:
            self._transport.writelines(request)

    def _record(self) -> None:
        self._waiting = False
        reader = self._reader
        if reader.status == 200:
            self._load.answered(time.perf_counter() - self._since, reader.size)
        else:
            reason = reader.sample[:SAMPLE].decode(errors="replace").strip()
            self._load.failed(f"{reader.status} {reason}".strip())

    def _finish(self) -> None:
        assert self._transport is not None
        self._record()
        if self._reader.closes:
            self._transport.close()
        else:
            self._next()

    def _give_up(self, reason: str) -> None:
        assert self._transport is not None
        self._waiting = False
        self._load.failed(reason)
        self._transport.close()


class _Load:
    """Deals requests to the connections until the time or the requests run out."""

    def __init__(self, target: Target, requests: Sequence[Request], seconds: float | None) -> None:
        self.outcome = Outcome()
        self._target = target
        self._requests = requests
        self._limit = len(requests) if seconds is None else None
        self._seconds = seconds
        self._dealt = 0
        self._began = 0.0
        self._ended = 0.0
        self._open: set[asyncio.Transport] = set()
        self._running = 0
        self._refused = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    def take(self) -> Request | None:
        if self._exhausted():
            return None
        request = self._requests[self._dealt % len(self._requests)]
        self._dealt += 1
        self.outcome.sent += sum(map(len, request))
        return request

    def answered(self, latency: float, size: int) -> None:
        outcome = self.outcome
        outcome.latencies.append(latency)
        outcome.received += size
        self._ended = time.perf_counter()
        if len(outcome.latencies) == len(self._requests):
            outcome.first_pass = self._ended - self._began

    def failed(self, reason: str) -> None:
        self.outcome.errors[reason] += 1
        self._ended = time.perf_counter()

    def joined(self, transport: asyncio.Transport) -> None:
        self._open.add(transport)

    def left(self) -> None:
        self._open = {transport for transport in self._open if not transport.is_closing()}
        if self._exhausted():
            self._retire()
        else:
            self._connect()

    async def run(self, connections: int, patience: float) -> Outcome:
        """Drive all connections; what is under way when the time ends still counts."""
        cpu = time.process_time()
        self._began = self._ended = time.perf_counter()
        self._running = connections
        for _ in range(connections):
            self._connect()
        try:
            await asyncio.wait_for(self._over.wait(), (self._seconds or 0.0) + patience)
        except TimeoutError:
            self._limit = 0
            for transport in self._open:
                transport.abort()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), 10)
        self.outcome.elapsed = self._ended - self._began
        self.outcome.cpu = time.process_time() - cpu
        return self.outcome

    def _exhausted(self) -> bool:
        if self._limit is not None and self._dealt >= self._limit:
            return True
        return self._seconds is not None and time.perf_counter() - self._began >= self._seconds

    def _connect(self) -> None:
        task = asyncio.get_running_loop().create_task(self._connecting())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connecting(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: _Connection(self), self._target.host, self._target.port)
        except OSError as error:
            self.failed(f"no connection: {error}")
            self._refused += 1
            if self._refused > 100 or self._exhausted():
                self._retire()
            else:
                await asyncio.sleep(0.05)
                self._connect()

    def _retire(self) -> None:
        self._running -= 1
        if self._running <= 0:
            self._over.set()


def drive(
    target: Target,
    requests: Sequence[Request],
    connections: int,
    seconds: float | None = None,
    patience: float = 180.0,
) -> Outcome:
    """Send requests over keep-alive connections: round and round for `seconds`, or each once without."""

    async def main() -> Outcome:
        return await _Load(target, requests, seconds).run(min(connections, max(1, len(requests))), patience)

    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(main())
    finally:
        gc.enable()


def loop_name() -> str:
    """Name the event loop for the record."""
    return new_event_loop.__module__.split(".")[0]

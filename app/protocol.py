"""uvicorn's HTTP protocol, with a short way for the requests of which there are many.

What is spared, each measured (docs/decisions/0007): a task for each request, as most are answered without waiting for
anything; a second packet, as head and body leave together; checks of header lines that were checked before; a timer for
each answer. Whatever is out of the ordinary takes uvicorn's own way.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections.abc import Coroutine, Generator, Iterable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.routes.answers import WHOLE

#: Below this, copying pieces together is cheaper than handing over several.
JOINED_BYTES = 64 << 10
#: Header lines remembered as they go on the wire.
REMEMBERED_LINES = 4096

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

#: What else than its length says how long an answer is, or that nothing may follow it.
_ABOUT_LENGTH = frozenset({b"content-length", b"connection", b"transfer-encoding"})

Headers = Iterable[tuple[bytes, bytes]]


class Corked:
    """A transport that holds back what is written until the event loop turns, and then writes it together."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        """Hold data for a moment."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def write_whole(self, head: bytes, body: Any) -> None:
        """Write all of an answer."""
        if self._held:
            self._flush()
        if len(body) < JOINED_BYTES:
            self._transport.write(b"".join((head, body)))
        else:
            self._transport.writelines((head, body))

    def close(self) -> None:
        """Close after what is held was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            if len(held) > 1 and sum(map(len, held)) < JOINED_BYTES:
                held = [b"".join(held)]
            self._transport.writelines(held)


class Lines:
    """Header lines, checked once: bytes that could end a line or the head are refused."""

    def __init__(self) -> None:
        self._lines: dict[tuple[bytes, bytes], bytes] = {}
        self._last: tuple[Headers, bytes] = (), b""

    def together(self, headers: Headers) -> bytes:
        """Headers as they go on the wire; those of the last time, if it is the same object, are at hand."""
        if headers is not self._last[0]:
            self._last = headers, b"".join(map(self.line, headers))
        return self._last[1]

    def line(self, header: tuple[bytes, bytes]) -> bytes:
        """A header as it goes on the wire; ValueError if it cannot."""
        line = self._lines.get(header)
        if line is None:
            name, value = header
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise ValueError(f"header {name!r}: {value!r} cannot be sent")
            if len(self._lines) >= REMEMBERED_LINES:
                self._lines.clear()
            line = self._lines[header] = b"%b: %b\r\n" % header
        return line


_lines = Lines()


class Exchange(RequestResponseCycle):
    """A request and its answer. The application may hand over a whole answer at once."""

    transport: Any

    def send_whole(self, status: int, headers: Headers, body: bytes | memoryview) -> bool:
        """Send an answer of known length; False if it must go by ASGI's messages, with nothing sent."""
        if self.response_started or self.disconnected or self.access_log or self.flow.write_paused:
            return False
        if not self.keep_alive or self.scope["http_version"] != "1.1":
            return False
        lines, length = _lines, None
        content = [STATUS_LINE[status], lines.together(self.default_headers)]
        for header in headers:
            name = header[0]
            if name in _ABOUT_LENGTH:
                if name != b"content-length":
                    return False
                length = header[1]
            content.append(lines.line(header))
        if length is None:
            return False
        content.append(b"\r\n")
        is_head = self.scope["method"] == "HEAD"
        if not is_head and int(length) != len(body):
            raise RuntimeError(f"an answer of {len(body)} bytes says that it has {length.decode()}")
        del self.scope["extensions"]  # which holds this object, in a circle
        self.waiting_for_100_continue = False
        self.response_started = self.response_complete = True
        self.transport.write_whole(b"".join(content), b"" if is_head else body)
        self.message_event.set()
        self.on_response()
        return True


class Begun:
    """The rest of a coroutine that was begun outside of a task and has to wait for something."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while True:
            try:
                try:
                    value = yield waits_for
                except BaseException as error:
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(value)
            except StopIteration:
                return


class Runner:
    """The task in which a connection's requests run: it is there before they begin, and serves one after the other.

    A request begins at once, while the bytes that brought it are read, and with luck is answered then. Only one that
    has to wait goes on in the task. Either way the task is the current one, as timeouts and task groups want it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]]) -> None:
        self._loop = loop
        self._tasks = tasks
        self._begun: Begun | None = None
        self._turn: asyncio.Future[None] = loop.create_future()
        self._is_idle = False
        self._is_closed = False
        self._task = loop.create_task(self._work())

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Begin a coroutine, and leave the rest to the task if it does not end."""
        if not self._is_idle or asyncio.current_task(self._loop) is not None:
            # The task has not begun or not finished its last turn, or somebody else's is under way.
            task = self._loop.create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        asyncio._enter_task(self._loop, self._task)
        try:
            waits_for = coroutine.send(None)
        except StopIteration:
            return
        finally:
            asyncio._leave_task(self._loop, self._task)
        self._begun = Begun(coroutine, waits_for)
        self._is_idle = False
        self._tasks.add(self._task)
        self._turn.set_result(None)

    def close(self) -> None:
        """End the task, now or when it has done its turn."""
        self._is_closed = True
        if self._is_idle:
            self._is_idle = False
            self._turn.set_result(None)

    async def _work(self) -> None:
        while not self._is_closed:
            self._is_idle = True
            try:
                await self._turn
            except asyncio.CancelledError:
                if self._begun is None:
                    raise
                self._task.uncancel()
                self._task.cancel()  # it is meant for the coroutine, which is about to go on
            if self._begun is None:
                return
            begun, self._begun = self._begun, None
            self._turn = self._loop.create_future()
            try:
                await begun
            finally:
                self._tasks.discard(self._task)


class Protocol(HttpToolsProtocol):
    """One connection."""

    _due: tuple[RequestResponseCycle, Any] | None = None
    _is_reading = False
    _idle_since: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _runner: Runner

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a corked transport."""
        super().connection_made(Corked(transport, self.loop))  # type: ignore[arg-type]
        self._runner = Runner(self.loop, self.tasks)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        super().connection_lost(exc)
        self._runner.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        """Read, and then begin what was read."""
        self._idle_since = None
        self._is_reading = True
        try:
            super().data_received(data)
        finally:
            self._is_reading = False
        while self._due is not None:
            self._begin()

    def on_headers_complete(self) -> None:
        """Make ready for the request; it begins when all that has come was read."""
        parser = self.parser
        if parser.should_upgrade() or self.limit_concurrency is not None or self.root_path:
            super().on_headers_complete()
            return
        version = parser.get_http_version()
        scope = self.scope
        scope["method"] = parser.get_method().decode("ascii")
        scope["http_version"] = version
        url = httptools.parse_url(self.url)
        scope["raw_path"] = url.path
        path = url.path.decode("ascii")
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["query_string"] = url.query or b""
        before = self.cycle
        cycle = self.cycle = Exchange(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        scope["extensions"] = {WHOLE: cycle.send_whole}  # type: ignore[dict-item]
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_response_complete(self) -> None:
        """Go on with the next request, or begin to be idle."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._due = cycle, app
        if not self._is_reading:
            self.loop.call_soon(self._begin)

    def _begin(self) -> None:
        due, self._due = self._due, None
        if due is not None and not self.transport.is_closing():
            cycle, app = due
            self._runner.run(cycle.run_asgi(app))

    def _close_if_idle(self) -> None:
        """One timer for many answers: it is wound up again by what is left."""
        self._timer = None
        if self._idle_since is None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self.timeout_keep_alive_handler()
        else:
            self._timer = self.loop.call_later(left, self._close_if_idle)

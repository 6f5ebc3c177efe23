"""The short way through HTTP: the same answers as uvicorn's own, however a request is cut and whatever it waits for."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
import uvicorn
from starlette.responses import Response, StreamingResponse

from app.protocol import Protocol
from app.routes.answers import WHOLE, octets
from app.serving import Sharing, listen


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers by path: at once, after waiting in several ways, in pieces, or not at all."""
    if scope["type"] != "http":
        return
    path = scope["path"]
    body = b""
    if scope["method"] == "POST":
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
    if path == "/sleep":
        await asyncio.sleep(0.02)
    elif path == "/yield":
        await asyncio.sleep(0)
    elif path == "/timeout":
        try:
            async with asyncio.timeout(0.02):
                await asyncio.sleep(10)
        except TimeoutError:
            body = b"late"
    elif path == "/group":
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0.001)
        body = b"grouped"
    elif path == "/task":
        await asyncio.sleep(0)
        body = b"a task" if asyncio.current_task() is not None else b"none"
    elif path == "/failing":
        raise RuntimeError("on purpose")
    if path == "/stream":

        async def pieces() -> Any:
            for number in range(5):
                await asyncio.sleep(0.001)
                yield b"%d" % number

        await StreamingResponse(pieces())(scope, receive, send)
        return
    response: Response = octets(body or path.encode(), {"X-Query": scope["query_string"].decode()})
    if path == "/bad-header":
        response.raw_headers.append((b"x-bad", b"a\r\nset-cookie: b"))
    if path == "/close":
        response.raw_headers.append((b"connection", b"close"))
    whole = scope.get("extensions", {}).get(WHOLE)
    if path != "/messages" and whole is not None and whole(200, response.raw_headers, response.body):
        return
    await response(scope, receive, send)


class Quiet(Protocol):
    """pytest listens to every logger, and with an access log nothing goes the short way."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False


@contextmanager
def serving(**settings: Any) -> Iterator[tuple[int, Sharing]]:
    listening = listen("127.0.0.1", 0, 100)
    config = uvicorn.Config(app, http=Quiet, loop="uvloop", log_level="critical", lifespan="off", **settings)
    server = Sharing(config, listening, [0], 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield listening.getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as (number, _):
        yield number


def talk(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What comes back until the server closes, which it does when asked to."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
        return answer


def get(path: str, *headers: str, method: str = "GET", body: bytes = b"", last: bool = False) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: here", *headers, *(["Connection: close"] if last else [])]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def bodies(answer: bytes) -> list[bytes]:
    """The bodies of answers in a row."""
    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        names = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"content-length" in names:
            size = int(names[b"content-length"])
            found.append(rest[:size])
            answer = rest[size:]
        else:
            assert names[b"transfer-encoding"] == b"chunked"
            body = b""
            while True:
                line, _, rest = rest.partition(b"\r\n")
                size = int(line, 16)
                body, rest = body + rest[:size], rest[size + 2 :]
                if not size:
                    break
            found.append(body)
            answer = rest
    return found


WAYS = {
    "/now": b"/now",
    "/sleep": b"/sleep",
    "/yield": b"/yield",
    "/timeout": b"late",
    "/group": b"grouped",
    "/task": b"a task",
    "/stream": b"01234",
    "/messages": b"/messages",
}


@pytest.mark.parametrize("path", WAYS)
def test_every_way_of_answering_works_again_and_again(port: int, path: str) -> None:
    many = [get(path)] * 3 + [get(path, last=True)]
    assert bodies(talk(port, *many, pause=0.05)) == [WAYS[path]] * 4


def test_requests_that_come_at_once_are_answered_in_order(port: int) -> None:
    paths = [*WAYS, *reversed(WAYS), "/now"]
    sent = b"".join(get(path, last=path is paths[-1] and place == len(paths) - 1) for place, path in enumerate(paths))
    assert bodies(talk(port, sent)) == [WAYS[path] for path in paths]


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
def test_a_request_may_come_in_any_pieces(port: int, size: int) -> None:
    body = bytes(range(256)) * 2
    sent = get("/echo?a=%20b", method="POST", body=body) + get("/now", last=True)
    answer = talk(port, *(sent[start : start + size] for start in range(0, len(sent), size)))
    assert bodies(answer) == [body, b"/now"]
    assert b"x-query: a=%20b\r\n" in answer


def test_a_body_in_chunks(port: int) -> None:
    head = get("/echo", "Transfer-Encoding: chunked", method="POST", last=True)
    assert bodies(talk(port, head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n", pause=0.01)) == [b"abcde"]


def test_a_large_body_there_and_back(port: int) -> None:
    body = bytes(range(256)) * 20_000
    assert bodies(talk(port, get("/echo", method="POST", body=body, last=True))) == [body]


def test_who_waits_to_be_asked_for_the_body_is_asked(port: int) -> None:
    head = get("/echo", "Expect: 100-continue", "Content-Length: 2", method="POST", last=True)
    answer = talk(port, head, b"ok", pause=0.05)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nok")


def test_a_head_has_the_length_and_no_body(port: int) -> None:
    answer = talk(port, get("/now", method="HEAD"), get("/now", method="HEAD", last=True), pause=0.02)
    assert answer.count(b"content-length: 4\r\n") == 2
    assert answer.endswith(b"\r\n\r\n")
    assert b"/now" not in answer


def test_an_answer_may_close_the_connection(port: int) -> None:
    assert bodies(talk(port, get("/close"))) == [b"/close"]


def test_http_1_0_is_answered_and_closed(port: int) -> None:
    answer = talk(port, b"GET /now HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"/now")
    assert b"connection: close" in answer


def test_a_header_cannot_begin_another_one(port: int) -> None:
    answer = talk(port, get("/bad-header"))
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"set-cookie" not in answer


def test_a_failure_is_a_500_and_the_end_of_the_connection(port: int) -> None:
    assert talk(port, get("/failing")).startswith(b"HTTP/1.1 500")


@pytest.mark.parametrize("text", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"])
def test_nonsense_is_a_400(port: int, text: bytes) -> None:
    assert talk(port, text).startswith(b"HTTP/1.1 400")


def test_who_is_silent_is_disconnected_but_not_who_goes_on() -> None:
    with serving(timeout_keep_alive=0.3) as (port, server):
        began = time.monotonic()
        assert bodies(talk(port, *[get("/now")] * 5, pause=0.1)) == [b"/now"] * 5
        assert time.monotonic() - began >= 0.7
        assert not server.server_state.connections


def test_a_server_that_stops_finishes_what_was_begun() -> None:
    answers: list[bytes] = []
    with serving() as (port, server):
        thread = threading.Thread(target=lambda: answers.append(talk(port, get("/now"), get("/sleep"), pause=0.005)))
        thread.start()
        while server.server_state.total_requests < 1:
            time.sleep(0.001)
        time.sleep(0.01)
    thread.join()
    assert bodies(answers[0]) == [b"/now", b"/sleep"]
    assert not server.server_state.tasks


def test_connections_go_to_whom_has_fewest() -> None:
    """Another process has none: this one lets it be first, and takes what is left waiting all the same."""
    listening = listen("127.0.0.1", 0, 100)
    config = uvicorn.Config(app, http=Quiet, loop="uvloop", log_level="critical", lifespan="off")
    counts = [0, 0]
    servers = [Sharing(config, listening.dup(), counts, place) for place in range(2)]
    threads = [threading.Thread(target=server.run) for server in servers]
    for thread in threads:
        thread.start()
    while not all(server.started for server in servers):
        time.sleep(0.005)
    address = ("127.0.0.1", listening.getsockname()[1])
    kept = [socket.create_connection(address) for _ in range(64)]
    for connection in kept:
        connection.sendall(get("/now"))
        assert connection.recv(1 << 16).endswith(b"/now")
    shares = sorted(len(server.server_state.connections) for server in servers)
    servers[0].should_exit = True
    threads[0].join()
    more = [socket.create_connection(address) for _ in range(4)]  # which only the other can take now
    for connection in more:
        connection.sendall(get("/now", last=True))
        assert bodies(connection.recv(1 << 16)) == [b"/now"]
    for connection in kept + more:
        connection.close()
    servers[1].should_exit = True
    threads[1].join()
    listening.close()
    assert shares[0] >= 24, shares  # on a busy machine they are not quite the same

"""Start and end each server that the tests talk to; all listen on 127.0.0.1 only."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from tests.fakes.gcs import FakeGcs

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0


class Gcs(NamedTuple):
    """A GCS fake; ``server`` is the object behind it when it runs in a thread of this process."""

    url: str
    server: FakeGcs | None


def listening_socket(port: int = 0) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((HOST, port))
    bound.listen(1024)
    return bound


def _uvicorn(app: Any) -> uvicorn.Server:
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1, ws="none"
    )
    return uvicorn.Server(config)


def serve_asgi(app: Any, port: int) -> None:
    """Serve ``app`` until a signal, after printing its URL."""
    bound = listening_socket(port)
    print(f"http://{HOST}:{bound.getsockname()[1]}", flush=True)
    _uvicorn(app).run(sockets=[bound])


@contextmanager
def asgi(app: Any) -> Iterator[str]:
    """Serve ``app`` from a thread of this process and yield its URL."""
    with listening_socket() as bound:
        server = _uvicorn(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive())
            yield f"http://{HOST}:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def gcs(*, process: bool = False) -> Iterator[Gcs]:
    """A GCS fake in a thread, or in its own process for heavy tests; empty at the start."""
    if process:
        with own_process([sys.executable, "-m", "tests.fakes.gcs"]) as child:
            yield Gcs(first_line(child), None)
    else:
        server = FakeGcs()
        with asgi(server) as url:
            yield Gcs(url, server)


@contextmanager
def own_process(
    command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in its own session and end its whole process group."""
    options = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
    child = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, start_new_session=True, **options
    )
    try:
        yield child
    finally:
        for how, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            try:
                os.killpg(child.pid, how)
                child.wait(patience)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        if child.stdout:
            child.stdout.close()


def first_line(child: subprocess.Popen[bytes]) -> str:
    """The first line that a child prints: its address."""
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], START_SECONDS)
    line = child.stdout.readline().decode().strip() if ready else ""
    if not line:
        raise RuntimeError(f"{child.args!r} did not start: exit code {child.poll()}")
    return line


def wait_until(condition: Any, seconds: float = START_SECONDS) -> None:
    """Poll ``condition`` until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the server did not start in time")
        time.sleep(0.01)

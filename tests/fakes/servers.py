"""Start and end each server that the tests talk to; all listen on 127.0.0.1 only."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from tests.fakes.firestore import FakeFirestore
from tests.fakes.firestore import serve as serve_firestore
from tests.fakes.gcs import FakeGcs

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0


class Gcs(NamedTuple):
    """A GCS fake; ``server`` is the object behind it when it runs in a thread of this process."""

    url: str
    server: FakeGcs | None


class Firestore(NamedTuple):
    """A Firestore fake at ``host`` ("address:port"); ``service`` is as ``server`` of Gcs."""

    host: str
    service: FakeFirestore | None


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
def firestore(*, process: bool = False) -> Iterator[Firestore]:
    """A Firestore fake, as for gcs(); set FIRESTORE_EMULATOR_HOST to its host."""
    if process:
        with own_process([sys.executable, "-m", "tests.fakes.firestore"]) as child:
            yield Firestore(first_line(child), None)
    else:
        service = FakeFirestore()
        server, host = serve_firestore(service, HOST)
        try:
            yield Firestore(host, service)
        finally:
            server.stop(None).wait()


@contextmanager
def s3() -> Iterator[str]:
    """The S3 emulator ministack as a process of its own; it keeps every precondition of S3."""
    command = shutil.which("ministack", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        raise RuntimeError("ministack is not installed: pip install dvid-cloud[test]")
    port = free_port()
    with own_process([command], {"GATEWAY_PORT": str(port), "BIND_HOST": HOST}, quiet=True) as child:
        wait_until(lambda: accepts(port, child))
        yield f"http://{HOST}:{port}"


def google_emulator_command() -> str | None:
    """Where Google's Firestore emulator is; it comes with some machines and cannot be installed from PyPI."""
    if shutil.which("dpkg") is None:
        return None
    listed = subprocess.run(
        ["dpkg", "-L", "google-cloud-cli-firestore-emulator"], capture_output=True, text=True, check=False
    )
    return next((line for line in listed.stdout.splitlines() if line.endswith("/cloud_firestore_emulator")), None)


@contextmanager
def google_firestore_emulator() -> Iterator[str | None]:
    """Google's own Firestore emulator: its host and port, or None where the machine does not have it."""
    command = google_emulator_command()
    if command is None:
        yield None
        return
    port = free_port()
    with own_process([command, "start", f"--host={HOST}", f"--port={port}"], quiet=True) as child:
        wait_until(lambda: accepts(port, child))
        yield f"{HOST}:{port}"


def free_port() -> int:
    with listening_socket() as bound:
        return int(bound.getsockname()[1])


def accepts(port: int, child: subprocess.Popen[bytes]) -> bool:
    if child.poll() is not None:
        raise RuntimeError(f"{child.args!r} did not start: exit code {child.returncode}")
    with suppress(OSError), socket.create_connection((HOST, port), 1):
        return True
    return False


@contextmanager
def own_process(
    command: Sequence[str], env: Mapping[str, str] | None = None, *, quiet: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in its own session and end its whole process group."""
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
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

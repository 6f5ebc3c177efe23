"""A server of ours as a process of its own, as users run it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from tests.fakes.servers import free_port

ADMIN = "golden"


@dataclass
class Server:
    """A running server: its address and its process."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it as a power failure of the process would: no handler runs."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start(store: str, *arguments: str, environment: Mapping[str, str] | None = None, workers: int = 1) -> Server:
    """Start a server and wait until it answers."""
    port = free_port()
    command = [
        *(sys.executable, "-c", "from app.cli import main; main()", "serve"),
        *("--store", store, "--port", str(port), "--workers", str(workers), *arguments),
    ]
    process = subprocess.Popen(
        command, env={**os.environ, "DVID_ADMIN_TOKEN": ADMIN, **(environment or {})}, start_new_session=True
    )
    server = Server(f"http://127.0.0.1:{port}", process)
    for _ in range(600):
        try:
            if httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200:
                return server
        except httpx.TransportError:
            pass
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        time.sleep(0.05)
    server.kill()
    raise RuntimeError("the server did not come up")


@contextmanager
def running(
    store: str, *arguments: str, environment: Mapping[str, str] | None = None, workers: int = 1
) -> Iterator[Server]:
    """A server for as long as the context lasts."""
    server = start(store, *arguments, environment=environment, workers=workers)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            os.killpg(server.process.pid, signal.SIGTERM)
            try:
                server.process.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()

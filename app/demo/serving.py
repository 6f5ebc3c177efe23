"""The demo's server: our own command in a process of its own, ended with the demo."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.core.errors import Invalid

HOST = "127.0.0.1"
START_SECONDS = 60.0


@dataclass
class Server:
    """A running server."""

    url: str
    admin_token: str
    process: subprocess.Popen[bytes]

    def wait_until_ready(self) -> None:
        """Wait until it answers."""
        host = self.url.removeprefix("http://")
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection(host, timeout=5)
            try:
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            if self.process.poll() is not None:
                raise Invalid(f"the server ended with status {self.process.returncode}")
            time.sleep(0.03)
        raise Invalid(f"the server did not answer in {START_SECONDS:g} s")


def free_port(port: int) -> int:
    """The port asked for, if nobody has it; any free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Invalid(f"port {port} is taken; choose another with --port") from error
        return int(probe.getsockname()[1])


@contextmanager
def serving(store: Path, port: int) -> Iterator[Server]:
    """A server of a folder, for as long as the block runs; it may still be starting."""
    token = secrets.token_urlsafe(16)
    number = free_port(port)
    serve = ["serve", "--store", str(store), "--host", HOST, "--port", str(number), "--workers", "1"]
    command = [sys.executable, "-m", "app.cli", *serve]  # one worker starts in half the time of two
    # A session of its own: Ctrl-C then reaches the demo, which ends the server in order.
    process = subprocess.Popen(
        command,
        env={**os.environ, "DVID_ADMIN_TOKEN": token},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield Server(f"http://{HOST}:{number}", token, process)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

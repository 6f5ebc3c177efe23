"""The least a server can do, to learn how much the load generator itself can take."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from benchmarks.client import Outcome, Target, drive, new_event_loop

HOST = "127.0.0.1"
LARGE = 64**3 * 8


def _answer(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)


class _Trivial(asyncio.Protocol):
    """Answers every request, which must come in one piece, with prepared bytes."""

    small = _answer(2)
    large = _answer(LARGE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(self.large if data.startswith(b"GET /large") else self.small)


async def serve() -> None:
    """Serve on a free port, printed first, until the process is ended."""
    server = await asyncio.get_running_loop().create_server(_Trivial, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def running() -> Iterator[Target]:
    """Run the server in a process of its own, as the one under test runs."""
    command = [sys.executable, "-m", "benchmarks.trivial"]
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        try:
            yield Target(HOST, int(process.stdout.readline()))
        finally:
            process.terminate()


def ceiling(connections: int, seconds: float) -> dict[str, float]:
    """Measure the client against the trivial server: small answers, then answers of 2 MiB."""
    with running() as target:
        small = drive(target, [target.request("GET", "/small")] * connections, connections, seconds, patience=10)
        large = drive(target, [target.request("GET", "/large")] * connections, connections, seconds, patience=10)
    return {
        "requests_per_second": small.answered / small.elapsed,
        "client_us_per_request": _microseconds(small),
        "mb_per_second": large.received / large.elapsed / 1e6,
        "client_us_per_mb": large.cpu / large.received * 1e12,
    }


def _microseconds(outcome: Outcome) -> float:
    return outcome.cpu / outcome.answered * 1e6


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve())

"""Serving with several processes: each listens on a socket of its own, among which the kernel spreads connections.

With one shared socket the first process to wake takes every connection that waits: a client that opens eight at once
would keep one core busy and leave the others idle.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
from multiprocessing.connection import wait
from types import FrameType

import uvicorn

#: The status with which uvicorn ends when an application cannot start.
STARTUP_FAILURE = 3


def bind(host: str, port: int, *, shared: bool = True) -> socket.socket:
    """A socket bound to an address, which processes may share."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror}") from error
    return bound


def serve(config: uvicorn.Config) -> None:
    """Serve until told to stop."""
    # A shared socket would be given even where another server listens: this one is refused then.
    bind(config.host, config.port, shared=False).close()
    if config.workers == 1:
        _run(uvicorn.Server(config), None)
        return
    with bind(config.host, config.port) as kept:  # it keeps the port, and never listens
        config.port = kept.getsockname()[1]
        _supervise(config)


def _run(server: uvicorn.Server, sockets: list[socket.socket] | None) -> None:
    server.run(sockets=sockets)
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _work(config: uvicorn.Config) -> None:
    """What each process does; it ends with its parent, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    config.configure_logging()
    _run(uvicorn.Server(config), [bind(config.host, config.port)])


def _supervise(config: uvicorn.Config) -> None:
    """Keep as many processes as wanted; start another one for one that died."""
    context = multiprocessing.get_context("spawn")

    def start() -> multiprocessing.process.BaseProcess:
        process = context.Process(target=_work, args=(config,))
        process.start()
        return process

    is_stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        is_stopping = True
        for process in processes:
            process.terminate()

    processes = [start() for _ in range(config.workers)]
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
            processes[place] = start()
    if failed:
        sys.exit(STARTUP_FAILURE)

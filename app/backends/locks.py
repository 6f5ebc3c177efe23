"""Locks of files between the processes of one machine, which get them in turns.

A lock is a byte of a file, locked as POSIX locks open files, and the next byte is the way to it: who finds the first
taken waits on the second, and who comes later, be it the one who has just had the lock, waits behind. There are as many
such places in a file as anybody wants, as locked bytes need not be there.

Who has a lock has its file open for writing and closes it in the end, which the kernel tells whoever watches (Linux's
inotify), however the process ended. So waiting costs the event loop a wake-up; a thread that waits for the lock itself
costs as much as several commits. A thread does it after a while, as the kernel keeps an order among those, and where
there is nothing to watch with.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

#: So long somebody watches, and then waits in a thread.
PATIENCE_SECONDS = 0.005
#: From <sys/inotify.h>: told once, that a file was closed which had been open for writing.
_CLOSED, _ONCE = 0x8, 0x80000000
_EVENTS_BYTES = 4096

#: Threads that wait for a lock hold nothing else, and so must not keep those from working who have one.
_waiting = ThreadPoolExecutor(32, thread_name_prefix="lock")


async def lock(name: str, number: int = 0) -> int:
    """A file, made if need be, in which a place is locked until it is given to `unlock`, or the process ends."""
    file, place = opened(name), _Place(number)
    try:
        if not (_is_locked(file, place) or await _is_locked_soon(file, place, name)):
            # Whoever is cancelled here closes the file, and the kernel drops the locks with the waiting call.
            await asyncio.get_running_loop().run_in_executor(_waiting, _lock, file, place)
    except BaseException:
        os.close(file)
        raise
    return file


def unlock(file: int) -> None:
    """Let go of a lock."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _LEAVE_ALL)  # who hears of the closing finds it free
    finally:
        os.close(file)


def request(kind: int, first: int, length: int) -> bytes:
    """`struct flock` of Linux for a range of bytes (length 0: to the end): type, whence, start, length, process."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, first, length, 0)


class _Place:
    """What is asked of the kernel about a lock and the way to it."""

    __slots__ = ("leave_way", "take_both", "take_lock", "take_way")

    def __init__(self, number: int) -> None:
        first = 2 * number
        self.take_both = request(fcntl.F_WRLCK, first, 2)
        self.take_lock = request(fcntl.F_WRLCK, first, 1)
        self.take_way, self.leave_way = (request(kind, first + 1, 1) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK))


_LEAVE_ALL = request(fcntl.F_UNLCK, 0, 0)


def _is_taken(file: int, wanted: bytes) -> bool:
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_locked(file: int, place: _Place) -> bool:
    """Whether nobody has the lock or is on the way to it, so that it could be had."""
    if not _is_taken(file, place.take_both):
        return False
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, place.leave_way)
    return True


def _lock(file: int, place: _Place) -> None:
    """Wait for the lock."""
    for wanted in (place.take_way, place.take_lock):
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, wanted)
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, place.leave_way)


async def _is_locked_soon(file: int, place: _Place, name: str) -> bool:
    """Try again whenever somebody has closed the file."""
    loop = asyncio.get_running_loop()
    watch = _watches.get(loop)
    if watch is None:
        watch = _watches[loop] = _Watch(loop)
    until = time.monotonic() + PATIENCE_SECONDS
    is_next = False
    while (left := until - time.monotonic()) > 0:
        closed = watch.closed(name)
        if closed is None:
            return False
        is_next = is_next or _is_taken(file, place.take_way)
        if is_next and _is_taken(file, place.take_lock):
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, place.leave_way)
            return True
        timer = loop.call_later(left, _end, closed)
        try:
            await closed
        finally:
            timer.cancel()
    return False


def opened(name: str) -> int:
    """A file for reading and writing, made if need be with its folders."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(name, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        return os.open(name, flags, 0o666)


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class _Watch:
    """What tells an event loop of closed files; everybody who waits is woken, as few ever do."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._events = -1 if self._libc is None else self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._waiting: list[asyncio.Future[None]] = []
        if self._events >= 0:
            loop.add_reader(self._events, self._wake)

    def closed(self, name: str) -> asyncio.Future[None] | None:
        """Done soon after the next time that somebody closes a file, or sooner; None if that cannot be told."""
        if self._libc is None or self._events < 0:
            return None
        if self._libc.inotify_add_watch(self._events, os.fsencode(name), _CLOSED | _ONCE) < 0:
            return None
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(closed)
        return closed

    def _wake(self) -> None:
        os.read(self._events, _EVENTS_BYTES)
        waiting, self._waiting = self._waiting, []
        for closed in waiting:
            _end(closed)

    def __del__(self) -> None:
        if self._events >= 0:
            os.close(self._events)


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = WeakKeyDictionary()

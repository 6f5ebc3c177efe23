"""Work on voxels, kept off the event loop: kernels release the GIL, so threads use the other cores."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Bytes of voxels that requests of one process may have spread out at a time.
ROOM_BYTES = 256 << 20


class Room:
    """So many bytes for large things: who needs more than is left waits for the others, in the order of coming.

    A single thing may be larger than all of it; it then has the room to itself.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._left = size_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def taken(self, size_bytes: int) -> AsyncIterator[None]:
        """Have room for something as long as this lasts."""
        size = min(size_bytes, self._size)
        if self._waiting or size > self._left:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give(size)
                raise
        else:
            self._left -= size
        try:
            yield
        finally:
            self._give(size)

    def _give(self, size: int) -> None:
        self._left += size
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._left):
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._left -= wanted
                turn.set_result(None)


class Workers:
    """A pool of threads, as many as cores."""

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self.room = Room(ROOM_BYTES)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="voxels")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread and wait for it."""
        if kwargs:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def map(self, function: Callable[..., T], items: Sequence[tuple[object, ...]]) -> list[T]:
        """Call a function for each tuple of arguments, in chunks spread over the threads; answers in order."""
        size = max(1, -(-len(items) // (4 * self.threads)))
        chunks = [items[start : start + size] for start in range(0, len(items), size)]

        def work(chunk: Sequence[tuple[object, ...]]) -> list[T]:
            return [function(*arguments) for arguments in chunk]

        done = await asyncio.gather(*[self.run(work, chunk) for chunk in chunks])
        return [answer for answers in done for answer in answers]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

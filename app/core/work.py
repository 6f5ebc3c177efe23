"""Work on voxels, kept off the event loop: kernels release the GIL, so threads use the other cores."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of threads, as many as cores."""

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
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

"""Room for large things: never more than there is, in the order of coming, whatever is cancelled or fails."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.work import Room

TOTAL = 100
ROOT = Path(__file__).parents[2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 150), st.booleans()), min_size=1, max_size=30), st.integers(0, 2**32))
def test_there_is_never_more_than_there_is_room_for(wanted: list[tuple[int, bool]], seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        room, inside, order = Room(TOTAL), 0, list[int]()

        async def work(number: int, size: int, fails: bool) -> None:
            nonlocal inside
            async with room.taken(size):
                order.append(number)
                inside += min(size, TOTAL)
                assert inside <= TOTAL
                try:
                    for _ in range(chance.randrange(4)):
                        await asyncio.sleep(0)
                    if fails:
                        raise ValueError("on purpose")
                finally:
                    inside -= min(size, TOTAL)

        tasks = [asyncio.create_task(work(number, *one)) for number, one in enumerate(wanted)]
        await asyncio.sleep(0)
        for task in tasks:
            if chance.random() < 0.2:
                task.cancel()
            await asyncio.sleep(0)
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert all(end is None or isinstance(end, ValueError | asyncio.CancelledError) for end in ended)
        assert order == sorted(order)
        async with asyncio.timeout(1), room.taken(TOTAL):
            pass

    asyncio.run(main())


async def test_the_small_wait_behind_the_large() -> None:
    room = Room(TOTAL)
    async with room.taken(60):
        large = asyncio.create_task(_enter(room, 60))
        small = asyncio.create_task(_enter(room, 1))
        done, _ = await asyncio.wait([large, small], timeout=0.02)
        assert not done
    await asyncio.wait_for(asyncio.gather(large, small), 1)


async def _enter(room: Room, size: int) -> None:
    async with room.taken(size):
        pass


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_large_pieces_go_back_to_the_system() -> None:
    """In a process of its own: threads that used and freed 24 pieces of 8 MiB do not keep them."""
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from app.core import memory\n"
        "from tests.unit.test_work import _resident_bytes\n"
        "memory.give_back()\n"
        "before = _resident_bytes()\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    pieces = list(pool.map(lambda size: bytearray(b'1') * size, [8 << 20] * 24))\n"
        "    assert _resident_bytes() - before > 24 << 22\n"
        "    del pieces\n"
        "    print(_resident_bytes() - before)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(found.stdout) < 24 << 20

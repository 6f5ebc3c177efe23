"""How memory is given back to the system, and what Python need not look through for garbage.

Volumes come and go in pieces of megabytes, in many threads. glibc would give each thread an arena and learn to keep
ever larger pieces in them: a process that once had eight volumes in work would stay as large.
"""

from __future__ import annotations

import ctypes
import gc
import time
from contextlib import suppress

#: Numbers of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
#: Pieces of this size go back at once; smaller ones are used again.
LARGE_BYTES = 4 << 20
ARENAS = 2
#: A search for garbage through everything that takes longer is too long; and how often something is done about it.
SLOW_SECONDS, FREEZES = 0.02, 8


def give_back() -> None:
    """Keep few arenas and no large pieces. Without glibc nothing happens."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, 4 * LARGE_BYTES)
        libc.mallopt(_ARENA_MAX, ARENAS)


def settle() -> None:
    """Leave what is there now, which stays, out of every later search for garbage.

    Libraries come with half a million objects. Looking through them costs a request that makes some thousand of its own
    more than these do. As much of them is made at first use, it is done again after searches that took long, so often
    at most: a cycle that becomes garbage among what is left out is never found.
    """
    gc.collect()
    gc.freeze()
    if _watch not in gc.callbacks:
        gc.callbacks.append(_watch)


_begun, _left = 0.0, FREEZES


def _watch(phase: str, told: dict[str, int]) -> None:
    global _begun, _left
    if told["generation"] < 2 or not _left:
        return
    if phase == "start":
        _begun = time.perf_counter()
    elif time.perf_counter() - _begun > SLOW_SECONDS:
        _left -= 1
        gc.freeze()

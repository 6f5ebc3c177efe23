"""How the C library's memory is given back to the system.

Volumes come and go in pieces of megabytes, in many threads. glibc would give each thread an arena and learn to keep
ever larger pieces in them: a process that once had eight volumes in work would stay as large.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

#: Numbers of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
#: Pieces of this size go back at once; smaller ones are used again.
LARGE_BYTES = 4 << 20
ARENAS = 2


def give_back() -> None:
    """Keep few arenas and no large pieces. Without glibc nothing happens."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, 4 * LARGE_BYTES)
        libc.mallopt(_ARENA_MAX, ARENAS)

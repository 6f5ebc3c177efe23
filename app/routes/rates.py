"""Figures per second, from counters that only grow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

#: A rate is that since the last look which is at least so many seconds ago.
LEAST_SECONDS = 1.0
LOOKS = 16


class Rates:
    """Looks at counters, each with its time."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Mapping[str, int]]] = deque([(time.monotonic(), {})], LOOKS)

    def per_second(self, counters: Mapping[str, int]) -> dict[str, int]:
        """The growth of counters in a second."""
        now = time.monotonic()
        since, before = next((look for look in reversed(self._looks) if now - look[0] >= LEAST_SECONDS), self._looks[0])
        if now - self._looks[-1][0] >= LEAST_SECONDS:
            self._looks.append((now, dict(counters)))
        elapsed = max(now - since, LEAST_SECONDS)
        return {name: round((count - before.get(name, 0)) / elapsed) for name, count in counters.items()}

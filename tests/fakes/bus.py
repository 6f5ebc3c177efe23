"""A bus in memory that fails on demand, as a broker does: some of what was sent may be there, in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from app.backends.bus import Message
from app.core.errors import StoreUnavailable


class MemoryBus:
    """Topics as lists."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Message]] = defaultdict(list)
        #: So many more messages are taken before one call fails; None: no failure is planned.
        self.taken_before_failure: int | None = None

    async def send(self, topic: str, messages: Sequence[Message]) -> None:
        for message in messages:
            if self.taken_before_failure == 0:
                self.taken_before_failure = None
                raise StoreUnavailable("the bus is gone")
            self.topics[topic].append(message)
            if self.taken_before_failure:
                self.taken_before_failure -= 1
        if self.taken_before_failure == 0:  # all are there, but nobody is told so
            self.taken_before_failure = None
            raise StoreUnavailable("the answer of the bus is lost")

"""The bus on which messages about mutations go out: topics to which messages are appended, as in Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Message:
    """A key and a value, both as text in UTF-8."""

    key: bytes
    value: bytes


class Bus(Protocol):
    """Topics of messages in an order that all readers see."""

    async def send(self, topic: str, messages: Sequence[Message]) -> None:
        """Append messages in their order. They are safe when this returns.

        `StoreUnavailable` if that failed or its outcome is not known: the first few of them may be in the topic, any
        later one only behind all that come before it.
        """

"""What goes between this process and its stores, counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import tensorstore as ts

_KVSTORES = "/tensorstore/kvstore/"


@dataclass
class Traffic:
    """Bytes of keys and values that were read from trees and written to them."""

    key_bytes_read: int = 0
    value_bytes_read: int = 0
    key_bytes_written: int = 0
    value_bytes_written: int = 0

    def read(self, keys: Iterable[bytes], values: Iterable[bytes | None]) -> None:
        """Count what was read."""
        self.key_bytes_read += sum(map(len, keys))
        self.value_bytes_read += sum([len(value) for value in values if value is not None])

    def written(self, keys: Iterable[bytes], values: Iterable[bytes | None]) -> None:
        """Count what was written."""
        self.key_bytes_written += sum(map(len, keys))
        self.value_bytes_written += sum([len(value) for value in values if value is not None])


def object_bytes() -> tuple[int, int]:
    """Bytes of objects that TensorStore has read from and written to the stores of this process."""
    read = written = 0
    for metric in ts.experimental_collect_matching_metrics(_KVSTORES):
        total = sum(value.get("value", 0) for value in metric["values"])
        if metric["name"].endswith("/bytes_read"):
            read += total
        elif metric["name"].endswith("/bytes_written"):
            written += total
    return read, written

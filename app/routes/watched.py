"""A small file of the server's configuration: read again within a second of its change, by every process."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from app.core.errors import Invalid

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0

T = TypeVar("T")


class Watched(Generic[T]):
    """What a file says. `what` names it in messages; `parse` raises `Invalid` if the text makes no sense."""

    def __init__(self, path: str, what: str, parse: Callable[[str], T]) -> None:
        self._path = Path(path)
        self._what = what
        self._parse = parse
        self._stamp: tuple[int, int] | None = None
        self._looked = float("-inf")
        self._value = self.reload()

    @property
    def value(self) -> T:
        """What the file says now; what it said last, if it cannot be read or makes no sense."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            try:
                if _stamp(self._path) != self._stamp:
                    self.reload()
            except (OSError, Invalid) as error:
                logger.warning("%s was not read again: %s", self._what, error)
        return self._value

    def reload(self) -> T:
        """Read the file now. `Invalid` if that cannot be done; then all stays as it was."""
        try:
            stamp = _stamp(self._path)
            value = self._parse(self._path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise Invalid(f"{self._what} {self._path} cannot be read: {reason}") from error
        self._value, self._stamp = value, stamp
        return value


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size

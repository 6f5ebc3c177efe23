"""What the processes of one server share: places for throttled operations, and who pinged. Files in one folder.

A place is a file lock, which ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import orjson

from app.core.errors import Busy

#: How many throttled operations run at once unless an administrator says otherwise.
PLACES = 1
MOST_USERS = 10_000
_LONGEST_NAME = 180


@dataclass(frozen=True)
class Pings:
    """A user's signs of life: the time of the last one, and milliseconds that answers took to begin."""

    User: str = ""
    LastPing: str = ""
    LastLatency: int = 0
    MinLatency: int = 0
    MaxLatency: int = 0


class Shared:
    """The folder, which is made for this process alone if none is named."""

    def __init__(self, folder: str) -> None:
        self._is_own = not folder
        self._folder = Path(folder or tempfile.mkdtemp(prefix="dvid-cloud-"))
        self._pings = self._folder / "pings"
        self._pings.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Remove a folder of our own."""
        if self._is_own:
            shutil.rmtree(self._folder, ignore_errors=True)

    # -------- throttled operations

    @property
    def places(self) -> int:
        """How many throttled operations may run at once."""
        try:
            return int((self._folder / "places").read_text())
        except (FileNotFoundError, ValueError):
            return PLACES

    @places.setter
    def places(self, count: int) -> None:
        self._write(self._folder / "places", str(count).encode())

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places; `Busy` if all are taken."""
        count = self.places
        for number in range(count):
            handle = os.open(self._folder / f"place.{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            try:
                yield
            finally:
                os.close(handle)
            return
        raise Busy(f"the server already runs its {count} throttled operations; try again later")

    # -------- users

    def ping(self, user: str, latency_ms: int) -> None:
        """Note a user's ping."""
        place = self._place_of(user)
        known = self._read(place)
        if known is None and len(os.listdir(self._pings)) >= MOST_USERS:
            return
        now = datetime.now(UTC).isoformat()
        low = latency_ms if known is None else min(latency_ms, known.MinLatency)
        high = latency_ms if known is None else max(latency_ms, known.MaxLatency)
        self._write(place, orjson.dumps(asdict(Pings(user, now, latency_ms, low, high))))

    def pings(self, user: str) -> Pings:
        """What is known of a user; zeros if nothing is."""
        return self._read(self._place_of(user)) or Pings()

    def all_pings(self) -> dict[str, Pings]:
        """What is known of all users."""
        found = [self._read(place) for place in self._pings.iterdir() if place.suffix != ".new"]
        return {pings.User: pings for pings in found if pings is not None}

    def _place_of(self, user: str) -> Path:
        return self._pings / ("u" + quote(user, safe="")[:_LONGEST_NAME])

    @staticmethod
    def _read(place: Path) -> Pings | None:
        try:
            return Pings(**orjson.loads(place.read_bytes()))
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None

    @staticmethod
    def _write(place: Path, content: bytes) -> None:
        unfinished = place.with_name(f"{place.name}.{os.getpid()}.{time.monotonic_ns()}.new")
        unfinished.write_bytes(content)
        unfinished.replace(place)

"""Who is not served: users and addresses that a file lists, one a line, each with a note that they are told.

    u=somebody,too many requests at once
    ip=10.1.*.*

The file is read again within a second of its change, by every process.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from app.core.errors import Invalid

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
_DEFAULT_NOTE = "you are on the block list of this server"


@dataclass(frozen=True)
class _Listed:
    users: dict[str, str] = field(default_factory=dict)
    addresses: list[tuple[list[str], str]] = field(default_factory=list)


def parse(text: str) -> _Listed:
    """The lines of a block list. `Invalid` names a line that is not understood."""
    listed = _Listed()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        rule, _, note = line.partition(",")
        kind, equals, value = rule.partition("=")
        kind, value, note = kind.strip(), value.strip(), note.strip() or _DEFAULT_NOTE
        if not equals or not value:
            raise Invalid(f"line {number} of the block list is neither u=user nor ip=address: {line!r}")
        if kind == "u":
            listed.users[value] = note
        elif kind == "ip" and len(value.split(".")) == 4:
            listed.addresses.append((value.split("."), note))
        else:
            raise Invalid(f"line {number} of the block list is neither u=user nor ip=address: {line!r}")
    return listed


class BlockList:
    """A block list file, or none."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._listed = _Listed()
        self._stamp: tuple[int, int] | None = None
        self._looked = float("-inf")
        if self._path is not None:
            self.reload()

    def reload(self) -> str:
        """Read the file now; what was found in it."""
        if self._path is None:
            return "there is no block list\n"
        try:
            status = os.stat(self._path)
            listed = parse(self._path.read_text())
        except OSError as error:
            raise Invalid(f"the block list {self._path} cannot be read: {error.strerror}") from error
        self._listed, self._stamp = listed, (status.st_mtime_ns, status.st_size)
        return f"{len(listed.users)} users and {len(listed.addresses)} addresses are blocked\n"

    def reason(self, user: str, address: str) -> str | None:
        """What to tell a client that is not served; None if it is."""
        if self._path is None:
            return None
        self._look()
        note = self._listed.users.get(user) if user else None
        if note is None and self._listed.addresses:
            parts = address.split(".")
            note = next((note for pattern, note in self._listed.addresses if _matches(pattern, parts)), None)
        return note

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        assert self._path is not None
        try:
            status = os.stat(self._path)
            if (status.st_mtime_ns, status.st_size) != self._stamp:
                self.reload()
        except (OSError, Invalid) as error:  # what was read last stays in force
            logger.warning("the block list was not read again: %s", error)


def _matches(pattern: list[str], parts: list[str]) -> bool:
    return len(parts) == len(pattern) and all(p in ("*", part) for p, part in zip(pattern, parts, strict=True))


def source_address(forwarded: str | None, forwarded_for: str | None, client: tuple[str, int] | None) -> str:
    """Where a request comes from: the first `for` of `Forwarded` (RFC 7239), else the first of `X-Forwarded-For`, else
    the other end of the connection."""
    for pair in forwarded.split(",")[0].split(";") if forwarded else ():
        name, _, value = pair.strip().partition("=")
        if name.lower() == "for":
            return _host(value)
    if forwarded_for:
        return _host(forwarded_for.split(",")[0])
    return client[0] if client else ""


def _host(text: str) -> str:
    """An address without quotes, brackets and port."""
    text = text.strip().strip('"')
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text

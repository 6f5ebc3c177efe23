"""Who is not served: users and addresses that a file lists, one a line, each with a note that they are told.

u=somebody,too many requests at once
ip=10.1.*.*
"""

from __future__ import annotations

from dataclasses import dataclass, field

from app.core.errors import Invalid
from app.routes.watched import Watched

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
        self._file = Watched(path, "the block list", parse) if path else None

    def reload(self) -> str:
        """Read the file now; what was found in it."""
        if self._file is None:
            return "there is no block list\n"
        listed = self._file.reload()
        return f"{len(listed.users)} users and {len(listed.addresses)} addresses are blocked\n"

    def reason(self, user: str, address: str) -> str | None:
        """What to tell a client that is not served; None if it is."""
        if self._file is None:
            return None
        listed = self._file.value
        note = listed.users.get(user) if user else None
        if note is None and listed.addresses:
            parts = address.split(".")
            note = next((note for pattern, note in listed.addresses if _matches(pattern, parts)), None)
        return note


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

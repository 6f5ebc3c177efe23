"""One annotation: the form in which it is stored and shown, and what a write makes of it.

Beside a field `x` an annotation may have the companions `x_user` and `x_time`: who set the field last, and when
(RFC 3339). Stored are the lengths of two prefixes (uint32 each, little-endian) and JSON in three groups: the fields,
then all `_user`, then all `_time`; the closing brace is left out. So each of the ways to show an annotation whole is
a piece or two of the stored bytes, and nothing is parsed for it.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any

import orjson

Document = dict[str, Any]

ID = "bodyid"
USER, TIME = "_user", "_time"
#: These have no companions.
_UNSIGNED = (ID, "user")

_LENGTHS = struct.Struct("<II")
_START = _LENGTHS.size
_SORTED = orjson.OPT_SORT_KEYS


class Show(Enum):
    """Which companions are shown beside the fields."""

    NONE = "none"
    USER = "user"
    TIME = "time"
    ALL = "all"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The ends of the names of these companions."""
        return {"none": (), "user": (USER,), "time": (TIME,), "all": (USER, TIME)}[self.value]


def encode(document: Mapping[str, Any]) -> bytes:
    """The stored form of an annotation, which has at least its body id."""
    fields: Document = {}
    users: Document = {}
    times: Document = {}
    for name, value in document.items():
        end = name[-len(USER) :]  # as long as TIME
        group = users if end == USER else times if end == TIME else fields
        group[name] = value
    shown = orjson.dumps(fields, option=_SORTED)[:-1]
    with_users = shown + _more(users)
    return _LENGTHS.pack(len(shown), len(with_users)) + with_users + _more(times)


def _more(group: Document) -> bytes:
    return b"," + orjson.dumps(group, option=_SORTED)[1:-1] if group else b""


def decode(stored: bytes) -> Document:
    """The annotation that `encode` stored, with all companions."""
    document: Document = orjson.loads(stored[_START:] + b"}")
    return document


def shown(stored: bytes, show: Show) -> bytes:
    """The JSON of a stored annotation."""
    if show is Show.ALL:
        return stored[_START:] + b"}"
    fields, users = _LENGTHS.unpack_from(stored)
    if show is Show.NONE:
        return stored[_START : _START + fields] + b"}"
    if show is Show.USER:
        return stored[_START : _START + users] + b"}"
    return stored[_START : _START + fields] + stored[_START + users :] + b"}"


def selected(stored: bytes, names: Collection[str], show: Show) -> bytes:
    """The JSON of the body id, the fields named, and those of their companions that are to be shown."""
    document = decode(stored)
    wanted = [ID]
    for name in names:
        wanted.append(name)
        wanted += [name + suffix for suffix in show.suffixes]
    return orjson.dumps({name: document[name] for name in wanted if name in document}, option=_SORTED)


def bare(body: int) -> bytes:
    """The JSON of an annotation of which only the body id is shown."""
    return b'{"%s":%d}' % (ID.encode(), body)


def now() -> str:
    """The present time as companions hold it."""
    return _stamp(datetime.now(UTC).replace(microsecond=0))


@lru_cache(16)
def _stamp(second: datetime) -> str:
    return second.strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_of(text: Any) -> datetime:
    """The time that a companion holds; the beginning of all times if it holds none."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def is_companion(name: str) -> bool:
    """Whether a name is that of a companion."""
    return name.endswith((USER, TIME))


def updated(
    old: Document | None, given: Document, user: str, time: str, *, conditionals: Sequence[str] = (), replace: bool
) -> Document:
    """What becomes of an annotation when somebody posts `given`.

    Fields that are not given stay, unless all is to be replaced; null removes a field, and its companions then tell
    who did that. A changed field gets new companions unless they are given too; an unchanged one keeps its own.
    Fields named by `conditionals` are written only where there are none yet, which has no meaning with `replace`.
    """
    before = old or {}
    removed = {name for name, value in given.items() if value is None}
    kept: set[str] = set()
    if not replace:
        kept = {name for name in conditionals if name in before and name in given and name not in removed}
        kept |= {name + suffix for name in kept for suffix in (USER, TIME)}
    values = {name: value for name, value in given.items() if value is not None and name not in kept}
    made = values.copy() if replace else {**before, **values}
    for name in removed - kept:
        made.pop(name, None)
    for name in given:
        if is_companion(name) or name in _UNSIGNED or name in kept:
            continue
        if name not in removed and name in before and is_same(before[name], given[name]):
            if replace:  # what has not changed keeps its companions, wherever they come from
                _sign(made, name, before.get(name + USER, user), before.get(name + TIME, time), values)
            continue
        _sign(made, name, user, time, given if name in removed else values)
    if old is None:
        for name in values:  # whoever is named without a field did something to it now
            field = name.removesuffix(USER)
            if field != name and field not in _UNSIGNED:
                made.setdefault(field + TIME, time)
    return made


def _sign(made: Document, name: str, user: Any, time: Any, given: Document) -> None:
    """Say who set or removed a field and when, unless the request says it itself (or says that nobody shall know)."""
    if name + USER not in given:
        made[name + USER] = user
    if name + TIME not in given:
        made[name + TIME] = time


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; the order of an object's keys does not matter."""
    if isinstance(one, str) and isinstance(other, str):
        return one == other
    return orjson.dumps(one, option=_SORTED) == orjson.dumps(other, option=_SORTED)

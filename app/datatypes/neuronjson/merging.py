"""Version merges of annotations of bodies: field by field, each together with who set it and when."""

from __future__ import annotations

import uuid
from typing import Any

import orjson

from app.datatypes.neuronjson import documents, keys
from app.datatypes.neuronjson.documents import TIME, USER, Document
from app.versioning.merge import Settling, Sides

#: A field and its companions, None for what is not there.
_Unit = tuple[Any, Any, Any]


async def merge(sides: Sides) -> list[str]:
    """Bring a side in."""
    conflicts: list[str] = []
    for key in sides.changes:
        if key == keys.TIMES and key in sides.clashes:
            sides.put(key, _latest(await sides.target.get(key), await sides.side.get(key)))
        elif keys.is_annotation(key):
            fields = await _join(sides, key)
            conflicts += [f"body {keys.body_of(key)}: {what}" for what in fields]
        elif not await sides.join(key):
            conflicts.append(f"document {keys.name_of(key)}")
    return conflicts


async def _join(sides: Sides, key: bytes) -> list[str]:
    """Bring the annotation of one body in; what is in conflict."""
    if key not in sides.clashes:
        sides.take(key)
        return []
    base, ours, theirs = [await reader.get(key) for reader in (sides.base, sides.target, sides.side)]
    if theirs in (ours, base):
        return []
    if ours == base:
        sides.take(key)
        return []
    if ours is None or theirs is None:
        return [] if await sides.join(key) else ["changed and deleted"]
    was, our, their = ({} if value is None else documents.decode(value) for value in (base, ours, theirs))
    made, fields = _joined(was, our, their)
    if sides.settling is Settling.MARK:
        made.update({name: uuid.uuid4().hex for name in fields})
    sides.target.put(key, documents.encode(made))
    return [f"field {name!r}" for name in fields]


def _joined(was: Document, our: Document, their: Document) -> tuple[Document, list[str]]:
    """An annotation of two, and the fields in conflict, which stay as they are in the first."""
    made, conflicts = dict(our), list[str]()
    for name in dict.fromkeys(_field(name) for document in (our, their) for name in document):
        base, ours, theirs = (_unit(document, name) for document in (was, our, their))
        if _is_same(theirs, base) or _is_same(theirs, ours):
            continue
        if documents.is_same(ours[0], theirs[0]):  # set to the same by two people: the later one is the last
            chosen = max(ours, theirs, key=lambda unit: documents.moment_of(unit[2]))
        elif _is_same(ours, base):
            chosen = theirs
        else:
            conflicts.append(name)
            continue
        for part, value in zip((name, name + USER, name + TIME), chosen, strict=True):
            if value is None:
                made.pop(part, None)
            else:
                made[part] = value
    return made, conflicts


def _field(name: str) -> str:
    return name.removesuffix(USER).removesuffix(TIME)


def _unit(document: Document, name: str) -> _Unit:
    return document.get(name), document.get(name + USER), document.get(name + TIME)


def _is_same(one: _Unit, other: _Unit) -> bool:
    return all(documents.is_same(a, b) for a, b in zip(one, other, strict=True))


def _latest(ours: bytes | None, theirs: bytes | None) -> bytes:
    """When fields changed last on either side."""
    found: dict[str, str] = orjson.loads(ours or b"{}")
    for name, time in orjson.loads(theirs or b"{}").items():
        found[name] = max(found.get(name, time), time, key=documents.moment_of)
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS)

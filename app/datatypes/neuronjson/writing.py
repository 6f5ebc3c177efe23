"""Writes of annotations, and of the documents about them: each one transaction, with a record that names the bodies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.core.errors import Invalid
from app.datatypes.author import Author
from app.datatypes.datatype import message, unsigned
from app.datatypes.neuronjson import documents, keys, schemas
from app.datatypes.neuronjson.documents import ID, TIME, USER, Document
from app.versioning.datastore import Data
from app.versioning.log import Record
from app.versioning.mutations import SEAL_ACTION, Mutation

POST, INGEST, DELETE = "postneuronjson", "ingestneuronjson", "deleteneuronjson"
_METADATA_ACTION = "metadataneuronjson"

#: The documents about the annotations.
METADATA = ("json_schema", "schema", "schema_batch")


@dataclass(frozen=True)
class Posted:
    """An annotation as a client sent it: JSON, but not yet known to be right."""

    body: int
    document: Document
    size_bytes: int


def body_of(text: str) -> int:
    """The body that a key names."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20) or int(text) > keys.MAX_BODY:
        raise Invalid(f"the key {text[:100]!r} is not a body id")
    return int(text)


def posted(key: str, value: bytes) -> Posted:
    """What a client sent for a key."""
    body = body_of(key)
    if body == 0:
        raise Invalid("body 0 is the background and cannot be annotated")
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the annotation of body {body} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Invalid(f"the annotation of body {body} must be a JSON object")
    for name in (ID + USER, ID + TIME):
        if name in document:
            raise Invalid(f"{name!r} is not allowed in an annotation")
    return Posted(body, document, len(value))


async def put(
    data: Data, items: Sequence[Posted], author: Author, *, action: str, conditionals: Sequence[str], replace: bool
) -> None:
    """Write annotations, all or none, each as `documents.updated` says."""
    mutation_id = await data.mutation_id()
    time = documents.now()
    names = [str(item.body) for item in items]
    arguments: dict[str, Any] = {"Key": names[0]} if len(names) == 1 else {"Keys": names}
    arguments["Bytes"] = sum(item.size_bytes for item in items)
    record = author.record(data, action, mutation_id, arguments)

    async def change(mutation: Mutation) -> None:
        places = [keys.annotation(item.body) for item in items]
        text, *found = await mutation.get_many([keys.JSON_SCHEMA, *places])
        schema = schemas.compiled(text) if text is not None else None
        present = {
            place: None if value is None else documents.decode(value)
            for place, value in zip(places, found, strict=True)
        }
        lost: set[str] = set()
        for item, place in zip(items, places, strict=True):
            given = item.document if schema is None else schemas.conforming(item.document, schema)
            _check_id(given, item.body)
            old = present[place]
            made = documents.updated(old, given, author.user, time, conditionals=conditionals, replace=replace)
            lost |= _lost_times(old, made)
            present[place] = made
            mutation.put(place, documents.encode(made))
        await _keep_times(mutation, lost, time)
        mutation.record(record)

    await data.mutate(change, by_admin=author.by_admin)


async def delete(data: Data, body: int, author: Author) -> None:
    """Remove an annotation, whether it is there or not."""
    mutation_id = await data.mutation_id()
    time = documents.now()
    record = author.record(data, DELETE, mutation_id, {"Key": str(body)})

    async def change(mutation: Mutation) -> None:
        place = keys.annotation(body)
        value = await mutation.get(place)
        if value is not None:
            mutation.delete(place)
            await _keep_times(mutation, _lost_times(documents.decode(value), {}), time)
        mutation.record(record)

    await data.mutate(change, by_admin=author.by_admin)


async def events(_data: Data, record: Record) -> list[dict[str, Any]]:
    """What goes out about a record: a message for each annotation, as DVID writes them one by one."""
    if record.action not in (POST, INGEST, DELETE):
        return []
    told = unsigned(message(record))
    if "Keys" not in told:
        return [told]
    rest = {name: value for name, value in told.items() if name not in ("Keys", "Bytes")}
    return [{**rest, "Key": key} for key in told["Keys"]]


async def put_metadata(data: Data, name: str, value: bytes | None, author: Author) -> None:
    """Write a document about the annotations; None removes it. A JSON schema counts for all later writes."""
    if value is not None:
        if name == METADATA[0]:
            schemas.compiled(value)
        else:
            _check_json(name, value)
    mutation_id = await data.mutation_id()
    arguments = {"Key": name, "Bytes": len(value or b"")}
    record = author.record(data, _METADATA_ACTION, mutation_id, arguments)

    async def change(mutation: Mutation) -> None:
        if value is None:
            mutation.delete(keys.metadata(name))
        else:
            mutation.put(keys.metadata(name), value)
        mutation.record(record)

    await data.mutate(change, by_admin=author.by_admin)


def touched(records: Iterable[Record]) -> set[int] | None:
    """The bodies whose annotations mutations have written; None if that cannot be told."""
    bodies: set[int] = set()
    for record in records:
        if record.action in (POST, INGEST, DELETE):
            arguments = record.arguments
            bodies.update(map(int, arguments["Keys"] if "Keys" in arguments else [arguments["Key"]]))
        elif record.action not in (_METADATA_ACTION, SEAL_ACTION):
            return None
    return bodies


def _check_id(document: Document, body: int) -> None:
    given = document.get(ID)
    if type(given) is not int:
        raise Invalid(f"the annotation of body {body} must have it as {ID!r}, an integer")
    if given != body:
        raise Invalid(f"the annotation has {given} as {ID!r} and {body} as key; they must be the same")


def _check_json(name: str, value: bytes) -> None:
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"{name} is not JSON: {error}") from None


def _lost_times(old: Document | None, made: Document) -> set[str]:
    """The fields whose time stamp an annotation holds no more."""
    return {name[: -len(TIME)] for name in old or () if name.endswith(TIME) and name not in made}


async def _keep_times(mutation: Mutation, fields: set[str], time: str) -> None:
    """Keep when fields were changed last, though no annotation may tell it any more."""
    if fields:
        kept = orjson.loads(await mutation.get(keys.TIMES) or b"{}")
        mutation.put(keys.TIMES, orjson.dumps({**kept, **dict.fromkeys(fields, time)}, option=orjson.OPT_SORT_KEYS))

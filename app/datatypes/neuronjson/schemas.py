"""JSON Schema: what an instance demands of the annotations written to it (https://json-schema.org).

Drafts 4, 6, 7, 2019-09 and 2020-12, by `$schema`, the newest without one. Patterns run on an engine of linear time,
and nothing is fetched: a reference must point into the schema itself.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import jsonschema_rs
import orjson

from app.core.errors import Invalid
from app.datatypes.neuronjson.documents import Document

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")


@lru_cache(maxsize=32)
def compiled(text: bytes) -> jsonschema_rs.Validator:
    """A schema ready to use; `Invalid` if it is none."""
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the schema is not JSON: {error}") from None
    if not isinstance(schema, dict | bool):
        raise Invalid("a JSON schema must be an object")
    try:
        return jsonschema_rs.validator_for(schema, retriever=_refuse, pattern_options=jsonschema_rs.RegexOptions())
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise Invalid(f"not a usable JSON schema: {_reason(error)}") from None


def conforming(document: Document, schema: jsonschema_rs.Validator) -> Document:
    """The annotation that a client posted, if it is as the schema demands; `Invalid` otherwise.

    Integers that were written as strings become integers. A null asks for the removal of a field, and is no value
    that could be wrong.
    """
    values = {name: value for name, value in document.items() if value is not None}
    if schema.is_valid(values):
        return document
    integers: Document = {}
    for error in schema.iter_errors(values):
        path = error.instance_path
        value = values.get(str(path[0])) if len(path) == 1 else None
        if not isinstance(value, str) or "integer" not in getattr(error.kind, "types", ()):
            raise Invalid(f"the annotation does not fit the JSON schema: {_where(error)}")
        if not _INTEGER.fullmatch(value):
            raise Invalid(f"field {path[0]!r} must be an integer, not {value!r}")
        integers[str(path[0])] = int(value)
    for error in schema.iter_errors({**values, **integers}):
        raise Invalid(f"the annotation does not fit the JSON schema: {_where(error)}")
    return {**document, **integers}


def _refuse(uri: str) -> Any:
    raise ValueError(f"{uri} is outside of the schema, and nothing is fetched")


def _where(error: jsonschema_rs.ValidationError) -> str:
    place = "/".join(map(str, error.instance_path))
    return f"/{place}: {error.message}"


def _reason(error: Exception) -> str:
    return str(error).split("\n", 1)[0]

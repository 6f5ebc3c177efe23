"""Keys of a neuronjson tree; see the package."""

from __future__ import annotations

_ANNOTATION = b"a/"
_AFTER_ANNOTATIONS = b"a0"
_METADATA = b"m/"
_ID_BYTES = 8

TIMES = b"f/times"
JSON_SCHEMA = _METADATA + b"json_schema"

MAX_BODY = (1 << 64) - 1


def annotation(body: int) -> bytes:
    """Where the annotation of a body is."""
    return _ANNOTATION + body.to_bytes(_ID_BYTES, "big")


def all_annotations() -> tuple[bytes, bytes]:
    """The range of all annotations."""
    return _ANNOTATION, _AFTER_ANNOTATIONS


def body_of(key: bytes) -> int:
    """The body whose annotation is at a key."""
    return int.from_bytes(key[len(_ANNOTATION) :], "big")


def metadata(name: str) -> bytes:
    """Where a document about the annotations is."""
    return _METADATA + name.encode()


def is_annotation(key: bytes) -> bool:
    """Whether a key is that of an annotation."""
    return key.startswith(_ANNOTATION)


def name_of(key: bytes) -> str:
    """The name of a document about the annotations."""
    return key[len(_METADATA) :].decode()

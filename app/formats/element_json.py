"""Point annotations as DVID writes them in JSON: keys in this order, properties sorted.

    {"Pos":[x,y,z],"Kind":"PreSyn","Tags":["t"],"Prop":{"user":"me"},"Rels":[{"Rel":"PreSynTo","To":[x,y,z]}]}

Lists by label or tag leave `Rels` out unless they are asked for it; `verbose` ones tell of each partner too. Where a
client sends null or nothing for tags, properties or relationships, they are empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid
from app.core.geometry import MAX_COORDINATE, Triple, parse_ints

I32 = npt.NDArray[np.int32]

KINDS = ("Unknown", "PostSyn", "PreSyn", "Gap", "Note")
KIND_CODES = {kind: code for code, kind in enumerate(KINDS)}

Coordinate = Annotated[int, msgspec.Meta(ge=-MAX_COORDINATE, lt=MAX_COORDINATE)]
Point = tuple[Coordinate, Coordinate, Coordinate]
Kind = Literal["Unknown", "PostSyn", "PreSyn", "Gap", "Note"]


class Relation(msgspec.Struct, rename="pascal", gc=False):
    """How an element relates to the one at a point x, y, z."""

    rel: Literal["UnknownRelationship", "PostSynTo", "PreSynTo", "ConvergentTo", "GroupedWith"]
    to: Point


class Element(msgspec.Struct, rename="pascal", gc=False):
    """A point annotation at `pos`, x, y, z."""

    pos: Point
    kind: Kind = "Unknown"
    tags: list[str] | None = None
    prop: dict[str, str] | None = None
    rels: list[Relation] | None = None


class Partner(msgspec.Struct, rename="pascal", omit_defaults=True, gc=False):
    """A relation with what is known of its partner; what is empty is left out."""

    rel: str
    to: Point
    kind: str = "Unknown"
    tags: list[str] = msgspec.field(default_factory=list)
    prop: dict[str, str] = msgspec.field(default_factory=dict)


class VerboseElement(msgspec.Struct, rename="pascal", gc=False):
    """An element whose relations tell of their partners."""

    pos: Point
    kind: str
    tags: list[str]
    prop: dict[str, str]
    rels: list[Partner]


class _Tagged(msgspec.Struct, rename="pascal", gc=False):
    tags: list[str]


_ENCODER = msgspec.json.Encoder(order="deterministic")
_ELEMENT: msgspec.json.Decoder[Element] = msgspec.json.Decoder(Element)
_ELEMENTS: msgspec.json.Decoder[list[Element]] = msgspec.json.Decoder(list[Element])
_BLOCKS: msgspec.json.Decoder[dict[str, list[Element] | None]] = msgspec.json.Decoder(dict[str, list[Element] | None])
_LISTS: msgspec.json.Decoder[dict[str, str]] = msgspec.json.Decoder(dict[str, str])
_TAGGED: msgspec.json.Decoder[list[_Tagged]] = msgspec.json.Decoder(list[_Tagged])
_RELS = b',"Rels":['
#: No text of a client's looks like this in JSON: a quote in it has a backslash before it.
_NO_TAGS = b',"Tags":[],'


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes | str, what: str) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{what}: {error}") from None


def parse_elements(body: bytes | str) -> list[Element]:
    """The elements of a JSON list."""
    found: list[Element] = _decode(_ELEMENTS, body, "the body must be a JSON list of annotation elements")
    return found


def parse_blocks(body: bytes) -> dict[Triple, list[Element]]:
    """The elements of a JSON object whose keys are block coordinates `x,y,z`; by z, y, x."""
    found = _decode(_BLOCKS, body, "the body must be a JSON object of blocks of annotation elements")
    blocks: dict[Triple, list[Element]] = {}
    for key, elements in found.items():
        x, y, z = parse_ints(key, 3)
        blocks[z, y, x] = elements or []
    return blocks


def parse_lists(body: bytes) -> dict[str, list[Element]]:
    """The elements of a JSON object whose values are the JSON texts of lists."""
    found = _decode(_LISTS, body, "the body must be a JSON object: label to the JSON text of a list of elements")
    return {key: parse_elements(text) for key, text in found.items()}


def encode(element: Element | VerboseElement) -> bytes:
    """The JSON of an element."""
    if isinstance(element, Element):
        element.tags = element.tags or []
        element.prop = element.prop or {}
        element.rels = element.rels or []
    return _ENCODER.encode(element)


def decode(piece: bytes) -> Element:
    """The element of a piece of stored JSON."""
    return _ELEMENT.decode(piece)


def tags_by_element(pieces: Sequence[bytes]) -> list[list[str]]:
    """The tags of each stored element."""
    return [element.tags for element in _TAGGED.decode(listed(pieces))]


def tags_of(pieces: Sequence[bytes]) -> set[str]:
    """All tags of stored elements."""
    tagged = [piece for piece in pieces if _NO_TAGS not in piece]
    return {tag for tags in tags_by_element(tagged) for tag in tags} if tagged else set()


def have_tags(json: bytes, count: int) -> bool:
    """Whether any of so many stored elements has tags; `json` are all of them."""
    return json.count(_NO_TAGS) < count


def have_tag(json: bytes, tag: str) -> npt.NDArray[np.bool_]:
    """For each element of a stored list whether it has a tag."""
    return np.array([tag in element.tags for element in _TAGGED.decode(json)], bool)


def bare_length(piece: bytes) -> int:
    """Where the relations begin in the JSON of an element: up to here, and with a brace, it is one without."""
    return piece.rfind(_RELS)


def listed(pieces: Sequence[bytes]) -> bytes:
    """A JSON list of pieces of JSON."""
    return b"[" + b",".join(pieces) + b"]"


def positions(elements: Sequence[Element]) -> I32:
    """Where elements are: int32 (n, 3) as x, y, z."""
    return np.array([element.pos for element in elements], np.int32).reshape(-1, 3)

"""Query parameters and bodies that many labelmap endpoints share."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from app.core.errors import Invalid
from app.datatypes.labelmap import keys, mapping
from app.datatypes.labelmap.mapping import IDENTITY, Mapping
from app.datatypes.labelmap.write import Mask
from app.routes.endpoint import Parameter
from app.routes.request import Request
from app.routes.roi import region

SCALE = Parameter("scale", "0 is full resolution", "integer", 0, least=0, most=keys.MAX_SCALE)
SUPERVOXELS = Parameter("supervoxels", "supervoxels instead of bodies", "flag", False)
HASH = Parameter("hash", "MD5 of the body in hexadecimal digits; the request is refused if it differs")
ROI = Parameter("roi", "name of a region of interest, or name,version: outside of it voxels are 0 or stay as they are")
THROTTLE = Parameter("throttle", "refuse with 503 when too many such operations run", "flag", False)

MAX_LABEL = (1 << 64) - 1


async def mapping_of(request: Request) -> Mapping:
    """The mapping that a read applies: none if it asks for supervoxels."""
    if request.query["supervoxels"]:
        return IDENTITY
    return await mapping.load(await request.head())


async def mask_of(request: Request) -> Mask | None:
    """The region of interest of a request, if it names one."""
    name: str = request.query["roi"]
    if name and request.query.get("scale"):
        raise Invalid("a region of interest applies to scale 0 only")
    return await region(request, name) if name else None


def label_of(text: str) -> int:
    """A label in a path."""
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_LABEL:
        raise Invalid(f"{text!r} is not a label")
    return int(text)


def body_label(text: str) -> int:
    """A label in a path that is not the background."""
    label = label_of(text)
    if label == 0:
        raise Invalid("label 0 is the background and cannot be asked for")
    return label


def check_indexed(request: Request) -> None:
    """Refuse what needs the label index where there is none."""
    if not request.data.instance.settings["indexed"]:
        raise Invalid("this instance has no label index (IndexedLabels=false)")


async def hashed_json(request: Request) -> Any:
    """A JSON body, whose MD5 is checked if the client gave it."""
    body = await request.body()
    if request.query["hash"] and hashlib.md5(body, usedforsecurity=False).hexdigest() != request.query["hash"]:
        raise Invalid("the body does not have the MD5 that hash names")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body is not JSON: {error}") from None


async def labels_in_body(request: Request, *, most: int = 1 << 30) -> list[int]:
    """A JSON list of labels."""
    labels = label_list(await hashed_json(request))
    if len(labels) > most:
        raise Invalid(f"the body lists {len(labels)} labels; at most {most} are allowed")
    return labels


def label_list(value: Any) -> list[int]:
    """A JSON list of labels."""
    if not isinstance(value, list) or not all(type(label) is int and 0 <= label <= MAX_LABEL for label in value):
        raise Invalid("the body must be a JSON list of labels")
    return value

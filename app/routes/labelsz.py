"""Endpoints of labelsz instances: numbers of annotations by body."""

from __future__ import annotations

import numpy as np
from starlette.responses import Response

from app.core.errors import Invalid
from app.datatypes import labelsz
from app.datatypes.labelsz import NO_COUNTS, Counting, Counts
from app.routes import answers
from app.routes.annotation import labels_in
from app.routes.endpoint import Parameter, endpoint
from app.routes.labelmap.parameters import HASH, label_of, labels_in_body
from app.routes.request import Request
from app.routes.roi import region
from app.versioning.log import SEQUENCE

#: As many bodies as `threshold` answers unless asked for another number.
PAGE = 10_000
_LARGEST = (1 << 63) - 1


async def _counting(request: Request) -> Counting | None:
    """What the request counts; nothing unless annotations are synced, and labels with them."""
    own, annotation = await request.head(), labelsz.source(request.data)
    if annotation is None:
        return None
    elements = await request.head_of(annotation)
    labels = await labels_in(request, annotation)
    if labels is None:
        return None
    mask, state = None, None
    name: str = request.data.instance.settings["roi"]
    if name:
        mask = await region(request, name)
        state = await request.others[-1][1].get(SEQUENCE)
    return Counting(request.data, own, annotation, elements, labels, mask, state, request.service.workers)


async def _all(request: Request) -> Counts:
    counting = await _counting(request)
    return NO_COUNTS if counting is None else await counting.all()


async def _numbers(request: Request, labels: list[int], index_type: str) -> list[int]:
    counting = await _counting(request)
    if counting is None:
        return [0] * len(labels)
    counts = await counting.few(labels) or await counting.all()
    return [int(number) for number in counts.get(np.array(labels, np.uint64), index_type)]


def _type(request: Request) -> str:
    name = request.path["type"]
    if name not in labelsz.TYPES:
        raise Invalid(f"{name!r} is no type of index: {', '.join(labelsz.TYPES)} are")
    return name


def _number(request: Request, name: str) -> int:
    text = request.path[name]
    if not (text.isascii() and text.isdigit()) or int(text) > _LARGEST:
        raise Invalid(f"{text!r} is not a number")
    return int(text)


@endpoint("GET", "count/{label}/{type}", answer='{"Label": label, "<type>": n}')
async def get_count(request: Request) -> Response:
    """How many annotations of a type lie in a body: PostSyn, PreSyn, Gap, Note, or AllSyn for the first three."""
    label, index_type = label_of(request.path["label"]), _type(request)
    (number,) = await _numbers(request, [label], index_type)
    return answers.json({"Label": label, index_type: number})


@endpoint(
    "GET",
    "counts/{type}",
    query=[HASH],
    body="[label, ...]",
    answer='[{"Label": label, "<type>": n}, ...]',
    twin=True,
    writes=False,
)
async def get_counts(request: Request) -> Response:
    """The numbers of several bodies, in the order asked."""
    index_type = _type(request)
    labels = await labels_in_body(request)
    numbers = await _numbers(request, labels, index_type)
    return answers.json([{"Label": label, index_type: n} for label, n in zip(labels, numbers, strict=True)])


@endpoint("GET", "top/{n}/{type}", answer='[{"Label": label, "Size": n}, ...]')
async def get_top(request: Request) -> Response:
    """The bodies with the most annotations of a type, the largest number first, equal ones by label."""
    number, index_type = _number(request, "n"), _type(request)
    return _ranks(await _all(request), index_type, 1, 0, number)


@endpoint(
    "GET",
    "threshold/{least}/{type}",
    query=[
        Parameter("offset", "rank of the first body to answer, from 0", "integer", 0, least=0, most=_LARGEST),
        Parameter("n", "how many", "integer", PAGE, least=0, most=_LARGEST),
    ],
    answer='[{"Label": label, "Size": n}, ...]',
)
async def get_threshold(request: Request) -> Response:
    """The bodies with at least so many annotations of a type, in the same order."""
    least, index_type = _number(request, "least"), _type(request)
    return _ranks(await _all(request), index_type, least, request.query["offset"], request.query["n"])


def _ranks(counts: Counts, index_type: str, least: int, offset: int, number: int) -> Response:
    labels, sizes = (part[offset : offset + number].tolist() for part in counts.ranked(index_type, least))
    return answers.json([{"Label": label, "Size": size} for label, size in zip(labels, sizes, strict=True)])


@endpoint("POST", "reload")
async def post_reload(request: Request) -> Response:
    """Count from now on also the annotations that were there before the sync. Nothing else needs it."""
    await labelsz.reload(request.data, request.author)
    return answers.empty()

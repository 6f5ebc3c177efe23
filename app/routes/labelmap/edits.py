"""Endpoints that edit bodies."""

from __future__ import annotations

from starlette.responses import Response

from app.core.errors import Invalid, NotAllowed
from app.datatypes.labelmap import edits, splits
from app.formats import sparse_volumes
from app.routes import answers
from app.routes.endpoint import Parameter, endpoint
from app.routes.labelmap.parameters import MAX_LABEL, body_label, check_indexed, label_list
from app.routes.request import Request


@endpoint("POST", "merge", body="[target, body, ...]", answer='{"MutationID": n}')
async def post_merge(request: Request) -> Response:
    """Make all supervoxels of bodies the first one's."""
    check_indexed(request)
    labels = label_list(await request.json())
    if len(labels) < 2:
        raise Invalid("a merge needs a target and at least one other body")
    mutation_id = await edits.merge(request.data, labels[0], labels[1:], request.author)
    return answers.spaced_json(f'{{"MutationID": {mutation_id}}}')


@endpoint("POST", "cleave/{body}", body="[supervoxel, ...]", answer='{"CleavedLabel": n, "MutationID": n}')
async def post_cleave(request: Request) -> Response:
    """Make some supervoxels of a body a new body."""
    check_indexed(request)
    supervoxels = label_list(await request.json())
    body = body_label(request.path["body"])
    new, mutation_id = await edits.cleave(request.data, body, supervoxels, request.author)
    return answers.spaced_json(f'{{"CleavedLabel": {new}, "MutationID": {mutation_id}}}')


@endpoint("POST", "renumber", body="[new, old, new, old, ...]")
async def post_renumber(request: Request) -> Response:
    """Give bodies new numbers, pair by pair: those before a pair that is refused are done."""
    check_indexed(request)
    labels = label_list(await request.json())
    if len(labels) % 2:
        raise Invalid("the body must list pairs of a new and an old number")
    for new, old in zip(labels[::2], labels[1::2], strict=True):
        await edits.renumber(request.data, old, new, request.author)
    return answers.empty()


@endpoint(
    "POST",
    "split-supervoxel/{supervoxel}",
    query=[
        Parameter("split", "number of the part inside the runs", "integer", None, least=1, most=MAX_LABEL - 1),
        Parameter("remain", "number of the part outside", "integer", None, least=1, most=MAX_LABEL - 1),
        Parameter("downres", "false leaves the coarser scales as they are"),
    ],
    body="runs of voxels",
    answer='{"SplitSupervoxel": n, "RemainSupervoxel": n, "MutationID": n}',
)
async def post_split_supervoxel(request: Request) -> Response:
    """Cut a supervoxel in two; its body keeps both parts."""
    check_indexed(request)
    supervoxel, query = body_label(request.path["supervoxel"]), request.query
    done, mutation_id = await splits.split_supervoxel(
        request.data,
        supervoxel,
        sparse_volumes.decode_runs(await request.body()),
        request.author,
        request.service.workers,
        given=(query["split"], query["remain"]),
        with_downres=query["downres"] not in ("false", "0"),
    )
    numbers = f'"SplitSupervoxel": {done.split}, "RemainSupervoxel": {done.remain}'
    return answers.spaced_json(f'{{{numbers}, "MutationID": {mutation_id}}}')


@endpoint("POST", "split/{body}", body="runs of voxels", answer='{"label": n, "MutationID": n}')
async def post_split(request: Request) -> Response:
    """Make voxels of a body a new body, splitting every supervoxel that they touch."""
    check_indexed(request)
    if not request.service.settings.allow_body_split:
        raise NotAllowed("this server does not allow splits of bodies by voxels (allow_body_split)")
    body = body_label(request.path["body"])
    runs = sparse_volumes.decode_runs(await request.body())
    new, mutation_id = await splits.split_body(request.data, body, runs, request.author, request.service.workers)
    return answers.spaced_json(f'{{"label": {new}, "MutationID": {mutation_id}}}')

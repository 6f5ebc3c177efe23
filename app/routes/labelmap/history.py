"""Endpoints about what was done to bodies."""

from __future__ import annotations

import orjson
from starlette.responses import Response

from app.core.errors import Invalid
from app.datatypes.labelmap import history
from app.routes import answers
from app.routes.endpoint import endpoint
from app.routes.labelmap.parameters import body_label
from app.routes.request import Request
from app.versioning.datastore import Data


@endpoint("GET", "history/{body}/{first}/{last}", answer="messages, one after the other")
async def get_history(request: Request) -> Response:
    """The edits, from an earlier to a later version, of what is a body at the later one, without separators."""
    found = await history.history(body_label(request.path["body"]), await _lineage(request))
    return answers.spaced_json(b"".join(map(orjson.dumps, found)).decode())


@endpoint("GET", "supervoxel-splits", answer="[version, [[mutation id, old, remain, split], ...], ...]")
async def get_supervoxel_splits(request: Request) -> Response:
    """The splits of supervoxels at this version and its ancestors, this version's first."""
    data = request.data
    return answers.json(await history.supervoxel_splits([data.in_version(uuid) for uuid in data.line.versions]))


async def _lineage(request: Request) -> list[Data]:
    """The instance at the versions from `first` to `last` of the path, which must descend from it."""
    data, repos = request.data, request.service.datastore.repos
    ends = []
    for name in ("first", "last"):
        repo, version = await repos.resolve(request.path[name])
        if repo.root != data.repo.root:
            raise Invalid(f"version {version.uuid} is of another repo")
        ends.append(data.in_version(version.uuid))
    first, last = (end.home.uuid for end in ends)
    line = ends[1].line.versions
    if first not in line:
        raise Invalid(f"version {first} is not an ancestor of {last}")
    return [data.in_version(uuid) for uuid in reversed(line[: line.index(first) + 1])]

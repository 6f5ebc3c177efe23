"""Endpoints that volumes of images and of labels have in common: metadata, extents, resolution."""

from __future__ import annotations

from dataclasses import replace

from starlette.responses import Response

from app.datatypes import DATATYPES, voxels
from app.routes import answers
from app.routes.endpoint import endpoint
from app.routes.request import Request
from app.versioning.mutations import Mutation


@endpoint("GET", "metadata", media="application/vnd.dvid-nd-data+json", answer="axes and properties")
async def get_metadata(request: Request) -> Response:
    """The axes with resolution, size and offset, and the properties of the volume."""
    data = request.data
    described = await DATATYPES[data.instance.typename].describe(data)
    response = answers.json(voxels.metadata(described["Extended"]))
    response.headers["Content-Type"] = "application/vnd.dvid-nd-data+json"
    return response


@endpoint("POST", "extents", body='{"MinPoint": [x,y,z], "MaxPoint": [x,y,z]}')
async def post_extents(request: Request) -> Response:
    """Replace the extents of this version."""
    data, value = request.data, await request.json()
    record = request.author.record(data, "extents")

    async def change(mutation: Mutation) -> None:
        voxels.set_extents(mutation, value)
        mutation.record(record)

    await data.mutate(change, by_admin=request.may_write_locked)
    return answers.empty()


@endpoint("POST", "resolution", body="[x, y, z]")
async def post_resolution(request: Request) -> Response:
    """Set the size of a voxel in the units of the volume; it is not versioned."""
    data, size = request.data, voxels.parse_resolution(await request.json())
    await data.datastore.repos.edit_instance(
        data.repo.root,
        data.instance.uuid,
        lambda instance: replace(instance, settings={**instance.settings, "voxel_size": size}),
    )
    return answers.empty()

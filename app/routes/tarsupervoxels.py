"""Endpoints of tarsupervoxels instances: files of supervoxels, one by one and by body."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.responses import Response

from app.core.errors import Invalid
from app.datatypes import tarsupervoxels
from app.datatypes.config import Config
from app.datatypes.values import Small
from app.formats.keyvalues import Form
from app.routes import answers
from app.routes.endpoint import endpoint
from app.routes.instances import edit
from app.routes.keyvalue import nothing
from app.routes.labelmap.parameters import HASH, body_label, labels_in_body
from app.routes.request import Request


@endpoint("GET", "supervoxel/{supervoxel}", media=answers.OCTETS, answer="the file")
async def get_supervoxel(request: Request) -> Response:
    """The file of a supervoxel."""
    supervoxel = body_label(request.path["supervoxel"])
    value = await tarsupervoxels.get(await request.head(), supervoxel)
    header = request.header(b"range")
    if isinstance(value, Small):
        return answers.ranged(value.content, header)
    return answers.ranged_stream(value.size, header, nothing if request.method == "HEAD" else value.part)


@endpoint("POST", "supervoxel/{supervoxel}", body="the file")
async def post_supervoxel(request: Request) -> Response:
    """Write the file of a supervoxel, of any size; it is the same in all versions."""
    supervoxel = body_label(request.path["supervoxel"])
    request.check_length()
    await tarsupervoxels.put_stream(request.data, supervoxel, request.stream(), request.author)
    return answers.empty()


@endpoint("DELETE", "supervoxel/{supervoxel}")
async def delete_supervoxel(request: Request) -> Response:
    """Remove the file of a supervoxel, whether it is there or not."""
    await tarsupervoxels.delete(request.data, body_label(request.path["supervoxel"]), request.author)
    return answers.empty()


@endpoint("POST", "load", body="a tar archive of files <supervoxel>.<extension>")
async def post_load(request: Request) -> Response:
    """Write all files of an archive, or none; it may be of any size."""
    request.check_length()
    await tarsupervoxels.load(request.data, request.stream(), request.author)
    return answers.empty()


@endpoint("GET", "tarfile/{body}", media="application/tar", answer="a tar archive")
async def get_tarfile(request: Request) -> Response:
    """The files of all supervoxels of a body; an empty `<supervoxel>.missing` stands for one that is not there."""
    members, snapshot = await _supervoxels(request), await request.head()

    async def pieces() -> AsyncIterator[bytes]:
        found = tarsupervoxels.get_many(snapshot, members)
        for supervoxel in members:
            value = await anext(found)
            size = 0 if value is None else value.size
            name = f"{supervoxel}.missing" if value is None else tarsupervoxels.name(request.data, supervoxel)
            yield Form.TAR.before(name, size, False)
            if value is not None:
                async for piece in value.part(0, size):
                    yield piece
            yield Form.TAR.after(size)
        yield Form.TAR.end

    return await answers.gathered(pieces(), Form.TAR.media)


@endpoint("HEAD", "tarfile/{body}", answer="200, or 400 if a file is missing")
async def head_tarfile(request: Request) -> Response:
    """Whether all supervoxels of a body have files."""
    if not all(await tarsupervoxels.exist(await request.head(), await _supervoxels(request))):
        raise Invalid("a supervoxel of the body has no file")
    return answers.empty()


@endpoint("GET", "missing/{body}", answer="[supervoxel, ...]")
async def get_missing(request: Request) -> Response:
    """The supervoxels of a body that have no file."""
    members = await _supervoxels(request)
    there = await tarsupervoxels.exist(await request.head(), members)
    return answers.json([label for label, is_there in zip(members, there, strict=True) if not is_there])


async def _supervoxels(request: Request) -> list[int]:
    """The supervoxels of the body that the path names."""
    body = body_label(request.path["body"])
    await request.head()
    return await tarsupervoxels.supervoxels(await request.head_of(tarsupervoxels.labels(request.data)), body)


@endpoint("GET", "exists", query=[HASH], body="[supervoxel, ...]", answer="[bool, ...]", twin=True, writes=False)
async def get_exists(request: Request) -> Response:
    """For each supervoxel whether it has a file."""
    wanted = await labels_in_body(request)
    return answers.json(await tarsupervoxels.exist(await request.head(), wanted))


@endpoint("POST", "info", body="settings")
async def post_info(request: Request) -> Response:
    """Change the ending of the files' names; files keep their content."""
    config = Config(await request.json_object())
    if "Extension" in config:
        await edit(request.data, settings={"extension": config.required("Extension")})
    return answers.empty()

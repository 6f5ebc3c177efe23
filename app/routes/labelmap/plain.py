"""Supervoxels of a labelmap as a precomputed volume and as zarr; bodies are in `precomputed` and `zarr`."""

from __future__ import annotations

from starlette.responses import Response

from app.routes import answers, precomputed, zarr
from app.routes.endpoint import endpoint
from app.routes.plain import chunks_of
from app.routes.request import Request


@endpoint("GET", "precomputed-supervoxels/{file*}", media=answers.OCTETS, answer="`info` or a chunk")
async def get_precomputed_supervoxels(request: Request) -> Response:
    """As precomputed, with supervoxels instead of bodies."""
    return await precomputed.answer(request, await chunks_of(request, supervoxels=True))


@endpoint("GET", "zarr-supervoxels/{file*}", media=answers.OCTETS, answer="`zarr.json` or a chunk")
async def get_zarr_supervoxels(request: Request) -> Response:
    """As zarr, with supervoxels instead of bodies."""
    return await zarr.answer(request, await chunks_of(request, supervoxels=True))

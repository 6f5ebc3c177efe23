"""Filling a server with the sample: a repo, image and labels, a locked root, and a child in which cells were edited.

Everything goes through DVID's API, as any client would do it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from app.backends.store import Store
from app.core.geometry import Box, Triple
from app.demo import meshes, scene
from app.demo.made import GRAYSCALE, MESHES, SEGMENTATION, Made
from app.demo.sample import Sample
from app.formats import block_stream, compression
from app.ingest import over_http
from app.ingest.over_http import Client, HttpTarget
from app.ingest.plan import downres_levels, make_plan
from app.ingest.progress import Progress
from app.ingest.run import run
from app.ingest.sources import of_array
from app.ingest.target import LABELS, Wanted
from app.kernels import label_block

BLOCK = 64
Labels = npt.NDArray[np.uint64]
Say = Callable[[str], None]


def fill(client: Client, sample: Sample, say: Say) -> Made:
    """Make the demo's repo on an empty server."""
    description = f"The sample {sample.name}: image, cells, and a version in which two cells were edited"
    root = client.json("POST", "/api/repos", {"alias": "demo", "description": description}, admin=True)["root"]
    z, y, x = sample.shape
    made = Made(
        root, root, sample.shape, sample.voxel_size, sample.em is not None, sample.labels is not None, [],
        (x // 2, y // 2, z // 2),
    )  # fmt: skip
    if sample.em is not None:
        say("image ...")
        _ingest(client, root, GRAYSCALE, "uint8blk", sample.em, sample)
    if sample.labels is None:
        client.json("POST", f"/api/node/{root}/commit", {"note": "the image as it was taken"})
        made.child = _child(client, root)
        return made
    say("cells ...")
    _ingest(client, root, SEGMENTATION, LABELS, sample.labels, sample)
    chosen = scene.choose(sample.labels)
    made.shown, made.position = chosen.shown, chosen.position
    say("surfaces ...")
    client.json("POST", f"/api/repo/{root}/instance", {"dataname": MESHES, "typename": "keyvalue"})
    # With `info` and `{id}:0` beside the files that dvid:// asks for, the instance is a precomputed mesh too.
    client.call("POST", f"/api/node/{root}/{MESHES}/key/info", b'{"@type": "neuroglancer_legacy_mesh"}')
    _post_meshes(client, root, sample.labels, made.shown, made.voxel_size)
    client.json("POST", f"/api/node/{root}/commit", {"note": "the segmentation as the machine made it"})
    say("edits ...")
    made.child = _child(client, root)
    _edit(client, made, chosen)
    return made


def _child(client: Client, root: str) -> str:
    note = "a cell cut in two, and two cells joined"
    return str(client.json("POST", f"/api/node/{root}/newversion", {"note": note})["child"])


def _ingest(client: Client, root: str, name: str, typename: str, array: npt.NDArray[Any], sample: Sample) -> None:
    levels = max(2, downres_levels(sample.shape, (BLOCK,) * 3))
    target = over_http.open_target(client, Wanted(root, name, root, typename, sample.voxel_size, BLOCK, levels))
    plan = make_plan(sample.shape, (0, 0, 0), target.block, array.dtype.itemsize)

    async def write() -> None:
        progress = Progress(Store("memory://demo"), name, len(plan.slabs), name)
        await run(of_array(name, array), target, plan, progress, jobs=2, advance=lambda _: None)

    asyncio.run(write())


def _post_meshes(
    client: Client, version: str, labels: Labels, ids: list[int], voxel_size: tuple[float, float, float]
) -> None:
    keys = f"/api/node/{version}/{MESHES}/key"
    for label in ids:
        mesh = meshes.of_label(labels, label, voxel_size)
        if mesh is None:  # it went into another cell
            client.call("DELETE", f"{keys}/{label}:0")
            client.call("DELETE", f"{keys}/{label}.ngmesh")
            continue
        client.call("POST", f"{keys}/{label}.ngmesh", mesh)
        client.call("POST", f"{keys}/{label}:0", json.dumps({"fragments": [f"{label}.ngmesh"]}).encode())


def _edit(client: Client, made: Made, chosen: scene.Scene) -> None:
    """Cut one cell with POST raw and join two with POST blocks, in the open child."""
    described = client.json("GET", f"/api/node/{made.child}/{SEGMENTATION}/info")
    target = HttpTarget(client, made.child, described)
    z, y, x = made.shape
    whole = _blocks_around(np.array([[0, 0, 0], [z - 1, y - 1, x - 1]]))
    labels: Labels = asyncio.run(target.read(whole))
    given = client.json("POST", f"/api/node/{made.child}/{SEGMENTATION}/nextlabel/1")
    new = int(given["start"])

    places = np.argwhere(labels == chosen.split)
    side = places[scene.halves(places, np.array(chosen.position[::-1], np.float64))]
    labels[tuple(side.T)] = new
    box = _blocks_around(side)
    body = compression.lz4(np.ascontiguousarray(labels[box.slices()]).tobytes())
    size, offset = ("_".join(map(str, values[::-1])) for values in (box.shape, box.start))
    path = f"/api/node/{made.child}/{SEGMENTATION}"
    client.call("POST", f"{path}/raw/0_1_2/{size}/{offset}", body, compression="lz4", mutate="true", app="demo")

    kept, gone = chosen.merged
    swallowed = labels == gone
    labels[swallowed] = kept
    nz, ny, nx = (length // BLOCK for length in labels.shape)
    met = swallowed.reshape(nz, BLOCK, ny, BLOCK, nx, BLOCK).any(axis=(1, 3, 5))
    touched: list[Triple] = [(int(z), int(y), int(x)) for z, y, x in np.argwhere(met)]
    stream = block_stream.join((place, _encoded(labels, place)) for place in touched)
    client.call("POST", f"{path}/blocks", stream, compression="blocks", downres="true", app="demo")
    asyncio.run(target.set_extents(([0, 0, 0], [x - 1, y - 1, z - 1])))

    made.split, made.merged = (chosen.split, new), chosen.merged
    _post_meshes(client, made.child, labels, [chosen.split, new, kept, gone], made.voxel_size)


def _encoded(labels: Labels, place: Triple) -> bytes:
    part = labels[tuple(slice(BLOCK * at, BLOCK * (at + 1)) for at in place)]
    return compression.gzip(label_block.encode(np.ascontiguousarray(part)).data)


def _blocks_around(places: npt.NDArray[np.intp]) -> Box:
    """The box of whole blocks that holds places z, y, x."""
    low, high = places.min(axis=0) // BLOCK * BLOCK, (places.max(axis=0) // BLOCK + 1) * BLOCK
    return Box((int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2])))

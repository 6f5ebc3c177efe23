"""Images as published volumes: precomputed or OME-Zarr with coarser scales, written once and served as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorstore as ts

from app.backends.store import Store
from app.core.errors import Invalid
from app.core.geometry import Box, Triple
from app.ingest.plan import make_plan
from app.ingest.progress import Extents, Progress, key_of
from app.ingest.run import run
from app.ingest.sources import Source
from app.ingest.target import GREY, Array
from app.ingest.tensorstores import TensorStoreArray

FORMATS = ("precomputed", "sharded", "zarr3")
CHUNK = 64
#: A shard is so many chunks along each axis.
SHARD = 4
_SHARD_BITS = 6


@dataclass
class Publication:
    """Where and how a volume is published: format, place of its first voxel x, y, z, nanometres of a voxel x, y, z."""

    store: Store
    typename: str
    form: str
    offset: Triple
    voxel_size: tuple[float, float, float]
    levels: list[dict[str, Any]] = field(default_factory=list)

    async def write(
        self,
        source: Source,
        records: Store,
        *,
        slab_bytes: int,
        jobs: int,
        resume: bool,
        bar: Callable[[str, int], Any],
    ) -> int:
        """Write all scales, and return how many slabs that took. `bar` makes a progress bar of a name and voxels."""
        if self.typename not in GREY:
            raise Invalid("only images can be published")
        if self.form == "zarr3" and any(self.offset):
            raise Invalid("OME-Zarr volumes begin at 0,0,0; publish one with an offset as precomputed")
        shape, first = source.shape, self.offset[::-1]
        size = self.voxel_size[::-1]
        written = level = 0
        while True:
            array = await self._open(level, shape, first, size)
            target = PublishedTarget(self.store, array, f"{self.store.url} s{level}", self.typename, self._grain())
            plan = make_plan(shape, (0, 0, 0), target.block, array.dtype.numpy_dtype.itemsize, slab_bytes)
            key = key_of([target.identity, source.name, shape, plan.slab_blocks])
            progress = Progress(records, key, len(plan.slabs), target.identity)
            if resume:
                await progress.load()
            with bar(f"scale {level}", plan.volume.count) as shown:
                written += await run(source, target, plan, progress, jobs=jobs, advance=shown.update)
            self.levels.append({"path": f"s{level}", "size": size})
            if max(shape) <= CHUNK:
                break
            factors = [2 if side < 2 * min(size) else 1 for side in size]
            # Written slabs are read back by the next scale, which so never holds more than its own.
            coarser = TensorStoreArray(ts.downsample(array, factors, "mean"), "zyx", None)
            z, y, x = coarser.offset
            shape, first = _triple(coarser.shape), (z, y, x)
            size = _floats([side * factor for side, factor in zip(size, factors, strict=True)])
            source = Source(source.name, coarser, (0, 1, 2))
            level += 1
        if self.form == "zarr3":
            await self._describe()
        return written

    def _grain(self) -> Triple:
        side = CHUNK if self.form == "precomputed" else CHUNK * SHARD
        return side, side, side

    async def _open(self, level: int, shape: Triple, first: Sequence[int], size: Sequence[float]) -> ts.TensorStore:
        """The array of a scale, z, y, x, made if it is not there."""
        spec = self._zarr3(level, shape) if self.form == "zarr3" else self._precomputed(level, shape, first, size)
        opened = await self.store.guard(ts.open(spec, open=True, create=True, context=self.store.unlocked))
        return opened if self.form == "zarr3" else opened[ts.d["channel"][0]].T

    def _precomputed(self, level: int, shape: Triple, first: Sequence[int], size: Sequence[float]) -> dict[str, Any]:
        scale: dict[str, Any] = {
            "key": f"s{level}",
            "size": list(shape[::-1]),
            "resolution": list(size[::-1]),
            "voxel_offset": list(first[::-1]),
            "encoding": "raw",
            "chunk_size": [CHUNK] * 3,
        }
        if self.form == "sharded":
            bits = sum((-(-side // CHUNK) - 1).bit_length() for side in shape)
            scale["sharding"] = {
                "@type": "neuroglancer_uint64_sharded_v1",
                "hash": "identity",
                # Of the bits of a chunk's number the lowest stay within a shard: 4 × 4 × 4 chunks.
                "preshift_bits": min(bits, 3),
                "minishard_bits": max(0, min(bits, _SHARD_BITS) - 3),
                "shard_bits": max(0, bits - _SHARD_BITS),
                "minishard_index_encoding": "gzip",
                "data_encoding": "gzip",
            }
        return {
            "driver": "neuroglancer_precomputed",
            "kvstore": self.store.spec(),
            "multiscale_metadata": {"type": "image", "data_type": GREY[self.typename], "num_channels": 1},
            "scale_metadata": scale,
        }

    def _zarr3(self, level: int, shape: Triple) -> dict[str, Any]:
        packed = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 3}},
        ]
        shards = {"name": "sharding_indexed", "configuration": {"chunk_shape": [CHUNK] * 3, "codecs": packed}}
        return {
            "driver": "zarr3",
            "kvstore": self.store.spec(f"s{level}/"),
            "metadata": {
                "shape": list(shape),
                "data_type": GREY[self.typename],
                "dimension_names": ["z", "y", "x"],
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self._grain())}},
                "codecs": [shards],
            },
        }

    async def _describe(self) -> None:
        """The group's metadata, which name the scales."""
        datasets = [
            {"path": level["path"], "coordinateTransformations": [{"type": "scale", "scale": list(level["size"])}]}
            for level in self.levels
        ]
        axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
        attributes = {"ome": {"version": "0.5", "multiscales": [{"name": "", "axes": axes, "datasets": datasets}]}}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        await self.store.write("zarr.json", json.dumps(group).encode())


class PublishedTarget:
    """One scale, addressed from its own corner; what is never written in it is zero."""

    def __init__(self, store: Store, array: ts.TensorStore, identity: str, typename: str, block: Triple) -> None:
        self._store = store
        self._array = array.translate_to[0, 0, 0]
        self.identity = identity
        self.typename = typename
        self.block = block

    async def extents(self) -> Extents | None:
        """Nothing is kept of what may have been there."""
        return None

    async def read(self, box: Box) -> Array:
        """The voxels of a box, zeros where it leaves the volume."""
        found = np.zeros(box.shape, self._array.dtype.numpy_dtype)
        z, y, x = self._array.shape
        part = box.intersect(Box((0, 0, 0), (z, y, x)))
        if min(part.shape) > 0:
            there = part.shift((-box.start[0], -box.start[1], -box.start[2]))
            found[there.slices()] = await self._store.guard(self._array[part.slices()].read())
        return found

    async def write(self, box: Box, voxels: Array) -> None:
        """Write the part of a slab that is in the volume."""
        z, y, x = (
            min(stop, side) - start for start, stop, side in zip(box.start, box.stop, self._array.shape, strict=True)
        )
        part = Box(box.start, (box.start[0] + z, box.start[1] + y, box.start[2] + x))
        await self._store.guard(self._array[part.slices()].write(voxels[:z, :y, :x]))

    async def set_extents(self, extents: Extents) -> None:
        """They are in the metadata."""

    async def close(self) -> None:
        """Nothing is open."""


def published_url(store: Store, root: str, instance: str) -> str:
    """Where an instance's volume is published in the store itself."""
    place, mark, options = store.url.partition("?")
    return f"{place}/published/{root}/{instance}{mark}{options}"


def _triple(values: Sequence[int]) -> Triple:
    z, y, x = map(int, values)
    return z, y, x


def _floats(values: Sequence[float]) -> tuple[float, float, float]:
    z, y, x = values
    return z, y, x

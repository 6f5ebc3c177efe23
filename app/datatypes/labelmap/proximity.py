"""How near do two bodies come to each other, and where do they touch?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.errors import TooLarge
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.labelmap import sparse
from app.datatypes.labelmap.blocks import U8
from app.datatypes.labelmap.keys import U64, Counts
from app.kernels import closest, contacts, leaves, near
from app.kernels.arrays import Shape
from app.kernels.places import unique
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

I64 = npt.NDArray[np.int64]

#: Blocks in which both bodies are looked for; more of them are refused.
MOST_BLOCKS = 1 << 15
#: Blocks, or pairs of them, worked on at once.
TOGETHER = 256


@dataclass(frozen=True)
class Site:
    """The faces that two bodies share in one block: how many across z, y, x; voxels of each; the middle z, y, x."""

    block: tuple[int, int, int]
    faces: tuple[int, int, int]
    voxels: tuple[int, int]
    middle: tuple[float, float, float]


class Proximity:
    """Two bodies (or supervoxels) at one scale. Voxel sizes are of that scale, in the instance's units."""

    def __init__(self, data: Data, snapshot: Snapshot, scale: int, first: Counts, second: Counts) -> None:
        self._data, self._snapshot, self._scale = data, snapshot, scale
        self._shape: Shape = voxels.block_shape(data)
        x, y, z = (side * (1 << scale) for side in data.instance.settings["voxel_size"])
        self._voxel = (z, y, x)
        self._places = sparse.blocks_at(first, scale), sparse.blocks_at(second, scale)
        self._labels = sparse.supervoxels_of(first), sparse.supervoxels_of(second)
        self.sites: list[Site] = []
        self._best = float("inf")
        self._pair: I64 | None = None  # the nearest two voxels so far, z, y, x

    async def find(self, workers: Workers) -> None:
        """Look for contacts and for the nearest two voxels."""
        await self._touch(workers)
        if self._best > min(self._voxel):  # two voxels cannot be nearer than that
            await self._approach(workers)

    def describe(self) -> dict[str, Any]:
        """The answer of `proximity`; distances are null where one of the bodies has no voxels at the scale."""
        faces = np.sum([site.faces for site in self.sites], axis=0).tolist() if self.sites else [0, 0, 0]
        found: dict[str, Any] = {"scale": self._scale, "distance": None, "distance_voxels": None, "closest": None}
        found["units"] = self._data.instance.settings["voxel_units"]
        if self._pair is not None:
            found["distance"] = self._best
            found["distance_voxels"] = float(np.linalg.norm((self._pair[0] - self._pair[1]).astype(float)))
            found["closest"] = self._pair[:, ::-1].tolist()
        found["contact"] = {
            "faces": sum(faces),
            "faces_xyz": faces[::-1],
            "area": self._area(faces),
            "voxels": np.sum([site.voxels for site in self.sites], axis=0).tolist() if self.sites else [0, 0],
        }
        found["sites"] = [
            {
                "block": list(site.block[::-1]),
                "faces": sum(site.faces),
                "area": self._area(site.faces),
                "voxels": list(site.voxels),
                "center": list(site.middle[::-1]),
            }
            for site in self.sites
        ]
        return found

    def _area(self, faces: Sequence[int]) -> float:
        z, y, x = self._voxel
        return float(faces[0] * y * x + faces[1] * z * x + faces[2] * z * y)

    async def _touch(self, workers: Workers) -> None:
        """Find all faces that the bodies share; they are where one has a block in or beside a block of the other."""
        ours, theirs, _ = await workers.run(self._pairs, max(self._voxel))
        a, b = self._places[0][ours], self._places[1][theirs]
        beside = np.abs(a - b).sum(axis=1) <= 1
        home = unique(np.concatenate([a[beside], b[beside]]))
        if len(home) > MOST_BLOCKS:
            raise TooLarge(f"the bodies meet in {len(home)} blocks, more than {MOST_BLOCKS}; ask for a coarser scale")
        everywhere = {*map(tuple, self._places[0].tolist()), *map(tuple, self._places[1].tolist())}
        for start in range(0, len(home), TOGETHER):
            some = home[start : start + TOGETHER]
            steps = [(0, 0, 0), *(tuple(way * (axis == k) for k in range(3)) for axis in range(3) for way in (-1, 1))]
            around = unique(np.concatenate([some + np.array(step) for step in steps]))
            there = np.array([place in everywhere for place in map(tuple, around.tolist())])
            await self._touch_in(around[there], some, workers)

    async def _touch_in(self, places: I64, home: I64, workers: Workers) -> None:
        places, blocks = await self._blocks(places, workers)
        inside = {tuple(place) for place in home.tolist()}
        is_home = np.array([tuple(place) in inside for place in places.tolist()], bool)
        faces, counts, middles, samples = await workers.run(
            contacts.contacts, blocks, places, is_home, self._shape, self._labels[0], self._labels[1]
        )
        for place, face, count, middle in zip(
            places.tolist(), faces.tolist(), counts.tolist(), middles.tolist(), strict=True
        ):
            if any(count):
                self.sites.append(Site(tuple(place), tuple(face), tuple(count), tuple(middle)))
        for axis in range(3):
            if faces[:, axis].any() and self._voxel[axis] < self._best:
                self._best, self._pair = self._voxel[axis], samples[axis]

    async def _approach(self, workers: Workers) -> None:
        """Look at pairs of blocks, the nearest first, until no other can hold anything nearer."""
        reach = await workers.run(self._gap)
        done = -1.0
        while True:
            ours, theirs, apart = await workers.run(self._pairs, min(reach, self._best))
            fresh = (apart > done) & (apart < self._best)
            if not fresh.any() and len(ours) == len(self._places[0]) * len(self._places[1]):
                return
            ours, theirs, apart = ours[fresh], theirs[fresh], apart[fresh]
            for start in range(0, len(ours), TOGETHER):
                if apart[start] >= self._best:
                    break
                await self._compare(ours[start : start + TOGETHER], theirs[start : start + TOGETHER], workers)
            if self._best <= reach:
                return
            done, reach = reach, max(2 * reach, max(self._voxel) * max(self._shape))

    async def _compare(self, ours: I64, theirs: I64, workers: Workers) -> None:
        """Find the nearest voxels in pairs of blocks."""
        sides, numbers = list[closest.Leaves](), list[I64]()
        for places, labels, chosen in zip(self._places, self._labels, (ours, theirs), strict=True):
            used, inverse = np.unique(chosen, return_inverse=True)
            there, blocks = await self._blocks(places[used], workers)
            sides.append(await workers.run(_leaves_by_block, blocks, there, self._shape, labels, places[used]))
            numbers.append(inverse.ravel())
        pairs = np.stack(numbers, axis=1)
        z, y, x = self._voxel
        squared, pair = await workers.run(closest.closest, sides[0], sides[1], pairs, (x, y, z), self._best**2)
        if squared < self._best**2:
            self._best, self._pair = float(np.sqrt(squared)), pair[:, ::-1]

    async def _blocks(self, places: I64, workers: Workers) -> tuple[I64, list[U8]]:
        """The blocks at some places, those that are stored."""
        found = sparse.Voxels(self._data, self._snapshot, self._scale, self._labels[0], places)
        there, blocks = [np.empty((0, 3), np.int64)], list[U8]()
        async for _, parts in found.each(lambda some, at, *_: (some, at), workers):
            for some, at in parts:
                blocks += some
                there.append(at)
        return np.concatenate(there), blocks

    def _gap(self) -> float:
        try:
            return near.gap(*self._places, self._shape, self._voxel)
        except ValueError as error:
            raise TooLarge(f"{error}; ask for a coarser scale") from None

    def _pairs(self, reach: float) -> tuple[I64, I64, near.F64]:
        try:
            return near.pairs_within(*self._places, self._shape, self._voxel, reach)
        except ValueError as error:
            raise TooLarge(f"{error}; ask for a coarser scale") from None


def _leaves_by_block(blocks: Sequence[U8], there: I64, shape: Shape, labels: U64, wanted: I64) -> closest.Leaves:
    """The leaves of blocks, and where those of each wanted place begin; `there` are the places that are stored."""
    parts = [leaves.leaves_of_blocks([block], there[k : k + 1], shape, labels) for k, block in enumerate(blocks)]
    of_place = {tuple(place): part for place, part in zip(there.tolist(), parts, strict=True)}
    nothing = np.empty((0, 3), np.int32), np.empty((0, 8), np.uint64)
    chosen = [of_place.get(tuple(place), nothing) for place in wanted.tolist()]
    starts = np.concatenate([[0], np.cumsum([len(part[0]) for part in chosen])])
    return np.concatenate([part[0] for part in chosen]), np.concatenate([part[1] for part in chosen]), starts

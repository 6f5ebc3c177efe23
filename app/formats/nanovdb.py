"""NanoVDB files with one index grid of active voxels: what fVDB and Warp load as the topology of a sparse volume.

Format: NanoVDB 32 of the OpenVDB project (nanovdb/NanoVDB.h), little-endian. A file is a header, metadata, the grid's
name, and the grid: GridData (672 bytes), TreeData (64), root and its tiles, upper nodes (32³ lower nodes each), lower
nodes (16³ leaves each), leaves (8³ voxels each); nodes point to their children by byte offsets from themselves. In
every node x is the slowest axis, z the fastest. The value of an active voxel is its number, from 1 on, in the order of
leaves and of bits inside them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid, TooLarge

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

_FILE_MAGIC, _GRID_MAGIC = b"NanoVDB2", b"NanoVDB1"
_VERSION = 32 << 21 | 8 << 10
_ON_INDEX, _INDEX_GRID = 20, 8
_HAS_BBOX, _IS_BREADTH_FIRST = 1 << 1, 1 << 5
_GRID_BYTES, _TREE_BYTES, _ROOT_BYTES, _TILE_BYTES = 672, 64, 96, 32
#: The longest name, in bytes of UTF-8.
MAX_NAME = 255
#: Nodes put together at once.
_SOME = 64


def _node(children: int) -> np.dtype[np.void]:
    """An inner node: box of active voxels, flags, two masks, four statistics that index grids lack, its children."""
    words = children // 64
    return np.dtype(
        [
            ("box", "<i4", 6),
            ("flags", "<u8"),
            ("values", "<u8", words),
            ("is_child", "<u8", words),
            ("statistics", "<u8", 4),
            ("child", "<i8", children),
        ]
    )


_UPPER, _LOWER = _node(32**3), _node(16**3)
_TILE = np.dtype([("key", "<u8"), ("child", "<i8"), ("state", "<u4"), ("padding", "<u4"), ("value", "<u8")])
_LEAF = np.dtype(
    [
        ("low", "<i4", 3),
        ("extent", "u1", 3),
        ("flags", "u1"),
        ("mask", "<u8", 8),
        ("offset", "<u8"),
        ("prefix", "<u8"),
    ]
)


class IndexGrid:
    """A grid of the voxels in `leaves`, as the kernels of leaves give them, which are ordered and checked here.

    `corners` are int32 (n, 3) of x, y, z, `masks` uint64 (n, 8); no leaf twice. `voxel_size` is x, y, z in world units:
    voxel i covers i to i + 1 times that.
    """

    def __init__(self, name: str, corners: I32, masks: U64, voxel_size: Sequence[float], most_bytes: int) -> None:
        self.name = name.encode()
        if len(self.name) > MAX_NAME or b"\0" in self.name:
            raise Invalid(f"a grid's name has at most {MAX_NAME} bytes, and none of them is 0")
        if not len(corners):
            raise Invalid("there are no voxels to make a grid of")
        self._voxel_size = [float(side) for side in voxel_size]
        unsigned = corners.astype(np.int64) & 0xFFFFFFFF
        root = unsigned[:, 0] >> 12 << 42 | unsigned[:, 1] >> 12 << 21 | unsigned[:, 2] >> 12
        upper, lower = _place(unsigned, 7, 5), _place(unsigned, 3, 4)
        order = np.lexsort((lower, upper, root))
        self._corners, self._masks = corners[order], masks[order]
        root, upper, self._in_lower = root[order], upper[order], lower[order]
        is_new_root = np.concatenate([[True], root[1:] != root[:-1]])
        is_new_lower = is_new_root | np.concatenate([[True], upper[1:] != upper[:-1]])
        #: The first leaf of each lower node; the first lower node of each upper one; where those are in their parents.
        self._lowers = np.flatnonzero(is_new_lower)
        self._uppers = np.searchsorted(self._lowers, np.flatnonzero(is_new_root))
        self._in_upper = upper[self._lowers]
        self._keys = root[is_new_root]
        self._counts = np.bitwise_count(self._masks).astype(np.int64)
        self.voxels = int(self._counts.sum())
        at = _GRID_BYTES + _TREE_BYTES
        self._starts = [at]  # of the root, upper nodes, lower nodes, leaves, and the end
        sizes = (_ROOT_BYTES + _TILE_BYTES * len(self._keys), _UPPER.itemsize * len(self._uppers))
        for size in (*sizes, _LOWER.itemsize * len(self._lowers), _LEAF.itemsize * len(corners)):
            at += size
            self._starts.append(at)
        if at > most_bytes:
            raise TooLarge(f"the grid would have {at} bytes, more than one answer may hold ({most_bytes})")
        low, high = self._boxes()
        self._leaf_box = np.concatenate([low, high], axis=1)
        self._lower_box = _around(self._leaf_box, self._lowers)
        self._upper_box = _around(self._lower_box, self._uppers)
        self._box = _around(self._upper_box, np.zeros(1, np.int64))[0]

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return 16 + 176 + len(self.name) + 1 + self._starts[-1]

    def pieces(self) -> Iterator[bytes]:
        """The file, piece by piece."""
        yield self._file_head() + self._grid_head() + self._root()
        yield from self._nodes(_UPPER, self._uppers, len(self._lowers), self._in_upper, self._upper_box, 1)
        yield from self._nodes(_LOWER, self._lowers, len(self._corners), self._in_lower, self._lower_box, 2)
        yield self._leaves()

    def _boxes(self) -> tuple[I64, I64]:
        """The first and the last active voxel of each leaf, x, y, z."""
        of_x = self._masks != 0
        plane = np.bitwise_or.reduce(self._masks, axis=1).view(np.uint8).reshape(-1, 8)  # a byte for each y, bits for z
        of_y = plane != 0
        of_z = np.unpackbits(np.bitwise_or.reduce(plane, axis=1)[:, None], axis=1, bitorder="little")
        low = np.stack([axis.argmax(axis=1) for axis in (of_x, of_y, of_z)], axis=1)
        high = np.stack([7 - axis[:, ::-1].argmax(axis=1) for axis in (of_x, of_y, of_z)], axis=1)
        return self._corners + low, self._corners + high

    def _file_head(self) -> bytes:
        size = self._starts[-1]
        return b"".join(
            [
                struct.pack("<8sIHH", _FILE_MAGIC, _VERSION, 1, 0),
                struct.pack("<4Q2I", size, size, 0, self.voxels, _ON_INDEX, _INDEX_GRID),
                self._world_box(),
                struct.pack("<6i", *self._box.tolist()),
                struct.pack("<3d", *self._voxel_size),
                struct.pack("<I4I3I", len(self.name) + 1, *self._node_counts(), 1, 0, 0, 0),
                struct.pack("<HHI", 0, 0, _VERSION),
                self.name + b"\0",
            ]
        )

    def _grid_head(self) -> bytes:
        """GridData and TreeData; their checksum stands in front of what it covers."""
        x, y, z = self._voxel_size
        forward, inverse = [x, 0, 0, 0, y, 0, 0, 0, z], [1 / x, 0, 0, 0, 1 / y, 0, 0, 0, 1 / z]
        tree = self._starts[0] - _TREE_BYTES
        root, upper, lower, leaf, end = self._starts
        covered = b"".join(
            [
                struct.pack("<4IQ", _VERSION, _HAS_BBOX | _IS_BREADTH_FIRST, 0, 1, end),
                self.name.ljust(MAX_NAME + 1, b"\0"),
                struct.pack("<9f9f3ff", *forward, *inverse, 0, 0, 0, 1),
                struct.pack("<9d9d3dd", *forward, *inverse, 0, 0, 0, 1),
                self._world_box(),
                struct.pack("<3d2I", x, y, z, _INDEX_GRID, _ON_INDEX),
                struct.pack("<qIIQQ", end, 0, 0, self.voxels + 1, 0),
                struct.pack("<4q", *(start - tree for start in (leaf, lower, upper, root))),
                struct.pack("<3I3IQ", *self._node_counts(), 0, 0, 0, self.voxels),
            ]
        )
        return struct.pack("<8s2I", _GRID_MAGIC, zlib.crc32(covered), 0xFFFFFFFF) + covered

    def _root(self) -> bytes:
        tiles = np.zeros(len(self._keys), _TILE)
        tiles["key"] = self._keys
        tiles["child"] = self._starts[1] - self._starts[0] + _UPPER.itemsize * np.arange(len(tiles))
        head = struct.pack("<6iI", *self._box.tolist(), len(tiles))
        return head.ljust(_ROOT_BYTES, b"\0") + tiles.tobytes()

    def _nodes(
        self, kind: np.dtype[np.void], firsts: I64, total: int, places: I64, boxes: I64, level: int
    ) -> Iterator[bytes]:
        """The inner nodes of one level: `firsts` are their first children, of `total`, `places` where these are."""
        child_bytes = _LOWER.itemsize if level == 1 else _LEAF.itemsize
        ends = np.append(firsts[1:], total)
        for start in range(0, len(firsts), _SOME):
            stop = min(start + _SOME, len(firsts))
            nodes = np.zeros(stop - start, kind)
            nodes["box"] = boxes[start:stop]
            children = np.arange(firsts[start], ends[stop - 1])
            parent = np.repeat(np.arange(start, stop), (ends - firsts)[start:stop])
            there = self._starts[level + 1] + child_bytes * children
            here = self._starts[level] + kind.itemsize * parent
            nodes["child"][parent - start, places[children]] = there - here
            is_child = nodes["child"] != 0
            nodes["is_child"] = np.packbits(is_child, axis=1, bitorder="little").view("<u8")
            yield nodes.tobytes()

    def _leaves(self) -> bytes:
        leaves = np.zeros(len(self._corners), _LEAF)
        leaves["low"] = self._leaf_box[:, :3]
        leaves["extent"] = self._leaf_box[:, 3:] - self._leaf_box[:, :3]
        leaves["flags"] = 2  # has a box
        leaves["mask"] = self._masks
        voxels = self._counts.sum(axis=1)
        leaves["offset"] = 1 + np.cumsum(voxels) - voxels
        before = np.cumsum(self._counts, axis=1)[:, :7]
        leaves["prefix"] = (before << 9 * np.arange(7)).sum(axis=1)
        return leaves.tobytes()

    def _node_counts(self) -> tuple[int, int, int]:
        return len(self._corners), len(self._lowers), len(self._uppers)

    def _world_box(self) -> bytes:
        low, high = self._box[:3], self._box[3:] + 1
        return struct.pack("<6d", *(low * self._voxel_size).tolist(), *(high * self._voxel_size).tolist())


def _place(unsigned: I64, shift: int, width: int) -> I64:
    """Where in a node of 2^width children along each axis a corner lies; children have 2^shift voxels."""
    inside = unsigned >> shift & (1 << width) - 1
    place: I64 = inside[:, 0] << 2 * width | inside[:, 1] << width | inside[:, 2]
    return place


def _around(boxes: I64, firsts: I64) -> I64:
    """The boxes around groups of boxes, which begin at `firsts`."""
    low = np.minimum.reduceat(boxes[:, :3], firsts)
    return np.concatenate([low, np.maximum.reduceat(boxes[:, 3:], firsts)], axis=1)

"""NanoVDB files, read by a reader of the published layout that shares nothing with the writer, and by NVIDIA's Warp."""

import struct
import zlib

import numpy as np
import pytest

from app.core.errors import Invalid, TooLarge
from app.formats.nanovdb import IndexGrid
from app.kernels import label_block, leaves

SHAPE = (16, 16, 32)
PLACES = np.array([[-1, 0, -1], [0, -300, 2], [0, 0, 0], [1, 0, 0], [1, 0, 1], [2, 3, 1], [500, 0, 0]], np.int64)
DENSITIES = [0.001, 0.3, 1, 0.5, 0.01, 0.0001, 0.2]


def volume() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(corners, masks, the voxels x, y, z)."""
    rng = np.random.default_rng(3)
    volumes = [(rng.random(SHAPE) < density).astype(np.uint64) for density in DENSITIES]
    volumes[1][:, :, :19] = 0
    volumes[5][3, 9, 7] = 1
    blocks = [label_block.encode(volume) for volume in volumes]
    corners, masks = leaves.leaves_of_blocks(blocks, PLACES, SHAPE, np.array([1], np.uint64))
    voxels = [np.argwhere(volume) + place * SHAPE for volume, place in zip(volumes, PLACES, strict=True)]
    return corners, masks, np.concatenate(voxels)[:, ::-1]


def bits(words: bytes) -> list[int]:
    return np.flatnonzero(np.unpackbits(np.frombuffer(words, np.uint8), bitorder="little")).tolist()


def read(file: bytes) -> tuple[dict[tuple[int, int, int], int], bytes]:
    """(active voxels x, y, z and the values that the tree gives them, the grid)."""
    magic, version, count, codec = struct.unpack_from("<8sIHH", file)
    assert (magic, version >> 21, count, codec) == (b"NanoVDB2", 32, 1, 0)
    size, on_disk, _, voxels, kind, form = struct.unpack_from("<4Q2I", file, 16)
    assert (size, kind, form) == (on_disk, 20, 8)
    (name_size,) = struct.unpack_from("<I", file, 16 + 136)
    grid = file[16 + 176 + name_size :]
    assert len(grid) == size
    assert file[16 + 176 : 16 + 176 + name_size - 1] == grid[40:296].rstrip(b"\0")
    assert grid[:8] == b"NanoVDB1"
    assert struct.unpack_from("<I", grid, 8)[0] == zlib.crc32(grid[16:736])
    assert struct.unpack_from("<Q", grid, 32)[0] == size
    assert struct.unpack_from("<Q", grid, 656)[0] == voxels + 1
    offsets = struct.unpack_from("<4q", grid, 672)
    counts = struct.unpack_from("<3I", grid, 704)
    assert struct.unpack_from("<Q", grid, 728)[0] == voxels
    found: dict[tuple[int, int, int], int] = {}
    root = 672 + offsets[3]
    seen = [0, 0, 0]
    (tiles,) = struct.unpack_from("<I", grid, root + 24)
    for tile in range(tiles):
        key, child = struct.unpack_from("<Qq", grid, root + 96 + 32 * tile)
        corner = [key >> shift & (1 << 21) - 1 for shift in (42, 21, 0)]
        corner = [(side << 12) - ((side & 1 << 19) << 13) for side in corner]
        seen[2] += 1
        walk(grid, root + child, corner, 2, found, seen)
    assert tuple(seen) == counts
    assert len(found) == voxels
    low, high = np.array(list(found)).min(axis=0), np.array(list(found)).max(axis=0)
    assert struct.unpack_from("<6i", grid, root) == (*low.tolist(), *high.tolist())
    return found, grid


def walk(grid: bytes, at: int, corner: list[int], level: int, found: dict, seen: list[int]) -> None:
    side, step = ((16, 8), (32, 128))[level - 1]
    mask_bytes = side**3 // 8
    for n in bits(grid[at + 32 + mask_bytes : at + 32 + 2 * mask_bytes]):
        (child,) = struct.unpack_from("<q", grid, at + 64 + 2 * mask_bytes + 8 * n)
        place = [
            corner[0] + step * (n // side**2),
            corner[1] + step * (n // side % side),
            corner[2] + step * (n % side),
        ]
        seen[level - 1] += 1
        if level == 2:
            walk(grid, at + child, place, 1, found, seen)
            continue
        low = struct.unpack_from("<3i", grid, at + child)
        assert [value & ~7 for value in low] == place
        mask = grid[at + child + 16 : at + child + 80]
        offset, prefix = struct.unpack_from("<2Q", grid, at + child + 80)
        active = bits(mask)
        ranks = [active.index(n) - sum(m < n & ~63 for m in active) for n in active]
        here = [(place[0] + n // 64, place[1] + n // 8 % 8, place[2] + n % 8) for n in active]
        for n, rank, voxel in zip(active, ranks, here, strict=True):
            found[voxel] = offset + rank + (prefix >> 9 * ((n >> 6) - 1) & 511 if n >> 6 else 0)
        assert np.min(here, axis=0).tolist() == list(low)
        assert (np.max(here, axis=0) - low).tolist() == list(grid[at + child + 12 : at + child + 15])


def test_voxels_and_their_numbers() -> None:
    corners, masks, voxels = volume()
    grid = IndexGrid("a body", corners, masks, (8.0, 8.0, 4.0), 1 << 30)
    file = b"".join(grid.pieces())
    assert len(file) == grid.size_bytes
    found, _ = read(file)
    assert set(found) == set(map(tuple, voxels.tolist()))
    assert sorted(found.values()) == list(range(1, len(voxels) + 1))
    order = np.random.default_rng(1).permutation(len(corners))
    again = IndexGrid("a body", corners[order], masks[order], (8.0, 8.0, 4.0), 1 << 30)
    assert b"".join(again.pieces()) == file


def test_another_library_reads_it() -> None:
    warp = pytest.importorskip("warp", reason="NOT TESTED against NVIDIA's reader: pip install warp-lang")
    corners, masks, voxels = volume()
    file = b"".join(IndexGrid("a body", corners, masks, (8.0, 8.0, 4.0), 1 << 30).pieces())
    grid = warp.Volume.load_from_nvdb(file, device="cpu")
    assert grid.is_index
    assert tuple(grid.get_voxel_size()) == (8.0, 8.0, 4.0)
    got = grid.get_voxels().numpy()
    assert set(map(tuple, got.tolist())) == set(map(tuple, voxels.tolist()))
    assert len(got) == len(voxels)


def test_what_no_grid_can_be_made_of() -> None:
    corners, masks, _ = volume()
    with pytest.raises(Invalid):
        IndexGrid("x", corners[:0], masks[:0], (1.0, 1.0, 1.0), 1 << 30)
    with pytest.raises(Invalid):
        IndexGrid("é" * 128, corners, masks, (1.0, 1.0, 1.0), 1 << 30)
    with pytest.raises(TooLarge):
        IndexGrid("x", corners, masks, (1.0, 1.0, 1.0), 1000)

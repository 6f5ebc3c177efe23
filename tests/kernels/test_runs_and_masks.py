import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernels import label_block, masks, runs
from tests.kernels.samples import fib19, synthetic

DENSITY = st.sampled_from([0.0, 0.002, 0.02, 0.2, 1.0])


def slow_runs(mask: np.ndarray, offset: tuple[int, int, int]) -> np.ndarray:
    """Edges of each row, found with differences."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (0, 0), (1, 1))), axis=2)
    z, y, start = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[2]
    return np.stack([start + offset[2], y + offset[1], z + offset[0], stop - start], 1).astype(np.int32)


def slow_masks(payload: bytes, shape: tuple[int, int, int]) -> dict[tuple[int, int, int], np.ndarray]:
    """Binary blocks by the place z, y, x of their first voxel."""
    z, y, x = (side // 8 for side in shape)
    found = {}
    at = 0
    while at < len(payload):
        place = struct.unpack_from("<3i", payload, at)
        kind = payload[at + 12]
        at += 13
        cube = np.zeros((z * y * x, 512), bool)
        assert kind in (1, 2)
        cube[:] = kind == 1
        for sub in cube if kind == 2 else ():
            kind = payload[at]
            at += 1
            if kind == 2:
                sub[:] = np.unpackbits(np.frombuffer(payload, np.uint8, 64, at), bitorder="little")
                assert sub.any()
                assert not sub.all()
                at += 64
            else:
                sub[:] = kind == 1
        assert cube.any()
        found[place[::-1]] = cube.reshape(z, y, x, 8, 8, 8).transpose(0, 3, 1, 4, 2, 5).reshape(shape)
    assert at == len(payload)
    return found


def compare(volume: np.ndarray, wanted: np.ndarray, block: np.ndarray) -> None:
    mask = np.isin(volume, wanted)
    place = np.array([[-2, 3, -1]])
    offset = tuple((place[0] * volume.shape).tolist())
    found = runs.runs_of_blocks([block], place, volume.shape, wanted)
    np.testing.assert_array_equal(in_order(found), slow_runs(mask, offset))
    assert runs.count_runs_of_blocks([block], place, volume.shape, wanted) == len(found)
    np.testing.assert_array_equal(runs.paint_runs(found, offset, volume.shape), mask)
    masked = slow_masks(masks.binary_blocks([block], place, volume.shape, wanted).tobytes(), volume.shape)
    assert list(masked) == ([offset] if mask.any() else [])
    for cube in masked.values():
        np.testing.assert_array_equal(cube, mask)


def in_order(found: np.ndarray) -> np.ndarray:
    return found[np.lexsort((found[:, 0], found[:, 1], found[:, 2]))]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), density=DENSITY, share=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_wanted_labels(seed: int, density: float, share: float) -> None:
    shape = (16, 24, 32)
    volume = synthetic(seed, shape, density)
    rng = np.random.default_rng(seed)
    ids = np.unique(volume)
    wanted = ids[rng.random(len(ids)) < share]
    block = label_block.encode(volume)
    compare(volume, wanted, block)
    few = label_block.relabel(block, label_block.labels(block) % np.uint64(3))
    compare(volume % np.uint64(3), np.array([0, 2], np.uint64), few)


def test_real_solid_and_empty() -> None:
    block, volume = fib19()
    ids = label_block.counts(block)[0]
    for wanted in (ids[:1], ids[1:2], ids[::2], ids, ids[:0]):
        compare(volume, wanted.copy(), block)
    ones = np.ones((16, 16, 16), np.uint64)
    solid = label_block.solid(1, (16, 16, 16))
    compare(ones, np.array([1], np.uint64), solid)
    compare(ones, np.array([2], np.uint64), solid)
    none = np.frombuffer(np.array([2, 2, 2, 0], "<u4").tobytes(), np.uint8)
    compare(ones * np.uint64(0), np.array([0], np.uint64), none)
    compare(ones * np.uint64(0), np.array([1], np.uint64), none)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    density=st.sampled_from([0.0, 0.0005, 0.01, 0.5]),
    shape=st.sampled_from([(16, 16, 16), (16, 24, 72), (24, 16, 64)]),
    bounded=st.booleans(),
)
def test_runs_go_on_from_block_to_block(seed: int, density: float, shape: tuple[int, int, int], bounded: bool) -> None:
    rng = np.random.default_rng(seed)
    grid = (2, 1, 4)
    extent = tuple(g * s for g, s in zip(grid, shape, strict=True))
    volume = synthetic(seed, extent, density) % np.uint64(4)
    corner = rng.integers(-5, 5, 3)
    there = rng.random(grid) < 0.8
    places, blocks = [], []
    for place in np.ndindex(grid):
        box = tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, shape, strict=True))
        if there[place]:
            places.append(place + corner)
            blocks.append(label_block.encode(volume[box].copy()))
        else:
            volume[box] = 9
    wanted = np.array([1, 3], np.uint64)
    mask = np.isin(volume, wanted)
    offset = tuple(int(c * s) for c, s in zip(corner, shape, strict=True))
    bounds = runs.OPEN
    if bounded:
        ends = [sorted(rng.integers(-3, e + 3, 2).tolist()) for e in extent]
        for axis, (low, high) in enumerate(ends):
            cut = [slice(None)] * 3
            for outside in (slice(0, max(0, low)), slice(max(0, high + 1), None)):
                cut[axis] = outside
                mask[tuple(cut)] = False
        bounds = tuple(tuple(end[k] + o for end, o in zip(ends, offset, strict=True)) for k in (0, 1))
    listed = np.array(places, np.int64).reshape(-1, 3)
    found = runs.runs_of_blocks(blocks, listed, shape, wanted, bounds)
    np.testing.assert_array_equal(in_order(found), slow_runs(mask, offset))
    assert runs.count_runs_of_blocks(blocks, listed, shape, wanted, bounds) == len(found)
    if not bounded:
        masked = slow_masks(masks.binary_blocks(blocks, listed, shape, wanted).tobytes(), shape)
        for place in listed.tolist():
            first = tuple(p * s for p, s in zip(place, shape, strict=True))
            box = tuple(slice(f - o, f - o + s) for f, o, s in zip(first, offset, shape, strict=True))
            np.testing.assert_array_equal(masked.pop(first, np.zeros(shape, bool)), mask[box])
        assert not masked


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-2, 2), st.integers(-2, 2), st.integers(0, 9)), max_size=40))
def test_paint(rows: list[tuple[int, int, int, int]]) -> None:
    given_runs = np.array(rows, np.int32).reshape(-1, 4)
    voxels = {(z, y, x + i) for x, y, z, n in rows for i in range(n)}
    mask = runs.paint_runs(given_runs, (-1, 0, -4), (2, 2, 9))
    assert {(z - 1, y, x - 4) for z, y, x in np.argwhere(mask).tolist()} == {
        (z, y, x) for z, y, x in voxels if -1 <= z < 1 and 0 <= y < 2 and -4 <= x < 5
    }


def test_bad_arguments_are_refused() -> None:
    block, shape, origin = label_block.solid(1, (16, 16, 16)), (16, 16, 16), np.zeros((1, 3), np.int64)
    one = np.array([1], np.uint64)
    for call in (runs.runs_of_blocks, masks.binary_blocks):
        with pytest.raises(ValueError):
            call([block], origin, shape, np.array([2, 1], np.uint64))
        with pytest.raises(ValueError):
            call([block], origin, (16, 16, 32), one)
        with pytest.raises(ValueError):
            call([block, block], origin, shape, one)
        with pytest.raises(ValueError):
            call([block], origin, shape, np.array([1], np.int64))
        assert not len(call([], origin[:0], shape, one))
    with pytest.raises(ValueError):
        runs.runs_of_blocks([block], origin + 2**27, shape, one)
    for bad in (np.array([[0, 0, 0, -1]], np.int32), np.zeros((2, 3), np.int32), np.zeros((2, 4), np.int64)):
        with pytest.raises(ValueError):
            runs.paint_runs(bad, (0, 0, 0), (1, 1, 1))
    far = np.array([[-(2**31), 0, 0, 5], [2**31 - 1, 0, 0, 2**31 - 1]], np.int32)
    assert not runs.paint_runs(far, (0, 0, 0), (4, 4, 4)).any()

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


def slow_mask(payload: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    z, y, x = (side // 8 for side in shape)
    cube = np.zeros((z * y * x, 512), bool)
    if payload[0] != 2:
        assert payload.size == 1
        cube[:] = payload[0] == 1
    else:
        at = 1
        for sub in cube:
            kind = payload[at]
            at += 1
            if kind == 2:
                sub[:] = np.unpackbits(payload[at : at + 64], bitorder="little")
                assert sub.any()
                assert not sub.all()
                at += 64
            else:
                sub[:] = kind == 1
        assert at == payload.size
        assert cube.any()
        assert not cube.all()
    return cube.reshape(z, y, x, 8, 8, 8).transpose(0, 3, 1, 4, 2, 5).reshape(shape)


def compare(volume: np.ndarray, wanted: np.ndarray, block: np.ndarray) -> None:
    mask = np.isin(volume, wanted)
    offset = (-64, 128, 7)
    found = runs.block_runs(block, wanted, offset)
    np.testing.assert_array_equal(found, slow_runs(mask, offset))
    np.testing.assert_array_equal(runs.paint_runs(found, offset, volume.shape), mask)
    np.testing.assert_array_equal(slow_mask(masks.block_mask(block, wanted), volume.shape), mask)


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


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-2, 2), st.integers(-2, 2), st.integers(0, 9)), max_size=40))
def test_join_and_paint(rows: list[tuple[int, int, int, int]]) -> None:
    given_runs = np.array(rows, np.int32).reshape(-1, 4)
    voxels = {(z, y, x + i) for x, y, z, n in rows for i in range(n)}
    joined = runs.join_runs(given_runs)
    assert {(z, y, x + i) for x, y, z, n in joined.tolist() for i in range(n)} == voxels
    assert joined[:, 3].sum() == len(voxels)
    keys = [(z, y, x) for x, y, z, _ in joined.tolist()]
    assert keys == sorted(keys)
    ends = {(z, y, x + n) for x, y, z, n in joined.tolist()}
    assert not ends & set(keys)
    mask = runs.paint_runs(given_runs, (-1, 0, -4), (2, 2, 9))
    assert {(z - 1, y, x - 4) for z, y, x in np.argwhere(mask).tolist()} == {
        (z, y, x) for z, y, x in voxels if -1 <= z < 1 and 0 <= y < 2 and -4 <= x < 5
    }


def test_bad_arguments_are_refused() -> None:
    block = label_block.solid(1, (16, 16, 16))
    with pytest.raises(ValueError):
        runs.block_runs(block, np.array([2, 1], np.uint64), (0, 0, 0))
    with pytest.raises(ValueError):
        runs.block_runs(block, np.array([1], np.uint64), (0, 0, 2**31 - 8))
    with pytest.raises(ValueError):
        masks.block_mask(block, np.array([1], np.int64))  # type: ignore[arg-type]
    for bad in (np.array([[0, 0, 0, -1]], np.int32), np.zeros((2, 3), np.int32), np.zeros((2, 4), np.int64)):
        with pytest.raises(ValueError):
            runs.join_runs(bad)
        with pytest.raises(ValueError):
            runs.paint_runs(bad, (0, 0, 0), (1, 1, 1))
    far = np.array([[-(2**31), 0, 0, 5], [2**31 - 1, 0, 0, 2**31 - 1]], np.int32)
    assert not runs.paint_runs(far, (0, 0, 0), (4, 4, 4)).any()
    with pytest.raises(ValueError):
        runs.join_runs(far)

import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernels import label_block, lz4_labels, warm
from tests.kernels.samples import real, synthetic

DENSITY = st.sampled_from([0.0, 0.002, 0.02, 0.2, 1.0])


def expand(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    size = 8 * int(np.prod(shape))
    return np.frombuffer(lz4.block.decompress(data.tobytes(), uncompressed_size=size), "<u8").reshape(shape)


def grid_of(volume: np.ndarray, side: tuple[int, int, int]) -> tuple[list[np.ndarray | None], tuple[int, int, int]]:
    ranges = [range(0, n, s) for n, s in zip(volume.shape, side, strict=True)]
    blocks: list[np.ndarray | None] = [
        label_block.encode(volume[z : z + side[0], y : y + side[1], x : x + side[2]])
        for z in ranges[0]
        for y in ranges[1]
        for x in ranges[2]
    ]
    return blocks, (len(ranges[0]), len(ranges[1]), len(ranges[2]))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 70)),
    density=DENSITY,
    bits=st.sampled_from([1, 20, 33, 64]),
)
def test_any_volume(seed: int, shape: tuple[int, int, int], density: float, bits: int) -> None:
    volume = synthetic(seed, shape, density) >> np.uint64(64 - bits)
    np.testing.assert_array_equal(expand(lz4_labels.compress(volume), shape), volume)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 1, 70000), (3, 2, 8191), (2, 2, 9000), (0, 3, 3)]
)
@pytest.mark.parametrize("fill", [0, 2**64 - 1, None])
def test_odd_sizes(shape: tuple[int, int, int], fill: int | None) -> None:
    volume = np.full(shape, fill or 0, np.uint64)
    if fill is None:
        volume = np.random.default_rng(0).integers(0, 2**64, shape, dtype=np.uint64)
        volume[:, 1:] = volume[:, :1]
    data = lz4_labels.compress(volume)
    if volume.size:
        np.testing.assert_array_equal(expand(data, shape), volume)
    else:
        assert data.tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), density=DENSITY, absent=st.floats(0, 1), deep=st.booleans())
def test_boxes_of_blocks(seed: int, density: float, absent: float, deep: bool) -> None:
    volume = synthetic(seed, (48 if deep else 32, 48, 64), density)  # more than 8 blocks go strip by strip
    side = (16, 24, 32)
    blocks, grid = grid_of(volume, side)
    rng = np.random.default_rng(seed)
    for i in range(len(blocks)):
        if rng.random() < absent:
            blocks[i] = None
            z, y, x = (int(v) * s for v, s in zip(np.unravel_index(i, grid), side, strict=True))
            volume[z : z + 16, y : y + 24, x : x + 32] = 0
    for box in range(4):
        start = rng.integers(0, volume.shape) if box else np.zeros(3, int)
        stop = rng.integers(start, volume.shape) + 1 if box else np.array(volume.shape)
        if box == 3:
            stop[2] = start[2] + 1  # rows of one voxel
        size = tuple(int(v) for v in stop - start)
        data = lz4_labels.compress_blocks(blocks, grid, side, tuple(start), size)
        part = volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        np.testing.assert_array_equal(expand(data, size), part)


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("row", [16, 8188, 8189, 8190, 8191, 9000])
def test_rows_about_as_long_as_a_match_can_reach(row: int, start: int) -> None:
    volume = synthetic(row, (16, 32, 9 * 1024), 0.01)
    volume[:, 1::3] = volume[:, :-1:3]
    blocks, grid = grid_of(volume, (16, 16, 1024))
    data = lz4_labels.compress_blocks(blocks, grid, (16, 16, 1024), (1, 2, start), (7, 23, row))
    np.testing.assert_array_equal(expand(data, (7, 23, row)), volume[1:8, 2:25, start : start + row])


def test_the_time_goes_with_boundaries() -> None:
    """A box of one label is one match however large: no voxel of it is looked at."""
    blocks, grid = grid_of(np.full((16, 64, 512), 7, np.uint64), (16, 16, 128))
    data = lz4_labels.compress_blocks(blocks, grid, (16, 16, 128), (0, 0, 0), (16, 64, 512))
    np.testing.assert_array_equal(expand(data, (16, 64, 512)), 7)
    assert data.size < 8 * 16 * 64 * 512 / 250


def test_real_boxes_are_small() -> None:
    labels = np.load(real("connectomics-512.npz"))["labels"]
    volume = labels[100:228, 200:328, 300:428].astype(np.uint64)
    blocks, grid = grid_of(volume, (64, 64, 64))
    data = lz4_labels.compress_blocks(blocks, grid, (64, 64, 64), (0, 0, 0), volume.shape)
    np.testing.assert_array_equal(expand(data, volume.shape), volume)
    dense = lz4_labels.compress(volume)
    np.testing.assert_array_equal(expand(dense, volume.shape), volume)
    theirs = len(lz4.block.compress(volume.tobytes(), store_size=False))
    assert data.size < 1.3 * theirs
    assert dense.size < 1.3 * theirs
    edge = lz4_labels.compress_blocks(blocks, grid, (64, 64, 64), (3, 61, 5), (70, 30, 119))
    np.testing.assert_array_equal(expand(edge, (70, 30, 119)), volume[3:73, 61:91, 5:124])


def test_bad_boxes_are_refused() -> None:
    blocks, grid = grid_of(np.zeros((16, 16, 32), np.uint64), (16, 16, 16))
    for start, size in (
        ((0, 0, -1), (1, 1, 1)),
        ((0, 0, 0), (16, 16, 33)),
        ((0, 0, 0), (0, 1, 1)),
        ((16, 0, 0), (1, 1, 1)),
    ):
        with pytest.raises(ValueError):
            lz4_labels.compress_blocks(blocks, grid, (16, 16, 16), start, size)
    with pytest.raises(ValueError):
        lz4_labels.compress_blocks(blocks, grid, (16, 16, 24), (0, 0, 0), (1, 1, 1))


def test_everything_compiles_ahead() -> None:
    warm.compile_all()

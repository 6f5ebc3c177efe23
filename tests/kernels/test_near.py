"""Distances and contacts of bodies against plain loops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.kernels import closest, contacts, label_block, leaves, near
from tests.kernels.samples import synthetic

SHAPE = (16, 24, 32)
PLACE = st.tuples(*[st.integers(-40, 40)] * 3)


@settings(max_examples=60, deadline=None)
@given(
    st.sets(PLACE, min_size=1, max_size=25),
    st.sets(PLACE, min_size=1, max_size=25),
    st.sampled_from([(8.0, 8.0, 8.0), (40.0, 4.0, 1.0)]),
    st.floats(0, 3000),
)
def test_pairs_of_blocks(first: set, second: set, voxel: tuple[float, float, float], reach: float) -> None:
    a, b = np.array(sorted(first)), np.array(sorted(second))
    steps = np.maximum(np.abs(a[:, None] - b[None]) * SHAPE - np.array(SHAPE) + 1, 0) * voxel
    apart = np.sqrt((steps**2).sum(axis=2))
    assert near.gap(a, b, SHAPE, voxel) == apart.min()
    ours, theirs, distances = near.pairs_within(a, b, SHAPE, voxel, reach)
    assert set(zip(ours.tolist(), theirs.tolist(), strict=True)) == set(zip(*np.nonzero(apart <= reach), strict=True))
    assert len(ours) == (apart <= reach).sum()
    np.testing.assert_array_equal(distances, np.sort(apart[apart <= reach]))


def steps_below(squared: float, voxel: tuple[float, float, float], extent: tuple[int, int, int]) -> list[np.ndarray]:
    """All steps z, y, x inside of a volume that are shorter than a distance."""
    most = [min(side - 1, int(np.sqrt(squared) / size)) for side, size in zip(extent, voxel[::-1], strict=True)]
    steps = np.stack(np.meshgrid(*[np.arange(-side, side + 1) for side in most], indexing="ij"), axis=-1).reshape(-1, 3)
    return list(steps[((steps * voxel[::-1]) ** 2).sum(axis=1) < squared])


def moved(volume: np.ndarray, step: np.ndarray) -> np.ndarray:
    out = np.zeros_like(volume)
    there = tuple(slice(max(0, -k), side - max(0, k)) for k, side in zip(step, volume.shape, strict=True))
    out[tuple(slice(max(0, k), side - max(0, -k)) for k, side in zip(step, volume.shape, strict=True))] = volume[there]
    return out


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    density=st.sampled_from([0.0005, 0.01, 0.2]),
    thin=st.sampled_from([0, 0.9, 0.9997]),
    voxel=st.sampled_from([(1.0, 1.0, 1.0), (8.0, 8.0, 1.0), (1.0, 5.0, 7.0)]),
)
def test_contacts_and_nearest_voxels(seed: int, density: float, thin: float, voxel: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(seed)
    grid = (2, 2, 2)
    extent = tuple(2 * side for side in SHAPE)
    volume = synthetic(seed, extent, density) % np.uint64(9)
    volume[rng.random(extent) < thin] = 0
    first, second = np.array([1, 2], np.uint64), np.array([4], np.uint64)
    corner = rng.integers(-3, 3, 3)
    places = np.array(list(np.ndindex(grid))) + corner
    cut = [tuple(slice(p * s, p * s + s) for p, s in zip(place, SHAPE, strict=True)) for place in np.ndindex(grid)]
    blocks = [label_block.encode(volume[box].copy()) for box in cut]
    is_home = rng.random(8) < 0.7
    faces, voxels, middles, samples = contacts.contacts(blocks, places, is_home, SHAPE, first, second)

    a, b = np.isin(volume, first), np.isin(volume, second)
    touching = np.zeros((2, *extent), bool)
    right = np.zeros((3, *extent), bool)
    for axis in range(3):
        low = tuple(slice(0, -1) if k == axis else slice(None) for k in range(3))
        high = tuple(slice(1, None) if k == axis else slice(None) for k in range(3))
        right[axis][low] = (a[low] & b[high]) | (b[low] & a[high])
        touching[0][low] |= a[low] & b[high]
        touching[0][high] |= a[high] & b[low]
        touching[1][low] |= b[low] & a[high]
        touching[1][high] |= b[high] & a[low]
    for k, box in enumerate(cut):
        if not is_home[k]:
            assert not faces[k].any()
            continue
        assert faces[k].tolist() == [int(right[axis][box].sum()) for axis in range(3)]
        assert voxels[k].tolist() == [int(side[box].sum()) for side in touching]
        if faces[k].any():
            ends = [np.argwhere(right[axis][box]) + np.where(np.arange(3) == axis, 1, 0.5) for axis in range(3)]
            np.testing.assert_allclose(middles[k], np.concatenate(ends).mean(axis=0) + places[k] * SHAPE)
    offset = corner * SHAPE
    for axis in range(3):
        if faces[:, axis].any():
            one, other = samples[axis] - offset
            assert a[tuple(one)]
            assert b[tuple(other)]
            assert np.abs(one - other).tolist() == [int(k == axis) for k in range(3)]

    bodies = []
    for labels in (first, second):
        parts = [leaves.leaves_of_blocks([block], places[k : k + 1], SHAPE, labels) for k, block in enumerate(blocks)]
        starts = np.concatenate([[0], np.cumsum([len(part[0]) for part in parts])])
        bodies.append(
            (np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]), starts)
        )
    pairs = np.array([(i, j) for i in range(8) for j in range(8)])
    squared, pair = closest.closest(bodies[0], bodies[1], pairs, voxel, np.inf)
    if not a.any() or not b.any():
        assert squared == np.inf
        return
    assert not any((a & moved(b, step)).any() for step in steps_below(squared, voxel, extent))
    assert (((pair[0] - pair[1]) * voxel) ** 2).sum() == squared
    assert a[tuple(pair[0][::-1] - offset)]
    assert b[tuple(pair[1][::-1] - offset)]
    assert closest.closest(bodies[0], bodies[1], pairs, voxel, squared)[0] == squared

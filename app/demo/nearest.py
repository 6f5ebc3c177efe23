"""Which cell is nearest to every voxel? Cells are chains of balls; a compiled loop over a grid of cells' balls."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

#: Balls are sorted into cubes of this side, voxels.
CUBE = 24
#: The displacement is given at every so many voxels,
WARP_STEP = 16
#: and cubes of this side, a divisor, share one list of balls that come into question.
TILE = 4


def grid_of(balls: F32, shape: tuple[int, int, int]) -> tuple[I32, I32]:
    """For each cube of the volume (and one more on each side) the balls in it: starts (n + 1) and indices."""
    sides = [side // CUBE + 3 for side in shape]
    places = np.clip(balls[:, :3] // CUBE + 1, 0, np.array(sides) - 1).astype(np.int64)
    cubes = (places[:, 0] * sides[1] + places[:, 1]) * sides[2] + places[:, 2]
    order = np.argsort(cubes, kind="stable").astype(np.int32)
    counts = np.bincount(cubes, minlength=int(np.prod(sides)))
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), order


@numba.njit(cache=True, nogil=True, fastmath=True)
def nearest(
    balls: F32,
    owners: I32,
    starts: I32,
    order: I32,
    warp: F32,
    labels: npt.NDArray[np.uint16],
    gap: F32,
    z_from: int,
    z_to: int,
) -> None:
    """Fill planes of `labels` (owner of the nearest ball) and `gap` (how much farther the next owner's is).

    `balls` are rows z, y, x, radius; distances are to their surfaces. Voxels are displaced by `warp` (3, z, y, x),
    given at every WARP_STEP-th voxel and interpolated, so that walls undulate. The planes begin at a multiple of TILE.
    """
    nz, ny, nx = labels.shape
    gz, gy, gx = nz // CUBE + 3, ny // CUBE + 3, nx // CUBE + 3
    near = np.empty(8192, np.int32)
    far = np.empty(8192, np.float32)
    corners = np.empty((8, 3), np.float32)
    for z0 in range(z_from, z_to, TILE):
        for y0 in range(0, ny, TILE):
            for x0 in range(0, nx, TILE):
                # Where the tile's corners go; everything in it goes into the hull of these, as the map is trilinear.
                for corner in range(8):
                    z, y, x = z0 + TILE * (corner >> 2), y0 + TILE * (corner >> 1 & 1), x0 + TILE * (corner & 1)
                    _displaced(warp, z, y, x, corners[corner])
                mz, my, mx = np.float32(0), np.float32(0), np.float32(0)
                for corner in range(8):
                    mz += corners[corner, 0] / 8
                    my += corners[corner, 1] / 8
                    mx += corners[corner, 2] / 8
                reach = np.float32(0)
                for corner in range(8):
                    dz, dy, dx = corners[corner, 0] - mz, corners[corner, 1] - my, corners[corner, 2] - mx
                    reach = max(reach, np.sqrt(dz * dz + dy * dy + dx * dx))
                kept = _candidates(balls, owners, starts, order, (gz, gy, gx), (mz, my, mx), reach, near, far)
                _fill(balls, owners, near[:kept], corners, labels, gap, z0, y0, x0)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _candidates(
    balls: F32,
    owners: I32,
    starts: I32,
    order: I32,
    grid: tuple[int, int, int],
    middle: tuple[Any, Any, Any],
    reach: Any,
    near: I32,
    far: F32,
) -> int:
    """Put into `near` the balls that can be nearest or next to any point within `reach` of `middle`; how many."""
    mz, my, mx = middle
    gz, gy, gx = grid
    iz = min(max(int(mz // CUBE) + 1, 0), gz - 1)
    iy = min(max(int(my // CUBE) + 1, 0), gy - 1)
    ix = min(max(int(mx // CUBE) + 1, 0), gx - 1)
    n = 0
    best, second, owner = np.float32(1e9), np.float32(1e9), np.int32(0)
    for jz in range(max(iz - 1, 0), min(iz + 2, gz)):
        for jy in range(max(iy - 1, 0), min(iy + 2, gy)):
            row = (jz * gy + jy) * gx
            for at in range(starts[row + max(ix - 1, 0)], starts[row + min(ix + 2, gx)]):
                ball = order[at]
                dz, dy, dx = balls[ball, 0] - mz, balls[ball, 1] - my, balls[ball, 2] - mx
                distance = np.sqrt(dz * dz + dy * dy + dx * dx) - balls[ball, 3]
                if distance > second + 2 * reach or n == len(near):
                    continue
                near[n], far[n] = ball, distance
                n += 1
                if owners[ball] == owner:
                    best = min(best, distance)
                elif distance < best:
                    second, best, owner = best, distance, owners[ball]
                else:
                    second = min(second, distance)
    kept = 0
    for at in range(n):
        if far[at] <= second + 2 * reach:
            near[kept] = near[at]
            kept += 1
    return kept


@numba.njit(cache=True, nogil=True, fastmath=True)
def _displaced(warp: F32, z: int, y: int, x: int, out: F32) -> None:
    """Where a voxel goes."""
    out[0], out[1], out[2] = z, y, x
    for corner in range(8):
        dz, dy, dx = corner >> 2, corner >> 1 & 1, corner & 1
        weight = np.float32(1)
        for offset, place in ((dz, z), (dy, y), (dx, x)):
            part = np.float32(place % WARP_STEP) / np.float32(WARP_STEP)
            weight *= part if offset else 1 - part
        if weight > 0:
            for axis in range(3):
                out[axis] += weight * warp[axis, z // WARP_STEP + dz, y // WARP_STEP + dy, x // WARP_STEP + dx]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _fill(
    balls: F32,
    owners: I32,
    near: I32,
    corners: F32,
    labels: npt.NDArray[np.uint16],
    gap: F32,
    z0: int,
    y0: int,
    x0: int,
) -> None:
    """One tile, whose voxels are all nearest to one of the balls `near`."""
    count = len(near)
    rows = np.empty((count, 4), np.float32)
    cells = np.empty(count, np.int32)
    edge = np.empty((4, 3), np.float32)
    left, right = np.empty(3, np.float32), np.empty(3, np.float32)
    for at in range(count):
        cells[at] = owners[near[at]]
        for column in range(4):
            rows[at, column] = balls[near[at], column]
    for z in range(z0, min(z0 + TILE, labels.shape[0])):
        fz = np.float32(z - z0) / np.float32(TILE)
        for axis in range(3):
            for side in range(4):
                edge[side, axis] = corners[side, axis] * (1 - fz) + corners[4 + side, axis] * fz
        for y in range(y0, min(y0 + TILE, labels.shape[1])):
            fy = np.float32(y - y0) / np.float32(TILE)
            for axis in range(3):
                left[axis] = edge[0, axis] * (1 - fy) + edge[2, axis] * fy
                right[axis] = edge[1, axis] * (1 - fy) + edge[3, axis] * fy
            for x in range(x0, min(x0 + TILE, labels.shape[2])):
                fx = np.float32(x - x0) / np.float32(TILE)
                pz = left[0] + (right[0] - left[0]) * fx
                py = left[1] + (right[1] - left[1]) * fx
                px = left[2] + (right[2] - left[2]) * fx
                best, second, owner = np.float32(1e9), np.float32(1e9), np.int32(0)
                for at in range(count):
                    dz, dy, dx = rows[at, 0] - pz, rows[at, 1] - py, rows[at, 2] - px
                    square = dz * dz + dy * dy + dx * dx
                    limit = second + rows[at, 3]
                    if limit <= 0 or square >= limit * limit:
                        continue
                    distance = np.sqrt(square) - rows[at, 3]
                    if cells[at] == owner:
                        best = min(best, distance)
                    elif distance < best:
                        second, best, owner = best, distance, cells[at]
                    else:
                        second = distance
                labels[z, y, x] = owner
                gap[z, y, x] = second - best

"""Surfaces of cells, as neuroglancer's single-resolution meshes: a vertex where voxels' faces meet, then smoothed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U32 = npt.NDArray[np.uint32]

ROUNDS = 12


def surface(inside: npt.NDArray[np.bool_]) -> tuple[F32, U32]:
    """Vertices z, y, x in voxels (corners have integer coordinates) and triangles of the surface of a mask."""
    padded = np.pad(inside, 1)
    sides = np.array(padded.shape) + 1
    quads = []
    for axis in range(3):
        steps = np.diff(padded.astype(np.int8), axis=axis)
        place = np.argwhere(steps != 0)
        outward = steps[tuple(place.T)] < 0
        place[:, axis] += 1
        first, second = (other for other in range(3) if other != axis)
        corners = np.repeat(place[:, None, :], 4, axis=1)
        corners[:, 1, first] += 1
        corners[:, 2, (first, second)] += 1
        corners[:, 3, second] += 1
        # Seen from outside, corners go round counter-clockwise; for y the other two axes are the other way about.
        flip = outward if axis != 1 else ~outward
        corners[flip] = corners[flip][:, ::-1]
        quads.append((corners[..., 0] * sides[1] + corners[..., 1]) * sides[2] + corners[..., 2])
    numbers, faces = np.unique(np.concatenate(quads), return_inverse=True)
    faces = faces.reshape(-1, 4)
    vertices = np.column_stack(np.unravel_index(numbers, sides)).astype(np.float32) - 1
    vertices = _smooth(vertices, faces)
    return vertices, np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]]).astype(np.uint32)


def _smooth(vertices: F32, faces: npt.NDArray[np.intp]) -> F32:
    """Move vertices to the mean of their neighbours and some of the way back, so that thin cells do not shrink."""
    ends = np.concatenate([faces[:, [a, (a + 1) % 4]] for a in range(4)])
    count = len(vertices)
    degree = np.bincount(ends[:, 0], minlength=count)
    for turn in range(ROUNDS):
        mean = np.stack(
            [np.bincount(ends[:, 0], vertices[ends[:, 1], axis], minlength=count) / degree for axis in range(3)], 1
        )
        vertices = vertices + (0.55 if turn % 2 == 0 else -0.5) * (mean - vertices).astype(np.float32)
    return vertices


def of_label(
    labels: npt.NDArray[np.uint64], label: int, voxel_size: tuple[float, float, float], stride: int = 2
) -> bytes | None:
    """The mesh of a label in nanometres, from every `stride`-th voxel; None if there is nothing of it."""
    coarse = labels[::stride, ::stride, ::stride] == label
    places = np.argwhere(coarse)
    if not len(places):
        return None
    low, high = places.min(axis=0), places.max(axis=0) + 1
    vertices, triangles = surface(coarse[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
    points = (vertices + low)[:, ::-1] * np.float32(stride) * np.array(voxel_size, np.float32)
    return encode(points, triangles)


def encode(vertices_xyz: F32, triangles: U32) -> bytes:
    """A `.ngmesh` file: the number of vertices, their x, y, z, and three vertices for each triangle."""
    return b"".join(
        [
            len(vertices_xyz).to_bytes(4, "little"),
            vertices_xyz.astype("<f4").tobytes(),
            triangles.astype("<u4").tobytes(),
        ]
    )

"""The demo's parts: tissue, surfaces, the choice of a scene, samples from files; and what it makes on a server."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from app.core.errors import Invalid
from app.demo import meshes, scene, setup, tissue
from app.demo.made import MESHES, SEGMENTATION, Made
from app.demo.sample import Sample, load, profiles
from app.demo.serving import free_port
from app.ingest.over_http import Client
from tests.running import ADMIN, running

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def sample() -> tissue.Tissue:
    return tissue.make((96, 112, 128))


def test_tissue_is_always_the_same(sample: tissue.Tissue) -> None:
    again = tissue.make((96, 112, 128))
    np.testing.assert_array_equal(sample.em, again.em)
    np.testing.assert_array_equal(sample.labels, again.labels)
    assert not np.array_equal(sample.labels, tissue.make((96, 112, 128), seed=8).labels)


def test_cells_fill_space_and_membranes_are_dark(sample: tissue.Tissue) -> None:
    assert sample.labels.min() > 0
    assert 10 < len(np.unique(sample.labels)) < 200
    wall = np.zeros(sample.labels.shape, bool)
    for axis in range(3):
        other = np.diff(sample.labels, axis=axis) != 0
        wall[tuple(slice(0, side) for side in other.shape)] |= other
    assert sample.em[wall].mean() < sample.em[~wall].mean() - 30


def test_cells_are_those_of_the_nearest_ball() -> None:
    """The compiled search through tiles against all balls for every voxel."""
    random = np.random.default_rng(5)
    shape = (40, 48, 56)
    balls = np.column_stack([random.uniform(0, side, 60) for side in shape] + [random.uniform(2, 6, 60)])
    balls = balls.astype(np.float32)
    owners = (np.arange(60) // 3 + 1).astype(np.int32)
    nearest = tissue.nearest
    starts, order = nearest.grid_of(balls, shape)
    warp = np.zeros((3, *(side // nearest.WARP_STEP + 2 for side in shape)), np.float32)
    labels, gap = np.empty(shape, np.uint16), np.empty(shape, np.float32)
    nearest.nearest(balls, owners, starts, order, warp, labels, gap, 0, shape[0])
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distances = np.stack([np.linalg.norm(places - ball[:3], axis=-1) - ball[3] for ball in balls])
    of_cell = np.stack([distances[owners == cell].min(axis=0) for cell in range(1, 21)])
    expected, ordered = of_cell.argmin(axis=0) + 1, np.sort(of_cell, axis=0)
    # The search looks at neighbouring cubes only, so it is exact where something is near.
    near = (ordered[1] < nearest.CUBE - 6) & (ordered[1] - ordered[0] > 1e-3)
    assert near.mean() > 0.9
    np.testing.assert_array_equal(labels[near], expected[near])
    np.testing.assert_allclose(gap[near], (ordered[1] - ordered[0])[near], atol=1e-3)


def _volume(vertices: npt.NDArray[np.float32], triangles: npt.NDArray[np.uint32]) -> float:
    """The volume that a closed surface encloses; negative if it is inside out."""
    a, b, c = (vertices[triangles[:, corner]].astype(np.float64) for corner in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def test_surfaces_are_closed_and_enclose_the_cell() -> None:
    z, y, x = np.mgrid[:40, :40, :40]
    ball = (z - 20) ** 2 + (y - 18) ** 2 + (x - 22) ** 2 < 14**2
    vertices, triangles = meshes.surface(ball)
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    assert (counts % 2 == 0).all()
    xyz = vertices[:, ::-1]
    assert _volume(xyz, triangles) == pytest.approx(ball.sum(), rel=0.06)
    radii = np.linalg.norm(vertices - np.array([20.5, 18.5, 22.5]), axis=1)
    assert radii.std() < 0.35, "the steps of the voxels should be smoothed away"


def test_mesh_files_are_in_nanometres() -> None:
    labels = np.zeros((16, 16, 16), np.uint64)
    labels[4:12, 4:12, 2:14] = 7
    data = meshes.of_label(labels, 7, (4.0, 8.0, 40.0))
    assert data is not None
    count = int.from_bytes(data[:4], "little")
    points = np.frombuffer(data, "<f4", 3 * count, 4).reshape(-1, 3)
    triangles = np.frombuffer(data, "<u4", -1, 4 + 12 * count)
    assert triangles.max() == count - 1
    assert len(triangles) % 3 == 0
    np.testing.assert_allclose(points.mean(axis=0), [8 * 4, 8 * 8, 8 * 40], rtol=0.02)
    assert meshes.of_label(labels, 8, (4.0, 8.0, 40.0)) is None


def test_a_scene_has_what_it_promises(sample: tissue.Tissue) -> None:
    chosen = scene.choose(sample.labels)
    x, y, z = chosen.position
    assert sample.labels[z, y, x] == chosen.split
    assert {chosen.split, *chosen.merged} <= set(chosen.shown)
    assert len({chosen.split, *chosen.merged}) == 3
    places = np.argwhere(sample.labels == chosen.split)
    side = scene.halves(places, np.array([z, y, x], float))
    assert 0.1 < side.mean() < 0.9


def test_samples_from_files(tmp_path: Path) -> None:
    em, labels = np.ones((4, 5, 6), np.uint8), np.ones((4, 5, 6), np.int16)
    np.savez(tmp_path / "both.npz", em=em, labels=labels)
    both = load(tmp_path / "both.npz", (8, 8, 8))
    assert (both.name, both.shape) == ("both", (4, 5, 6))
    assert both.labels is not None
    assert both.labels.dtype == np.uint64
    np.savez(tmp_path / "other.npz", em=em, labels=labels[1:])
    np.savez(tmp_path / "none.npz", stuff=em)
    np.savez(tmp_path / "deep.npz", em=em.astype(np.uint16))
    (tmp_path / "broken.npz").write_bytes(b"PK")
    for name in ("other", "none", "deep", "broken"):
        with pytest.raises(Invalid):
            load(tmp_path / f"{name}.npz", (8, 8, 8))


def test_profiles_follow_cells_from_plane_to_plane() -> None:
    inside = np.ones((3, 40, 60), bool)
    inside[:, :, 30] = False
    inside[:, 0:20, 45] = False  # a wall that does not reach across
    labels = profiles(inside, least=10)
    assert (labels[:, :, :30] == labels[0, 0, 0]).all()
    assert (labels[:, 20:, 31:] == labels[0, 0, 31]).all()
    assert labels[0, 0, 0] != labels[0, 0, 31]
    assert not labels[~inside].any()


@pytest.mark.parametrize("name", ["flyem-250", "connectomics-512", "em-512x512x30"])
def test_real_samples_can_be_shown(name: str) -> None:
    path = DATA / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"NO REAL DATA: {path} is not there")
    found = load(path, (8, 8, 8))
    assert found.labels is not None
    chosen = scene.choose(found.labels)
    assert len(chosen.shown) >= 6
    assert chosen.merged[0] != chosen.merged[1]


def test_a_taken_port_is_said() -> None:
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(Invalid, match="is taken"):
            free_port(holder.getsockname()[1])


def test_what_the_demo_makes_on_a_server(tmp_path: Path, sample: tissue.Tissue) -> None:
    with running(str(tmp_path / "store"), "--durability", "process") as server:
        client = Client(server.url, ADMIN)
        made = setup.fill(client, Sample("small", sample.em, sample.labels, (8.0, 8.0, 8.0)), lambda _: None)
        assert Made.parse(made.text()) == made

        def labels(version: str) -> npt.NDArray[np.uint64]:
            z, y, x = made.shape
            url = f"{server.url}/api/node/{version}/{SEGMENTATION}/raw/0_1_2/{x}_{y}_{z}/0_0_0"
            with urllib.request.urlopen(url) as answer:
                return np.frombuffer(answer.read(), "<u8").reshape(made.shape)

        before, after = labels(made.root), labels(made.child)
        np.testing.assert_array_equal(before, sample.labels)
        changed = before != after
        old, new = made.split
        kept, gone = made.merged
        assert set(np.unique(before[changed])) == {old, gone}
        assert set(np.unique(after[changed])) == {new, kept}
        assert ((before == gone) == (changed & (after == kept))).all()
        assert (after == old).sum() > 100
        for label in (old, new, kept):
            size = client.json("GET", f"/api/node/{made.child}/{SEGMENTATION}/size/{label}")["voxels"]
            assert size == (after == label).sum()
        for version in (made.root, made.child):
            info = client.json("GET", f"/api/node/{version}/{SEGMENTATION}/info")
            assert info["Extents"] == {"MinPoint": [0, 0, 0], "MaxPoint": [127, 111, 95]}
            assert info["Extended"]["MaxDownresLevel"] >= 2
        keys = {
            version: set(client.json("GET", f"/api/node/{version}/{MESHES}/keys"))
            for version in (made.root, made.child)
        }
        assert f"{gone}.ngmesh" in keys[made.root] - keys[made.child]
        assert f"{new}.ngmesh" in keys[made.child] - keys[made.root]
        manifest = client.call("GET", f"/api/node/{made.child}/{MESHES}/key/{new}:0")
        assert json.loads(manifest) == {"fragments": [f"{new}.ngmesh"]}

"""Annotations in the precomputed format, read by neuroglancer's own reader."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from neuroglancer.read_precomputed_annotations import AnnotationReader

from app.formats import precomputed_annotations as precomputed
from tests.api.conftest import make_instance
from tests.api.test_annotation import SIDE, element, post, write

KINDS = ["Unknown", "PostSyn", "PreSyn", "Gap", "Note"]


def reader(client: httpx.Client, version: str, name: str = "syn") -> AnnotationReader:
    return AnnotationReader(f"{client.base_url}/api/node/{version}/{name}/precomputed/")


def told(annotation: object) -> tuple[tuple[int, ...], int]:
    point = tuple(int(at) for at in np.floor(annotation.point))  # type: ignore[attr-defined]
    return point, int(annotation.props[0])  # type: ignore[attr-defined]


def cells(found: AnnotationReader) -> list[dict[tuple[int, ...], list[object]]]:
    """All cells of all levels."""
    everything = []
    for number, level in enumerate(found.metadata["spatial"]):
        shape = level["grid_shape"]
        everything.append({cell: found.spatial[number][np.array(cell, np.uint32)] for cell in np.ndindex(*shape)})
    return everything


@pytest.mark.parametrize("limit", [3, 10_000])
def test_neuroglancer_reads_what_was_posted(
    client: httpx.Client, root: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_instance(client, root, "labelmap", "seg", BlockSize="32,32,32", VoxelSize="4,8,40")
    make_instance(client, root, "annotation", "syn")
    client.post(f"/api/node/{root}/syn/sync", json={"sync": "seg"}).raise_for_status()
    write(client, root, [1, 2])
    rng = np.random.default_rng(4)
    points = {tuple(point) for point in rng.integers(-300, 500, (200, 3)).tolist()} | {(1, 1, 1), (20, 0, 3), (5, 5, 5)}
    kinds = {point: sum(point) % 5 for point in points}
    post(client, root, *[element(*point, Kind=KINDS[kind]) for point, kind in kinds.items()])
    found = reader(client, root)
    sizes = [found.metadata["dimensions"][axis][0] for axis in "xyz"]
    assert np.allclose(sizes, [4e-9, 8e-9, 40e-9])
    if limit == 3:  # the same levels that a limit of three elements would give
        monkeypatch.setattr(precomputed, "LIMIT", limit)
        low, high = np.min(list(points), axis=0).tolist(), np.max(list(points), axis=0).tolist()
        index = precomputed.levels(len(points), tuple(low), tuple(high))
        described = precomputed.info(tuple(high), index, (8, 8, 8), True)
        assert len(index) > 2
        found.metadata["spatial"] = described["spatial"]
        found.spatial = [found._get_child_spatial_map(level) for level in described["spatial"]]
    seen = [annotation for level in cells(found) for listed in level.values() for annotation in listed]
    assert sorted(map(told, seen)) == sorted(kinds.items())
    for level, metadata in zip(cells(found), found.metadata["spatial"], strict=True):
        for cell, listed in level.items():
            start = np.array(found.metadata["lower_bound"]) + np.array(cell) * metadata["chunk_size"]
            for annotation in listed:
                assert (annotation.point >= start).all()
                assert (annotation.point < start + metadata["chunk_size"]).all()
    for annotation in seen[:20]:
        again = found.by_id[int(annotation.id)]
        assert told(again) == told(annotation)
        point, _ = told(again)
        inside = all(0 <= at < SIDE for at in point)
        assert list(map(int, again.segments[0])) == ([1 + (point[0] >= SIDE // 2)] if inside else [])
    for body in (1, 2):
        expected = {p for p in points if all(0 <= at < SIDE for at in p) and 1 + (p[0] >= SIDE // 2) == body}
        assert {told(annotation)[0] for annotation in found.relationships["body"][body]} == expected
    client.post(f"/api/node/{root}/seg/merge", json=[2, 1]).raise_for_status()
    assert len(reader(client, root).relationships["body"][1]) == 0
    assert len(reader(client, root).relationships["body"][2]) >= 3


def test_without_labels_there_are_no_bodies(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "annotation", "todo", Tags="VoxelSize=[4 4 30]")
    node = f"/api/node/{root}/todo/precomputed"
    assert client.get(f"{node}/info").status_code == 404
    far = 1 << 25
    post(client, root, element(0, 0, 0), element(far, 0, 0), name="todo")
    found = reader(client, root, "todo")
    assert found.metadata["dimensions"]["z"] == [30e-9, "m"]
    assert not found.relationships
    assert [told(a) for level in cells(found) for listed in level.values() for a in listed] == [((0, 0, 0), 4)]
    number = int(precomputed.numbers(np.zeros((1, 3), np.int32))[0])
    assert told(found.by_id[number]) == ((0, 0, 0), 4)
    assert client.get(f"{node}/by_id/{number + 1}").status_code == 404


@pytest.mark.parametrize(
    "file",
    [
        *("", "bodies/1", "bodies/x", "by_id/-1", "by_id/99999999999999999999999", "0_0_0_64_0_65536/0_0", "nosuch"),
        *("0_0_0_0_0_65536/0_0_0", "0_0_0_64_9_9/0_0_0", "0_0_0_64_0_99999/0_0_0", "00_0_0_64_0_1/0_0_0"),
    ],
)
def test_other_files_are_absent(client: httpx.Client, root: str, file: str) -> None:
    make_instance(client, root, "annotation", "todo")
    post(client, root, element(0, 0, 0), name="todo")
    assert client.get(f"/api/node/{root}/todo/precomputed/{file}").status_code == 404


def test_cells_beyond_the_world_are_empty(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "annotation", "todo")
    post(client, root, element(0, 0, 0), name="todo")
    node = f"/api/node/{root}/todo/precomputed"
    for key in ("0_0_0_9999999999_0_65536/9999999999_0_0", "-9999999999_0_0_64_0_65536/0_0_0"):
        assert client.get(f"{node}/{key}").content == bytes(8)
    whole = client.get(f"{node}/-9999999999_-9999999999_-9999999999_9999999999_0_65536/1_1_1").content
    assert whole[:8] == (1).to_bytes(8, "little")


def test_numbers_of_points() -> None:
    points = np.array([[0, 0, 0], [-1, 5, 7], [-(1 << 20), (1 << 20) - 1, 3]], np.int32)
    numbers = precomputed.numbers(points)
    assert [precomputed.point(int(number)) for number in numbers] == [tuple(point) for point in points.tolist()]
    assert precomputed.point(1 << 63) is None
    assert precomputed.have_numbers(np.array([[1 << 20, 0, 0], [0, -(1 << 20) - 1, 0], [0, 0, 5]])).tolist() == [
        False,
        False,
        True,
    ]
    drawn = precomputed.draws(np.random.default_rng(1).integers(-5000, 5000, (10_000, 3)).astype(np.int32))
    assert drawn.max() < precomputed.DRAWS
    assert abs(np.histogram(drawn, 8, (0, precomputed.DRAWS))[0] - 1250).max() < 200

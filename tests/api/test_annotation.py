"""Annotations over HTTP where recordings do not reach: version merges, ETags, odd requests, late syncs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import make_instance
from tests.api.test_version_merges import branch, child_of, commit, merge

SIDE = 32


def element(*point: int, **fields: Any) -> dict[str, Any]:
    return {"Pos": list(point), "Kind": "Note", "Tags": [], "Prop": {}, "Rels": [], **fields}


def post(client: httpx.Client, version: str, *elements: dict[str, Any], name: str = "syn") -> None:
    answer = client.post(f"/api/node/{version}/{name}/elements", json=elements)
    assert answer.status_code == 200, answer.text


def points(client: httpx.Client, version: str, path: str) -> set[tuple[int, ...]]:
    answer = client.get(f"/api/node/{version}/{path}")
    assert answer.status_code == 200, answer.text
    return {tuple(found["Pos"]) for found in answer.json() or []}


def write(client: httpx.Client, version: str, labels: Sequence[int], x: int = 0) -> None:
    """One block of labels with slabs along x."""
    block = np.repeat(np.array(labels, "<u8"), SIDE // len(labels))[None, None] * np.ones((SIDE, SIDE, 1), "<u8")
    path = f"/api/node/{version}/seg/raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/{x}_0_0?mutate=true"
    answer = client.post(path, content=block.tobytes())
    assert answer.status_code == 200, answer.text


@pytest.fixture
def synced(client: httpx.Client, root: str) -> str:
    """A repo with labels 1 and 2 and annotations that are synced with them."""
    make_instance(client, root, "labelmap", "seg", BlockSize="32,32,32")
    make_instance(client, root, "annotation", "syn")
    assert client.post(f"/api/node/{root}/syn/sync", json={"sync": "seg"}).status_code == 200
    write(client, root, [1, 2])
    return root


def test_a_version_merge_joins_element_by_element(client: httpx.Client, synced: str) -> None:
    post(client, synced, element(0, 0, 0), element(1, 0, 0), element(20, 0, 0, Tags=["old"]), element(40, 0, 0))
    commit(client, synced)
    left, right = branch(client, synced, "left"), branch(client, synced, "right")
    post(client, left, element(2, 0, 0, Tags=["left"]), element(20, 0, 0, Tags=["new"]))
    client.delete(f"/api/node/{left}/syn/element/40_0_0").raise_for_status()
    post(client, right, element(21, 0, 0, Tags=["right"]), element(1, 0, 0, Kind="PreSyn"))
    client.post(f"/api/node/{right}/syn/move/0_0_0/22_0_0").raise_for_status()
    for version in (left, right):
        commit(client, version)
    child = child_of(merge(client, [left, right]))
    expected = {(1, 0, 0), (2, 0, 0), (20, 0, 0), (21, 0, 0), (22, 0, 0)}
    assert points(client, child, "syn/elements/100_100_100/0_0_0") == expected
    assert points(client, child, "syn/label/1") == {(1, 0, 0), (2, 0, 0)}
    assert points(client, child, "syn/label/2") == {(20, 0, 0), (21, 0, 0), (22, 0, 0)}
    tagged = {tag: points(client, child, f"syn/tag/{tag}") for tag in ("old", "new", "left", "right")}
    assert tagged == {"old": set(), "new": {(20, 0, 0)}, "left": {(2, 0, 0)}, "right": {(21, 0, 0)}}
    write(client, child, [2, 1])
    assert points(client, child, "syn/label/1") == {(20, 0, 0), (21, 0, 0), (22, 0, 0)}


def test_elements_changed_on_two_sides_are_in_conflict(client: httpx.Client, synced: str) -> None:
    post(client, synced, element(0, 0, 0), element(1, 0, 0), element(2, 0, 0))
    commit(client, synced)
    left, right = branch(client, synced, "left"), branch(client, synced, "right")
    post(client, left, element(0, 0, 0, Prop={"a": "1"}), element(2, 0, 0, Prop={"same": ""}))
    client.delete(f"/api/node/{left}/syn/element/1_0_0").raise_for_status()
    post(client, right, element(0, 0, 0, Prop={"a": "2"}), element(1, 0, 0, Prop={"b": ""}))
    post(client, right, element(2, 0, 0, Prop={"same": ""}))
    for version in (left, right):
        commit(client, version)
    answer = merge(client, [left, right])
    assert answer.status_code == 400
    assert "syn: the element at [0, 0, 0]\n" in answer.text
    assert "syn: the element at [1, 0, 0]\n" in answer.text
    assert "2 conflicts" in answer.text
    body = {"data": ["syn"], "parents": [right, left], "note": ""}
    child = child_of(client.post(f"/api/repo/{synced}/resolve", json=body))
    assert client.get(f"/api/node/{child}/syn/elements/1_1_1/0_0_0").json()[0]["Prop"] == {"a": "2"}
    assert points(client, child, "syn/label/1") == {
        (0, 0, 0),
        (1, 0, 0),
        (2, 0, 0),
    }


def test_the_etag_names_all_that_was_read(client: httpx.Client, synced: str) -> None:
    post(client, synced, element(0, 0, 0), element(20, 0, 0))
    make_instance(client, synced, "roi", "area", BlockSize="32,32,32")
    make_instance(client, synced, "labelsz", "sizes", ROI="area")
    client.post(f"/api/node/{synced}/sizes/sync", json={"sync": "syn"}).raise_for_status()
    client.post(f"/api/node/{synced}/sizes/reload").raise_for_status()
    changes = {
        "syn/label/1": lambda: write(client, synced, [3, 1]),
        "syn/roi/area": lambda: client.post(f"/api/node/{synced}/area/roi", json=[[0, 0, 0, 0]]),
        "sizes/top/3/Note": lambda: client.post(f"/api/node/{synced}/area/roi", json=[[5, 0, 0, 0]]),
        "sizes/count/1/Note": lambda: client.delete(f"/api/node/{synced}/area/roi"),
    }
    for path, change in changes.items():
        url = f"/api/node/{synced}/{path}"
        before = client.get(url)
        headers = {"If-None-Match": before.headers["ETag"]}
        assert client.get(url, headers=headers).status_code == 304
        change()
        assert client.get(url, headers=headers).status_code == 200, path


def test_what_is_locked_and_asked_by_its_full_name_never_changes(client: httpx.Client, synced: str) -> None:
    post(client, synced, element(0, 0, 0))
    make_instance(client, synced, "labelmap", "free", BlockSize="32,32,32", Versioned="false")
    make_instance(client, synced, "annotation", "other")
    client.post(f"/api/node/{synced}/other/sync", json={"sync": "free"}).raise_for_status()
    commit(client, synced)
    assert "immutable" in client.get(f"/api/node/{synced}/syn/label/1").headers["Cache-Control"]
    assert "immutable" in client.get(f"/api/node/{synced}/other/elements/1_1_1/0_0_0").headers["Cache-Control"]
    assert "immutable" not in client.get(f"/api/node/{synced}/other/label/1").headers["Cache-Control"]


def test_a_late_sync_looks_at_what_is_there(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "labelmap", "seg", BlockSize="32,32,32")
    make_instance(client, root, "labelmap", "others", BlockSize="32,32,32")
    make_instance(client, root, "annotation", "syn")
    write(client, root, [1, 2])
    post(client, root, element(0, 0, 0), element(20, 0, 0))
    assert points(client, root, "syn/label/1") == set()
    client.post(f"/api/node/{root}/syn/sync", json={"sync": "seg"}).raise_for_status()
    assert points(client, root, "syn/label/1") == {(0, 0, 0)}
    client.post(f"/api/node/{root}/syn/sync?replace=true", json={"sync": "others"}).raise_for_status()
    assert points(client, root, "syn/label/1") == set()
    client.post(f"/api/node/{root}/syn/sync?replace=true", json={"sync": "seg"}).raise_for_status()
    assert points(client, root, "syn/label/2") == {(20, 0, 0)}


def test_reload_cuts_blocks_as_the_labels_are_cut(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "labelmap", "seg", BlockSize="32,32,32")
    make_instance(client, root, "annotation", "syn")
    elements = [element(x, 40, -1, Tags=[f"t{x % 3}"]) for x in (-70, -1, 0, 31, 32, 63, 64, 200)]
    post(client, root, *elements)
    node = f"/api/node/{root}/syn"
    assert set(client.get(f"{node}/all-elements").json()) == {"-2,0,-1", "-1,0,-1", "0,0,-1", "1,0,-1", "3,0,-1"}
    client.post(f"{node}/sync", json={"sync": "seg"}).raise_for_status()
    client.post(f"{node}/reload").raise_for_status()
    found = client.get(f"{node}/all-elements").json()
    assert sorted(found) == ["-1,1,-1", "-3,1,-1", "0,1,-1", "1,1,-1", "2,1,-1", "6,1,-1"]
    assert sorted(e["Pos"] for listed in found.values() for e in listed) == sorted(e["Pos"] for e in elements)
    for number in range(3):
        expected = {tuple(e["Pos"]) for e in elements if e["Tags"] == [f"t{number}"]}
        assert points(client, root, f"syn/tag/t{number}") == expected


@pytest.mark.parametrize(
    "bad",
    [
        {"Pos": [1, 2]},
        {"Pos": [1, 2, 3, 4]},
        {"Pos": [1, 2, 1 << 31]},
        {"Pos": [1, 2, 3.5]},
        {"Kind": "Note"},
        {"Pos": [1, 2, 3], "Kind": None},
        {"Pos": [1, 2, 3], "Tags": [1]},
        {"Pos": [1, 2, 3], "Tags": ["x" * 70_000]},
        {"Pos": [1, 2, 3], "Prop": {"a": None}},
        {"Pos": [1, 2, 3], "Rels": [{"Rel": "PreSynTo"}]},
        None,
    ],
)
def test_a_bad_element_refuses_the_whole_list(client: httpx.Client, synced: str, bad: Any) -> None:
    answer = client.post(f"/api/node/{synced}/syn/elements", json=[element(1, 1, 1), bad])
    assert answer.status_code == 400
    assert answer.text.strip()
    answer = client.post(f"/api/node/{synced}/syn/blocks", json={"0,0,0": [element(1, 1, 1), bad]})
    assert answer.status_code == 400
    assert client.get(f"/api/node/{synced}/syn/all-elements").json() == {}


def test_blocks_must_hold_their_own_elements(client: httpx.Client, synced: str) -> None:
    body = {"0,0,0": [element(1, 1, 1)], "1,0,0": [element(1, 2, 1)]}
    answer = client.post(f"/api/node/{synced}/syn/blocks", json=body)
    assert answer.status_code == 400
    assert "1,0,0" in answer.text
    assert client.get(f"/api/node/{synced}/syn/all-elements").json() == {}


def test_a_move_onto_another_element_is_refused(client: httpx.Client, synced: str) -> None:
    post(client, synced, element(1, 1, 1), element(2, 2, 2, Kind="Gap"))
    assert client.post(f"/api/node/{synced}/syn/move/1_1_1/2_2_2").status_code == 400
    assert client.post(f"/api/node/{synced}/syn/move/1_1_1/1_1_1").status_code == 200
    assert points(client, synced, "syn/elements/9_9_9/0_0_0") == {(1, 1, 1), (2, 2, 2)}


def test_mutations_are_in_the_log(client: httpx.Client, synced: str) -> None:
    post(client, synced, element(1, 1, 1), element(2, 2, 2))
    client.post(f"/api/node/{synced}/syn/move/1_1_1/3_3_3?u=me").raise_for_status()
    client.delete(f"/api/node/{synced}/syn/element/2_2_2").raise_for_status()
    records = client.get(f"/api/node/{synced}/syn/mutations").json()
    assert [record["Action"] for record in records] == ["element-post", "element-move", "element-delete"]
    assert (records[1]["From"], records[1]["To"], records[1]["User"]) == ([1, 1, 1], [3, 3, 3], "me")
    assert records[2]["Point"] == [2, 2, 2]


def test_large_lists_are_streamed_whole(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "annotation", "syn")
    grid = [element(64 * x, 64 * y, 64 * z, Tags=["t"]) for x in range(11) for y in range(11) for z in range(11)]
    post(client, root, *grid)
    found = client.get(f"/api/node/{root}/syn/all-elements").json()
    assert len(found) == len(grid) == 11**3
    assert list(found) == [f"{x},{y},{z}" for z in range(11) for y in range(11) for x in range(11)]
    assert len(client.get(f"/api/node/{root}/syn/tag/t").json()) == len(grid)
    box = client.get(f"/api/node/{root}/syn/elements/641_641_65/0_0_600").json()
    assert {tuple(e["Pos"]) for e in box} == {tuple(e["Pos"]) for e in grid if e["Pos"][2] == 640}
    few = client.get(f"/api/node/{root}/syn/blocks/640_100000_1/0_-100_5").json()
    assert set(few) == {f"{x},{y},0" for x in range(10) for y in range(11)}


def test_labels_written_on_both_sides_of_a_version_merge(client: httpx.Client, synced: str) -> None:
    write(client, synced, [3, 4], x=32)
    post(client, synced, element(0, 0, 0), element(20, 0, 0), element(32, 0, 0), element(60, 0, 0))
    commit(client, synced)
    left, right = branch(client, synced, "left"), branch(client, synced, "right")
    write(client, left, [5, 2])
    post(client, left, element(1, 0, 0), element(33, 0, 0))
    write(client, right, [6, 4], x=32)
    post(client, right, element(34, 0, 0), element(2, 0, 0))
    client.post(f"/api/node/{right}/seg/merge", json=[4, 2]).raise_for_status()
    for version in (left, right):
        commit(client, version)
    child = child_of(merge(client, [left, right]))
    assert points(client, child, "syn/label/1") == set()
    assert points(client, child, "syn/label/5") == {(0, 0, 0), (1, 0, 0), (2, 0, 0)}
    assert points(client, child, "syn/label/6") == {(32, 0, 0), (33, 0, 0), (34, 0, 0)}
    assert points(client, child, "syn/label/4") == {(20, 0, 0), (60, 0, 0)}
    assert points(client, child, "syn/label/2") == set()
    assert points(client, child, "syn/label/3") == set()
    post(client, child, element(3, 0, 0))
    assert points(client, child, "syn/label/5") == {(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)}

"""Version merges over HTTP: what a child of two versions holds, for each kind of data; refusals; resolutions."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import numpy as np
import pytest

from tests.api.conftest import make_instance

Parents = list[str]


def commit(client: httpx.Client, version: str) -> None:
    client.post(f"/api/node/{version}/commit", json={}).raise_for_status()


def branch(client: httpx.Client, version: str, name: str) -> str:
    answer = client.post(f"/api/node/{version}/branch", json={"branch": name})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["child"])


@pytest.fixture
def diverge(client: httpx.Client, root: str) -> Callable[..., Parents]:
    """Branches of the root, one for each function that edits its version; all locked."""

    def made(*edits: Callable[[str], None]) -> Parents:
        commit(client, root)
        versions = [branch(client, root, f"side{number}") for number in range(len(edits))]
        for version, edit in zip(versions, edits, strict=True):
            edit(version)
            commit(client, version)
        return versions

    return made


def merge(client: httpx.Client, parents: Parents, **more: object) -> httpx.Response:
    body = {"mergeType": "conflict-free", "parents": parents, **more}
    return client.post(f"/api/repo/{parents[0]}/merge", json=body)


def child_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["child"])


def put(client: httpx.Client, version: str, **items: str | None) -> None:
    for key, value in items.items():
        path = f"/api/node/{version}/kv/key/{key}"
        answer = client.delete(path) if value is None else client.post(path, content=value)
        assert answer.status_code == 200, answer.text


def values(client: httpx.Client, version: str) -> dict[str, str]:
    keys = client.get(f"/api/node/{version}/kv/keys").json()
    return {key: client.get(f"/api/node/{version}/kv/key/{key}").text for key in keys}


def test_conflicts_are_listed_and_nothing_is_made(
    client: httpx.Client, root: str, diverge: Callable[..., Parents]
) -> None:
    make_instance(client, root, "keyvalue", "kv")
    make_instance(client, root, "keyvalue", "other")
    put(client, root, same="r", changed="r", deleted="r", large="r", kept="r")
    long = "long" * 5000
    sides = diverge(
        lambda version: put(client, version, same="s", changed="a", deleted=None, large=long, new="a"),
        lambda version: put(client, version, same="s", changed="b", deleted="b", large=long, own="b"),
    )
    before = client.get(f"/api/repo/{root}/info").json()
    answer = merge(client, sides)
    assert answer.status_code == 400
    assert 'kv: key "changed"\n' in answer.text
    assert 'kv: key "deleted"\n' in answer.text
    assert "2 conflicts" in answer.text
    assert client.get(f"/api/repo/{root}/info").json() == before
    for settled, status in (["other"], 400), (["kv"], 200):
        body = {"data": settled, "parents": sides[::-1], "note": "second first"}
        answer = client.post(f"/api/repo/{root}/resolve", json=body)
        assert answer.status_code == status, answer.text
    child = child_of(answer)
    expected = {"same": "s", "changed": "b", "deleted": "b", "large": long, "new": "a", "own": "b", "kept": "r"}
    assert values(client, child) == expected
    assert client.get(f"/api/node/{child}/note").json() == {"note": "second first"}
    put(client, child, changed="c")
    assert values(client, child) == {**expected, "changed": "c"}
    assert values(client, sides[0])["changed"] == "a"


def test_data_written_on_one_side_only(client: httpx.Client, root: str, diverge: Callable[..., Parents]) -> None:
    make_instance(client, root, "keyvalue", "kv")
    sides = diverge(lambda version: None, lambda version: put(client, version, a="b"), lambda version: None)
    for parents in (sides, sides[::-1], [sides[0], sides[2], sides[1]], [sides[1], root]):
        assert values(client, child_of(merge(client, parents))) == {"a": "b"}
    child = child_of(merge(client, [sides[0], sides[2]]))
    assert values(client, child) == {}
    put(client, child, a="c")
    assert values(client, child) == {"a": "c"}
    assert values(client, sides[1]) == {"a": "b"}


def test_the_past_of_crossing_histories(client: httpx.Client, root: str, diverge: Callable[..., Parents]) -> None:
    make_instance(client, root, "keyvalue", "kv")
    put(client, root, k="r", x="r")
    sides = diverge(lambda version: put(client, version, k="a"), lambda version: put(client, version, x="b"))
    crossed = [child_of(merge(client, sides)), child_of(merge(client, sides[::-1]))]
    put(client, crossed[0], k="new")
    put(client, crossed[1], own="1")
    for version in crossed:
        commit(client, version)
    assert values(client, child_of(merge(client, crossed))) == {"k": "new", "x": "b", "own": "1"}


def test_history_and_mutations_after_a_merge(client: httpx.Client, root: str, diverge: Callable[..., Parents]) -> None:
    make_instance(client, root, "keyvalue", "kv")
    put(client, root, k="r")
    sides = diverge(lambda version: put(client, version, a="a"), lambda version: put(client, version, b="b"))
    child = child_of(merge(client, sides))
    assert client.get(f"/api/node/{child}/kv/mutations").json() == []
    put(client, child, c="c")
    assert [each["Key"] for each in client.get(f"/api/node/{child}/kv/mutations").json()] == ["c"]
    for version, key in zip(sides, "ab", strict=True):
        assert [each["Key"] for each in client.get(f"/api/node/{version}/kv/mutations").json()] == [key]


def test_regions_are_joined_block_by_block(client: httpx.Client, root: str, diverge: Callable[..., Parents]) -> None:
    make_instance(client, root, "roi", "area")
    client.post(f"/api/node/{root}/area/roi", json=[[0, 0, 0, 10]]).raise_for_status()

    def edit(spans: list[list[int]]) -> Callable[[str], None]:
        return lambda version: client.post(f"/api/node/{version}/area/roi", json=spans).raise_for_status() and None

    sides = diverge(edit([[0, 0, 0, 12]]), edit([[0, 0, 0, 5], [7, 0, 1, 2]]))
    child = child_of(merge(client, sides))
    assert client.get(f"/api/node/{child}/area/roi").json() == [[0, 0, 0, 5], [0, 0, 11, 12], [7, 0, 1, 2]]


def test_images_are_joined_by_block(client: httpx.Client, root: str, diverge: Callable[..., Parents]) -> None:
    make_instance(client, root, "uint8blk", "gray", BlockSize="32,32,32")

    def write(version: str, x: int, value: int) -> None:
        body = np.full((32, 32, 32), value, np.uint8).tobytes()
        client.post(f"/api/node/{version}/gray/raw/0_1_2/32_32_32/{x}_0_0", content=body).raise_for_status()

    write(root, 0, 1)
    sides = diverge(lambda version: write(version, 32, 2), lambda version: write(version, 64, 3))
    child = child_of(merge(client, sides))
    line = client.get(f"/api/node/{child}/gray/raw/0_1_2/96_1_1/0_0_0").content
    assert line == bytes([1] * 32 + [2] * 32 + [3] * 32)
    assert client.get(f"/api/node/{child}/gray/info").json()["Extents"]["MaxPoint"] == [95, 31, 31]
    for version, value in zip([branch(client, side, f"more{n}") for n, side in enumerate(sides)], (7, 8), strict=True):
        write(version, 0, value)
        commit(client, version)
    heads = [client.get(f"/api/repo/{root}/branch-versions/more{n}").json()[0] for n in range(2)]
    answer = merge(client, heads)
    assert answer.status_code == 400
    assert "gray: block 0,0,0" in answer.text


@pytest.mark.parametrize("doubled", [True, False])
def test_parents_must_be_several_locked_versions_of_one_repo(
    client: httpx.Client, root: str, diverge: Callable[..., Parents], doubled: bool
) -> None:
    sides = diverge(lambda version: None, lambda version: None)
    another = client.post("/api/repos", params={"admintoken": "golden"}, json={}).json()["root"]
    open_one = branch(client, sides[0], "open")
    for parents in ([sides[0], sides[0]], [sides[0], sides[0][:30]], [sides[0], another], [sides[0], open_one]):
        answer = merge(client, parents, **({"note": "n"} if doubled else {}))
        assert answer.status_code == 400, parents
        assert answer.text.strip()
    assert merge(client, sides, note=5).status_code == 400


def annotate(client: httpx.Client, version: str, body: int, **fields: object) -> None:
    path = f"/api/node/{version}/nj/key/{body}?u=me"
    client.post(path, json={"bodyid": body, **fields}).raise_for_status()


def test_annotations_of_bodies_are_joined_by_field(
    client: httpx.Client, root: str, diverge: Callable[..., Parents]
) -> None:
    make_instance(client, root, "neuronjson", "nj")
    annotate(client, root, 1, type="r", status="r", group=5)
    annotate(client, root, 2, type="r")

    def left(version: str) -> None:
        annotate(client, version, 1, type="left", group=None)
        annotate(client, version, 3, type="left")

    def right(version: str) -> None:
        annotate(client, version, 1, status="right", note="n")
        annotate(client, version, 3, status="right")
        client.delete(f"/api/node/{version}/nj/key/2").raise_for_status()

    sides = diverge(left, right)
    child = child_of(merge(client, sides))
    node = f"/api/node/{child}/nj"
    found = client.get(f"{node}/key/1?show=user").json()
    signed = {"type_user": "me", "status_user": "me", "group_user": "me", "note_user": "me"}
    assert found == {"bodyid": 1, "type": "left", "status": "right", "note": "n", **signed}
    assert client.get(f"{node}/key/3").json() == {"bodyid": 3, "type": "left", "status": "right"}
    assert client.get(f"{node}/keys").json() == ["1", "3"]
    assert [each["bodyid"] for each in client.post(f"{node}/query", json={"type": "left"}).json()] == [1, 3]
    annotate(client, child, 1, type="after")
    assert client.get(f"{node}/key/1").json()["type"] == "after"


def test_annotations_of_bodies_in_conflict(client: httpx.Client, root: str, diverge: Callable[..., Parents]) -> None:
    make_instance(client, root, "neuronjson", "nj")
    annotate(client, root, 1, type="r", same="r")
    annotate(client, root, 2, type="r")

    def left(version: str) -> None:
        annotate(client, version, 1, type="left", same="s")
        client.delete(f"/api/node/{version}/nj/key/2").raise_for_status()

    def right(version: str) -> None:
        annotate(client, version, 1, type="right", same="s", own=1)
        annotate(client, version, 2, type="right")

    sides = diverge(left, right)
    answer = merge(client, sides)
    assert answer.status_code == 400
    assert "nj: body 1: field 'type'\n" in answer.text
    assert "nj: body 2: changed and deleted\n" in answer.text
    assert "2 conflicts" in answer.text
    child = child_of(client.post(f"/api/repo/{root}/resolve", json={"data": ["nj"], "parents": sides}))
    assert client.get(f"/api/node/{child}/nj/key/1").json() == {"bodyid": 1, "type": "left", "same": "s", "own": 1}
    assert client.get(f"/api/node/{child}/nj/key/2").status_code == 404


def element(x: int, kind: str = "Note", **more: object) -> dict[str, object]:
    return {"Pos": [x, 5, 5], "Kind": kind, "Tags": [f"t{x}"], "Prop": {}, "Rels": [], **more}


def post_elements(client: httpx.Client, version: str, *elements: dict[str, object]) -> None:
    client.post(f"/api/node/{version}/notes/elements", json=list(elements)).raise_for_status()


def positions(client: httpx.Client, node: str, path: str) -> list[int]:
    return sorted(each["Pos"][0] for each in client.get(f"{node}/notes/{path}").json() or [])


def test_elements_are_joined_one_by_one(client: httpx.Client, root: str, diverge: Callable[..., Parents]) -> None:
    make_instance(client, root, "labelmap", "seg", BlockSize="32,32,32")
    make_instance(client, root, "annotation", "notes")
    client.post(f"/api/node/{root}/notes/sync", json={"sync": "seg"}).raise_for_status()

    def paint(version: str, x: int, label: int) -> None:
        body = np.full((32, 32, 32), label, "<u8").tobytes()
        path = f"/api/node/{version}/seg/raw/0_1_2/32_32_32/{x}_0_0?mutate=true"
        client.post(path, content=body).raise_for_status()

    for x in (0, 32, 64, 96):
        paint(root, x, 1)
    post_elements(client, root, element(1), element(2), element(3), element(33), element(65), element(97))

    def left(version: str) -> None:
        post_elements(client, version, element(4), element(2, "PreSyn"))
        client.delete(f"/api/node/{version}/notes/element/33_5_5").raise_for_status()
        paint(version, 64, 2)

    def right(version: str) -> None:
        client.delete(f"/api/node/{version}/notes/element/1_5_5").raise_for_status()
        post_elements(client, version, element(5, "PostSyn"), element(66))
        paint(version, 96, 3)

    sides = diverge(left, right)
    for parents in (sides, sides[::-1]):
        node = f"/api/node/{child_of(merge(client, parents))}"
        assert positions(client, node, "elements/128_32_32/0_0_0") == [2, 3, 4, 5, 65, 66, 97]
        assert positions(client, node, "label/1") == [2, 3, 4, 5]
        assert positions(client, node, "label/2") == [65, 66]
        assert positions(client, node, "label/3") == [97]
        for tag, found in (("t1", []), ("t5", [5]), ("t2", [2]), ("t33", []), ("t66", [66])):
            assert positions(client, node, f"tag/{tag}") == found
        kinds = {each["Pos"][0]: each["Kind"] for each in client.get(f"{node}/notes/elements/32_32_32/0_0_0").json()}
        assert kinds == {2: "PreSyn", 3: "Note", 4: "Note", 5: "PostSyn"}
        post_elements(client, node.split("/")[-1], element(98))
        assert positions(client, node, "label/3") == [97, 98]
        assert positions(client, node, "label/2") == [65, 66]


def test_elements_in_conflict(client: httpx.Client, root: str, diverge: Callable[..., Parents]) -> None:
    make_instance(client, root, "annotation", "notes")
    post_elements(client, root, element(1), element(2), element(3))

    def left(version: str) -> None:
        post_elements(client, version, element(1, "Gap"), element(3, "Gap"))
        client.delete(f"/api/node/{version}/notes/element/2_5_5").raise_for_status()

    def right(version: str) -> None:
        post_elements(client, version, element(1, "PreSyn"), element(2, "PreSyn"), element(3, "Gap"), element(4))

    sides = diverge(left, right)
    answer = merge(client, sides)
    assert answer.status_code == 400
    assert "notes: the element at [1, 5, 5]\n" in answer.text
    assert "notes: the element at [2, 5, 5]\n" in answer.text
    assert "2 conflicts" in answer.text
    child = child_of(client.post(f"/api/repo/{root}/resolve", json={"data": ["notes"], "parents": sides}))
    assert positions(client, f"/api/node/{child}", "elements/32_32_32/0_0_0") == [1, 3, 4]

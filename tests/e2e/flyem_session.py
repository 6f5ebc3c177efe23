"""What libdvid and neuclease do against a server, run by a Python that has them: SERVER ROOT.

The repo is empty but for its root version. neuclease takes the administrators' token from `DVID_ADMIN_TOKEN`.
"""

import sys

import numpy as np
from libdvid import DVIDNodeService
from neuclease.dvid import annotation, fetch_labelindex, fetch_raw, labelmap, labelsz, neuronjson, node, post_raw, repo
from neuclease.dvid import keyvalue as kv
from neuclease.dvid import roi as regions

SIDE = 128
SERVER, ROOT = sys.argv[1:]
HERE = (SERVER, ROOT)
SEGMENTATION = (*HERE, "segmentation")
WHOLE = [(0, 0, 0), (SIDE,) * 3]


def volume() -> np.ndarray:
    """Supervoxels 1 to 4, each a quarter of the volume along x, and a hole in the first."""
    labels = np.zeros((SIDE,) * 3, np.uint64)
    labels[:] = 1 + np.arange(SIDE) // 32
    labels[40:50, 40:50, 4:14] = 0
    return labels


def libdvid() -> None:
    """The blocks, LZ4 volumes, masks of bodies, regions and mappings of libdvid."""
    service = DVIDNodeService(SERVER.removeprefix("http://"), ROOT, "ann", "test")
    rng = np.random.default_rng(1)
    gray = rng.integers(0, 255, (64, 64, 64), np.uint8)
    service.create_grayscale8("gray")
    service.put_gray3D("gray", gray, (0, 0, 0))
    assert (service.get_gray3D("gray", (30, 31, 32), (3, 4, 5)) == gray[3:33, 4:35, 5:37]).all()
    service.create_labelmap("blocks", 64)
    labels = rng.integers(0, 10, (SIDE,) * 3).astype(np.uint64)
    service.put_labelblocks3D("blocks", labels, (0, 0, 0))
    assert (service.get_labelarray_blocks3D("blocks", labels.shape, (0, 0, 0)) == labels).all()
    assert (service.get_labels3D("blocks", (30, 31, 32), (20, 21, 22)) == labels[20:50, 21:52, 22:54]).all()
    starts, masks = service.get_sparselabelmask(7, "blocks", 0)
    assert len(starts) == 8
    for (z, y, x), mask in zip(starts, masks, strict=True):
        assert (mask == (labels[z : z + 64, y : y + 64, x : x + 64] == 7)).all()
    assert service.get_mapping("blocks", [1, 2, 77]).tolist() == [1, 2, 0]
    service.create_roi("region")
    service.post_roi("region", [(1, 2, 3), (2, 3, 4)])
    assert service.get_roi("region") == [(1, 2, 3), (2, 3, 4)]
    service.create_keyvalue("values")
    service.put("values", "key", b"value")
    assert service.get("values", "key") == b"value"
    assert list(service.get_keys("values")) == ["key"]


def bodies() -> int:
    """neuclease: a segmentation, its bodies, and what edits make of them."""
    labels = volume()
    labelmap.create_labelmap_instance(*SEGMENTATION, max_scale=2)
    labelmap.post_labelmap_voxels(*SEGMENTATION, (0, 0, 0), labels, downres=True)
    assert (labelmap.fetch_labelmap_voxels(*SEGMENTATION, WHOLE) == labels).all()
    coarse = labelmap.fetch_labelmap_voxels(*SEGMENTATION, [(0, 0, 0), (64, 64, 64)], scale=1)
    assert (coarse[:16] == labels[:32:2, ::2, ::2]).all()
    labelmap.post_merge(*SEGMENTATION, 1, [2, 3])
    new = labelmap.post_cleave(*SEGMENTATION, 1, [3])
    assert labelmap.fetch_mapping(*SEGMENTATION, [1, 2, 3, 4]).tolist() == [1, 1, new, 4]
    whole = SIDE * SIDE * 32
    assert labelmap.fetch_sizes(*SEGMENTATION, [1, new, 99]).tolist() == [2 * whole - 1000, whole, 0]
    assert sorted(labelmap.fetch_supervoxels(*SEGMENTATION, 1)) == [1, 2]
    assert len(labelmap.fetch_sparsevol(*SEGMENTATION, 1, format="coords")) == 2 * whole - 1000
    index = fetch_labelindex(*SEGMENTATION, 1, format="pandas")
    assert index.blocks["count"].sum() == 2 * whole - 1000
    mutations = labelmap.fetch_labelmap_mutations(*SEGMENTATION)
    assert mutations["action"].tolist() == ["merge-complete", "cleave-complete"]
    points = np.array([(1, 1, 1), (45, 45, 5), (1, 1, 70)])
    assert labelmap.fetch_labels(*SEGMENTATION, points).tolist() == [1, 0, new]
    return new


def what_belongs_to_bodies(new: int) -> None:
    """neuclease: synapses, their numbers, annotations of bodies, keys, regions, images."""
    for name, kind in [("synapses", "annotation"), ("sizes", "labelsz"), ("notes", "neuronjson"), ("area", "roi")]:
        repo.create_instance(*HERE, name, kind)
    repo.create_instance(*HERE, "kv", "keyvalue")
    repo.create_instance(*HERE, "image", "uint8blk")
    annotation.post_sync(*HERE, "synapses", ["segmentation"])
    labelsz.post_sync(*HERE, "sizes", ["synapses"])
    pre = {"Pos": [70, 6, 7], "Kind": "PreSyn", "Rels": [{"Rel": "PreSynTo", "To": [10, 6, 7]}]}
    post = {"Pos": [10, 6, 7], "Kind": "PostSyn", "Rels": [{"Rel": "PostSynTo", "To": [70, 6, 7]}]}
    elements = [{"Tags": ["t"], "Prop": {"conf": "0.9"}, **each} for each in (pre, post)]
    annotation.post_elements(*HERE, "synapses", elements)
    found = annotation.fetch_label(*HERE, "synapses", new, format="pandas")
    assert found[["z", "y", "x", "kind"]].values.tolist() == [[7, 6, 70, "PreSyn"]]
    assert len(annotation.fetch_tag(*HERE, "synapses", "t")) == 2
    assert labelsz.fetch_counts(*HERE, "sizes", [1, new, 99], "AllSyn").tolist() == [1, 1, 0]
    kv.post_key(*HERE, "notes", "1", json={"bodyid": 1, "type": "KC"})
    assert neuronjson.fetch_query(*HERE, "notes", {"type": "re/^K"}).loc[1, "type"] == "KC"
    kv.post_keyvalues(*HERE, "kv", {"a": b"1", "b": b"2"})
    assert kv.fetch_keyvalues(*HERE, "kv", ["a", "b", "c"]) == {"a": b"1", "b": b"2", "c": b""}
    regions.post_roi(*HERE, "area", [(0, 0, 0, 1), (1, 1, 0, 0)])
    assert np.count_nonzero(regions.fetch_roi(*HERE, "area", format="mask")[0]) == 3
    image = np.random.default_rng(2).integers(0, 255, (64, 64, 64), np.uint8)
    post_raw(*HERE, "image", (0, 0, 0), image)
    assert (fetch_raw(*HERE, "image", [(1, 2, 3), (20, 30, 40)]) == image[1:20, 2:30, 3:40]).all()


def versions() -> None:
    """neuclease: commits, branches and references to versions."""
    node.post_commit(*HERE, "done")
    child, side = node.post_newversion(*HERE, "on"), node.post_branch(*HERE, "side", "")
    assert repo.is_locked(*HERE)
    assert repo.find_master(SERVER, ROOT) == child
    assert repo.resolve_ref(SERVER, "side") == side
    assert set(repo.fetch_repo_dag(SERVER, ROOT).edges) == {(ROOT, child), (ROOT, side)}
    labelmap.post_merge(SERVER, side, "segmentation", 1, [4])
    changed = labelmap.compute_changed_bodies(SEGMENTATION, (SERVER, side, "segmentation"))
    assert changed.tolist() == [1]


libdvid()
what_belongs_to_bodies(bodies())
versions()
print("all of it works")

"""dvidtools, dvid-point-cloud and intern, as the package index has them, against our server."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.api.conftest import make_instance
from tests.running import ADMIN, running

#: Bodies by slabs along z of a volume of 64³; body 2 is made of two supervoxels.
VOXELS = np.ascontiguousarray(np.broadcast_to((np.arange(64) // 16 + 1).astype(np.uint64)[:, None, None], (64, 64, 64)))
GRAY = np.random.default_rng(1).integers(0, 255, (64, 64, 64), np.uint8)
SWC = '# swc\n#${"mutation id": 5}\n1 0 1 2 3 1 -1\n2 0 4 5 6 1 1\n'


@dataclass
class Made:
    url: str
    root: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    store: Path = tmp_path_factory.mktemp("clients")
    with running(str(store), "--durability", "process") as server, httpx.Client(base_url=server.url) as client:
        answer = client.post("/api/repos", params={"admintoken": ADMIN}, json={"alias": "vnc", "description": "cord"})
        root = answer.json()["root"]
        make_instance(client, root, "labelmap", "segmentation", MaxDownresLevel="2")
        make_instance(client, root, "uint8blk", "grayscale")
        make_instance(client, root, "annotation", "synapses")
        make_instance(client, root, "labelsz", "synapses_labelsz")
        make_instance(client, root, "neuronjson", "segmentation_annotations")
        make_instance(client, root, "roi", "area")
        for name in ("segmentation_meshes", "segmentation_skeletons"):
            make_instance(client, root, "keyvalue", name)
        node = f"/api/node/{root}"
        for name, other in (("synapses", "segmentation"), ("synapses_labelsz", "synapses")):
            client.post(f"{node}/{name}/sync", json={"sync": other}).raise_for_status()
        client.post(f"{node}/segmentation/raw/0_1_2/64_64_64/0_0_0", content=VOXELS.tobytes()).raise_for_status()
        client.post(f"{node}/segmentation/merge?u=ann", json=[2, 3]).raise_for_status()
        client.post(f"{node}/grayscale/raw/0_1_2/64_64_64/0_0_0", content=GRAY.tobytes()).raise_for_status()
        pre = {"Pos": [5, 5, 5], "Kind": "PreSyn", "Rels": [{"Rel": "PreSynTo", "To": [5, 5, 20]}]}
        post = {"Pos": [5, 5, 20], "Kind": "PostSyn", "Rels": [{"Rel": "PostSynTo", "To": [5, 5, 5]}]}
        elements = [{"Tags": [], "Prop": {"conf": "0.9"}, **each} for each in (pre, post)]
        client.post(f"{node}/synapses/elements", json=elements).raise_for_status()
        body = {"bodyid": 2, "type": "T", "status": "Traced"}
        client.post(f"{node}/segmentation_annotations/key/2?u=ann", json=body).raise_for_status()
        client.post(f"{node}/area/roi", json=[[0, 0, 0, 1], [1, 1, 0, 0]]).raise_for_status()
        mesh = struct.pack("<I", 3) + np.eye(3, dtype="<f4").tobytes() + np.array([0, 1, 2], "<u4").tobytes()
        client.post(f"{node}/segmentation_meshes/key/2.ngmesh", content=mesh).raise_for_status()
        client.post(f"{node}/segmentation_skeletons/key/2_swc", content=SWC.encode()).raise_for_status()
        yield Made(server.url, root)


def test_dvidtools(made: Made) -> None:
    dv = pytest.importorskip("dvid", reason="NOT TESTED with dvidtools: it is not installed")
    dv.setup(server=made.url, node=made.root, user="ann")
    assert dv.get_sizes([1, 2, 3, 77], progress=False).tolist() == [16 * 64 * 64, 32 * 64 * 64, 0, 0]
    assert dv.locs_to_ids(np.array([[1, 1, 1], [1, 1, 40], [1, 1, 60]]), progress=False).tolist() == [1, 2, 4]
    assert dv.ids_exist([1, 3], progress=False).tolist() == [True, False]
    assert dv.get_sparsevol_size(2)["voxels"] == 32 * 64 * 64
    voxels = dv.get_sparsevol(2, scale=0)
    assert len(voxels) == 32 * 64 * 64
    assert np.asarray(voxels).min(axis=0).tolist() == [0, 0, 16]
    assert np.asarray(voxels).max(axis=0).tolist() == [63, 63, 47]
    assert dv.get_last_mod(2)["last mod user"] == "ann"
    synapses = dv.get_synapses(2)
    assert (synapses.Pos.tolist(), synapses.Kind.tolist()) == ([[5, 5, 20]], ["PostSyn"])
    assert dv.get_n_synapses(1) == {"pre": 1, "post": 0}
    assert dv.get_annotation(2)["type"] == "T"
    assert "vnc" in dv.list_projects().values
    assert dv.get_master_node(made.root) == made.root
    assert dv.has_mesh(2)
    assert dv.has_skeleton(2)
    assert not dv.has_skeleton(4)
    skeleton = dv.get_skeletons(2, progress=False)
    assert skeleton[0][["x", "y", "z"]].values.tolist() == [[1, 2, 3], [4, 5, 6]]
    (mesh,) = dv.get_meshes(2, progress=False, fix=False)
    assert len(mesh.faces) == 1
    assert dv.get_roi("area", form="BLOCKS").tolist() == [[0, 0, 0, 1], [1, 1, 0, 0]]


def test_dvid_point_cloud(made: Made) -> None:
    cloud = pytest.importorskip("dvid_point_cloud", reason="NOT TESTED with dvid-point-cloud: it is not installed")
    for scale in (0, 1):
        points = cloud.uniform_sample(made.url, made.root, 2, 500, "segmentation", scale=scale)
        assert len(points) == 500
        low, high = points.min(axis=0), points.max(axis=0)
        assert low[2] >= 16
        assert high[2] < 48
    found = cloud.sample_for_bodies(made.url, made.root, "segmentation", [1, 4], 100)
    assert {body: len(points) for body, points in found.items()} == {1: 100, 4: 100}


def test_intern(made: Made) -> None:
    remote = pytest.importorskip("intern.remote.dvid", reason="NOT TESTED with intern: it is not installed")
    dvid = remote.DVIDRemote({"protocol": "http", "host": made.url.removeprefix("http://")})
    gray = dvid.get_instance(made.root, "grayscale")
    cut = dvid.get_cutout(gray, 0, [10, 20], [5, 13], [3, 9])
    assert (cut == GRAY[3:9, 5:13, 10:20]).all()
    assert dvid.get_info(gray)["Base"]["Name"] == "grayscale"
    dvid.create_cutout(gray, 0, [0, 32], [0, 32], [0, 32], np.ascontiguousarray(GRAY[32:, 32:, 32:]))
    assert (dvid.get_cutout(gray, 0, [0, 32], [0, 32], [0, 32]) == GRAY[32:, 32:, 32:]).all()
    assert dvid.get_server_info()["DVID Version"].startswith("v")
    assert "labelmap" in dvid.get_server_types()
    assert "keyvalue" in dvid.get_server_compiled_types()
    dvid.post_log(made.root, "a line")
    assert "a line" in str(dvid.get_log(made.root))

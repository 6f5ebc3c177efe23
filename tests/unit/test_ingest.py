"""Ingest: every kind of source, both ways in, interrupted and continued, and a server that is busy."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from click.testing import CliRunner

from app.cli import main
from app.core.errors import Invalid, NeedsAdmin, StoreUnavailable
from app.core.geometry import Box
from app.ingest.over_http import Client
from app.ingest.plan import downres_levels, make_plan
from app.ingest.progress import ranges
from app.ingest.sources import open_source
from app.ingest.target import typename_for
from tests.running import ADMIN, Server, running

ROOT = Path(__file__).parents[2]

# ------------------------------------------------------------------ sources


def _sample(shape: tuple[int, int, int] = (20, 30, 41), dtype: str = "uint32", seed: int = 1) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, [-(-side // 5) for side in shape])
    dense = coarse.repeat(5, 0).repeat(5, 1).repeat(5, 2)[: shape[0], : shape[1], : shape[2]]
    return np.ascontiguousarray(dense, dtype)


def _npy(folder: Path, array: np.ndarray[Any, Any]) -> str:
    np.save(folder / "a.npy", array)
    return str(folder / "a.npy")


def _npz(folder: Path, array: np.ndarray[Any, Any]) -> str:
    np.savez_compressed(folder / "a.npz", labels=array, other=np.zeros(3))
    return f"{folder}/a.npz:labels"


def _hdf5(folder: Path, array: np.ndarray[Any, Any]) -> str:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("volumes/labels", data=array, chunks=(8, 8, 8))
        file["volumes/more"] = 1
    return f"{folder}/a.h5:/volumes/labels"


def _tiff_folder(folder: Path, array: np.ndarray[Any, Any]) -> str:
    tifffile = pytest.importorskip("tifffile")
    for z, plane in enumerate(array):
        tifffile.imwrite(folder / f"plane{z}.tif", plane)  # 10 sorts behind 9 only if numbers are read as such
    return str(folder)


def _tiff_pages(folder: Path, array: np.ndarray[Any, Any]) -> str:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(folder / "stack.tif", array, photometric="minisblack", compression="zlib")
    return str(folder / "stack.tif")


def _zarr(driver: str) -> Callable[[Path, np.ndarray[Any, Any]], str]:
    def write(folder: Path, array: np.ndarray[Any, Any]) -> str:
        spec = {"driver": driver, "kvstore": f"file://{folder}/a.zarr/"}
        ts.open(spec, create=True, dtype=array.dtype, shape=array.shape).result()[...] = array
        return f"{folder}/a.zarr"

    return write


def _ome(folder: Path, array: np.ndarray[Any, Any]) -> str:
    spec = {"driver": "zarr", "kvstore": f"file://{folder}/a.zarr/full/"}
    ts.open(spec, create=True, dtype=array.dtype, shape=(1, 1, *array.shape)).result()[0, 0] = array
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "tczyx"]
    scale = {"type": "scale", "scale": [1, 1, 0.04, 0.008, 0.004]}
    datasets = [{"path": "full", "coordinateTransformations": [scale]}, {"path": "half"}]
    (folder / "a.zarr" / ".zattrs").write_text(json.dumps({"multiscales": [{"axes": axes, "datasets": datasets}]}))
    return f"zarr://{folder}/a.zarr"


def _n5(folder: Path, array: np.ndarray[Any, Any]) -> str:
    spec = {"driver": "n5", "kvstore": f"file://{folder}/a.n5/s0/"}
    ts.open(spec, create=True, dtype=array.dtype, shape=array.shape[::-1]).result()[...] = array.T
    return f"file://{folder}/a.n5"


def _precomputed(folder: Path, array: np.ndarray[Any, Any]) -> str:
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": f"file://{folder}/p/",
        "multiscale_metadata": {"data_type": str(array.dtype), "num_channels": 1, "type": "segmentation"},
        "scale_metadata": {
            "size": list(array.shape[::-1]),
            "resolution": [4, 8, 40],
            "voxel_offset": [100, -20, 3],
            "encoding": "raw",
            "chunk_size": [16, 16, 16],
        },
    }
    written = ts.open(spec, create=True).result().translate_to[0, 0, 0, 0]
    written[..., 0] = array.T
    return f"precomputed://file://{folder}/p"


_WRITERS = {
    "npy": _npy,
    "npz": _npz,
    "hdf5": _hdf5,
    "tiff-folder": _tiff_folder,
    "tiff-pages": _tiff_pages,
    "zarr2": _zarr("zarr"),
    "zarr3": _zarr("zarr3"),
    "ome-zarr": _ome,
    "n5": _n5,
    "precomputed": _precomputed,
}


@pytest.mark.parametrize("kind", _WRITERS)
def test_every_kind_of_source_gives_the_same_voxels(kind: str, tmp_path: Path) -> None:
    array = _sample()
    source = open_source(_WRITERS[kind](tmp_path, array))
    assert source.shape == array.shape
    assert source.dtype == array.dtype
    box = Box((3, 7, 11), (17, 30, 40))
    np.testing.assert_array_equal(source.read(box), array[box.slices()])
    if kind == "precomputed":
        assert (source.offset, source.voxel_size) == ((100, -20, 3), (4, 8, 40))
    if kind == "ome-zarr":
        assert source.voxel_size == (4, 8, 40)


def test_axes_of_an_array_that_does_not_say_them(tmp_path: Path) -> None:
    array = _sample()
    np.save(tmp_path / "xyz.npy", array.T)
    source = open_source(str(tmp_path / "xyz.npy"), "xyz")
    assert source.shape == array.shape
    np.testing.assert_array_equal(source.read(Box((1, 2, 3), (4, 6, 9))), array[1:4, 2:6, 3:9])


def test_a_volume_of_one_plane_keeps_its_axes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 5, 6), np.uint8))
    assert open_source(str(tmp_path / "a.npy")).shape == (1, 5, 6)
    np.save(tmp_path / "b.npy", np.ones((1, 5, 6, 1), np.uint8))
    assert open_source(str(tmp_path / "b.npy")).shape == (1, 5, 6)


def test_sources_that_cannot_be_opened_are_said_in_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=np.zeros((2, 2, 2)), two=np.zeros(2))
    np.save(tmp_path / "flat.npy", np.zeros((4, 4), np.uint8))
    np.save(tmp_path / "channels.npy", np.zeros((3, 4, 5, 6), np.uint8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    for text, reason in [
        ("none.npy", "does not exist"),
        ("a.npz", "name one as a.npz:one"),
        ("a.npz:three", "name one as"),
        ("flat.npy", "three axes"),
        ("channels.npy", "three axes"),
        ("empty", "cannot open"),
        ("bad.h5", "cannot open"),
    ]:
        with pytest.raises(Invalid, match=reason) as caught:
            open_source(str(tmp_path / text))
        assert "\n" not in str(caught.value)


def test_datatype_follows_the_voxels(tmp_path: Path) -> None:
    def of(dtype: str, asked: str | None = None) -> str:
        np.save(tmp_path / "a.npy", np.zeros((2, 2, 2), dtype))
        return typename_for(open_source(str(tmp_path / "a.npy")), asked)

    assert (of("uint8"), of("uint32"), of("uint64")) == ("uint8blk", "labelmap", "labelmap")
    assert (of("uint8", "labelmap"), of("int16", "labelmap")) == ("labelmap", "labelmap")
    for dtype, asked in [("uint16", None), ("float32", "labelmap"), ("uint16", "uint8blk"), ("uint8", "keyvalue")]:
        with pytest.raises(Invalid):
            of(dtype, asked)


# ------------------------------------------------------------------ the plan


@pytest.mark.parametrize("offset", [(0, 0, 0), (5, -70, 129)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 64, 64), (100, 300, 517)])
def test_slabs_are_whole_blocks_that_cover_the_volume_once(
    shape: tuple[int, int, int], offset: tuple[int, int, int]
) -> None:
    budget = 4 << 20
    plan = make_plan(shape, offset, (64, 32, 16), 8, budget)
    covered = np.zeros(shape, np.uint8)
    seen = set()
    for slab in plan.slabs:
        assert slab.is_aligned(plan.block)
        assert slab.count * 8 <= budget
        blocks = set(slab.blocks(plan.block).points())
        assert not blocks & seen
        seen |= blocks
        inside = plan.inside(slab)
        x, y, z = offset
        covered[inside.shift((-z, -y, -x)).slices()] += 1
    assert (covered == 1).all()


def test_scales_until_the_volume_fits_a_block() -> None:
    block = (64, 64, 64)
    levels = {1: 1, 64: 1, 65: 1, 128: 1, 129: 2, 512: 3, 100_000: 6}
    assert {side: downres_levels((side, 3, 3), block) for side in levels} == levels


def test_ranges_of_numbers() -> None:
    assert ranges({5, 1, 2, 3, 9, 8}) == [(1, 3), (5, 5), (8, 9)]


# ------------------------------------------------------------------ into a store, and over HTTP


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(str(tmp_path_factory.mktemp("store")), "--durability", "process") as found:
        yield found


@pytest.fixture(autouse=True)
def _own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("DVID_ADMIN_TOKEN", raising=False)


def _ingest(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, ["ingest", "--quiet", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.output


def _over(server: Server) -> list[str]:
    return ["--server", server.url, "--admin-token", ADMIN]


def _get(server: Server, path: str) -> bytes:
    with urllib.request.urlopen(server.url + path, timeout=60) as answer:
        found: bytes = answer.read()
        return found


def _root(server: Server, alias: str) -> str:
    infos = json.loads(_get(server, "/api/repos/info")).values()
    return str(next(info["Root"] for info in infos if info["Alias"] == alias))


def _info(server: Server, alias: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_get(server, f"/api/node/{_root(server, alias)}/{name}/info"))
    return found


def _voxels(server: Server, alias: str, name: str, start_xyz: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    size, offset = "_".join(map(str, shape[::-1])), "_".join(map(str, start_xyz))
    raw = _get(server, f"/api/node/{_root(server, alias)}/{name}/raw/0_1_2/{size}/{offset}")
    return np.frombuffer(raw, "u1" if len(raw) == np.prod(shape) else "<u8").reshape(shape)


def _size(server: Server, alias: str, name: str, label: int) -> int:
    return int(json.loads(_get(server, f"/api/node/{_root(server, alias)}/{name}/size/{label}"))["voxels"])


def test_labels_over_http_at_an_odd_place(server: Server, tmp_path: Path) -> None:
    array = _sample((70, 100, 150), "uint64")
    to = ["--to", "odd/seg", "--offset", "10,70,-5", "--voxel-size", "4,4,40", "--slab", "4", "--jobs", "3"]
    said = _ingest(_npy(tmp_path, array), *to, *_over(server))
    assert "150 × 100 × 70 voxels as labelmap" in said
    info = _info(server, "odd", "seg")
    assert info["Extents"] == {"MinPoint": [10, 70, -5], "MaxPoint": [159, 169, 64]}
    assert info["Extended"]["VoxelSize"] == [4, 4, 40]
    assert info["Extended"]["MaxDownresLevel"] == 2
    np.testing.assert_array_equal(_voxels(server, "odd", "seg", (10, 70, -5), array.shape), array)
    assert not _voxels(server, "odd", "seg", (160, 70, -5), (8, 8, 8)).any()
    for label in np.unique(array)[1:20]:
        assert _size(server, "odd", "seg", label) == (array == label).sum()


def test_a_neighbouring_volume_leaves_the_first_alone(server: Server, tmp_path: Path) -> None:
    first, second = _sample((40, 50, 60), "uint64", 1), _sample((40, 50, 45), "uint64", 2)
    _ingest(_npy(tmp_path, first), "--to", "two/seg", *_over(server))
    _ingest(_npy(tmp_path, second), "--to", "two/seg", "--offset", "60,0,0", *_over(server))
    both = np.concatenate([first, second], axis=2)
    np.testing.assert_array_equal(_voxels(server, "two", "seg", (0, 0, 0), both.shape), both)
    assert _info(server, "two", "seg")["Extents"] == {"MinPoint": [0, 0, 0], "MaxPoint": [104, 49, 39]}
    label = int(np.unique(both)[1])
    assert _size(server, "two", "seg", label) == (both == label).sum()


def test_grey_over_http(server: Server, tmp_path: Path) -> None:
    array = _sample((70, 80, 90), "uint8")
    _ingest(_npy(tmp_path, array), "--to", "grey/em", *_over(server))
    assert _info(server, "grey", "em")["Base"]["TypeName"] == "uint8blk"
    assert _info(server, "grey", "em")["Extents"]["MaxPoint"] == [89, 79, 69]
    np.testing.assert_array_equal(_voxels(server, "grey", "em", (0, 0, 0), array.shape), array)


def test_a_second_run_has_nothing_left_to_do_unless_told(server: Server, tmp_path: Path) -> None:
    array = _sample((64, 64, 64), "uint64")
    command = [_npy(tmp_path, array), "--to", "again/seg", *_over(server)]
    assert "1 slabs written" in _ingest(*command)
    assert "nothing left to do" in _ingest(*command)
    assert "1 slabs written" in _ingest(*command, "--no-resume")
    label = int(np.unique(array)[1])
    assert _size(server, "again", "seg", label) == (array == label).sum()


def test_refusals_are_one_line(server: Server, tmp_path: Path) -> None:
    path = _npy(tmp_path, _sample((8, 8, 8), "uint64"))
    for arguments, reason in [
        (["--to", "nobody/seg", "--server", server.url], "only an administrator may make it"),
        (["--to", "0123456789abcdef0123456789abcdef/seg", *_over(server)], "there is no version"),
        (["--to", "x/seg", "--server", "http://127.0.0.1:1/"], "does not answer"),
        (["--to", "x/seg", "--store", "ftp://x"], "scheme"),
    ]:
        said = _ingest(path, *arguments, status=1)
        assert reason in said
        assert len(said.strip().splitlines()) == 1
    _ingest(path, "--to", "typed/seg", *_over(server))
    assert "is a labelmap, not a uint8blk" in _ingest(
        _npy(tmp_path, _sample((8, 8, 8), "uint8")), "--to", "typed/seg", *_over(server), status=1
    )


@pytest.mark.parametrize("dtype", ["uint32", "uint8"])
def test_straight_into_a_store(shared_url: str, tmp_path: Path, dtype: str) -> None:
    array = _sample((70, 100, 150), dtype)
    store = shared_url
    to = ["--to", "direct/volume", "--store", store, "--durability", "process", "--offset", "3,4,5", "--slab", "1"]
    command = [_npy(tmp_path, array), *to]
    assert "voxels as" in _ingest(*command)
    assert "nothing left to do" in _ingest(*command)
    with running(store) as server:
        np.testing.assert_array_equal(_voxels(server, "direct", "volume", (3, 4, 5), array.shape), array)
        assert _info(server, "direct", "volume")["Extents"] == {"MinPoint": [3, 4, 5], "MaxPoint": [152, 103, 74]}
        if dtype == "uint32":
            label = int(np.unique(array)[5])
            assert _size(server, "direct", "volume", label) == (array == label).sum()


def test_a_locked_version_is_refused_in_the_store_too(tmp_path: Path) -> None:
    store, path = str(tmp_path / "store"), _npy(tmp_path, _sample((8, 8, 8), "uint64"))
    _ingest(path, "--to", "locked/seg", "--store", store)
    with running(store) as server:
        client = Client(server.url, ADMIN)
        client.json("POST", f"/api/node/{_root(server, 'locked')}/commit", {"note": "done"})
    assert "is locked" in _ingest(path, "--to", "locked/seg", "--store", store, status=1)


@pytest.mark.parametrize("form", ["sharded", "zarr3"])
def test_images_are_published_in_any_store(shared_url: str, tmp_path: Path, form: str) -> None:
    array = np.random.default_rng(3).integers(0, 255, (70, 150, 130), np.uint8)
    to = ["--to", "pub/em", "--store", shared_url, "--publish", "--form", form, "--slab", "2"]
    said = _ingest(_npy(tmp_path, array), *to)
    assert f"pub/em publishes {shared_url.partition('?')[0]}/published/" in said
    with running(shared_url) as server:
        np.testing.assert_array_equal(_voxels(server, "pub", "em", (0, 0, 0), array.shape), array)


@pytest.mark.parametrize("form", ["precomputed", "sharded", "zarr3"])
def test_published_images_have_scales_and_are_served(tmp_path: Path, form: str) -> None:
    array = np.random.default_rng(3).integers(0, 255, (70, 150, 300), np.uint8)
    store = str(tmp_path / "store")
    to = ["--to", "pub/em", "--store", store, "--publish", "--form", form, "--voxel-size", "8,8,16", "--slab", "2"]
    said = _ingest(_npy(tmp_path, array), *to)
    assert "pub/em publishes file://" in said
    assert "has data named em already" in _ingest(_npy(tmp_path, array), *to, status=1)
    url = said.split()[-1]
    scale = url + ("/s1/|zarr3:" if form == "zarr3" else "/|neuroglancer-precomputed:")
    if form == "zarr3":
        coarse = ts.open(scale).result()
    else:
        spec = {"driver": "neuroglancer_precomputed", "kvstore": url, "scale_index": 1}
        coarse = ts.open(spec).result()[ts.d["channel"][0]].T
    # The planes are twice as far apart, so the first reduction leaves them.
    np.testing.assert_allclose(
        coarse[...].read().result(), array.reshape(70, 75, 2, 150, 2).mean(axis=(2, 4)), atol=0.51
    )
    with running(store) as server:
        np.testing.assert_array_equal(_voxels(server, "pub", "em", (0, 0, 0), array.shape), array)
        assert _info(server, "pub", "em")["Extended"]["VoxelSize"] == [8, 8, 16]


# ------------------------------------------------------------------ interrupted


def _killed(command: list[str], records: Path, environment: dict[str, str]) -> int:
    """Start an ingest, kill it when some slabs are recorded, and return how many."""
    process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for record in records.glob("*.json"):
            done = json.loads(record.read_text())["done"]
            if done:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return sum(last - first + 1 for first, last in done)
        time.sleep(0.01)
    process.kill()
    raise AssertionError("the ingest ended before it could be killed")


@pytest.mark.parametrize("way", ["http", "store"])
def test_a_killed_ingest_goes_on_and_counts_nothing_twice(tmp_path: Path, way: str) -> None:
    array = _sample((192, 192, 256), "uint64")
    store, path = str(tmp_path / "store"), _npy(tmp_path, array)
    state = tmp_path / "state"
    ingest = [path, "--to", "killed/seg", "--slab", "2", "--jobs", "2"]
    python = [sys.executable, "-m", "app.cli", "ingest", "--quiet"]
    slabs = 3 * 3 * 4

    def check(server: Server) -> None:
        np.testing.assert_array_equal(_voxels(server, "killed", "seg", (0, 0, 0), array.shape), array)
        for label in np.unique(array)[1:30]:
            assert _size(server, "killed", "seg", label) == (array == label).sum()

    if way == "store":
        into = ["--store", store, "--durability", "process"]
        done = _killed([*python, *ingest, *into], Path(store) / "ingest", {})
        said = _ingest(*ingest, *into)
        with running(store) as server:
            check(server)
    else:
        with running(store, "--durability", "process") as server:
            into = _over(server)
            environment = {"XDG_STATE_HOME": str(state)}
            done = _killed([*python, *ingest, *into], state / "dvid-cloud" / "ingest", environment)
            said = _ingest(*ingest, *into)
            check(server)
    written = int(said.split(",")[-1].split()[0])
    assert 0 < done <= slabs - written


# ------------------------------------------------------------------ a server that is busy


class _Moody(http.server.BaseHTTPRequestHandler):
    """Answers as it is told, in turn: a status, or None to hang up."""

    protocol_version = "HTTP/1.1"
    moods: list[int | None]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        mood = self.moods.pop(0)
        if mood is None:
            self.close_connection = True
            return
        body = b'"ok"' if mood == 200 else b"not now"
        self.send_response(mood)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def moody() -> Iterator[tuple[str, type[_Moody]]]:
    handler = type("Handler", (_Moody,), {"moods": [], "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.ingest.over_http.PAUSE_SECONDS", 0.0)


def test_a_busy_server_is_asked_again(moody: tuple[str, type[_Moody]]) -> None:
    url, handler = moody
    handler.moods = [503, 429, None, 504, 200]
    assert Client(url).json("GET", "/x") == "ok"
    assert len(handler.asked) == 5


def test_patience_ends(moody: tuple[str, type[_Moody]]) -> None:
    url, handler = moody
    handler.moods = [503] * 4
    with pytest.raises(StoreUnavailable, match="503 not now"):
        Client(url, attempts=4).call("GET", "/x")
    with pytest.raises(StoreUnavailable, match="does not answer"):
        Client("http://127.0.0.1:1", attempts=2).call("GET", "/x")


def test_refusals_are_not_repeated_and_some_requests_go_out_once(moody: tuple[str, type[_Moody]]) -> None:
    url, handler = moody
    handler.moods = [400, 401, 503]
    with pytest.raises(Invalid, match="400 not now"):
        Client(url).call("GET", "/x")
    with pytest.raises(NeedsAdmin):
        Client(url).call("GET", "/x")
    with pytest.raises(StoreUnavailable):
        Client(url).call("GET", "/x", once=True)
    assert len(handler.asked) == 3


def test_the_token_goes_only_where_it_is_needed(moody: tuple[str, type[_Moody]]) -> None:
    url, handler = moody
    handler.moods = [200, 200]
    client = Client(url, "secret")
    client.call("GET", "/x", a="b c")
    client.call("GET", "/x", admin=True)
    assert [urllib.parse.urlsplit(path).query for path in handler.asked] == ["a=b+c", "admintoken=secret"]

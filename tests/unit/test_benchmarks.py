"""The benchmarks: their HTTP reader, decoders, volumes and tables, and a whole run against a tiny server."""

from __future__ import annotations

import gzip
import json
import re
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import decode, report
from benchmarks.client import AnswerReader, Server, Target, drive
from benchmarks.measure import measure
from benchmarks.trivial import ceiling
from benchmarks.volumes import DATA, Volume, synthetic_labels, to_cube
from benchmarks.workloads import WORKLOADS

EDGE = 128


# ---------------------------------------------------------------- reading answers

ANSWERS = {
    "length": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, 5),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, 0),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, 0),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, 1),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n00A;x=1\r\n0123456789\r\n3\r\n\r\n\r\r\n0\r\n\r\n",
        200,
        18,
    ),
    "trailer": (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\nX: y\r\n\r\n", 500, 2),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 10_000])
def test_an_answer_is_followed_however_it_is_cut(name: str, piece: int) -> None:
    data, status, size = ANSWERS[name]
    reader = AnswerReader()
    for start in range(0, len(data), piece):
        assert not reader.done
        part = data[start : start + piece]
        assert reader.feed(part, 0, len(part)) == len(part)
    assert (reader.done, reader.status, reader.size) == (True, status, size)


def test_the_reader_stops_at_the_end_of_one_answer() -> None:
    data = ANSWERS["chunks"][0] + b"HTTP/1.1 "
    reader = AnswerReader()
    assert reader.feed(data, 0, len(data)) == len(data) - 9


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    data = b"HTTP/1.1 200 OK\r\n\r\nabc"
    reader = AnswerReader()
    reader.feed(data, 0, len(data))
    assert (reader.done, reader.closed(), reader.size) == (False, True, 3)


def test_an_answer_cut_short_is_not_complete() -> None:
    reader = AnswerReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", 0, 41)
    assert not reader.closed()


def test_only_plain_http_is_taken() -> None:
    assert Target.parse("http://[::1]:80/dvid/") == Target("::1", 80, "/dvid")
    assert Target.parse("somewhere:8000") == Target("somewhere", 8000)
    with pytest.raises(ValueError, match="https"):
        Target.parse("https://somewhere")


# ---------------------------------------------------------------- decoders and volumes


def test_segmentation_is_read_as_its_package_writes_it() -> None:
    package = pytest.importorskip("compressed_segmentation")
    labels = synthetic_labels(64, 12).astype(np.uint64) << np.uint64(20)
    stream = package.compress(np.asfortranarray(labels.transpose(2, 1, 0)), order="F", block_size=(8, 8, 8))
    assert np.array_equal(decode.gzipped_segmentation(gzip.compress(bytes(stream)), 64), labels)


def test_a_solid_label_block() -> None:
    assert np.array_equal(decode.label_block(solid_block(2**40)), np.full((64, 64, 64), 2**40, np.uint64))


def test_a_label_block_of_dvid() -> None:
    block, voxels = DATA / "fib19-64x64x64-sample1-block.dat.gz", DATA / "fib19-64x64x64-sample1.dat.gz"
    if not block.is_file():
        pytest.skip("the real data are not beside the repository")
    want = decode.raw_labels(gzip.decompress(voxels.read_bytes()), 64)
    assert np.array_equal(decode.label_block(gzip.decompress(block.read_bytes())), want)


def test_halving_takes_the_majority_but_never_the_background() -> None:
    eight = np.array([[0, 0, 0, 0, 0, 9, 9, 4], [5, 5, 3, 3, 7, 7, 1, 2], [0] * 8], np.uint64)
    halved = [int(decode.half(voxels.reshape(2, 2, 2))[0, 0, 0]) for voxels in eight]
    assert halved == [9, 3, 0]


def test_a_small_volume_is_filled_up_with_mirror_images() -> None:
    small = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    cube = to_cube(small, 8)
    assert cube[0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert np.array_equal(cube[5:2:-1, 2::-1, :3][:, ::-1], small)
    assert np.array_equal(to_cube(small, 2), small[:2, :2, :2])


def test_synthetic_labels_are_the_same_every_time() -> None:
    labels = synthetic_labels(64)
    assert np.array_equal(labels, synthetic_labels(64))
    assert len(np.unique(labels)) > 8


def test_a_given_volume_wins_over_the_synthetic_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", labels=np.full((8, 8, 8), 3, np.uint32))
    volume = Volume(tmp_path / "mine.npz", folder=tmp_path, edge=64)
    assert (volume.label_source, volume.grey_source) == ("mine.npz", "synthetic")
    assert volume.sizes == {3: 64**3}


# ---------------------------------------------------------------- tables


def run_of(**rates: float) -> dict[str, Any]:
    results = {
        name: {"rate": rate, "required": 5, "unit": "requests/s", "errors": 0, "check": "ok"}
        for name, rate in rates.items()
    }
    client = {"connections": 8, "seconds": 5.0, "loop": "uvloop"}
    return {"note": "", "results": results, "volume": {"labels": "x", "grey": "y", "edge": 512}, "client": client}


def test_every_run_is_divided_by_the_last() -> None:
    runs = [("fsync", run_of(a=40.0)), ("no fsync", run_of(a=60.0)), ("DVID", run_of(a=10.0, b=1.0))]
    runs[0][1]["client"] = {**runs[0][1]["client"], "seconds": 1.0}
    lines = report.comparison(runs).splitlines()
    assert lines[0].split("  ")[-1].strip() == "reached"
    assert re.split(r"\s{2,}", lines[2].strip()) == ["a", "requests/s", "40", "60", "10", "4.00", "6.00", "5", "no/yes"]
    assert re.split(r"\s{2,}", lines[3].strip()) == ["b", "requests/s", "-", "-", "1", "-", "-", "5", "no/no"]
    assert lines[4].startswith("Not the same seconds")


def test_compare_reads_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rate in (("ours", 12.0), ("dvid", 2.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps(run_of(a=rate)))
    assert command.main(["compare", str(tmp_path / "ours.json"), str(tmp_path / "dvid.json")]) == 0
    assert "ours / dvid" in capsys.readouterr().out
    assert command.main(["compare", str(tmp_path / "ours.json")]) == 2


# ---------------------------------------------------------------- against servers


def solid_block(label: int) -> bytes:
    return struct.pack("<4IQ", 8, 8, 8, 1, label)


class Tiny(BaseHTTPRequestHandler):
    """Enough of DVID for what the tests below run; holds whole volumes in memory."""

    protocol_version = "HTTP/1.1"
    instances: dict[str, dict[str, Any]]
    broken = False

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(self.found())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path, _, query = self.path.partition("?")
        if path == "/api/repos":
            assert query == "admintoken=golden"
            self.reply(b'{"root": "abc"}')
        elif path.endswith("/instance"):
            name = json.loads(body)["dataname"]
            self.instances[name] = {
                "keys": {},
                "voxels": np.zeros((EDGE, EDGE, EDGE), "<u8" if "label" in name else "u1"),
            }
            self.reply(b"")
        elif "/key/" in path:
            self.instances[path.split("/")[4]]["keys"][path.split("/")[-1]] = body
            self.reply(b"")
        else:
            self.store(path, lz4.block.decompress(body, EDGE * EDGE * 64 * 8) if "lz4" in query else body)
            self.reply(b"")

    def store(self, path: str, body: bytes) -> None:
        voxels = self.instances[path.split("/")[4]]["voxels"]
        z = int(path.rsplit("_", 1)[1])
        voxels[z : z + 64] = np.frombuffer(body, voxels.dtype).reshape(64, EDGE, EDGE)

    def found(self) -> bytes | None:
        path, _, query = self.path.partition("?")
        if path == "/api/server/info":
            return b'{"DVID Version": "tiny"}'
        if path == "/api/repos/info":
            return json.dumps({"abc": {"DataInstances": dict.fromkeys("1234")}}).encode()
        held = self.instances[path.split("/")[4]]
        if "/key/" in path:
            return held["keys"].get(path.split("/")[-1])
        if path.endswith("/sizes"):
            labels, counts = np.unique(held["voxels"], return_counts=True)
            sizes = dict(zip(labels.tolist(), counts.tolist(), strict=True))
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            return json.dumps([sizes.get(label, 0) for label in asked]).encode()
        x, y, z = map(int, path.split("/")[-1].split("_"))
        size = int(path.split("/")[-2].split("_")[0])
        voxels = decode.half(held["voxels"]) if "scale=1" in query else held["voxels"]
        data = np.ascontiguousarray(voxels[z : z + size, y : y + size, x : x + size]).tobytes()
        return lz4.block.compress(data, store_size=False) if "lz4" in query else data

    def reply(self, data: bytes | None) -> None:
        data = b"x" * len(data) if data and self.broken and "raw" in self.path else data
        self.send_response(200 if data is not None else 404)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")


@pytest.fixture
def tiny() -> Iterator[tuple[Server, type[Tiny]]]:
    handler = type("Handler", (Tiny,), {"instances": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Server(Target("127.0.0.1", server.server_port), "golden"), handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return Volume(folder=tmp_path_factory.mktemp("nothing"), edge=EDGE)


@pytest.mark.parametrize(
    "name",
    [
        "repos-info",
        "keyvalue-get",
        "keyvalue-post",
        "label-chunk-octets",
        "label-256-lz4",
        "label-ingest",
        "grey-64-octets",
    ],
)
def test_a_workload_against_a_tiny_server(tiny: tuple[Server, type[Tiny]], volume: Volume, name: str) -> None:
    result = measure(WORKLOADS[name], tiny[0], volume, 0.2, 2)
    assert (result["check"], result["errors"], result["error_samples"]) == ("ok", 0, {})
    assert result["rate"] > 0
    assert result["p50_ms"] <= result["p99_ms"]


def test_wrong_voxels_are_found(tiny: tuple[Server, type[Tiny]], volume: Volume) -> None:
    tiny[1].broken = True
    result = measure(WORKLOADS["grey-64-octets"], tiny[0], volume, 0.1, 1)
    assert result["check"].startswith("wrong: voxels")


def test_what_a_server_refuses_is_counted(tiny: tuple[Server, type[Tiny]]) -> None:
    tiny[1].instances["kv"] = {"keys": {"a": b"1"}}
    target = tiny[0].target
    requests = [target.request("GET", f"/api/node/abc/kv/key/{key}") for key in "aba"]
    outcome = drive(target, requests, 1)
    assert (outcome.answered, outcome.errors) == (2, {"404": 1})


def test_a_server_that_is_not_there() -> None:
    outcome = drive(Target("127.0.0.1", 1), [(b"",)], 1, seconds=0.1, patience=5)
    assert outcome.answered == 0
    assert outcome.failed


def test_a_run_keeps_its_figures(
    tiny: tuple[Server, type[Tiny]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trivial: Callable[..., object] = lambda connections, seconds: ceiling(connections, 0.1)  # noqa: E731
    monkeypatch.setattr(command, "ceiling", trivial)
    base = f"http://127.0.0.1:{tiny[0].target.port}"
    arguments = ["run", base, "--only", "repos-info", "--seconds", "0.1", "--admin", "golden", "--note", "first"]
    assert command.main([*arguments, "--json", str(tmp_path / "run.json")]) == 0
    kept = json.loads((tmp_path / "run.json").read_text())
    assert (kept["note"], kept["server"], list(kept["results"])) == ("first", "tiny", ["repos-info"])
    assert kept["client"]["ceiling"]["requests_per_second"] > 100
    assert "golden" not in json.dumps(kept)
    assert "repos-info" in capsys.readouterr().out

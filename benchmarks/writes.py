"""What does an edit write? `python -m benchmarks.writes FOLDER` prints bytes and objects for each kind of edit.

A store is made in the folder, in this process: a labelmap with millions of index entries of random supervoxels, some
of whose blocks are there. After every edit the objects of the folder are compared with those before it. What edits have
appended to the journal is stored once many of them wait: what that writes is shown as a share of each edit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np

from app import bootstrap
from app.datatypes.labelmap import keys
from app.routes.service import Service
from app.settings import Settings
from app.versioning.log import Record
from app.versioning.mutations import Mutation
from benchmarks import report

ENTRIES, PER_SUPERVOXEL = 10_000_000, 5
LARGE = 10_000
REPEATS = 20
#: So many overwrites that the index is folded at least once: 1,024 rows wait after each.
OVERWRITES, SETTLE_SECONDS = 150, 0.05
#: Index entries written in one transaction while the store is made.
TOGETHER = 250_000
SIDE = 64
ADMIN = "writes"

#: What each kind of edit may write, in bytes on average and objects at most.
ALLOWED = {
    "merge two small bodies": (500_000, 3),
    "merge small into large": (500_000, 3),
    "merge large into small": (500_000, 3),
    "cleave one supervoxel": (500_000, 3),
    "renumber": (500_000, 3),
    "storing them later, each": (500_000, None),
    "overwrite 8 blocks": (4_000_000, None),
}


class Client:
    """A service in this process, asked without a network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = Settings(store=str(folder), durability="process", admin_token=ADMIN)  # type: ignore[arg-type]
        self.service: Service = bootstrap.build(settings)
        self.data = ""

    async def post(self, path: str, body: bytes) -> bytes:
        """Send a request below the data, or below the server if it begins with a slash."""
        raw, _, query = (path if path.startswith("/") else f"{self.data}/{path}").partition("?")
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": raw, "raw_path": raw.encode(), "headers": []}
        await self.service({**scope, "query_string": query.encode(), "http_version": "1.1"}, receive, send)
        answer: bytes = b"".join(message.get("body", b"") for message in sent)
        if sent[0]["status"] != 200:
            raise RuntimeError(f"POST {path}: {sent[0]['status']} {answer[:200].decode()}")
        return answer

    async def written(self, path: str, body: bytes) -> tuple[int, int, bytes]:
        """Bytes and objects that a request wrote, and its answer."""
        before = self.objects()
        answer = await self.post(path, body)
        return *self.since(before), answer

    def since(self, before: dict[str, tuple[int, int, int]]) -> tuple[int, int]:
        """Bytes and objects that are new, or not as they were; of a file that has grown, what was appended."""
        changed = []
        for name, (size, inode, when) in self.objects().items():
            was = before.get(name, (0, 0, 0))
            if was != (size, inode, when):
                changed.append(size - was[0] if inode == was[1] and size > was[0] else size)
        return sum(changed), len(changed)

    def objects(self) -> dict[str, tuple[int, int, int]]:
        """The size of each object, its inode, and when it was written."""
        found = {}
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.name.endswith(".lock"):
                state = path.stat()
                found[str(path)] = state.st_size, state.st_ino, state.st_mtime_ns
        return found


async def make(client: Client, entries: int, rng: np.random.Generator) -> np.ndarray:
    """Fill the store; return the supervoxels, ascending."""
    await client.service.startup()
    root = json.loads(await client.post(f"/api/repos?admintoken={ADMIN}", b'{"alias": "writes"}'))["root"]
    settings = {"typename": "labelmap", "dataname": "labels", "BlockSize": "64,64,64"}
    await client.post(f"/api/repo/{root}/instance", json.dumps(settings).encode())
    client.data = f"/api/node/{root}/labels"
    supervoxels = np.unique(rng.integers(1, 1 << 47, entries // PER_SUPERVOXEL, dtype=np.uint64))
    data = await client.service.datastore.data(root, "labels")
    each = TOGETHER // PER_SUPERVOXEL
    for start in range(0, len(supervoxels), each):
        some = np.repeat(supervoxels[start : start + each], PER_SUPERVOXEL)
        # a supervoxel's blocks lie along a line, behind those that the edits overwrite
        first = np.repeat(rng.integers(100, 4000, (len(some) // PER_SUPERVOXEL, 3)), PER_SUPERVOXEL, axis=0)
        places = first + np.tile(np.arange(PER_SUPERVOXEL), len(some) // PER_SUPERVOXEL)[:, None] * [0, 0, 1]
        part = keys.Counts(some, places, rng.integers(1, 60_000, len(some)).astype(np.uint32))

        async def change(mutation: Mutation, part: keys.Counts = part) -> None:
            for key in part.to_keys():
                mutation.put(key, b"")
            mutation.record(Record("synthetic", data.home.uuid))

        await data.mutate(change)
    await client.post(f"maxlabel/{int(supervoxels[-1])}?admintoken={ADMIN}", b"")
    return supervoxels


async def measure(client: Client, supervoxels: np.ndarray, large: int, rng: np.random.Generator) -> dict[str, Any]:
    """Bytes and objects of each edit, in lists by its kind."""
    found: dict[str, list[tuple[int, int]]] = {kind: [] for kind in ALLOWED}
    order = iter(supervoxels[rng.permutation(len(supervoxels))].tolist())

    async def note(kind: str, path: str, body: Any) -> bytes:
        *sizes, answer = await client.written(path, body if isinstance(body, bytes) else json.dumps(body).encode())
        found[kind].append((sizes[0], sizes[1]))
        return answer

    for _ in range(REPEATS):
        await note("merge two small bodies", "merge", [next(order), next(order)])
    body = next(order)
    await client.post("merge", json.dumps([body, *(next(order) for _ in range(large - 1))]).encode())
    name = int(supervoxels[-1])
    for _ in range(REPEATS):
        small, into, name = next(order), next(order), name + 1
        await note("merge small into large", "merge", [body, small])
        await note("cleave one supervoxel", f"cleave/{body}", [small])
        await note("merge large into small", "merge", [into, body])
        start = json.loads(await client.post("nextlabel/1", b""))["start"]
        await note("renumber", "renumber", [start, into])
        body = start
    edits = sum(map(len, found.values()))
    before = client.objects()
    await client.post(f"{client.data.rpartition('/')[0]}/commit", b"{}")
    found["storing them later, each"].append((client.since(before)[0] // edits, client.since(before)[1]))
    child = json.loads(await client.post(f"{client.data.rpartition('/')[0]}/newversion", b"{}"))["child"]
    client.data = f"/api/node/{child}/labels"
    paths = [f"raw/0_1_2/128_128_128/0_0_{128 * place}?compression=lz4&mutate=true" for place in range(OVERWRITES)]
    for path in paths:
        await client.post(path, box(supervoxels, rng))
    for path in paths:
        before = client.objects()
        await client.post(path, box(supervoxels, rng))
        await asyncio.sleep(SETTLE_SECONDS)  # with what the server does behind its answer, such as folding the index
        found["overwrite 8 blocks"].append(client.since(before))
    return found


def box(supervoxels: np.ndarray, rng: np.random.Generator) -> bytes:
    """Eight blocks, each with 64 supervoxels drawn at random from all, as one raw LZ4 block."""
    drawn = rng.choice(supervoxels, (8, 8, 8))
    voxels = drawn.repeat(16, 0).repeat(16, 1).repeat(16, 2)
    return lz4.block.compress(voxels.tobytes(), store_size=False)


def table(found: dict[str, list[tuple[int, int]]]) -> tuple[str, bool]:
    """The figures, and whether all are within what is allowed."""
    rows, is_good = [], True
    for kind, edits in found.items():
        sizes, objects = np.array(edits).T
        most_bytes, most_objects = ALLOWED[kind]
        good = sizes.mean() <= most_bytes and (most_objects is None or objects.max() <= most_objects)
        is_good &= bool(good)
        figures = [f"{value / 1e3:,.1f}" for value in (sizes.mean(), np.median(sizes), sizes.max())]
        allowed = f"{most_bytes / 1e3:,.0f} KB" + (f", {most_objects} objects" if most_objects else "")
        rows.append([kind, *figures, f"{objects.mean():.1f}", str(objects.max()), allowed, "yes" if good else "NO"])
    head = ["edit", "mean KB", "median KB", "most KB", "mean objects", "most objects", "allowed", "reached"]
    return report.table(head, rows), is_good


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.writes", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="an empty folder, or none yet")
    parser.add_argument("--entries", type=int, default=ENTRIES, metavar="N", help=f"of the label index ({ENTRIES:,})")
    parser.add_argument("--large", type=int, default=LARGE, metavar="N", help=f"members of the large body ({LARGE})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    parser.add_argument("--keep", action="store_true", help="leave the folder there")
    options = parser.parse_args(arguments)
    if options.folder.exists() and any(options.folder.iterdir()):
        print(f"{options.folder} is not empty", file=sys.stderr)
        return 2

    async def work() -> dict[str, list[tuple[int, int]]]:
        client, rng, since = Client(options.folder), np.random.default_rng(20130501), time.perf_counter()
        supervoxels = await make(client, options.entries, rng)
        print(f"  {options.entries:,} entries in {time.perf_counter() - since:.0f} s", file=sys.stderr, flush=True)
        try:
            return await measure(client, supervoxels, min(options.large, len(supervoxels) // 4), rng)
        finally:
            await client.service.shutdown()

    found = asyncio.run(work())
    text, is_good = table(found)
    print(text)
    if options.json:
        options.json.write_text(json.dumps({"entries": options.entries, "edits": found}, indent=1) + "\n")
    if not options.keep:
        shutil.rmtree(options.folder)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())

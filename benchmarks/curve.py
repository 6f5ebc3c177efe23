"""How does the time of an edit grow with the body? `python -m benchmarks.curve run URL` and `… plot FILE.json …`.

One body grows from 1 supervoxel to 100,000. At each size one supervoxel is merged into it, cleaved from it again, and
the body is merged into one of a single supervoxel. Labels are synthetic: every sub-block of 8×8×8 voxels is one.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.client import Server, Target, Unanswered

SIZES = [1, 10, 100, 1_000, 10_000, 100_000]
REPEATS = 15
#: Supervoxels of a block, blocks along x and y of the volume, blocks posted at once, supervoxels merged at once.
PER_BLOCK, ROW, TOGETHER, GROWTH = 512, 16, 64, 20_000
EDITS = {
    "merge small into large": "one supervoxel merged into the body",
    "merge large into small": "the body merged into one of one supervoxel",
    "cleave": "one supervoxel cleaved from the body",
}

Curve = dict[str, Any]


def block(first: int) -> bytes:
    """A compressed label block of 64³ whose sub-blocks are labels from `first` on."""
    labels = np.arange(first, first + PER_BLOCK, dtype="<u8")
    indices = np.arange(PER_BLOCK, dtype="<u4")
    return struct.pack("<4I", 8, 8, 8, PER_BLOCK) + labels.tobytes() + b"\1\0" * PER_BLOCK + indices.tobytes()


def gzipped(data: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def load(server: Server, supervoxels: int) -> str:
    """Make a repo with so many supervoxels, 1 and up; return the path of its data."""
    root = json.loads(server.post(server.create_repos_path(), b'{"alias": "benchmark curve"}'))["root"]
    settings = {"typename": "labelmap", "dataname": "labels", "BlockSize": "64,64,64"}
    server.post(f"/api/repo/{root}/instance", json.dumps(settings).encode())
    data = f"/api/node/{root}/labels"
    blocks = -(-supervoxels // PER_BLOCK)
    for start in range(0, blocks, TOGETHER):
        parts = []
        for number in range(start, min(start + TOGETHER, blocks)):
            payload = gzipped(block(1 + number * PER_BLOCK))
            place = number % ROW, number // ROW % ROW, number // ROW**2
            parts += [struct.pack("<4i", *place, len(payload)), payload]
        server.post(f"{data}/blocks", b"".join(parts))
    last = blocks * PER_BLOCK
    while json.loads(server.get(f"{data}/sizes", f"[1, {last}]".encode())) != [512, 512]:
        time.sleep(0.1)  # DVID answers before its index is complete
    return data


def run(server: Server, sizes: Sequence[int], repeats: int) -> Curve:
    """Time edits at each size: seconds, sorted."""
    most = max(sizes)
    data = load(server, most + 2 * repeats * len(sizes) + 1)
    free = list(range(most + 1, most + 1 + 2 * repeats * len(sizes)))
    body, members = 1, 1
    found: Curve = {"sizes": list(sizes), "edits": {edit: [] for edit in EDITS}}
    grown = 2  # the next supervoxel that joins
    for size in sizes:
        while members < size:
            more = min(size - members, GROWTH)
            server.post(f"{data}/merge", json.dumps([body, *range(grown, grown + more)]).encode())
            members, grown = members + more, grown + more
        times: dict[str, list[float]] = {edit: [] for edit in EDITS}
        for _ in range(repeats):
            small, into = free.pop(), free.pop()
            times["merge small into large"].append(_timed(server, f"{data}/merge", [body, small]))
            times["cleave"].append(_timed(server, f"{data}/cleave/{body}", [small]))
            times["merge large into small"].append(_timed(server, f"{data}/merge", [into, body]))
            body, members = into, members + 1
        for edit, taken in times.items():
            found["edits"][edit].append(sorted(taken))
        print(f"  {size:,} supervoxels …", file=sys.stderr, flush=True)
    voxels = json.loads(server.get(f"{data}/size/{body}"))["voxels"]
    found["check"] = "ok" if voxels == 512 * members else f"the body has {voxels} voxels, not {512 * members}"
    return found


def _timed(server: Server, path: str, labels: list[int]) -> float:
    body, since = json.dumps(labels).encode(), time.perf_counter()
    server.post(path, body)
    return time.perf_counter() - since


def table(curve: Curve) -> str:
    """Median and 90th percentile in milliseconds, and how much the last size costs more than the second."""
    head = ["supervoxels", *(f"{edit} ms (p90)" for edit in EDITS)]
    rows = []
    for i, size in enumerate(curve["sizes"]):
        cells = []
        for edit in EDITS:
            p50, p90 = np.percentile(curve["edits"][edit][i], [50, 90]) * 1e3
            cells.append(f"{report.number(p50)} ({report.number(p90)})")
        rows.append([f"{size:,}", *cells])
    growth = [f"{np.median(curve['edits'][edit][-1]) / np.median(curve['edits'][edit][0]):.2f}" for edit in EDITS]
    return report.table(head, [*rows, ["last / first", *growth]])


def plot(curves: Sequence[tuple[str, Curve]], path: Path) -> None:
    """Draw medians, with the middle half shaded, for each server; one panel for each kind of edit."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot, ticker

    figure, panels = pyplot.subplots(1, len(EDITS), figsize=(13, 4.2), sharey=True, constrained_layout=True)
    for panel, (edit, meaning) in zip(panels, EDITS.items(), strict=True):
        for title, curve in curves:
            low, middle, high = (
                np.array([np.percentile(taken, q) for taken in curve["edits"][edit]]) * 1e3 for q in (25, 50, 75)
            )
            (line,) = panel.loglog(curve["sizes"], middle, marker="o", markersize=4, label=title)
            panel.fill_between(curve["sizes"], low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        panel.set_title(meaning, fontsize=10)
        panel.set_xlabel("supervoxels of the body")
        panel.grid(True, which="major", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panel.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(ticker.NullFormatter())
    panels[0].set_ylabel("milliseconds, one client")
    panels[-1].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curve", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    timed = commands.add_parser("run", help="time a server")
    timed.add_argument("url", metavar="URL")
    timed.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="ascending")
    timed.add_argument("--repeats", type=int, default=REPEATS, metavar="N", help=f"at each size ({REPEATS})")
    timed.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    timed.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them (needs matplotlib)")
    timed.add_argument("--admin", default=os.environ.get("DVID_ADMIN_TOKEN"), metavar="TOKEN", help="to create repos")
    timed.add_argument("--note", default="", metavar="TEXT", help="label of this run")
    drawn = commands.add_parser("plot", help="draw several runs together")
    drawn.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    drawn.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    options = parser.parse_args(arguments)
    if options.command == "plot":
        curves = [(path, json.loads(path.read_text())) for path in options.files]
        plot([(curve["note"] or path.stem, curve) for path, curve in curves], options.out)
        return 0
    try:
        curve = run(Server(Target.parse(options.url), options.admin), sorted(options.sizes), options.repeats)
    except Unanswered as error:
        print(error, file=sys.stderr)
        return 2
    curve |= {"note": options.note, "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    print(table(curve))
    if options.json:
        options.json.write_text(json.dumps(curve, indent=1) + "\n")
    if options.plot:
        plot([(options.note or options.url, curve)], options.plot)
    if curve["check"] != "ok":
        print(curve["check"], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

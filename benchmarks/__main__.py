"""`python -m benchmarks run URL` and `python -m benchmarks compare OURS.json … BASE.json`."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.client import Server, Target, Unanswered, loop_name
from benchmarks.measure import measure
from benchmarks.registry import WORKLOADS
from benchmarks.trivial import ceiling
from benchmarks.volumes import Volume


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="time a server")
    run.add_argument("url", metavar="URL")
    run.add_argument("--only", nargs="+", metavar="NAME", choices=list(WORKLOADS), help=", ".join(WORKLOADS))
    run.add_argument("--seconds", type=float, default=10.0, help="for each workload (default 10)")
    run.add_argument("--connections", type=int, default=8, help="kept open at once (default 8)")
    run.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    run.add_argument("--admin", default=os.environ.get("DVID_ADMIN_TOKEN"), metavar="TOKEN", help="to create repos")
    run.add_argument("--volume", type=Path, metavar="PATH.npz", help="arrays `labels` and perhaps `em`, axes z, y, x")
    run.add_argument("--note", default="", metavar="TEXT", help="label of this run, such as 'fsync'")
    run.add_argument("--pid", type=int, metavar="PID", help="the server's process: tells its CPU time per request")
    compare = commands.add_parser("compare", help="set results side by side; the last file is the base")
    compare.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    options = parser.parse_args(arguments)
    return _compare(options.files) if options.command == "compare" else _run(options)


def _run(options: argparse.Namespace) -> int:
    server, volume = Server(Target.parse(options.url), options.admin), Volume(options.volume)
    try:
        about = json.loads(server.get("/api/server/info"))
    except Unanswered as error:
        print(error, file=sys.stderr)
        return 2
    run: report.Run = {
        "note": options.note,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "server": about.get("DVID Version"),
        "machine": {"cpus": os.cpu_count(), "system": platform.platform()},
        "volume": {"labels": volume.label_source, "grey": volume.grey_source, "edge": volume.edge},
        "client": {
            "connections": options.connections,
            "seconds": options.seconds,
            "loop": loop_name(),
            "python": platform.python_version(),
            "ceiling": ceiling(options.connections, 2.0),
        },
        "results": {},
    }
    print(report.preamble(run), flush=True)
    for name in options.only or WORKLOADS:
        print(f"  {name} …", file=sys.stderr, flush=True)
        run["results"][name] = measure(
            WORKLOADS[name], server, volume, options.seconds, options.connections, options.pid
        )
        if options.json:
            options.json.write_text(json.dumps(run, indent=1) + "\n")
    print(report.run_table(run))
    return 0 if all(_clean(result) for result in run["results"].values()) else 1


def _clean(result: report.Run) -> bool:
    return result["check"] == "ok" and not result["errors"]


def _compare(files: Sequence[Path]) -> int:
    if len(files) < 2:
        print("compare needs at least two files", file=sys.stderr)
        return 2
    runs = [json.loads(path.read_text()) for path in files]
    print(report.comparison([(run["note"] or path.stem, run) for path, run in zip(files, runs, strict=True)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The commands `dvid-cloud verify` and `dvid-cloud reindex`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TextIO

import click
import orjson

from app.bootstrap import open_datastore
from app.core.errors import Invalid
from app.core.work import Workers
from app.datatypes.labelmap.checks.repair import Repaired
from app.datatypes.labelmap.checks.repair import repair as repaired
from app.datatypes.labelmap.checks.report import EXAMPLES, Difference, Found, Report
from app.datatypes.labelmap.checks.verify import verify as verified
from app.settings import Settings
from app.versioning.datastore import Data, Datastore

_KINDS = {
    "blocks": "blocks that cannot be read",
    "index": "index entries that the voxels do not have so",
    "mapping": "supervoxels with an unclear body",
    "groups": "groups that do not hold together",
    "members": "members of groups that do not agree",
    "bodies": "bodies whose group is not found",
    "retired": "voxels of supervoxels that exist no more",
    "deltas": "waiting changes of the index",
    "turns": "notes about edits that readers follow",
    "max-label": "largest label too small",
    "next-label": "labels in use that may be given out as new",
    "extents": "blocks outside of the extents",
    "scales": "coarser blocks that are not the reduction of the finer ones",
}


def _of_store(command: Callable[..., None]) -> Callable[..., None]:
    """The options by which a command finds an instance in a store."""
    for option in reversed(
        [
            click.argument("where", metavar="REPO_OR_VERSION/INSTANCE"),
            click.option("--store", help="folder or URL: file://, gs://, s3://  [dvid-data]"),
            click.option("--catalog", help="URL of the catalog: a store's, or firestore://PROJECT  [in the store]"),
            click.option(
                "--durability", type=click.Choice(["power", "process"]), help="wait for fsync or not  [power]"
            ),
            click.option("--locked", is_flag=True, help="change the version although it is locked"),
            click.option("--jobs", type=click.IntRange(0, 256), default=0, help="threads  [one for each core]"),
            click.option("--quiet", is_flag=True, help="no progress bar"),
        ]
    ):
        command = option(command)
    return command


@click.command()
@_of_store
@click.option(
    "--json",
    "json_lines",
    type=click.File("w"),
    metavar="FILE",
    help="every difference as a line of JSON; - for the output",
)
@click.option("--repair", is_flag=True, help="rewrite what is wrong, then verify again")
def verify(where: str, json_lines: TextIO | None, repair: bool, **options: Any) -> None:
    """Compare a labelmap with its voxels: index, groups, coarser scales, counters.

    REPO_OR_VERSION is a repo's alias (the leaf of master), a UUID, or any other name of a version in URLs. Servers may
    go on meanwhile: one moment is looked at. The status is 1 if something is wrong and was not repaired.
    """

    async def work(data: Data, workers: Workers, progress: Bars) -> Report:
        report = await verified(data, workers, progress, _listener(json_lines))
        if repair and not report.is_clean:
            _tell(report, json_lines)
            _say(await repaired(data, workers, progress, by_admin=options["locked"]), json_lines)
            report = await verified(data, workers, progress, _listener(json_lines))
        return report

    report = asyncio.run(_with_data(where, work, **options))
    _tell(report, json_lines)
    if not report.is_clean:
        sys.exit(1)


@click.command()
@_of_store
def reindex(where: str, **options: Any) -> None:
    """Write a labelmap's index from its voxels: after ingest-supervoxels, blocks with noindexing, or damage.

    The tables of groups, the largest label and the extents are brought in order too. Servers may go on meanwhile.
    """

    async def work(data: Data, workers: Workers, progress: Bars) -> Repaired:
        return await repaired(data, workers, progress, by_admin=options["locked"])

    _say(asyncio.run(_with_data(where, work, **options)), None)


async def _with_data(
    where: str,
    work: Callable[[Data, Workers, Bars], Any],
    *,
    jobs: int,
    quiet: bool,
    locked: bool,
    **settings: Any,
) -> Any:
    spec, slash, name = where.rpartition("/")
    if not slash or not spec or not name:
        raise click.UsageError("say which data: REPO_OR_VERSION/INSTANCE")
    datastore = await open_datastore(Settings(**{key: value for key, value in settings.items() if value is not None}))
    workers = Workers(jobs)
    try:
        data = await _find(datastore, spec, name)
        if data.instance.typename != "labelmap":
            raise Invalid(f"{name} is of type {data.instance.typename}, not a labelmap")
        with Bars(quiet) as progress:
            return await work(data, workers, progress)
    finally:
        workers.close()
        await datastore.close()


async def _find(datastore: Datastore, spec: str, name: str) -> Data:
    named = [repo for repo in (await datastore.repos.forest()).repos.values() if repo.alias == spec]
    if len(named) > 1:
        raise Invalid(f"more than one repo is called {spec!r}: give the UUID of a version")
    return await datastore.data(f"{named[0].root}:master" if named else spec, name)


class Bars:
    """One progress bar after another."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._stack = ExitStack()
        self._bar: Any = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin(self, what: str, total: int) -> None:
        """Close the last bar and show the next."""
        from tqdm import tqdm

        self._stack.close()
        self._bar = self._stack.enter_context(tqdm(total=total, desc=what, disable=self._quiet or not total))

    def advance(self, steps: int) -> None:
        """Let it grow."""
        self._bar.update(steps)


def _listener(json_lines: TextIO | None) -> Callable[[str, Difference], None]:
    def write(kind: str, difference: Difference) -> None:
        if json_lines is not None:
            json_lines.write(orjson.dumps({"kind": kind, **difference}).decode() + "\n")

    return write


def _tell(report: Report, json_lines: TextIO | None) -> None:
    if json_lines is not None:
        json_lines.write(orjson.dumps({"kind": "summary", **report.summary()}).decode() + "\n")
        json_lines.flush()
        if json_lines is sys.stdout:
            return
    click.echo(", ".join(f"{count:,} {what}" for what, count in report.seen.items()))
    for title, table in (("wrong", report.faults), ("to note", report.notes)):
        for kind, found in table.items():
            click.echo(f"\n{title}: {found.count:,} {_KINDS[kind]}")
            _table(found)
    click.echo("\nnothing is wrong" if report.is_clean else "")


def _table(found: Found) -> None:
    """Examples in columns."""
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for example in found.examples:
        groups.setdefault(tuple(example), []).append([_cell(value) for value in example.values()])
    for names, rows in groups.items():
        widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
        for row in (names, *rows):
            click.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if found.count > EXAMPLES:
        click.echo(f"  ... and {found.count - len(found.examples):,} more (--json lists them all)")


def _cell(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _say(done: Repaired, json_lines: TextIO | None) -> None:
    if json_lines is None or json_lines is not sys.stdout:
        entries, tables = f"{done.entries:,} index entries", f"{done.tables:,} other things"
        click.echo(f"rewrote {entries} and {tables} in {done.rounds} rounds")

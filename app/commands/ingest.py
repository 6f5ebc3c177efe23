"""The command `dvid-cloud ingest`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from app.backends.store import Store
from app.bootstrap import open_datastore
from app.commands.options import triple
from app.core.errors import DvidError, Invalid
from app.core.geometry import Triple
from app.ingest import direct, over_http
from app.ingest.plan import Plan, downres_levels, make_plan
from app.ingest.progress import Progress, key_of, user_store
from app.ingest.published import FORMATS, Publication, published_url
from app.ingest.run import run
from app.ingest.sources import Source, open_source
from app.ingest.target import Target, Wanted, typename_for, voxel_type
from app.settings import Settings


@click.command()
@click.argument("source")
@click.option("--to", required=True, metavar="REPO/INSTANCE", help="alias or UUID of a repo, and a name in it")
@click.option("--server", help="write over the network, through DVID's API: http://host:port")
@click.option("--store", help="write straight into a store: a folder, file://, gs://, s3://")
@click.option("--catalog", help="with --store: URL of its catalog, if it is not in the store")
@click.option("--durability", type=click.Choice(["power", "process"]), help="with --store: wait for fsync or not")
@click.option("--admin-token", envvar="DVID_ADMIN_TOKEN", default="", help="with --server: to make a repo")
@click.option("--version", default="", help="version to write to  [the leaf of master]")
@click.option("--type", "typename", help="datatype  [uint8: uint8blk; uint32, uint64: labelmap]")
@click.option("--voxel-size", callback=triple(float), metavar="X,Y,Z", help="nanometres  [the source's, or 8,8,8]")
@click.option(
    "--offset", callback=triple(int), metavar="X,Y,Z", help="place of the first voxel  [the source's, or 0,0,0]"
)
@click.option("--axes", type=click.Choice(["zyx", "xyz"]), help="order of the source's axes, if it does not say")
@click.option("--block-size", type=int, default=64, show_default=True, help="of a new instance")
@click.option("--max-downres", type=int, help="coarser scales of a new labelmap  [until the volume fits one block]")
@click.option("--jobs", type=click.IntRange(1, 64), help="slabs at a time  [one for each core]")
@click.option("--slab", type=click.IntRange(1, 4096), default=64, show_default=True, help="MiB of one slab")
@click.option("--resume/--no-resume", default=True, help="go on where an interrupted run stopped  [--resume]")
@click.option("--publish", is_flag=True, help="write an image as a published volume with coarser scales")
@click.option("--publish-at", metavar="URL", help="where to put the published volume  [in the store]")
@click.option("--form", type=click.Choice(FORMATS), default="sharded", show_default=True, help="of it")
@click.option("--quiet", is_flag=True, help="no progress bar")
def ingest(source: str, to: str, server: str | None, store: str | None, **options: Any) -> None:
    """Bring a volume in.

    SOURCE is zarr, n5 or precomputed (a folder or any URL), file.h5:/dataset, a folder or file of TIFF images,
    file.npy, or file.npz:name. REPO and INSTANCE are made if they are not there. An interrupted run is continued by
    the same command.
    """
    if (server is None) == (store is None):
        raise click.UsageError("give one of --server and --store")
    repo, slash, instance = to.partition("/")
    if not repo or not slash or not instance:
        raise click.UsageError("--to must be REPO/INSTANCE")
    opened = open_source(source, options["axes"])
    block = options["block_size"]
    levels = options["max_downres"]
    wanted = Wanted(
        repo=repo,
        instance=instance,
        version=options["version"],
        typename=typename_for(opened, options["typename"]),
        voxel_size=options["voxel_size"] or opened.voxel_size or (8.0, 8.0, 8.0),
        block_size=block,
        max_downres=downres_levels(opened.shape, (block,) * 3) if levels is None else levels,
    )
    work = Work(
        jobs=options["jobs"] or len(os.sched_getaffinity(0)),
        slab_bytes=options["slab"] << 20,
        resume=options["resume"],
        quiet=options["quiet"],
        offset=options["offset"] or opened.offset or (0, 0, 0),
        form=options["form"] if options["publish"] or options["publish_at"] else "",
        published_at=options["publish_at"] or "",
    )
    try:
        if server is not None:
            asyncio.run(_over_http(opened, wanted, work, over_http.Client(server, options["admin_token"])))
        else:
            given = {name: options[name] for name in ("catalog", "durability") if options[name] is not None}
            asyncio.run(_direct(opened, wanted, work, Settings(store=store or "", **given)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise click.ClickException("interrupted; the same command goes on where this one stopped") from None


@dataclass(frozen=True)
class Work:
    """How the work is done. `form` is the format of a published volume, empty to write voxels into the instance."""

    jobs: int
    slab_bytes: int
    resume: bool
    quiet: bool
    offset: Triple
    form: str
    published_at: str

    def bar(self, name: str, voxels: int) -> Any:
        """A progress bar in voxels."""
        from tqdm import tqdm

        return tqdm(total=voxels, unit="vox", unit_scale=True, disable=self.quiet, desc=name)


async def _over_http(source: Source, wanted: Wanted, work: Work, client: over_http.Client) -> None:
    if not work.form:
        target = await asyncio.to_thread(over_http.open_target, client, wanted)
        await _write(source, wanted, target, user_store(), work)
        return
    if not work.published_at:
        raise Invalid("over the network, say with --publish-at where to put the volume for the server to read it")
    repo = await asyncio.to_thread(over_http.open_repo, client, wanted.repo)
    _refuse_twin(wanted, repo["DataInstances"])
    described = await _publish(source, wanted, Store(work.published_at), user_store(), work)
    path = f"/api/repo/{repo['Root']}/instance"
    await asyncio.to_thread(client.json, "POST", path, described.settings(), admin=True, once=True)
    click.echo(f"{wanted.repo}/{wanted.instance} publishes {described.source}")


async def _direct(source: Source, wanted: Wanted, work: Work, settings: Settings) -> None:
    datastore = await open_datastore(settings)
    try:
        if not work.form:
            target = await direct.open_target(datastore, wanted)
            try:
                await _write(source, wanted, target, datastore.store, work)
            finally:
                await target.close()
            return
        repo = await direct.open_repo(datastore, wanted.repo)
        _refuse_twin(wanted, repo.by_name)
        url = work.published_at or published_url(datastore.store, repo.root, wanted.instance)
        described = await _publish(source, wanted, Store(url), datastore.store, work)
        await direct.add_instance(datastore, repo, described)
        click.echo(f"{wanted.repo}/{wanted.instance} publishes {described.source}")
    finally:
        await datastore.close()


def _refuse_twin(wanted: Wanted, instances: Container[str]) -> None:
    if wanted.instance in instances:
        raise Invalid(f"{wanted.repo} has data named {wanted.instance} already")


async def _publish(source: Source, wanted: Wanted, place: Store, records: Store, work: Work) -> Wanted:
    """Write a published volume; the configuration of the instance that shows it."""
    publication = Publication(place, wanted.typename, work.form, work.offset, wanted.voxel_size)
    with _in_plain_words(source):
        await publication.write(
            source, records, slab_bytes=work.slab_bytes, jobs=work.jobs, resume=work.resume, bar=work.bar
        )
    return replace(wanted, source=place.url)


async def _write(source: Source, wanted: Wanted, target: Target, records: Store, work: Work) -> None:
    plan: Plan = make_plan(
        source.shape, work.offset, target.block, voxel_type(wanted.typename).itemsize, work.slab_bytes
    )
    name = source.name if "://" in source.name else str(Path.cwd() / source.name)
    key = key_of([name, source.shape, str(source.dtype), source.axes, target.identity, plan.volume, plan.slab_blocks])
    progress = Progress(records, key, len(plan.slabs), f"{name} to {wanted.repo}/{wanted.instance}")
    if work.resume:
        await progress.load()
    with _in_plain_words(source, progress), work.bar(wanted.instance, plan.volume.count) as bar:
        written = await run(source, target, plan, progress, jobs=work.jobs, advance=bar.update)
    shape = " × ".join(map(str, source.shape[::-1]))
    if written:
        click.echo(f"{wanted.repo}/{wanted.instance}: {shape} voxels as {wanted.typename}, {written} slabs written")
    else:
        click.echo(f"{wanted.repo}/{wanted.instance}: nothing left to do (--no-resume writes it again)")


@contextmanager
def _in_plain_words(source: Source, progress: Progress | None = None) -> Iterator[None]:
    """Let errors say what was reached, and which of them are the source's."""
    try:
        yield
    except DvidError as error:
        done = f"{len(progress.done)} of {progress.slabs} slabs are done; " if progress else ""
        raise type(error)(f"{error}; {done}the same command goes on from there") from error
    except (OSError, ValueError, LookupError) as error:
        raise Invalid(f"{source.name} cannot be read: {error}") from error

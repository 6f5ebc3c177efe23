"""The command `dvid-cloud ingest`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from app.commands.options import triple
from app.core.errors import DvidError, Invalid
from app.ingest import direct, over_http
from app.ingest.plan import Plan, downres_levels, make_plan
from app.ingest.progress import Progress, key_of, user_store
from app.ingest.run import run
from app.ingest.sources import Source, open_source
from app.ingest.target import Target, Wanted, typename_for, voxel_type


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
    try:
        asyncio.run(_ingest(opened, wanted, server, store, options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise click.ClickException("interrupted; the same command goes on where this one stopped") from None


async def _ingest(
    source: Source, wanted: Wanted, server: str | None, store: str | None, options: dict[str, Any]
) -> None:
    target: Target
    if server is not None:
        records = user_store()
        client = over_http.Client(server, options["admin_token"])
        target = await asyncio.to_thread(over_http.open_target, client, wanted)
    else:
        from app.bootstrap import open_datastore
        from app.settings import Settings

        given = {name: options[name] for name in ("catalog", "durability") if options[name] is not None}
        assert store is not None
        datastore = await open_datastore(Settings(store=store, **given))
        records = datastore.store
        target = await direct.open_target(datastore, wanted)
    try:
        await _write(source, wanted, target, records, options)
    finally:
        await target.close()


async def _write(source: Source, wanted: Wanted, target: Target, records: Any, options: dict[str, Any]) -> None:
    from tqdm import tqdm

    offset = options["offset"] or source.offset or (0, 0, 0)
    voxel_bytes = voxel_type(wanted.typename).itemsize
    plan: Plan = make_plan(source.shape, offset, target.block, voxel_bytes, options["slab"] << 20)
    name = source.name if "://" in source.name else str(Path.cwd() / source.name)
    key = key_of([name, source.shape, str(source.dtype), source.axes, target.identity, plan.volume, plan.slab_blocks])
    progress = Progress(records, key, len(plan.slabs), f"{name} to {wanted.repo}/{wanted.instance}")
    if options["resume"]:
        await progress.load()
    slabs = len(plan.slabs)
    bar = tqdm(total=plan.volume.count, unit="vox", unit_scale=True, disable=options["quiet"], desc=wanted.instance)
    try:
        written = await run(
            source, target, plan, progress, jobs=options["jobs"] or len(os.sched_getaffinity(0)), advance=bar.update
        )
    except DvidError as error:
        bar.close()
        done = f"{len(progress.done)} of {slabs} slabs are done; the same command goes on from there"
        raise type(error)(f"{error}; {done}") from error
    except (OSError, ValueError, LookupError) as error:
        bar.close()
        raise Invalid(f"{source.name} cannot be read: {error}") from error
    bar.close()
    shape = " × ".join(map(str, source.shape[::-1]))
    if written or not slabs:
        click.echo(f"{wanted.repo}/{wanted.instance}: {shape} voxels as {wanted.typename}, {written} slabs written")
    else:
        click.echo(f"{wanted.repo}/{wanted.instance}: nothing left to do (--no-resume writes it again)")

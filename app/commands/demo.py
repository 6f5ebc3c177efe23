"""The command `dvid-cloud demo`."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import webbrowser
from pathlib import Path
from typing import Any

import click

from app.commands.options import triple
from app.core.errors import Invalid
from app.demo.made import name_of
from app.demo.serving import Server, serving

RECORD = "demo.json"


@click.command()
@click.option(
    "--sample",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=".npz with em and labels  [synthetic]",
)
@click.option("--store", type=click.Path(file_okay=False, path_type=Path), default="data/demo", show_default=True)
@click.option("--port", type=int, default=8000, show_default=True, help="of the server; 0: any free one")
@click.option("--voxel-size", callback=triple(float), metavar="X,Y,Z", default="8,8,8", show_default=True)
@click.option("--shape", callback=triple(int), metavar="X,Y,Z", default="256,256,256", help="of the synthetic sample")
@click.option("--browser/--no-browser", default=True, help="open a browser, or only say where to look")
def demo(sample: Path | None, store: Path, port: int, browser: bool, **options: Any) -> None:
    """Show a sample in neuroglancer: an image and two versions of its cells, from a server of our own.

    The first start fills the folder --store; later ones show what is there.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # ends the server in order, as Ctrl-C does
    folder = store / name_of(sample)
    record = folder / RECORD
    if not record.exists() and (folder / "store").exists():
        click.echo("an earlier start was interrupted; beginning anew")
        shutil.rmtree(folder / "store")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with serving(folder / "store", port) as server:
            if not record.exists():
                _fill(server, sample, record, options)
            _show(server, record, browser)
    except KeyboardInterrupt:
        click.echo("\nended")


def _fill(server: Server, sample: Path | None, record: Path, options: dict[str, Any]) -> None:
    from app.demo.sample import load
    from app.demo.setup import fill
    from app.ingest.over_http import Client

    click.echo("making the sample ..." if sample is None else f"reading {sample} ...")
    x, y, z = options["shape"]
    loaded = load(sample, options["voxel_size"], (z, y, x))
    server.wait_until_ready()
    made = fill(Client(server.url, server.admin_token), loaded, click.echo)
    unfinished = record.with_suffix(".new")
    unfinished.write_text(made.text())
    unfinished.replace(record)


def _show(server: Server, record: Path, browser: bool) -> None:
    # Inside of its Python package neuroglancer asks no dvid:// server that is not listed here.
    listed = [os.environ.get("DVID_CREDENTIALS", ""), f"{server.url}=demo"]
    os.environ["DVID_CREDENTIALS"] = ",".join(filter(None, listed))
    try:
        from app.demo.made import Made
        from app.demo.viewer import open_viewer

        viewer = open_viewer(server.url, Made.parse(record.read_text()))
    except ImportError as error:
        raise Invalid(f"{error.name} is missing; install dvid-cloud[demo]") from None
    server.wait_until_ready()
    url = viewer.get_viewer_url()
    click.echo(f"server       {server.url}\nneuroglancer {url}\nCtrl-C ends both")
    sys.stdout.flush()
    if browser and _has_screen():
        webbrowser.open(url)
    server.process.wait()
    raise Invalid(f"the server ended with status {server.process.returncode}")


def _has_screen() -> bool:
    """Whether a browser would have somewhere to show itself; without, one of text mode might take the terminal."""
    return sys.platform in ("darwin", "win32") or any(name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY"))

"""The command `dvid-cloud`."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

import app
from app.core.errors import DvidError
from app.settings import HANDED_SETTINGS, SECRETS, Settings

#: Commands whose modules are loaded when they are asked for, as their libraries take long to load.
COMMANDS = {
    "admin": "app.commands.admin",
    "demo": "app.commands.demo",
    "ingest": "app.commands.ingest",
    "reindex": "app.commands.verify",
    "token": "app.commands.token",
    "verify": "app.commands.verify",
}


class Commands(click.Group):
    """A group whose commands say what went wrong in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted([*super().list_commands(ctx), *COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except DvidError as error:
            raise click.ClickException(str(error)) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise click.ClickException(f"setting {where}: {first['msg']}") from error
        except OSError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands)
@click.version_option(app.__version__)
def main() -> None:
    """DVID Cloud: versioned volumes and proofreading data, in DVID's API."""


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@main.command()
@click.option("--store", help="folder or URL: file://, memory://, gs://, s3://  [dvid-data]")
@click.option("--catalog", help="URL of the catalog: a store's, or firestore://PROJECT  [in the store]")
@click.option("--host", help="address to listen on  [127.0.0.1]")
@click.option("--port", type=int, help="port to listen on  [8000]")
@click.option("--workers", type=int, help="processes that serve  [one for each core]")
@click.option("--admin-token", help="token of administrators  [DVID_ADMIN_TOKEN]")
@click.option("--durability", type=click.Choice(["power", "process"]), help="wait for fsync or not  [power]")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="a TOML file")
@click.option("--log-level", default="warning", type=click.Choice(["debug", "info", "warning", "error"]))
def serve(config: Path | None, log_level: str, **options: Any) -> None:
    """Serve a store over HTTP. Every option may also be a DVID_* variable or a line of the TOML file."""
    if config is not None:
        os.environ["DVID_CONFIG"] = str(config)
    settings = Settings(**_given(**options))
    run(settings, log_level)


def run(settings: Settings, log_level: str = "warning") -> None:
    """Serve until the process is told to stop."""
    import uvicorn

    from app import serving
    from app.protocol import Protocol

    for name in SECRETS:
        os.environ[f"DVID_{name.upper()}"] = getattr(settings, name).get_secret_value()
    config = uvicorn.Config(
        "app.main:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.worker_count,
        loop="uvloop",
        http=Protocol,
        access_log=log_level in ("debug", "info"),
        log_level=log_level,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=30,
        server_header=False,
        proxy_headers=False,  # nothing here depends on who asks
    )
    click.echo(f"DVID Cloud {app.__version__}: {settings.store} at http://{settings.host}:{settings.port}")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="dvid-cloud-", ignore_cleanup_errors=True) as folder:
        handed = settings.model_copy(update={"shared": settings.shared or folder})
        os.environ[HANDED_SETTINGS] = handed.model_dump_json(exclude=set(SECRETS))
        serving.serve(config)


if __name__ == "__main__":
    main()

"""The command `dvid-cloud token`: a token for a user of a server that asks for them."""

from __future__ import annotations

import click

from app.routes.authority import sign
from app.settings import LEAST_KEY_BYTES, Settings

_DAY_SECONDS = 86_400


@click.command()
@click.argument("user")
@click.option("--days", default=30.0, show_default=True, help="how long it is good")
def token(user: str, days: float) -> None:
    """Print a token that says to be USER, signed with the server's key (DVID_JWT_SECRET_KEY)."""
    key = Settings().jwt_secret_key.get_secret_value()
    if len(key.encode()) < LEAST_KEY_BYTES:
        raise click.ClickException(f"DVID_JWT_SECRET_KEY must have at least {LEAST_KEY_BYTES} bytes")
    click.echo(sign(user, key, days * _DAY_SECONDS))

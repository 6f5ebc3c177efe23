"""The command `dvid-cloud demo`."""

import click


@click.command()
def demo() -> None:
    """Show."""

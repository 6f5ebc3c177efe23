"""Kinds of options that several commands have."""

from __future__ import annotations

from typing import Any

import click


def triple(kind: type) -> Any:
    """A callback that reads three numbers with commas between."""

    def parse(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
        if text is None:
            return None
        try:
            values = tuple(kind(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != 3:
            raise click.BadParameter(f"{text!r} is not three numbers x,y,z")
        return values

    return parse

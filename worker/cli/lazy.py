"""A group whose commands are imported when they are used, so that `--help` is quick."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click


class Place(NamedTuple):
    """Where a command lives, and its line in the list."""

    module: str
    name: str
    summary: str


class LazyGroup(click.Group):
    """A group that knows its commands by name and place; they are listed in the order given."""

    def __init__(self, *args: Any, places: Mapping[str, Place], **options: Any) -> None:
        """`places` are modules of `worker.cli`; the rest is click's."""
        super().__init__(*args, **options)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order given."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when there is none of that name."""
        place = self._places.get(cmd_name)
        if place is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"worker.cli.{place.module}"), place.name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an error for a misspelt one suggests the nearest. Raises UsageError."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self._places, n=2)
            if not near or "Did you mean" in error.message:
                raise
            raise click.UsageError(f"{error.message} Did you mean {' or '.join(near)}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list without importing a single command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in self._places.items()])

"""`stockpot db`: the schema's version, and its upgrade."""

from __future__ import annotations

import click

from worker.base.settings import Settings, load
from worker.cli import options
from worker.cli.exit_codes import FAILED
from worker.cli.output import put, put_json, say
from worker.db import schema
from worker.db.connect import Database
from worker.db.ownership import revision
from worker.db.url import display_url


@click.group("db")
def database() -> None:
    """The database's schema.

    A new SQLite file is migrated by whoever opens it first. Every other database is upgraded by `db upgrade`: run it
    before the new version's workers start.
    """


@database.command(epilog="\b\nExample:\n  STOCKPOT_DATABASE_URL=postgresql://… stockpot db upgrade\n")
@options.as_json
def upgrade(*, as_json: bool) -> None:
    """Bring the database to this version's schema; running it again, or twice at once, does no harm."""
    settings = load()
    before, _ = _revision(settings)
    schema.upgrade(settings, on_wait=_waits)
    head = schema.head()
    say(f"{_name(settings)} is at {head}" + (" already." if before == head else f", was {before or 'empty'}."))
    if as_json:
        put_json({"before": before, "current": head})


def _waits(tries: int) -> None:
    if tries in {1, 10} or tries % 30 == 0:
        say(
            "A transaction holds a table that must change; workers are let pass, then it is tried again. Ctrl-C stops it."
        )


@database.command()
@options.as_json
def current(*, as_json: bool) -> None:
    """Print the database's revision, and the newest that this version knows."""
    settings = load()
    at, _ = _revision(settings)
    head = schema.head()
    if as_json:
        put_json({"current": at, "head": head})
    else:
        put(at or "empty")
        if at != head:
            say(f"The newest is {head}. Run `stockpot db upgrade`.")


@database.command()
@options.as_json
def check(*, as_json: bool) -> None:
    """Compare the database with what this version expects; exits 1 when they differ."""
    settings = load()
    at, differences = _revision(settings)
    head = schema.head()
    ok = at == head and not differences
    if as_json:
        put_json({"ok": ok, "current": at, "head": head, "differences": differences})
    if ok:
        say(f"{_name(settings)} is at {head} and as it should be.")
        return
    if at != head:
        say(f"{_name(settings)} is at {at or 'no version'}, the newest is {head}. Run `stockpot db upgrade`.")
    for difference in differences:
        say(f"  differs: {difference}")
    click.get_current_context().exit(FAILED)


def _revision(settings: Settings) -> tuple[str | None, list[str]]:
    """The revision, and what differs from the models (looked at only when the revision is the newest)."""
    opened = Database(settings, pool_size=1)
    try:
        at = opened.read(revision)
        return at, schema.differences(opened.engine) if at == schema.head() else []
    finally:
        opened.close()


def _name(settings: Settings) -> str:
    return display_url(settings)

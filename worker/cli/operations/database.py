"""`stockpot db`: the schema's version, its upgrade, and the move to another database."""

from __future__ import annotations

import sys

import click

from worker.base.errors import SettingsError
from worker.base.settings import Settings, load
from worker.cli import options
from worker.cli.exit_codes import FAILED
from worker.cli.output import margin, put, put_json, say
from worker.db import compacting, copying, schema
from worker.db.connect import Database
from worker.db.ownership import revision
from worker.db.ready import ensure_schema
from worker.db.url import display_url
from worker.db.versions import other
from worker.files import resealing


@click.group("db")
def database() -> None:
    """The database: its schema, and the move to another one.

    A new SQLite file is migrated by the first command that opens it. Any other needs `db upgrade`: run it
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
        if (why := other(at)) is not None:
            say(str(why))


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
    if (why := other(at)) is not None:
        say(f"{_name(settings)}: {why}")
    for difference in differences:
        say(f"  differs: {difference}")
    click.get_current_context().exit(FAILED)


@database.command(
    epilog="""\b
Examples:
  stockpot db copy --to postgresql://stockpot@db.example/stockpot
  stockpot db copy --reopen
"""
)
@click.option("--to", "to", metavar="URL", help="An empty database. libpq's PGPASSWORD and PGPASSFILE count.")
@click.option("--schema", "schema_name", metavar="NAME", help="The schema in it (PostgreSQL), as STOCKPOT_SCHEMA.")
@click.option("--reopen", is_flag=True, help="Give a move up: the old database takes work again.")
@options.as_json
def copy(*, to: str | None, schema_name: str | None, reopen: bool, as_json: bool) -> None:
    """Move to another database, SQLite to PostgreSQL or any other way; broken off, the same command goes on.

    End the workers first. The old database takes no more work from the first moment on, so that nothing is left behind
    in it; the new one takes none before every row was compared. Exits 1 if they differ.
    """
    settings = load()
    source = Database(settings, pool_size=1, patient=True)
    try:
        if reopen:
            say("It takes work again." if copying.reopen(source) else "It was not closed.")
            return
        if to is None:
            raise click.UsageError("where to is missing: --to URL")
        if (why := other(source.read(revision))) is not None:
            raise why
        target = Database(_target(settings, to, schema_name), pool_size=1, patient=True)
        try:
            copying.prepare(target)
            counts = _copy(source, target)
        finally:
            target.close()
    finally:
        source.close()
    if as_json:
        put_json({"to": _name(target.settings), "rows": counts, "equal": True})
    say(f"{sum(counts.values()):,} rows in {len(counts)} tables, counted and compared: both databases are the same.")
    say(f"Now set STOCKPOT_DATABASE_URL to {_name(target.settings)} everywhere, and start the workers.")


@database.command(epilog="\b\nExample:\n  STOCKPOT_PAYLOAD_KEY=NEW,OLD stockpot db reencrypt\n")
@options.as_json
def reencrypt(*, as_json: bool) -> None:
    """Encrypt requests, answers and files with the first key of STOCKPOT_PAYLOAD_KEY, whatever they are kept with now.

    It works in small steps beside running workers; stop it at any time and run it again. When it is through, older keys
    are needed only by live streams, for as long as those are kept.
    """
    settings = load()
    if not settings.payload_keys:
        raise click.UsageError("set STOCKPOT_PAYLOAD_KEY: its first key encrypts")
    ensure_schema(settings)
    opened = Database(settings, pool_size=1)
    try:
        counts = resealing.everything(opened)
    finally:
        opened.close()
    if as_json:
        put_json({"key": opened.payloads.key_ids[0], "encrypted": counts})
    changed = ", ".join(f"{count:,} of {name}" for name, count in counts.items() if count) or "nothing was left to do"
    say(f"Encrypted with the key {opened.payloads.key_ids[0]}: {changed}.")


@database.command(epilog="\b\nExample:\n  stockpot purge --older-than 30d && stockpot db compact\n")
@options.as_json
def compact(*, as_json: bool) -> None:
    """Give the space of what was purged back to the disk.

    On PostgreSQL it works in small steps beside running workers, and needs no more disk than the largest index has; stop
    it at any time and run it again. A SQLite file is rewritten under its lock: end the workers first.
    """
    settings = load()
    ensure_schema(settings)
    opened = Database(settings, pool_size=1, patient=True)
    try:
        found = compacting.compact(opened, lambda table: say(f"{table} …"))
    finally:
        opened.close()
    if as_json:
        put_json([{"table": one.table, "before": one.before, "after": one.after, "moved": one.moved} for one in found])
    for one in found:
        if one.after < one.before:
            say(f"{one.table}: {one.before / 1e6:,.0f} MB, now {one.after / 1e6:,.0f} MB.")
    say(f"{sum(max(0, one.before - one.after) for one in found) / 1e6:,.0f} MB went back to the disk.")


def _target(settings: Settings, to: str, schema_name: str | None) -> Settings:
    try:
        return Settings(database_url=to, schema_name=schema_name, home=settings.home)
    except SettingsError as error:
        raise SettingsError(str(error).replace("STOCKPOT_DATABASE_URL", "--to")) from None


def _copy(source: Database, target: Database) -> dict[str, int]:
    """Copy, with a line of progress on a terminal."""
    if not sys.stderr.isatty():
        return copying.copy(source, target, lambda _: None)
    with margin().status("copying") as line:
        return copying.copy(
            source,
            target,
            lambda at: line.update(
                f"{'comparing' if at.comparing else 'copying'} {at.table}: {at.rows:,} of {at.total:,}"
            ),
        )


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

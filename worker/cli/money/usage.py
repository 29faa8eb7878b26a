"""`stockpot usage`: what was used and what it cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import click

from worker.cli import options
from worker.cli.opening import database, producer
from worker.cli.output import at_least, money, put_json, say, screen, shown, span
from worker.cli.tables import Table
from worker.db.connect import Database
from worker.db.jobs import usage as using
from worker.db.jobs import usage_days

#: What a cell begins with that spreadsheets take for a formula (OWASP, CSV injection).
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@click.command(
    epilog="""\b
Examples:
  stockpot usage                                      by day and model
  stockpot usage --by tenant --since 30d
  stockpot usage --by month,tenant --until 2026-11-01
  stockpot usage --by status,error_class --since 24h  what failures have cost
  stockpot usage --by day --plot
  stockpot usage --by job --since 24h --csv > jobs.csv
  stockpot usage --by model,metadata.team --json
"""
)
@click.option(
    "--by",
    type=options.Names(),
    default="day,model",
    show_default=True,
    metavar="A,B",
    help=f"Groups: {', '.join(using.DIMENSIONS)}; empty for one sum.",
)
@click.option("--since", type=options.Moment(), help="Calls since: 90m, 24h, 7d, a date or a time (UTC).")
@click.option("--until", type=options.Moment(), help="Calls before: 24h (ago), a date or a time (UTC).")
@click.option("--tenant", metavar="T", help="Of one tenant; all of them when left out.")
@options.all_tenants
@click.option(
    "--recount", is_flag=True, help="First count calls that were written past Stockpot (restored, imported by SQL)."
)
@click.option("--plot", is_flag=True, help="Bars of the cost instead of the table.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV on stdout, money to the last digit.")
@options.as_json
def usage(
    by: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    tenant: str | None,
    *,
    all_tenants: bool,
    recount: bool,
    plot: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Tokens and true cost of every call, failed attempts included. With --json one object per line.

    What reaches further back than two days begins and ends with a whole day (UTC). A job counts on the day of its first
    call. By `model` it also shows how long the newest calls took (p50, p95). `status` is the job's, `error_class` the
    call's, `owner` the worker that called; these look at the newest calls, and report where that is not all.
    """
    if plot + as_csv + as_json > 1:
        raise click.UsageError("give one of --plot, --csv and --json")
    if all_tenants and tenant is not None:
        raise click.UsageError("give one of --tenant and --all-tenants")
    if since is not None and until is not None and until <= since:
        raise click.UsageError("--until is not after --since.")
    timed = "model" in by and not plot
    with producer(tenant) as pot:
        if recount:
            with database() as opened:
                _recount(opened)
        rows = pot.usage(by=by, since=since, until=until, timed=timed, all_tenants=tenant is None)
        _say_bounds(pot.usage_bounds(by=by, since=since, until=until), until)
    if as_json:
        for row in rows:
            put_json(row.to_json())
        return
    if as_csv:
        _write_csv(rows)
    elif not any(row.attempts for row in rows):
        say("Nothing was used.")
    else:
        screen().print(_bars(by, rows) if plot else _table(by, rows))
        unpriced = sum(row.unpriced for row in rows)
        if unpriced:
            calls = "one call" if unpriced == 1 else f"{unpriced:,} calls"
            say(f"Of {calls} the cost is unknown: the provider does not report it. STOCKPOT_PRICES gives prices.")


def _say_bounds(bounds: using.Bounds, until: datetime | None) -> None:
    """Print what is left out of what was asked for."""
    if bounds.until is not None and bounds.until != until:
        say(f"Whole days: calls until {bounds.until:%Y-%m-%d %H:%M} UTC.")
    if bounds.cut_at is not None:
        say(f"The newest {using.CALLS_AT_MOST:,} calls: those of jobs made since {bounds.cut_at:%Y-%m-%d %H:%M} UTC.")


def _recount(opened: Database) -> None:
    """Walk through all calls; killed at any moment, the workers go on with it."""
    opened.write(usage_days.begin_recount)
    slices = 0
    while opened.write(lambda conn: usage_days.recount(conn, wait=False)):
        slices += 1
        if slices % 250 == 0:
            say(f"{slices * usage_days.SLICE:,} calls looked at")


def _inert(value: object) -> object:
    """A text that a spreadsheet does not run as a formula: a quote before what would begin one."""
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULAS and not _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write_csv(rows: Sequence[using.UsageRow]) -> None:
    lines = [row.exact() for row in rows]
    if not lines:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: _inert(value) for name, value in line.items()} for line in lines])
    click.echo(text.getvalue(), nl=False)


#: Groups whose names are ids or short words: these are never broken.
_WHOLE = frozenset({"job", "batch", "lane", "day", "month", "status"})
#: Characters of the longest bar, and of it what each group after the first takes for its names.
_BAR, _NAMES = 40, 10
#: An eighth of a character's width each.
_EIGHTHS = " ▏▎▍▌▋▊▉"


def _bars(by: Sequence[str], rows: Sequence[using.UsageRow]) -> Table:
    """A bar for each group, as long as its share of the dearest one's cost."""
    table = Table()
    for name in by:
        table.whole(name) if name in _WHOLE else table.text(name, least=10)
    table.whole()
    longest = max(_NAMES, _BAR - _NAMES * (len(by) - 1))
    table.numbers("cost")
    most = max(row.cost_usd for row in rows)
    for row in rows:
        groups = [shown(value) if value is not None else "–" for value in row.group.values()]
        table.add_row(
            *groups, bar(float(row.cost_usd / most) if most else 0.0, longest), at_least(row.cost_usd, row.unpriced)
        )
    return table


def bar(share: float, longest: int = _BAR) -> str:
    """A bar as long as a share (0 to 1) of the longest, which has so many characters."""
    whole, eighth = divmod(round(share * longest * 8), 8)
    return ("█" * whole + _EIGHTHS[eighth]).rstrip()


def _table(by: Sequence[str], rows: Sequence[using.UsageRow]) -> Table:
    table = Table(show_footer=len(rows) > 1)
    for at, name in enumerate(by):
        footer = "in all" if at == 0 else ""
        table.whole(name, footer=footer) if name in _WHOLE else table.text(name, footer=footer, least=10)
    sums = {
        "jobs": [row.jobs for row in rows],
        "attempts": [row.attempts for row in rows],
        "input": [row.input_tokens for row in rows],
        "output": [row.output_tokens for row in rows],
    }
    for name, values in sums.items():
        # A job whose calls fall into two groups counts in both.
        footer = "" if name == "jobs" else f"{sum(values):,}"
        table.whole(name, footer=footer, justify="right", drop=3 if name == "attempts" else 1)
    total = at_least(sum((row.cost_usd for row in rows), Decimal(0)), sum(row.unpriced for row in rows))
    table.whole("cost", footer=total, justify="right")
    timed = any(row.p50_seconds is not None for row in rows)
    if timed:
        table.numbers("p50", "p95", drop=2)
    estimated = any(row.cost_estimated_usd for row in rows)
    if estimated:
        table.numbers("estimated", drop=4)
    for at, row in enumerate(rows):
        groups = [shown(value) if value is not None else "–" for value in row.group.values()]
        cells = [*groups, *(f"{values[at]:,}" for values in sums.values()), at_least(row.cost_usd, row.unpriced)]
        cells += [span(row.p50_seconds), span(row.p95_seconds)] if timed else []
        cells += [money(row.cost_estimated_usd) if row.cost_estimated_usd else ""] if estimated else []
        table.add_row(*cells)
    return table

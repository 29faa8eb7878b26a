"""`stockpot routes`: the limits of each (upstream, key, model), what was learned, what is paused and why."""

from __future__ import annotations

import click

from worker.cli import options
from worker.cli.opening import producer
from worker.cli.output import cell, put_json, say, screen, span
from worker.cli.tables import Table
from worker.producer.routes import RouteState
from worker.producer.waiting import again, paused_words


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  stockpot routes
  stockpot routes pause openai/gpt-5-1-chat-latest
  stockpot routes resume openai/gpt-5-1-chat-latest
""",
)
@options.as_json
@click.pass_context
def routes(ctx: click.Context, *, as_json: bool) -> None:
    """List the routes of the fleet, one JSON object per line with --json; pause one, or let it go on."""
    if ctx.invoked_subcommand is not None:
        return
    with producer() as pot:
        states = pot.routes.list()
    if as_json:
        for state in states:
            put_json(state.to_json())
    elif states:
        screen().print(table_of(states))
    else:
        say("No route has been used yet.")


@routes.command()
@click.argument("route")
@click.option("--reason", default="", metavar="TEXT", help="Shown to who asks why.")
@options.as_json
def pause(route: str, reason: str, *, as_json: bool) -> None:
    """Stop calls on ROUTE (its name or its model) until `resume`. Running calls end as they would."""
    with producer() as pot:
        _put(pot.routes.pause(route, reason=reason), "paused", as_json=as_json)


@routes.command()
@click.argument("route")
@options.as_json
def resume(route: str, *, as_json: bool) -> None:
    """Let ROUTE (its name or its model) go on, whatever paused it or its key's account."""
    with producer() as pot:
        _put(pot.routes.resume(route), "resumed", as_json=as_json)


def _put(state: RouteState | None, what: str, *, as_json: bool) -> None:
    if state is None:
        return
    if as_json:
        put_json(state.to_json())
    say(cell(f"{state.route.name} {what}."))


def table_of(states: list[RouteState]) -> Table:
    """Routes as a table."""
    table = Table()
    table.text("route", least=28)
    table.numbers("in flight", "limit")
    table.whole("paused", drop=1)
    table.text("why", least=24)
    for state in states:
        why, (then, seconds) = paused_words(state).removeprefix(f"{state.route.model} is "), again(state)
        if then:
            why += f"; {then} in {span(seconds)}"
        limit = "learning" if state.limit is None else str(state.limit)
        table.add_row(state.route.name, str(state.in_flight), limit, state.paused or "", why)
    return table

"""`stockpot routes`: the limits of each (upstream, key, model), what was learned, what is paused and why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
from redis.exceptions import RedisError

from worker import embedded
from worker.base.errors import NotAllowed, NotFound, Unreachable
from worker.base.settings import Settings, load
from worker.cli import options
from worker.cli.output import Table, cell, put_json, say, screen, shown, span
from worker.limits.admission import Admission
from worker.limits.limiter import RouteState
from worker.limits.route import Route, key_id

T = TypeVar("T")


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
    states = _with_gate(lambda admission: admission.snapshot())
    if as_json:
        for state in states:
            put_json(_fields(state))
    elif states:
        screen().print(_table(states))
    else:
        say("No route has been used yet.")


@routes.command()
@click.argument("route")
@click.option("--reason", default="", metavar="TEXT", help="Shown to who asks why.")
@options.as_json
def pause(route: str, reason: str, *, as_json: bool) -> None:
    """Stop calls on ROUTE (its name or its model) until `resume`. Running calls end as they would."""

    async def stop(admission: Admission) -> RouteState | None:
        chosen = await _choose(admission, route)
        await admission.pause(chosen, reason)
        return await _state(admission, chosen)

    _tell(_with_gate(stop), "paused", as_json=as_json)


@routes.command()
@click.argument("route")
@options.as_json
def resume(route: str, *, as_json: bool) -> None:
    """Let ROUTE (its name or its model) go on, whatever paused it or its key's account."""

    async def go_on(admission: Admission) -> RouteState | None:
        chosen = await _choose(admission, route)
        await admission.resume(chosen)
        return await _state(admission, chosen)

    _tell(_with_gate(go_on), "resumed", as_json=as_json)


def _with_gate(verb: Callable[[Admission], Awaitable[T]]) -> T:
    settings = load()
    url = embedded.redis_url(settings)

    async def ask() -> T:
        admission = Admission(url, permit_ttl=settings.lease_seconds)
        try:
            return await verb(admission)
        finally:
            await admission.aclose()

    try:
        return asyncio.run(ask())
    except (RedisError, OSError) as error:
        raise Unreachable("Redis", f"{type(error).__name__}: {error}", "`stockpot doctor` checks it.") from error


async def _choose(admission: Admission, name: str) -> Route:
    """The route of this name or model; one that was never used is made from the settings."""
    known = [state.route for state in await admission.snapshot()]
    found = [route for route in known if name in {route.name, route.digest}] or [
        route for route in known if route.model == name
    ]
    if len(found) > 1:
        raise NotAllowed(f"{name} is several routes; name one: {', '.join(route.name for route in found)}")
    return found[0] if found else _unused(load(), name)


def _unused(settings: Settings, model: str) -> Route:
    if settings.key is None or "@" in model:
        raise NotFound(f"no route {model[:128]} has been used; `stockpot routes` lists them")
    return Route(settings.upstream_url, key_id(settings.key), model)


async def _state(admission: Admission, route: Route) -> RouteState | None:
    return next((state for state in await admission.snapshot() if state.route == route), None)


def _tell(state: RouteState | None, what: str, *, as_json: bool) -> None:
    if state is None:
        return
    if as_json:
        put_json(_fields(state))
    say(cell(f"{state.route.name} {what}."))


def _fields(state: RouteState) -> dict[str, Any]:
    return {
        "route": state.route.name,
        "upstream": state.route.upstream_url,
        "key": state.route.key_id,
        "model": state.route.model,
        "limit": state.limit,
        "in_flight": state.in_flight,
        "paused": state.paused,
        "paused_by": state.paused_by,
        "detail": state.detail,
        "since": state.since,
        "until": state.until,
    }


def _table(states: list[RouteState]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("route", "in flight", "limit", "paused", "why"):
        table.add_column(heading, no_wrap=heading != "why")
    for state in states:
        why = shown(state.detail)
        if state.until and state.since:
            why += f" (looks again after {span(state.until - state.since)})"
        limit = "learning" if state.limit is None else str(state.limit)
        table.add_row(state.route.name, str(state.in_flight), limit, state.paused or "", why.strip())
    return table

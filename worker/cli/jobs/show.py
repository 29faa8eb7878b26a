"""`stockpot show`: one job with all that came of it."""

from __future__ import annotations

import click
from rich.console import RenderableType

from api_schemas.jobs import JobDetail
from worker.cli import ids, options
from worker.cli.jobs.following import sentence
from worker.cli.opening import producer
from worker.cli.output import age, money, put_json, screen, shown, span
from worker.cli.tables import Table, facts
from worker.producer.waiting import Waiting


@click.command(epilog="\b\nExamples:\n  stockpot show job_0198…\n  stockpot show job_0198… --json | jq .cost_usd\n")
@ids.argument("job")
@options.tenant
@options.all_tenants
@options.as_json
def show(job: str, tenant: str, *, all_tenants: bool, as_json: bool) -> None:
    """Show JOB: status, answer, usage, cost, error and every attempt."""
    with producer(tenant) as pot:
        detail = pot.get(job, all_tenants=all_tenants)
        with pot.for_tenant(detail.tenant) as theirs:
            why = None if as_json else theirs.waiting(job)
    if as_json:
        put_json(detail.to_json())
        return
    console = screen()
    console.print(_facts(detail, why))
    if detail.text:
        console.print()
        console.print(shown(detail.text), soft_wrap=True)
    if detail.attempt_log:
        console.print()
        console.print(_attempts(detail))


def _facts(detail: JobDetail, why: Waiting | None) -> RenderableType:
    grid = facts()
    status = detail.status + (f" (waiting on {detail.waiting_on})" if detail.waiting_on else "")
    known: dict[str, str | None] = {
        "job": detail.id,
        "status": status,
        "why": None if why is None else sentence(why),
        "model": detail.model,
        "endpoint": detail.endpoint,
        "lane": detail.lane,
        "tenant": None if detail.tenant == "default" else detail.tenant,
        "batch": detail.batch_id and f"{detail.batch_id} {detail.custom_id or ''}",
        "idempotency key": detail.idempotency_key,
        "metadata": ", ".join(f"{key}={value}" for key, value in (detail.metadata or {}).items()),
        "created": f"{detail.created_at:%Y-%m-%d %H:%M:%S} UTC, {age(detail.created_at)} ago",
        "took": _took(detail),
        "finish reason": detail.finish_reason,
        "tokens": _tokens(detail),
        "cost": None if detail.cost_usd is None else f"{money(detail.cost_usd)} in all",
        "error": ": ".join(filter(None, (detail.error_class, detail.error_message))),
    }
    for name, value in known.items():
        if value:
            grid.add_row(name, shown(value))
    return grid


def _took(detail: JobDetail) -> str | None:
    return span((detail.finished_at - detail.created_at).total_seconds()) if detail.finished_at is not None else None


def _tokens(detail: JobDetail) -> str | None:
    usage = detail.usage
    if usage is None:
        return None
    return (
        f"{usage.input_tokens:,} in ({usage.cached_tokens:,} cached),"
        f" {usage.output_tokens:,} out ({usage.reasoning_tokens:,} reasoning)"
    )


def _attempts(detail: JobDetail) -> Table:
    table = Table()
    table.numbers("try")
    table.whole("outcome")
    table.whole("status")
    table.numbers("first token", drop=2)
    table.numbers("total")
    table.numbers("tokens", drop=1)
    table.numbers("cost")
    table.text("error")
    for one in detail.attempt_log:
        table.add_row(
            str(one.attempt),
            one.outcome or "",
            str(one.status or ""),
            span(one.first_token_seconds),
            span(one.total_seconds),
            "–" if one.total_tokens is None else f"{one.total_tokens:,}",
            money(one.cost_usd) + (" est." if one.cost_source == "estimated" else ""),
            shown(f"{one.error_class}: {one.error_message or ''}" if one.error_class else ""),
        )
    return table

"""One job: what it is, why it waits, its attempts, its cost, what was asked and answered; live while it runs."""

from __future__ import annotations

import json
import pprint
import shlex
from collections.abc import Mapping
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.responses import Response
from starlette.types import ASGIApp

from api_schemas import jsontext
from api_schemas.jobs import TERMINAL_STATUSES, JobDetail
from worker.base.errors import Unreachable
from worker.dashboard.jobs import perform
from worker.dashboard.view import View, action, page
from worker.producer.access import Role
from worker.producer.waiting import Waiting

#: Characters of a request or an answer that a page shows; more is a file's business.
SHOWN = 200_000


async def job(view: View) -> Response:
    """`GET /ui/jobs/{job}`."""
    job_id = view.request.path_params["job"]
    found = await _find(view)
    over = found.status in TERMINAL_STATUSES
    deliveries = await _webhooks(view, found)
    pending = any(one["status"] in {"pending", "delivering"} for one in deliveries)
    bodies: dict[str, Any] = {"asked": None, "answered": None, "copies": {}}
    if view.viewer.sees_prompts and "hx-request" not in view.request.headers:
        request = await to_thread.run_sync(view.host.fleet.request, job_id)
        bodies = {
            "asked": _pretty(request),
            "answered": _pretty(found.response),
            "copies": _copies(view, found, request),
        }
    return view.render(
        "job.html",
        job=found,
        over=over,
        live=not over or pending,
        why=None if over else await _why(view, found),
        errors=await to_thread.run_sync(view.host.fleet.error_bodies, job_id) if view.viewer.sees_prompts else {},
        deliveries=deliveries,
        shown=SHOWN,
        **bodies,
    )


async def _find(view: View) -> JobDetail:
    """The job, if the viewer may see it; shared with others only where a page is refreshed. Raises NotFound."""
    job_id, tenant = view.request.path_params["job"], view.viewer.tenant
    read = partial(view.host.fleet.job, job_id, tenant=tenant)
    if "hx-request" not in view.request.headers:
        return await to_thread.run_sync(read)
    found: JobDetail = await view.look(f"job {tenant} {job_id}", read)
    return found


async def _why(view: View, found: JobDetail) -> Waiting | None:
    """Why it is not over, in a sentence; None without Redis."""
    try:
        why: Waiting | None = await view.host.looks.at(
            f"why {found.id}", lambda: view.pot(found.tenant).waiting(found.id), 1.0
        )
    except Unreachable:
        return None
    return why


async def _webhooks(view: View, found: JobDetail) -> list[Mapping[str, Any]]:
    read = partial(view.pot(found.tenant).blocking.webhooks.events, job=found.id, limit=20)
    events: list[Mapping[str, Any]] = await view.look(f"webhooks of {found.id}", read)
    return events


def _pretty(value: Any) -> str | None:
    """JSON for people; None for nothing."""
    if value is None:
        return None
    if isinstance(value, str):
        value = jsontext.loads(value)
    return json.dumps(value, indent=2, ensure_ascii=False)


def _copies(view: View, found: JobDetail, request: str | None) -> dict[str, str]:
    """The same job as a command, as Python, and as a call of the gateway."""
    if request is None:
        return {}
    options = {"lane": found.lane, "tenant": found.tenant, "metadata": found.metadata or {}}
    flags = [f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if name != "metadata"]
    flags += [f"--metadata {shlex.quote(f'{key}={value}')}" for key, value in (found.metadata or {}).items()]
    python = pprint.pformat(jsontext.loads(request), width=100, sort_dicts=False)
    given = f", lane={found.lane!r}" + (f", metadata={found.metadata!r}" if found.metadata else "")
    quoted = shlex.quote(request)
    url = f"{view.request.url.scheme}://{view.request.url.netloc}{found.endpoint}"
    return {
        "CLI": f"printf %s {quoted} | stockpot submit --endpoint {found.endpoint} {' '.join(flags)} --wait --request -",
        "Python": f"from stockpot import Stockpot\n\npot = Stockpot(tenant={found.tenant!r})\n"
        f"job = pot.submit({python}{given})\nprint(pot.wait(job.id).text)",
        "curl": f'curl {shlex.quote(url)} -H "Authorization: Bearer $STOCKPOT_KEY" -H "content-type: application/json"'
        f" --data-raw {quoted}",
    }


async def events(view: View) -> ASGIApp:
    """`GET /ui/jobs/{job}/events`: the job's text as it comes, from its first token on, or behind the last that was seen."""
    found = await _find(view)
    last = view.request.headers.get("last-event-id") or view.query.get("after") or 0
    return view.host.stream(await view.pot(found.tenant).sse(found.id, last))


async def cancel(view: View) -> Response:
    """`POST /ui/jobs/{job}/cancel`."""
    return await _change(view, "cancel", "It is cancelled, or its worker closes the connection now.")


async def retry(view: View) -> Response:
    """`POST /ui/jobs/{job}/retry`."""
    return await _change(view, "retry", "It is queued again; the ledger keeps the calls that were made.")


async def _change(view: View, do: str, words: str) -> Response:
    found = await _find(view)
    await perform(view, do, found.tenant, found.id)
    return view.go(f"/jobs/{found.id}", words)


ROUTES = [
    page("/jobs/{job}", job),
    page("/jobs/{job}/events", events, Role.OPERATE),
    action("/jobs/{job}/cancel", cancel),
    action("/jobs/{job}/retry", retry),
]

"""Jobs: one page of a list at a time, filters in the URL, and what may be done with all that they show.

Nothing is counted: a page costs the same however long the history is, and may be short, or empty, before the end.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.responses import Response

from api_schemas.errors import ERROR_CLASSES
from api_schemas.ids import is_job_id
from api_schemas.jobs import LANES, STATUSES, TERMINAL_STATUSES, Job
from worker.base.errors import NotAllowed
from worker.dashboard.view import Refused, View, action, page
from worker.producer.access import Role
from worker.producer.fleet import Filters

LISTED = 50
#: What one press of a button may change, and how many pages are read for it.
CHANGED, PAGES = 1_000, 60
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
#: The parameters of the URL that are filters.
NAMES = ("status", "lane", "tenant", "batch", "model", "error_class", "metadata", "since", "text")
_CHOICES = {"status": STATUSES, "lane": LANES, "error_class": ERROR_CLASSES}


def filters(view: View) -> Filters:
    """The filters of the URL. Raises Refused."""
    asked = view.query
    for name, choices in _CHOICES.items():
        if name in asked and asked[name] not in choices:
            raise Refused(400, "No such filter", f"{name}: expected one of {', '.join(choices)}.")
    found: Filters = {
        "status": asked.get("status"),
        "lane": asked.get("lane"),
        "batch": asked.get("batch"),
        "model": asked.get("model"),
        "error_class": asked.get("error_class"),
        "text": asked.get("text", "").strip() or None,
        "since": since(asked.get("since")),
    }
    if "metadata" in asked:
        key, equals, value = asked["metadata"].partition("=")
        if not equals:
            raise Refused(400, "No such filter", "metadata: expected KEY=VALUE, e.g. team=search.")
        found["metadata"] = {key.strip(): value.strip()}
    return found


def since(given: str | None) -> datetime | None:
    """A moment: `30m`, `24h`, `7d` ago, or ISO 8601 (UTC without an offset). Raises Refused."""
    if given is None:
        return None
    try:
        if given[:-1].isdigit() and given[-1] in _UNITS:
            return datetime.now(UTC) - timedelta(**{_UNITS[given[-1]]: int(given[:-1])})
        moment = datetime.fromisoformat(given)
    except (ValueError, OverflowError):
        raise Refused(400, "No such filter", "since: expected 30m, 24h, 7d, or a time: 2026-11-26T12:00.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


async def jobs(view: View) -> Response:
    """`GET /ui/jobs`."""
    which, asked = filters(view), view.query
    if which.get("text") and is_job_id(str(which["text"])):
        return view.go(f"/jobs/{which['text']}")
    before = asked.get("before")
    read = partial(view.host.fleet.page, tenant=view.tenant, limit=LISTED, before=before, **which)
    found = await view.look(f"jobs {view.tenant} {sorted(asked.items())}", read, 2.0)
    return view.render(
        "jobs.html",
        of=(found,),
        page=found,
        asked={name: asked[name] for name in NAMES if name in asked},
        before=before,
        listed=LISTED,
        choices=_CHOICES,
        terminal=TERMINAL_STATUSES,
    )


async def change(view: View) -> Response:
    """`GET /ui/jobs/change?do=retry&…`: how many jobs the filters show that may be cancelled or retried, before it is done."""
    do = view.query.get("do")
    if do not in {"cancel", "retry"}:
        raise Refused(400, "No such button", "Jobs may be cancelled or retried.")
    found, more = await to_thread.run_sync(partial(_matching, view, filters(view), do))
    return view.render(
        "change.html",
        do=do,
        jobs=found,
        more=more,
        most=CHANGED,
        asked={name: view.query[name] for name in NAMES if name in view.query},
    )


def _matching(view: View, which: Filters, do: str) -> tuple[list[Job], bool]:
    """The first of the jobs that match and may be changed so, and whether there may be more."""
    found: list[Job] = []
    before: str | None = None
    for _ in range(PAGES):
        one = view.host.fleet.page(tenant=view.tenant, limit=CHANGED, before=before, **which)
        found += [job for job in one.jobs if _may(job, do)]
        before = one.next
        if before is None or len(found) > CHANGED:
            break
    return found[:CHANGED], before is not None or len(found) > CHANGED


def _may(job: Job, do: str) -> bool:
    if do == "cancel":
        return job.status not in TERMINAL_STATUSES
    # A batch's results are final: its failed lines become a batch of their own.
    return job.status in {"failed", "cancelled", "expired"} and job.batch_id is None


async def change_all(view: View, do: str) -> Response:
    """`POST /ui/jobs/cancel` and `/ui/jobs/retry`: exactly the jobs that the page before has shown."""
    chosen = view.many.get("job", [])
    if len(chosen) > CHANGED:
        raise Refused(400, "Too many", f"At most {CHANGED:,} jobs at once.")
    done, refused = 0, 0
    for one in chosen:
        tenant, _, job_id = one.partition("/")
        try:
            await perform(view, do, tenant, job_id)
            done += 1
        except NotAllowed:
            refused += 1  # another command was quicker
    view.target = f"{done:,} done, {refused:,} refused"
    words = {"cancel": "cancelled, or asked to stop", "retry": "queued again"}[do]
    return view.go(
        "/jobs", f"{done:,} jobs {words}" + (f"; {refused:,} had changed meanwhile" if refused else "") + "."
    )


async def perform(view: View, do: str, tenant: str, job_id: str) -> None:
    """Cancel or retry one job of a tenant that the viewer may change. Raises NotFound, NotAllowed, Refused."""
    pot = view.pot(tenant)
    if do == "cancel":
        await pot.cancel(job_id)
        return
    require_no_limits(view)
    await pot.retry(job_id)


def require_no_limits(view: View) -> None:
    """Refuse a key whose own limits a job made here would not be counted against."""
    if view.viewer.limited:
        words = "This key has limits of its own, which the dashboard would not count against: use it at the API, or sign in with one without."
        raise Refused(403, "Not with this key", words)


def _all(do: str) -> Any:
    async def handler(view: View) -> Response:
        return await change_all(view, do)

    return handler


ROUTES = [
    page("/jobs", jobs),
    page("/jobs/change", change, Role.OPERATE),
    action("/jobs/cancel", _all("cancel")),
    action("/jobs/retry", _all("retry")),
]

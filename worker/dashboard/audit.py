"""Who pressed what: the log of every button, newest first. A viewer of one tenant sees that tenant's."""

from __future__ import annotations

from functools import partial

from anyio import to_thread
from starlette.responses import Response

from worker.dashboard.view import View, page
from worker.producer.access import Role

LISTED = 100


async def log(view: View) -> Response:
    """`GET /ui/log`."""
    read = partial(view.host.access.actions, tenant=view.tenant, before=view.query.get("before"), limit=LISTED)
    found = await to_thread.run_sync(read)
    return view.render("log.html", actions=found, more=found[-1].id if len(found) == LISTED else None)


ROUTES = [page("/log", log, Role.OPERATE)]

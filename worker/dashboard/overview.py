"""Overview: what waits and for how long, what runs, what failed and why, what it costs; and plots of an hour, a day, a week."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial

from starlette.responses import JSONResponse, Response

from worker.dashboard.view import HEADERS, Refused, View, page
from worker.producer.fleet import LATELY, SPANS, Rates


async def overview(view: View) -> Response:
    """`GET /ui/`."""
    fleet, tenant = view.host.fleet, view.tenant
    state = await view.look("state", fleet.state)
    rates: Rates = await view.look("rates hour", partial(fleet.rates, "hour"), 10.0)
    failing = await view.look(
        f"failing {tenant}", lambda: fleet.failing(tenant=tenant, now_ms=int(time.time() * 1000)), 5.0
    )
    span = view.query.get("span", "hour")
    spent = await view.look(f"spent {tenant}", lambda: fleet.spent_today(tenant=tenant), 5.0)
    workers = await view.look("workers", fleet.workers)
    return view.render(
        "overview.html",
        of=(state, rates, failing, spent, workers),
        state=state,
        failing=failing,
        per_minute=sum(sum(line[-LATELY:]) for line in rates.ended.values()) / LATELY,
        lately=rates.lately,
        spent=spent,
        workers=workers,
        spans=list(SPANS),
        span=span if span in SPANS else "hour",
    )


async def rates(view: View) -> Response:
    """`GET /ui/rates/{span}`: the plots' numbers. They are those of all tenants together."""
    if view.viewer.tenant is not None:
        raise Refused(403, "Not with this key", "What the whole fleet does is for admins.")
    span = view.request.path_params["span"]
    if span not in SPANS:
        raise Refused(404, "Not found", "There are plots of an hour, a day and a week.")
    found = await view.look(f"rates {span}", partial(view.host.fleet.rates, span), 10.0)
    return JSONResponse(asdict(found), headers=HEADERS)


ROUTES = [page("/", overview), page("/rates/{span}", rates)]

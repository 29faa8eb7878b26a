"""Webhooks: endpoints and how they are, deliveries with their attempts, dead letters, and what may be done about them."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.responses import Response

from worker.dashboard.view import View, action, page
from worker.producer.access import Role

LISTED = 50
STATUSES = ("pending", "delivering", "delivered", "dead", "blocked")
_WORDS = {
    "enable": "It is enabled; its dead events stay dead until they are replayed.",
    "disable": "It is disabled; what waited for it is dead.",
}


async def webhooks(view: View) -> Response:
    """`GET /ui/webhooks`."""
    hooks, status = view.pot().blocking.webhooks, view.query.get("status")
    tenant = view.pot().tenant
    wanted: Any = status if status in STATUSES else None
    return view.render(
        "webhooks.html",
        endpoints=await view.look(f"endpoints {tenant}", hooks.list),
        events=await view.look(f"events {tenant} {wanted}", partial(hooks.events, status=wanted, limit=LISTED), 2.0),
        statuses=STATUSES,
        status=wanted,
        tenant=tenant,
    )


async def event(view: View) -> Response:
    """`GET /ui/webhooks/{event}`."""
    pot = view.pot()
    name = view.request.path_params["event"]
    found = await view.look(f"event {pot.tenant} {name}", partial(pot.blocking.webhooks.get, name))
    return view.render("event.html", event=found, tenant=pot.tenant)


async def add(view: View) -> Response:
    """`POST /ui/webhooks/add`: an endpoint, and its secret, which is shown this once."""
    made = await view.pot().webhooks.add(view.form.get("url", "").strip(), description=view.form.get("description", ""))
    view.target = made.id
    return view.render("secret.html", what=f"Endpoint {made.id}", secret=made.secret, back="/webhooks")


async def rotate(view: View) -> Response:
    """`POST /ui/webhooks/rotate`."""
    made = await view.pot().webhooks.rotate(view.form.get("endpoint", ""))
    view.target = made.id
    words = f"Endpoint {made.id}; for a day deliveries carry both signatures"
    return view.render("secret.html", what=words, secret=made.secret, back="/webhooks")


async def test(view: View) -> Response:
    """`POST /ui/webhooks/test`: an event of its own, sent by a worker."""
    sent = await view.pot().webhooks.test(view.form.get("endpoint", ""), timeout=10.0)
    return view.go(f"/webhooks/{sent['id']}?tenant={sent['tenant']}", "A test event; its attempts are below.")


def _endpoint(verb: str) -> Any:
    async def press(view: View) -> Response:
        pot = view.pot()
        await getattr(pot.webhooks, verb)(view.form.get("endpoint", ""))
        view.target = f"done: {view.form.get('endpoint', '')}"
        return view.go(f"/webhooks?tenant={pot.tenant}", _WORDS[verb])

    return press


async def replay(view: View) -> Response:
    """`POST /ui/webhooks/replay`: one event, or all that are dead or blocked."""
    pot, one = view.pot(), view.form.get("event")
    if one:
        await pot.webhooks.replay(one)
        return view.go(f"/webhooks/{one}?tenant={pot.tenant}", "It is delivered again, with the same id.")
    sent = [*await pot.webhooks.replay(status="dead"), *await pot.webhooks.replay(status="blocked")]
    view.target = f"{len(sent):,} events"
    return view.go(f"/webhooks?tenant={pot.tenant}", f"{len(sent):,} events are delivered again, with the same ids.")


ROUTES = [
    page("/webhooks", webhooks, Role.OPERATE),
    page("/webhooks/{event}", event, Role.OPERATE),
    action("/webhooks/add", add),
    action("/webhooks/rotate", rotate),
    action("/webhooks/test", test),
    action("/webhooks/replay", replay),
    *(action(f"/webhooks/{verb}", _endpoint(verb)) for verb in _WORDS),
]

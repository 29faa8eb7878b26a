"""Routes: each model's limit now and over the last hour, in flight, refused, paused and why. They are no tenant's."""

from __future__ import annotations

from typing import Any

from anyio import to_thread
from starlette.responses import Response

from worker.dashboard.view import View, action, page
from worker.producer.access import Role
from worker.producer.waiting import again, paused_words


async def routes(view: View) -> Response:
    """`GET /ui/routes`."""
    states = await view.host.looks.at("routes", view.pot("default").routes.list, 1.0)
    rates = await view.host.looks.at("route rates", lambda: to_thread.run_sync(view.host.fleet.route_rates), 10.0)
    shown = [(state, paused_words(state), *again(state), rates.get(state.route.model)) for state in states]
    return view.render("routes.html", routes=shown, settings=view.host.settings)


def _button(verb: str) -> Any:
    async def press(view: View) -> Response:
        name = view.form.get("route", "")
        routes = view.pot("default").routes
        if verb == "pause":
            await routes.pause(name, reason=f"by {view.viewer.name} in the dashboard")
        else:
            await routes.resume(name)
        view.target = f"done: {name}"
        return view.go("/routes", f"{name} is {verb}d.")

    return press


ROUTES = [
    page("/routes", routes, Role.ADMIN),
    action("/routes/pause", _button("pause"), Role.ADMIN),
    action("/routes/resume", _button("resume"), Role.ADMIN),
]

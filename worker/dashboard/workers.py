"""Workers: who lives, with what load, what each holds; one of them drained. They are no tenant's."""

from __future__ import annotations

from anyio import to_thread
from starlette.responses import Response

from worker.dashboard.view import View, action, page
from worker.producer.access import Role


async def workers(view: View) -> Response:
    """`GET /ui/workers`."""
    fleet = view.host.fleet
    return view.render(
        "workers.html", workers=await view.look("workers", fleet.workers), held=await view.look("held", fleet.held)
    )


async def drain(view: View) -> Response:
    """`POST /ui/workers/drain`."""
    owner = view.form.get("owner", "")
    await to_thread.run_sync(view.host.fleet.drain, owner)
    view.target = f"done: {owner}"
    return view.go("/workers", f"{owner} finishes what it has and ends.")


ROUTES = [page("/workers", workers, Role.ADMIN), action("/workers/drain", drain, Role.ADMIN)]

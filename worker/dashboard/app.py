"""The routes under `/ui`: the pages of each module, signing in and out, the static files, and what is not there."""

from __future__ import annotations

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from worker.dashboard import audit, batches, costs, job, jobs, keys, overview, playground, webhooks, workers
from worker.dashboard import routes as limits
from worker.dashboard.rendering import rendered, static
from worker.dashboard.view import (
    COOKIE,
    HEADERS,
    ROOT,
    Host,
    Refused,
    View,
    action,
    check_csrf,
    keep,
    page,
    read_form,
)

#: The files of `static/`, by name: nothing else is served.
_STATIC = {
    "style.css": "text/css",
    "dash.js": "text/javascript",
    "htmx.min.js": "text/javascript",
    "uplot.min.js": "text/javascript",
    "uplot.min.css": "text/css",
    "icon.svg": "image/svg+xml",
}
#: An address has the file's hash in it, so what it names never changes.
_CACHE = "public, max-age=31536000, immutable"


async def sign_in(request: Request) -> Response:
    """`GET /ui/sign-in`, and `POST` with a key."""
    host: Host = request.app.state.gateway
    token = request.cookies.get(COOKIE) or host.access.new_token()
    next_page, problem = request.query_params.get("next", ""), ""
    inside = await to_thread.run_sync(host.access.viewer, token) is not None  # another tab has signed in meanwhile
    if inside and request.method != "POST":
        return _onwards(next_page)
    if request.method == "POST":
        form: dict[str, str] = {}
        try:
            form |= {name: values[-1] for name, values in (await read_form(request)).items()}
            check_csrf(request, form, host.access.csrf(token))
        except Refused as error:
            problem, next_page = str(error), form.get("next", "")
            if inside:
                return _onwards(next_page)
        else:
            next_page = form.get("next", "")
            begun = await to_thread.run_sync(host.access.sign_in, form.get("key", "").strip())
            if begun is not None:
                onwards = _onwards(next_page)
                keep(onwards, request, begun[0])
                return onwards
            problem = "No key like this is in force."
    given = {"root": ROOT, "csrf": host.access.csrf(token), "problem": problem, "next": next_page, "view": None}
    open_here = await to_thread.run_sync(host.access.open)
    answer = HTMLResponse(
        rendered("sign_in.html", layout="base.html", notice="", open_here=open_here, **given),
        401 if problem else 200,
        HEADERS,
    )
    keep(answer, request, token)
    return answer


def _onwards(page: str) -> RedirectResponse:
    """To the page that was asked for: only a path of ours, for a link must not lead elsewhere."""
    return RedirectResponse(page if _ours(page) else ROOT, 303, HEADERS)


def _ours(path: str) -> bool:
    return path == ROOT or (path.startswith(f"{ROOT}/") and "\\" not in path and path.isprintable())


async def sign_out(view: View) -> Response:
    """End the session."""
    await to_thread.run_sync(view.host.access.sign_out, view.token)
    answer = view.go("/sign-in")
    answer.delete_cookie(COOKIE, path=ROOT)
    return answer


async def file(request: Request) -> Response:
    """`GET /ui/static/…`."""
    kind = _STATIC.get(request.path_params["name"])
    if kind is None:
        return Response("not found", 404, HEADERS)
    data, _ = static(request.path_params["name"])
    return Response(data, headers=HEADERS | {"cache-control": _CACHE}, media_type=kind)


async def missing(view: View) -> Response:
    """Everything else."""
    raise Refused(404, "Not found", "There is no such page.")


def routes() -> list[BaseRoute]:
    """Everything under `/ui`."""
    return [
        Route(ROOT, lambda request: RedirectResponse(f"{ROOT}/", 308)),
        Mount(
            ROOT,
            routes=[
                Route("/static/{name}", file),
                Route("/sign-in", sign_in, methods=["GET", "POST"]),
                action("/sign-out", sign_out, logged=False),
                *overview.ROUTES,
                *jobs.ROUTES,
                *job.ROUTES,
                *batches.ROUTES,
                *limits.ROUTES,
                *costs.ROUTES,
                *webhooks.ROUTES,
                *workers.ROUTES,
                *keys.ROUTES,
                *playground.ROUTES,
                *audit.ROUTES,
                page("/{path:path}", missing),
            ],
        ),
    ]

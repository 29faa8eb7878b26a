"""Pages and buttons: who asks, what they may, what is answered. Every page and every button goes through here.

    page("/jobs", handler)                    GET; shown to a role that may look
    action("/jobs/{job}/retry", handler)      POST; with its CSRF token, written into the log of who pressed what

A handler takes a `View` and gives a response: `view.render(template, …)` for a page, `view.go(path, words)` after a
button. An error of the product becomes a page in plain words, with its status.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qs, quote, unquote, urlsplit

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from worker.base.errors import InvalidRequest, NotAllowed, NotFound, StockpotError, Unreachable
from worker.base.log import get_logger
from worker.base.settings import Settings
from worker.dashboard.looks import Looks
from worker.dashboard.rendering import rendered
from worker.producer.access import DEVELOPER, SESSION, Access, Role, Viewer
from worker.producer.async_stockpot import AsyncStockpot
from worker.producer.fleet import Fleet
from worker.producer.keys import Keys
from worker.producer.models import Models
from worker.producer.sse import Frames

log = get_logger(__name__)

ROOT = "/ui"
#: What the navigation shows, in its order, and to whom.
NAVIGATION = (
    ("Overview", "/", Role.READ),
    ("Jobs", "/jobs", Role.READ),
    ("Batches", "/batches", Role.READ),
    ("Routes", "/routes", Role.ADMIN),
    ("Money", "/costs", Role.READ),
    ("Webhooks", "/webhooks", Role.OPERATE),
    ("Workers", "/workers", Role.ADMIN),
    ("Keys", "/keys", Role.ADMIN),
    ("Playground", "/playground", Role.OPERATE),
    ("Log", "/log", Role.OPERATE),
)
COOKIE, NOTICE = "stockpot_ui", "stockpot_ui_notice"
#: A form with a prompt, or with the ids of a thousand jobs.
FORM_BYTES = 1_500_000
#: Everything is ours and of this origin; no inline script or style, no frame around it, no form to elsewhere.
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_STATUS: tuple[tuple[type[StockpotError], int, str], ...] = (
    (NotFound, 404, "Not found"),
    (InvalidRequest, 400, "That cannot be accepted"),
    (NotAllowed, 409, "That cannot be done now"),
    (Unreachable, 503, "Out of reach"),
)


class Host(Protocol):
    """What the dashboard is served by: the gateway's state."""

    settings: Settings
    access: Access
    fleet: Fleet
    looks: Looks
    models: Models
    keys: Keys

    def pot(self, tenant: str) -> AsyncStockpot:
        """The producer of a tenant."""
        ...

    def stream(self, frames: Frames) -> ASGIApp:
        """A job's frames as an answer."""
        ...

    def is_local(self, request: Request) -> bool:
        """Whether a request comes from this machine and looks like it."""
        ...


class Refused(Exception):
    """An answer that is an error page."""

    def __init__(self, status: int, title: str, words: str) -> None:
        super().__init__(words)
        self.status, self.title = status, title


@dataclass(slots=True)
class View:
    """One request of a viewer. `form` is what a button sent, one value a name; `many` has all values."""

    request: Request
    host: Host
    viewer: Viewer
    token: str
    form: dict[str, str] = field(default_factory=dict)
    many: dict[str, list[str]] = field(default_factory=dict)
    upload: Any = None  # the file of a form that has one
    fresh: bool = False  # the browser has no cookie yet
    target: str = ""  # what a button was about, for the log; by default the path

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the URL that are not empty."""
        return {name: value for name, value in self.request.query_params.items() if value}

    @property
    def tenant(self) -> str | None:
        """Whose things are shown: the viewer's tenant; for an admin that of `?tenant=`, or None for all."""
        return self.viewer.tenant or self.query.get("tenant")

    def pot(self, tenant: str | None = None) -> AsyncStockpot:
        """The producer of a tenant that the viewer may see: by default the one shown. Raises NotFound."""
        chosen = tenant or self.tenant or "default"
        if self.viewer.tenant not in {None, chosen}:
            raise NotFound(f"there is no tenant {chosen[:64]}")
        return self.host.pot(chosen)

    @property
    def here(self) -> str:
        """The address of this page, with its query."""
        url = self.request.url
        return url.path + (f"?{url.query}" if url.query else "")

    @property
    def section(self) -> str:
        """The entry of the navigation that this page belongs to."""
        return "/" + self.request.url.path.removeprefix(ROOT).strip("/").partition("/")[0]

    def may(self, role: str) -> bool:
        """Whether the viewer has this role (`READ`, `OPERATE`, `ADMIN`): for templates."""
        return self.viewer.role >= Role[role]

    async def look(self, name: str, read: Callable[[], Any], seconds: float = 1.0) -> Any:
        """What `read` (it blocks) gives, read once in so many seconds for all viewers with the same `name`."""
        return await self.host.looks.at(name, lambda: to_thread.run_sync(read), seconds)

    def render(
        self, template: str, code: int = 200, *, of: tuple[object, ...] | None = None, **values: Any
    ) -> Response:
        """A page; of a page that refreshes itself only the live part.

        Args:
            of: the looks that the live part shows; given where it has nothing else but what is in the URL and what
                the viewer may, and no form. It is rendered once then for all who may the same.
        """
        part = "hx-request" in self.request.headers
        notice = unquote(self.request.cookies.get(NOTICE, ""))
        given = {
            "view": self,
            "root": ROOT,
            "csrf": self.host.access.csrf(self.token),
            "notice": notice,
            "navigation": NAVIGATION,
            **values,
        }
        make = partial(rendered, template, layout="part.html" if part else "base.html", **given)
        who = (template, self.here, self.viewer.role.name, self.viewer.tenant)
        text = self.host.looks.once(repr(who), of, make) if part and of is not None else make()
        response = HTMLResponse(text, code, HEADERS)
        if self.fresh:
            keep(response, self.request, self.token)
        if notice and not part:
            response.delete_cookie(NOTICE, path=ROOT)
        return response

    def go(self, path: str, words: str = "") -> Response:
        """To another page, which shows these words."""
        response = RedirectResponse(ROOT + path, 303, HEADERS)
        if words:
            response.set_cookie(NOTICE, quote(words[:1_000]), path=ROOT, httponly=True, samesite="lax", max_age=60)
        return response


Handler = Callable[[View], Awaitable[ASGIApp]]


def page(path: str, handler: Handler, role: Role = Role.READ) -> Route:
    """A page, for viewers with this role."""

    async def endpoint(request: Request) -> ASGIApp:
        view = await _view(request)
        if view is None:
            return _to_sign_in(request)
        return await _answered(view, role, handler)

    return Route(path, endpoint, name=f"ui{path}")


def action(path: str, handler: Handler, role: Role = Role.OPERATE, *, logged: bool = True) -> Route:
    """A button, for viewers with this role."""

    async def endpoint(request: Request) -> ASGIApp:
        view = await _view(request)
        if view is None:
            return _to_sign_in(request)
        return await _answered(view, role, partial(_pressed, handler=handler, logged=logged))

    return Route(path, endpoint, methods=["POST"], name=f"ui{path}")


async def _view(request: Request) -> View | None:
    """The request's view; None when the user has to sign in first."""
    host: Host = request.app.state.gateway
    token = request.cookies.get(COOKIE, "")
    viewer = await to_thread.run_sync(host.access.viewer, token) if token else None
    if viewer is None and host.is_local(request) and await to_thread.run_sync(host.access.open):
        viewer = DEVELOPER
    if viewer is None:
        return None
    return View(request, host, viewer, token or host.access.new_token(), fresh=not token)


def keep(response: Response, request: Request, token: str) -> None:
    """Give a browser its cookie: for this path only, for no script, and not with other sites' requests."""
    response.set_cookie(
        COOKIE,
        token,
        path=ROOT,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https",
        max_age=int(SESSION.total_seconds()),
    )


def _to_sign_in(request: Request) -> Response:
    asked = _looked_at(request)
    where = f"{ROOT}/sign-in" + (f"?next={quote(asked)}" if asked else "")
    if "hx-request" in request.headers:  # the page in the background: as a whole, not as its live part
        return Response(status_code=401, headers=HEADERS | {"hx-redirect": where})
    return RedirectResponse(where, 303, HEADERS)


def _looked_at(request: Request) -> str:
    """The page to come back to: of a button, the one with its form."""
    if request.method in {"GET", "HEAD"}:
        return request.url.path + (f"?{request.url.query}" if request.url.query else "")
    try:
        page = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return ""
    return page.path + (f"?{page.query}" if page.query else "")


async def _answered(view: View, role: Role, handler: Handler) -> ASGIApp:
    """What a handler gives, or the page of its error."""
    try:
        if view.viewer.role < role:
            raise Refused(
                403, "Not with this key", f"This needs the role {role.title}; you have {view.viewer.role.title}."
            )
        return await handler(view)
    except Refused as error:
        return view.render("error.html", error.status, title=error.title, words=str(error))
    except StockpotError as error:
        status, title = next((found[1:] for found in _STATUS if isinstance(error, found[0])), (500, "That failed"))
        return view.render("error.html", status, title=title, words=str(error))
    except Exception:
        log.exception("request_failed")
        words = "The log of the gateway has the error."
        return view.render("error.html", 500, title="The dashboard failed", words=words)
    finally:
        await view.request.close()  # with the file of a form


async def _pressed(view: View, *, handler: Handler, logged: bool) -> ASGIApp:
    """What a button does, with its line in the log."""
    if view.request.headers.get("content-type", "").startswith("multipart/"):
        await _read_upload(view)
    else:
        view.many = await read_form(view.request)
    view.form = {name: values[-1] for name, values in view.many.items()}
    check_csrf(view.request, view.form, view.host.access.csrf(view.token))
    if not logged:
        return await handler(view)
    access, request = view.host.access, view.request
    name = request.scope["route"].path.rpartition("/")[2]
    target = " ".join(str(value) for value in request.path_params.values()) or request.scope["route"].path
    tenant = view.tenant or view.form.get("tenant")
    line = await to_thread.run_sync(access.begin, view.viewer, name, target, tenant)
    try:
        answer = await handler(view)
    except Exception as error:
        words = str(error) if isinstance(error, (Refused, StockpotError)) else type(error).__name__
        await to_thread.run_sync(access.end, line, f"refused: {words}")
        raise
    finally:
        view.host.looks.expire()
    await to_thread.run_sync(access.end, line, view.target or "done")
    return answer


def check_csrf(request: Request, form: Mapping[str, str], token: str) -> None:
    """Refuse a form that another site made. Raises Refused."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is None:  # an older browser
        foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    else:
        foreign = site not in {"same-origin", "none"}
    if foreign or not hmac.compare_digest(form.get("csrf", "").encode(), token.encode()):
        raise Refused(403, "Not from this page", "The form was not made by this page, or is too old: load it again.")


async def _read_upload(view: View) -> None:
    """The fields and the file of a form that has one; its bytes go to the disk as they come. Raises Refused."""
    declared = view.request.headers.get("content-length", "")
    limit = view.host.settings.max_batch_file_bytes + FORM_BYTES
    if not declared.isdigit() or int(declared) > limit:
        raise Refused(413, "Too large", f"A batch file may have {view.host.settings.max_batch_file_bytes:,} bytes.")
    form = await view.request.form(max_files=1, max_fields=20)
    view.many = {name: [value] for name, value in form.multi_items() if isinstance(value, str)}
    view.upload = form.get("file")


async def read_form(request: Request) -> dict[str, list[str]]:
    """The fields of a form, bounded. Raises Refused."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_BYTES:
            raise Refused(413, "Too large", f"A form may have {FORM_BYTES:,} bytes.")
    try:
        return parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=5_000, errors="strict")
    except ValueError:
        raise Refused(400, "That cannot be accepted", "The form is not encoded as a form.") from None

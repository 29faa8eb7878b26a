"""Whether a request comes from this machine: who is served where there are no keys.

It must look like it, too: a loopback address, a loopback `Host` (a page of another site that was rebound to 127.0.0.1
sends its own) and no trace of a proxy, behind which any client may stand.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request

from worker.base.settings import Settings
from worker.base.urls import is_loopback

#: Headers that a proxy adds: the client is not on this machine then.
_PROXIED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


def is_local(request: Request, settings: Settings) -> bool:
    """Whether a request comes from this machine and looks like it."""
    client = request.client.host if request.client is not None else None
    if client is None or any(name in request.headers for name in _PROXIED):
        return False
    # A page of another site can send a request to this machine, too; its browser names the page's origin.
    origin = request.headers.get("origin")
    if origin is not None and origin not in allowed_origins(settings):
        page = urlsplit(origin).hostname
        if page is None or not is_loopback(page):
            return False
    return is_loopback(client) and is_loopback(request.url.hostname or "")


def allowed_origins(settings: Settings) -> list[str]:
    """The origins whose pages may call from a browser: STOCKPOT_GATEWAY_CORS_ORIGINS."""
    return [one.strip().rstrip("/") for one in (settings.gateway_cors_origins or "").split(",") if one.strip()]

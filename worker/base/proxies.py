"""The HTTP proxy that the environment names, as the providers' SDKs read it.

`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`; and `NO_PROXY` for hosts that need none: names with all that is below them,
addresses, networks (`10.0.0.0/8`), each with a port or without, or `*`.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from worker.base import urls
from worker.base.errors import SettingsError

_NAMES = "(HTTPS_PROXY, HTTP_PROXY; NO_PROXY names hosts that need none)"


def proxy_for(url: str) -> str | None:
    """The proxy for a URL, None where it is reached directly.

    Raises:
        SettingsError: the environment names one of a kind that cannot be used, or what is no URL; nothing of it is repeated.
    """
    target, proxies = URL(url), getproxies()
    proxy = (proxies.get(target.scheme) or proxies.get("all") or "").strip()
    host = target.host or ""
    if not proxy or proxy_bypass(host) or _needs_none(host, target.port, proxies.get("no") or ""):
        return None
    kind, mark, rest = proxy.partition("://")
    if not mark:
        kind, rest = "http", proxy
    if kind.lower() not in ("http", "https"):
        raise SettingsError(
            f"the environment names a {kind} proxy for the upstream; only HTTP proxies can be used {_NAMES}"
        )
    try:
        parts = urls.split(f"{kind}://{rest}", ("http", "https"))
    except ValueError as error:
        raise SettingsError(f"the environment's proxy for the upstream cannot be used: {error} {_NAMES}") from None
    if not parts.hostname:
        raise SettingsError(f"the environment's proxy for the upstream cannot be used: it names no host {_NAMES}")
    return parts.geturl()


def _needs_none(host: str, port: int | None, exceptions: str) -> bool:
    return any(_matches(entry, host.lower(), port) for entry in exceptions.replace(",", " ").lower().split())


def _matches(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    if entry.startswith("["):
        entry, _, rest = entry[1:].partition("]")
        wanted = rest.removeprefix(":")
    elif entry.count(":") == 1:
        entry, _, wanted = entry.partition(":")
    else:
        wanted = ""
    if wanted and wanted != str(port):
        return False
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        name = entry.removeprefix("*").lstrip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))

"""The HTTP proxy that the environment names, as the providers' SDKs read it.

`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`; and `NO_PROXY` for hosts that need none.
"""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass

from yarl import URL

from worker.base.errors import SettingsError


def proxy_for(url: str) -> str | None:
    """The proxy for a URL, None where it is reached directly.

    Raises:
        SettingsError: it is of a kind that cannot be used.
    """
    target = URL(url)
    proxies = getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    host = target.host or ""
    if not proxy or proxy_bypass(host) or proxy_bypass(f"{host}:{target.port}"):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        kind = proxy.partition("://")[0]
        raise SettingsError(
            f"the environment names a {kind} proxy for the upstream; only HTTP proxies can be used "
            "(HTTPS_PROXY, HTTP_PROXY; NO_PROXY names hosts that need none)"
        )
    return proxy

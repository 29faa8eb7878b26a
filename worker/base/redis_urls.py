"""Redis URLs: what redis-py's users write, checked, and in the one form from which every client of ours is made.

That form, the URL in force, carries all that a client must know: the certificate authority to trust and the namespace
before every key. Times and pool sizes are ours to choose, so their options are accepted and have no effect.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode

from worker.base import urls

#: Valkey's schemes mean the same; redis-py does not know them.
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}
_REFUSED = {
    "sentinel": "Redis Sentinel is not supported; give the URL of the primary, or of a proxy that follows it",
    "cluster": "Redis Cluster is not supported: a script of ours touches keys of several slots; give one server",
}
_USED = frozenset({"db", "username", "password", "protocol", "client_name"})
_WITHOUT_EFFECT = frozenset(
    {
        "health_check_interval",
        "max_connections",
        "retry_on_error",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_keepalive_options",
        "socket_timeout",
        "timeout",
    }
)
_TLS = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
        "ssl_keyfile_password",
    }
)
#: The option of a URL in force that names the namespace; no client sees it.
_NAMESPACE = "namespace"
DEFAULT_NAMESPACE = "stockpot"


def check(url: str) -> str:
    """A Redis URL of the settings, as it is.

    Raises:
        ValueError: it is none, or one that is not supported; the message holds nothing of it.
    """
    in_force(url)
    return url


def check_broker(url: str) -> str:
    """A broker's URL as it is: Redis, or what else kombu speaks.

    Raises:
        ValueError: as `check`.
    """
    if is_redis(url):
        return check(url)
    scheme = url.partition("://")[0].lower()
    urls.split(url, (scheme,) if scheme.isidentifier() or "+" in scheme else ("redis", "rediss", "unix", "amqp"))
    return url


def amqp_tls(url: str, ca_file: str | None) -> dict[str, Any] | None:
    """The TLS of an AMQP broker, as `broker_use_ssl`: certificate and host are verified. None for other brokers.

    py-amqp looks at the host's name only where one is given; that of Redis stands in its URL.
    """
    if not url.startswith("amqps:"):
        return None
    one = None if ";" in url else urls.split(url, ("amqps",)).hostname
    return {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": ca_file, "server_hostname": one}


def is_redis(url: str) -> bool:
    """Whether a broker's URL means Redis, supported or not."""
    scheme = url.partition("://")[0].lower()
    return scheme in _SCHEMES or any(word in scheme for word in _REFUSED)


def in_force(url: str, *, ca_file: str | None = None, namespace: str = DEFAULT_NAMESPACE) -> str:
    """The URL from which clients are made. Given such a URL it returns the same, with the new options.

    Raises:
        ValueError: as `check`.
    """
    for word, sentence in _REFUSED.items():
        if word in url.partition("://")[0].lower():
            raise ValueError(sentence)
    parts = urls.split(url, tuple(_SCHEMES))
    scheme = _SCHEMES[parts.scheme]
    options = {key: value for key, value in parse_qsl(parts.query, keep_blank_values=True) if key != _NAMESPACE}
    unknown = sorted(set(options) - _USED - _WITHOUT_EFFECT - (_TLS if scheme == "rediss" else frozenset()))
    if unknown:
        names = ", ".join(name for name in unknown if name.isidentifier()) or "one that is no name"
        raise ValueError(f"unknown option in its query: {names}")
    user = options.pop("username", "") or unquote(parts.username or "")
    password = options.pop("password", "") or unquote(parts.password or "")
    kept = {key: value for key, value in options.items() if key not in _WITHOUT_EFFECT}
    place = _place(parts, scheme, kept)
    if scheme == "rediss":
        # redis-py verifies by default, kombu does not: neither is left to its default.
        kept.setdefault("ssl_cert_reqs", "required")
        if kept["ssl_cert_reqs"].lower() in {"none", "cert_none"}:
            kept["ssl_check_hostname"] = "false"
        kept.setdefault("ssl_check_hostname", "true")
        if ca_file is not None:
            kept.setdefault("ssl_ca_certs", ca_file)
    if namespace != DEFAULT_NAMESPACE:
        kept[_NAMESPACE] = namespace
    query = urlencode(kept, safe="/")
    return f"{scheme}://{_userinfo(user, password)}{place}{'?' + query if query else ''}"


def without_effect(url: str | None) -> list[str]:
    """The options of a Redis URL that are accepted and do nothing."""
    if url is None or not is_redis(url):
        return []
    return sorted({key for key, _ in parse_qsl(url.partition("?")[2])} & _WITHOUT_EFFECT)


def _place(parts: SplitResult, scheme: str, options: dict[str, str]) -> str:
    """Host, port and database; of a socket its path, with the database among the options."""
    if scheme == "unix":
        if not parts.path.startswith("/") or parts.hostname:
            raise ValueError("expected unix:///absolute/path")
        options["db"] = _database(options.get("db", "0"))
        return parts.path
    if not parts.hostname:
        raise ValueError("it names no host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = unquote(parts.path).strip("/")
    port = "" if parts.port is None else f":{parts.port}"
    return f"{host}{port}/{_database(options.pop('db', '') or path or '0')}"


def _database(number: str) -> str:
    if not number.isascii() or not number.isdigit():
        raise ValueError("a Redis database is a number")
    return str(int(number))


def _userinfo(user: str, password: str) -> str:
    if not user and not password:
        return ""
    return quote(user, safe="") + (f":{quote(password, safe='')}" if password else "") + "@"


def namespace_of(url: str | None) -> str:
    """The namespace in a URL in force."""
    query = (url or "").partition("?")[2]
    return dict(parse_qsl(query)).get(_NAMESPACE, DEFAULT_NAMESPACE)


def for_client(url: str) -> str:
    """A URL as redis-py takes it: without the namespace. One that is not in force yet is put so."""
    return in_force(url)


def for_kombu(url: str) -> str:
    """A URL as kombu takes it: it has no `unix://` and calls the database of a socket `virtual_host`."""
    if not is_redis(url):
        return url
    parts = urls.split(for_client(url), tuple(_SCHEMES))
    options = dict(parse_qsl(parts.query))
    database = options.pop("db", "0")
    kept = {key: value for key, value in options.items() if key.startswith("ssl_")}
    if parts.scheme == "unix":
        userinfo = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return f"redis+socket://{userinfo}{parts.path}?virtual_host={database}"
    return f"{parts.scheme}://{parts.netloc}{parts.path}{'?' + urlencode(kept, safe='/') if kept else ''}"

"""URLs of settings: checked before anything connects, and shown without what only their owner may know.

A driver that is handed a URL with an unencoded `@` or `/` in its password takes the rest of the password for a host
name and repeats it in its error. So such a URL is refused here, in words that repeat nothing of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

#: Query options with one of these in their names are credentials (`password`, `sslpassword`, `passfile`, `token` …).
_SECRET = ("pass", "secret", "token", "key")
#: Others that are credentials when they are the whole name: of signed URLs, and `code`, a key of Azure Functions.
_SECRET_NAMES = frozenset({"auth", "authorization", "code", "credential", "pwd", "sig", "signature"})
#: What `key` also stands in and is no credential: a file's name, a certificate's option.
_HARMLESS = frozenset(
    {"sslkey", "ssl_keyfile", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"}
)


def split(url: str, schemes: Collection[str]) -> SplitResult:
    """Take a URL apart.

    Raises:
        ValueError: it is none of these schemes, or ambiguous; the message holds nothing of it.
    """
    scheme, mark, rest = url.strip().partition("://")
    if not mark or scheme.lower() not in schemes:
        wanted = " or ".join(f"{one}://" for one in schemes)
        raise ValueError(f"expected a URL that starts with {wanted}")
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in rest):
        raise ValueError("a URL holds no spaces and no control characters; encode them (%20)")
    authority, at, path = _authority(rest)
    # What looks like user:password may have been cut short by a mark of its own password, or of the rest behind its own @.
    cut = at != "" and "@" in path and ":" in authority
    if authority.count("@") > 1 or cut:
        raise ValueError("the user or the password holds @, /, ? or #, which must be encoded (%40, %2F, %3F, %23)")
    try:
        parts = urlsplit(f"{scheme.lower()}://{rest}")
        if "," not in authority:
            _ = parts.port
    except ValueError:
        raise ValueError(
            "its host or port cannot be read; encode @, /, ?, # and : of the user or the password"
        ) from None
    return parts


def _authority(rest: str) -> tuple[str, str, str]:
    for at, letter in enumerate(rest):
        if letter in "/?#":
            return rest[:at], letter, rest[at + 1 :]
    return rest, "", ""


def without_credentials(url: str) -> str:
    """A URL for people and logs: no user, no password, no secret query option; whatever its form."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return "(no URL)"
    if scheme.startswith("sqlite"):
        return url
    cut = min((at for mark in "?#" if (at := rest.find(mark)) >= 0), default=len(rest))
    place, tail = rest[:cut], rest[cut:]
    if "@" in tail:  # the password itself may have been cut: nothing of it is sure to be harmless
        return f"{scheme}://…"
    options = parse_qsl(tail.removeprefix("?").partition("#")[0], keep_blank_values=True)
    shown = urlencode([(key, "***" if _is_secret(key) else value) for key, value in options], safe="/*,:")
    return f"{scheme}://{place.rpartition('@')[2]}{'?' + shown if shown else ''}"


def _is_secret(key: str) -> bool:
    key = key.lower()
    return key in _SECRET_NAMES or (key not in _HARMLESS and any(word in key for word in _SECRET))


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address is this machine: `localhost`, 127.0.0.0/8, ::1. An address may stand in brackets.

    Names below `localhost` are not: browsers keep them on this machine, but a resolver may ask the network's name server,
    and what would be sent there in clear are keys and prompts.
    """
    if host is None:
        return False
    host = host.strip("[]").removesuffix(".").lower()
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def upstream(url: str) -> str:
    """An upstream's base URL as `BaseUrl` understands it: without a closing slash, a pasted endpoint cut off.

    Raises:
        ValueError: it is no http(s) URL, or holds a user, a password, a key in its query, or a fragment. The upstream's key goes into a
            header; a credential here would stand in the names of routes.
    """
    parts = split(url, ("http", "https"))
    if "@" in parts.netloc:
        raise ValueError("it must hold no user and no password; the key is a setting of its own")
    if parts.fragment or "#" in url:
        raise ValueError("expected a base URL such as https://host/v1, without #")
    if any(_is_secret(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise ValueError("its query must hold no key and no token; STOCKPOT_UPSTREAM_HEADERS can carry one")
    if not parts.hostname:
        raise ValueError("it names no host")
    from worker.base.base_url import BaseUrl

    return str(BaseUrl.parse(parts.geturl()))


_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")


def database(url: str) -> str:
    """A database's URL as it is. The path of a SQLite file may hold anything.

    Raises:
        ValueError: it is no URL that Stockpot speaks, or ambiguous.
    """
    if not url or url.startswith(("sqlite:", "sqlite+pysqlite:")):
        return url
    scheme = url.partition("://")[0]
    if scheme.startswith("postgres") and "+" in scheme and scheme not in _POSTGRES:
        raise ValueError("Stockpot speaks to PostgreSQL through psycopg 3; write postgresql://")
    split(url, _POSTGRES if scheme.startswith("postgres") else ("postgresql", "sqlite"))
    return url

"""The checks of `stockpot doctor` that ask what goes wrong quietly: connections in clear, settings without effect, files that others read."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from worker.base import redis_urls, urls
from worker.base.settings import Settings
from worker.base.sources import Everything
from worker.cli.operations.check import Check
from worker.db.url import database_url
from worker.webhooks.secrets import KEY_FILE

#: Schemes of Redis, of the broker and of the upstream that encrypt nothing.
_CLEAR = frozenset({"redis", "valkey", "http", "amqp", "pyamqp", "librabbitmq"})
#: What a Redis URL has where the certificate is not looked at, or not its name.
_UNVERIFIED = {"ssl_cert_reqs": {"none", "cert_none", "optional"}, "ssl_check_hostname": {"false", "0", "no"}}


def safety(settings: Settings) -> Iterator[Check]:
    """Encryption of what crosses the network, settings that do nothing, and who may read files."""
    yield _encryption(settings)
    yield _ignored(settings)
    yield _permissions(settings)


def _encryption(settings: Settings) -> Check:
    """Redis, the broker and the upstream by their URLs; `server_checks` reports what the database's connection really has."""
    given = {"redis": settings.redis_url, "broker": settings.broker_url, "upstream": settings.upstream_url}
    ways = {name: _way(url) for name, url in given.items() if url is not None}
    poor = {name: way for name, way in ways.items() if way not in {_ENCRYPTED, _LOCAL}}
    if not poor:
        return Check("encryption", "ok", "; ".join(f"{name}: {way}" for name, way in ways.items()))
    mend = "Use rediss://, amqps:// and https:// with verified certificates, or a network that is yours alone."
    return Check("encryption", "note", "; ".join(f"{name}: {way}" for name, way in poor.items()), mend)


_ENCRYPTED, _LOCAL = "encrypted", "on this machine"


def _way(url: str) -> str:
    """How a URL's connection is protected."""
    parts = urlsplit(url)
    if parts.scheme == "unix" or urls.is_loopback(parts.hostname):
        return _LOCAL
    if parts.scheme in _CLEAR:
        return "not encrypted on the way to another machine"
    options = {name: value.lower() for name, value in parse_qsl(parts.query)}
    if any(options.get(name) in values for name, values in _UNVERIFIED.items()):
        return "encrypted, but the certificate is not verified"
    return _ENCRYPTED


def _ignored(settings: Settings) -> Check:
    """Settings that are set and have no effect."""
    found = [f"{name} of {place} ({winner} has it, too)" for name, place, winner in Everything(type(settings)).hidden()]
    if settings.api_key is not None and settings.api_key_file is not None:
        found.append("STOCKPOT_API_KEY_FILE (a key is set)")
    if settings.schema_name is not None and database_url(settings).get_backend_name() == "sqlite":
        found.append("STOCKPOT_SCHEMA (SQLite has none)")
    secure = [url for url in (settings.redis_url, settings.broker_url) if url is not None and url.startswith("rediss")]
    if settings.redis_ca_file is not None and not secure:
        found.append("STOCKPOT_REDIS_CA_FILE (no rediss:// URL)")
    if settings.upstream_plain_http and settings.upstream_url.startswith("https"):
        found.append("STOCKPOT_UPSTREAM_PLAIN_HTTP (the upstream is https://)")
    for url in (settings.redis_url, settings.broker_url):
        found += [f"{name} in a Redis URL (ours stands)" for name in redis_urls.without_effect(url)]
    if settings.http_port is None and "http_host" in settings.model_fields_set:
        found.append("STOCKPOT_HTTP_HOST (no STOCKPOT_HTTP_PORT: no worker listens)")
    if not found:
        return Check("settings", "ok", "each one that is set has an effect")
    return Check("settings", "note", f"without effect: {'; '.join(found)}", "Remove them, or what stands before them.")


def _permissions(settings: Settings) -> Check:
    """Files that hold prompts, answers or keys, and that other users of this machine may read."""
    files = [settings.home, settings.home / KEY_FILE, Path(".env"), Path("stockpot.toml")]
    if settings.api_key_file is not None:
        files.append(settings.api_key_file)
    url = database_url(settings)
    if url.get_backend_name() == "sqlite":
        files += [Path(f"{url.database}{end}") for end in ("", "-wal")]
    open_to_others = [str(path) for path in files if path.exists() and _mode(path) & (stat.S_IROTH | stat.S_IWOTH)]
    if not open_to_others:
        return Check("permissions", "ok", "files with keys, prompts and answers are closed to other users")
    detail = f"other users of this machine may read {', '.join(open_to_others)}"
    return Check("permissions", "note", detail, f"chmod o-rwx {' '.join(open_to_others)}")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)

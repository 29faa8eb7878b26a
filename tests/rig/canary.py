"""Canaries: unique tokens planted in what must stay secret, and the search for them where they must not be.

A leak is found as plain text, as base64 (at any alignment, as a Celery message body would carry it) and
percent-encoded.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import redis
import sqlalchemy as sa

_BLOCK_BYTES = 1024 * 1024


@dataclass(slots=True, frozen=True)
class Canaries:
    """One token per kind of secret. Each is unique to its planting, so that a find cannot be older than the test."""

    api_key: str
    prompt: str
    completion: str
    webhook_secret: str
    url_token: str
    metadata: str

    @classmethod
    def hatch(cls) -> Self:
        """New tokens."""
        tag = secrets.token_hex(6)
        kinds = {field.name: f"canary-{field.name.replace('_', '-')}-{tag}" for field in fields(cls)}
        return cls(**kinds | {"webhook_secret": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()})

    def tokens(self) -> dict[str, str]:
        """The tokens by kind."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(slots=True, frozen=True)
class Leak:
    """A token was found: which kind, where, at which byte."""

    kind: str
    where: str
    offset: int


def forms(token: str) -> set[bytes]:
    """The byte strings that would give a token away: itself, percent-encoded, and the core of its base64."""
    raw = token.encode()
    found = {raw, quote(token, safe="").encode()}
    for lead in range(3):
        # What surrounds the token changes the first and last characters of its base64; the middle is sure.
        encoded = base64.b64encode(b"\0" * lead + raw + b"\0" * (-(lead + len(raw)) % 3))
        found.add(encoded[4 if lead else 0 : -4])
    return {form for form in found if len(form) >= 8}


def scan_bytes(where: str, data: bytes, tokens: Mapping[str, str]) -> list[Leak]:
    """Every kind of token that shows in the data, with its first place."""
    leaks = []
    for kind, token in tokens.items():
        places = [at for form in forms(token) if (at := data.find(form)) >= 0]
        if places:
            leaks.append(Leak(kind, where, min(places)))
    return leaks


def scan_file(path: Path, tokens: Mapping[str, str]) -> list[Leak]:
    """As `scan_bytes`, for a file of any size."""
    found: dict[str, Leak] = {}
    overlap = max((len(form) for token in tokens.values() for form in forms(token)), default=1)
    kept, start = b"", 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            data = kept + block
            for leak in scan_bytes(str(path), data, tokens):
                found.setdefault(leak.kind, Leak(leak.kind, leak.where, start + leak.offset))
            kept = data[-overlap:]
            start += len(data) - len(kept)
    return list(found.values())


def scan(sources: Iterable[Path | tuple[str, bytes]], tokens: Mapping[str, str]) -> list[Leak]:
    """Search files, whole directories, and named bytes.

    Raises:
        FileNotFoundError: a path is not there; a search that looks at nothing would find nothing.
    """
    leaks: list[Leak] = []
    for source in sources:
        if isinstance(source, tuple):
            leaks += scan_bytes(*source, tokens)
        elif source.is_dir():
            leaks += [leak for path in sorted(source.rglob("*")) if path.is_file() for leak in scan_file(path, tokens)]
        else:
            leaks += scan_file(source, tokens)
    return leaks


def command_lines(pids: Iterable[int]) -> list[tuple[str, bytes]]:
    """The command lines (process titles) of living processes, which every user of the machine can read."""
    lines = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            lines.append((f"command line of {pid}", "\0".join(psutil.Process(pid).cmdline()).encode()))
    return lines


def database_columns(url: str) -> list[tuple[str, bytes]]:
    """The database's content, one entry per `table.column`, so that an allow-list can name what may hold a secret."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    content: list[tuple[str, bytes]] = []
    with engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.text(f'SELECT * FROM "{table}"')).mappings().all()
            for column in rows[0] if rows else ():
                joined = b"\n".join(_bytes(row[column]) for row in rows)
                content.append((f"{table}.{column}", joined))
    engine.dispose()
    return content


def redis_keys(url: str) -> list[tuple[str, bytes]]:
    """Redis's content, one entry per key (name and value together)."""
    with redis.Redis.from_url(url) as client:
        return [
            (f"redis key {key.decode(errors='replace')}", key + b"\n" + _value(client, key))
            for key in client.scan_iter(count=1000)
        ]


def _value(client: redis.Redis, key: bytes) -> bytes:
    kind = client.type(key)
    reads: dict[bytes, Callable[[], object]] = {
        b"string": lambda: client.get(key),
        b"list": lambda: client.lrange(key, 0, -1),
        b"hash": lambda: client.hgetall(key),
        b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1, withscores=True),
        b"stream": lambda: client.xrange(key),
    }
    return _bytes(reads[kind]()) if kind in reads else b""


def _bytes(value: object) -> bytes:
    """The bytes in a value, its members' included, unescaped."""
    match value:
        case bytes() | bytearray() | memoryview():
            return bytes(value)
        case dict():
            return b"\n".join(_bytes(part) for pair in value.items() for part in pair)
        case list() | tuple() | set():
            return b"\n".join(_bytes(part) for part in value)
        case _:
            return str(value).encode("utf-8", "surrogatepass")

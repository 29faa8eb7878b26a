"""A route is (upstream, key, model): the thing that limits live on. A scope is one more thing to count against."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

#: 48 bits distinguish a fleet's keys and routes and reveal nothing of the key.
_DIGEST_CHARS = 12


def key_id(api_key: str) -> str:
    """The short name of an API key: 12 hex characters of its SHA-256. The key itself goes no further."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:_DIGEST_CHARS]


@dataclass(frozen=True)
class Route:
    """Where a call goes: `upstream_url` without its trailing slash, `key_id` from `key_id()`, the model as requested."""

    upstream_url: str
    key_id: str
    model: str

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.upstream_url, self.key_id, self.model))

    @cached_property
    def digest(self) -> str:
        """12 hex characters that name the route in Redis keys."""
        whole = f"{self.upstream_url}\n{self.key_id}\n{self.model}"
        return hashlib.sha256(whole.encode()).hexdigest()[:_DIGEST_CHARS]

    @cached_property
    def name(self) -> str:
        """The route for people: `model@host#keyid`."""
        return f"{self.model}@{urlsplit(self.upstream_url).netloc or self.upstream_url}#{self.key_id}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Calls in flight, requests per minute, tokens per minute; None where there is no such limit."""

    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "rpm", "tpm"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")

    @property
    def rated(self) -> bool:
        """Whether each call must be counted against a minute."""
        return self.rpm is not None or self.tpm is not None

    def for_script(self) -> dict[str, int]:
        """As the script `SYNC` takes them: only those that there are."""
        given = {"c": self.concurrency, "r": self.rpm, "t": self.tpm}
        return {name: value for name, value in given.items() if value is not None}


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Scope:
    """One more set of limits that a call counts against, beside its route: a key, a tenant. `name` is `kind:id`."""

    name: str
    limits: Limits

    @property
    def digest(self) -> str:
        """12 hex characters that name the scope in Redis keys."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:_DIGEST_CHARS]

"""The upstream's address: from a base URL, as people write it, to the URLs of its endpoints.

What an OpenAI SDK takes (`https://host/v1`) is meant, but a bare host, a pasted endpoint (`…/v1/chat/completions`) and
a query (`?api-version=…`, Azure's) work too. A pasted endpoint without a version (Perplexity's `https://host/chat/completions`)
is called where it stands; a bare host gets `/v1`. Credentials are refused where the setting is read (`urls.upstream`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from yarl import URL

#: Endpoints that people paste, longest first.
_ENDPOINTS = ("/chat/completions", "/completions", "/responses", "/embeddings", "/models")


@dataclass(frozen=True)
class BaseUrl:
    """A base URL: an address whose path has no trailing slash, and a query that goes along with each request."""

    url: URL
    unversioned: bool = False  # the endpoints stand right below the host

    @classmethod
    def parse(cls, text: str) -> BaseUrl:
        """Read a base URL. Raises ValueError when it is none."""
        try:
            url = URL(text.strip())
        except ValueError:
            raise ValueError("expected a base URL such as https://host/v1") from None
        path = url.raw_path.rstrip("/")
        unversioned = path in _ENDPOINTS
        for endpoint in _ENDPOINTS:
            if path.endswith(endpoint):
                path = path.removesuffix(endpoint)
                break
        return cls(url.with_path(path or "/", encoded=True, keep_query=True), unversioned)

    def __str__(self) -> str:
        if self.unversioned:  # as it was pasted, or it would mean another address
            return self.of("/v1/chat/completions")
        text = str(self.url)
        if self._path:
            return text
        return text.rstrip("/") if not self.url.raw_query_string else text

    def of(self, path: str) -> str:
        """The address of a path. `/v1/…` joins a base that ends in `/v1` or has another prefix in its place."""
        if not path.startswith("/v1/"):
            joined = self._path.removesuffix("/v1") + path
        else:
            joined = self._path + (path.removeprefix("/v1") if self._path or self.unversioned else path)
        return str(self.url.with_path(joined, encoded=True, keep_query=True))

    @cached_property
    def _path(self) -> str:
        return self.url.raw_path.rstrip("/")

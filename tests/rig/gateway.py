"""The HTTP gateway inside the test: uvicorn in a thread, as `stockpot serve` runs it, on a free port."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import httpx
import openai

from worker.base.settings import Settings
from worker.gateway import serving


class Gateway:
    """A gateway with these settings; `url` is its root, `base_url` what an OpenAI SDK takes."""

    def __init__(self, settings: Settings, *, host: str = "127.0.0.1") -> None:
        self._sock = serving.listen(host, 0)
        self.url = serving.address_of(self._sock)
        self.base_url = f"{self.url}/v1"
        ready = threading.Event()
        self.server = serving.server(settings, ready.set)
        self._thread = threading.Thread(target=self.server.run, args=([self._sock],), name="gateway")
        self._thread.start()
        assert ready.wait(60), "the gateway does not listen"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop it as SIGTERM does."""
        self.server.should_exit = True
        self._thread.join(60)
        self._sock.close()
        assert not self._thread.is_alive(), "the gateway does not stop"

    def http(self, key: str | None = None, **options: Any) -> httpx.Client:
        """A plain HTTP client at its root."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    def sdk(self, key: str = "any", **options: Any) -> openai.OpenAI:
        """The unmodified OpenAI SDK."""
        return openai.OpenAI(base_url=self.base_url, api_key=key, **options)

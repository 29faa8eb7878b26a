"""The HTTP gateway inside the test or as a process, and clients that come back to it."""

from __future__ import annotations

import contextlib
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai

from tests.rig.closing import Closing
from tests.rig.procs import Process
from worker.base.settings import Settings
from worker.gateway import serving

if TYPE_CHECKING:
    from tests.rig.stage import Stage


class Gateway(Closing):
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


def gateway_process(on: Stage, logs: Path, port: int, name: str = "gateway", **settings: object) -> Process:
    """A gateway of a stage as a process of its own, once it listens."""
    process = Process(
        [sys.executable, "-P", "-m", *serving.command("127.0.0.1", port)],
        logs=logs,
        name=name,
        env=on.env(**settings),
        cwd=logs,
    )
    process.wait_for_line(f"^{serving.READY}", count=1)
    return process


class Clients:
    """Three programs with the unmodified SDK that do not give up, each in a thread, each with one call.

    A whole answer, a chat stream, and a response in the background that is streamed.
    """

    def __init__(self, base_url: str, script: str) -> None:
        self._base_url = base_url
        self._model = f"openai/gpt-4o-mini@sim:{script}"
        self._pool = ThreadPoolExecutor(3)
        self.texts: list[str] = []  # pieces of the chat stream as they came
        self.events: list[Any] = []  # of the response, as they came
        self.breaks: list[str] = []  # what the clients met
        self.whole: Future[str] = self._pool.submit(self._whole)
        self.chat: Future[str] = self._pool.submit(self._chat)
        self.response: Future[Any] = self._pool.submit(self._response)

    def close(self) -> None:
        """Wait for the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _sdk(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self._base_url, api_key="any", timeout=120, **options)

    def _ask(self, what: str) -> dict[str, Any]:
        return {"model": self._model, "messages": [{"role": "user", "content": what}]}

    def _whole(self) -> str:
        with self._sdk(max_retries=20) as sdk:
            return sdk.chat.completions.create(**self._ask("whole")).choices[0].message.content or ""

    def _chat(self) -> str:
        while True:
            self.texts.clear()
            try:
                with self._sdk(max_retries=20) as sdk:
                    key = {"Idempotency-Key": "stream"}
                    for chunk in sdk.chat.completions.create(**self._ask("chat"), stream=True, extra_headers=key):
                        self.texts.append(chunk.choices[0].delta.content or "")
                        if chunk.choices[0].finish_reason:
                            return "".join(self.texts)
            except Exception as error:
                self.breaks.append(f"chat: {error!r}")

    def _response(self) -> Any:
        with self._sdk(max_retries=20) as sdk:
            stream = sdk.responses.create(model=self._model, input="response", background=True, stream=True)
            while True:
                try:
                    for event in stream:
                        if event.type == "error":
                            raise RuntimeError(event.message)
                        self.events.append(event)
                        if event.type in {"response.completed", "response.failed", "response.incomplete"}:
                            return event.response
                    self.breaks.append("response: the stream ended")
                except Exception as error:
                    self.breaks.append(f"response: {error!r}")
                response_id, last = self.events[0].response.id, self.events[-1].sequence_number
                with contextlib.suppress(openai.APIConnectionError):
                    stream = sdk.responses.retrieve(response_id, stream=True, starting_after=last)

    def streaming(self) -> bool:
        """Whether both streams have shown text."""
        return "".join(self.texts) != "" and any(event.type == "response.output_text.delta" for event in self.events)

"""A webhook receiver that verifies as customers do, misbehaves as told, and remembers every delivery on disk.

It verifies with the `standardwebhooks` package and with the OpenAI SDK, answers by the path it was sent to, and runs
in a thread of its own:

    with HookReceiver(secrets=["whsec_…"]) as hooks:
        pot.submit(…, webhook=hooks.url("/flaky", fail=2))
        eventually(lambda: [d.status for d in hooks.deliveries()] == [500, 500, 200])

| path | answer |
|---|---|
| `/ok` | 200 |
| `/fail?status=500` | that status |
| `/flaky?fail=2` | 500 to the first so many deliveries of an id, then 200 |
| `/hang` | none, ever |
| `/slowbody` | 200, then a byte of body now and then, for ever |
| `/bigbody` | 200, then a gigabyte of body |
| `/redirect?to=URL` | 307 to the URL |
| `/410` | 410 |
| `/429?ra=5` | 429 with `Retry-After: 5` |
| `/reset` | an RST once everything was received |
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import web

from tests.rig.closing import Closing
from tests.rig.hook_scripts import Visit, behave

if TYPE_CHECKING:
    from openai import OpenAI


@dataclass(slots=True, frozen=True)
class Delivery:
    """One request that arrived whole. `at` is Unix time in seconds; `status` 0 means no answer was given.

    `verified_by` is the index of the secret that the `standardwebhooks` package accepted, or None; `sdk_verified` is
    the OpenAI SDK's verdict; `refusal` says why the package refused.
    """

    at: float
    path: str
    headers: dict[str, str]
    body: str
    status: int
    verified_by: int | None = None
    sdk_verified: bool = False
    refusal: str = ""
    json: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The `webhook-id`; empty if it was missing."""
        return self.headers.get("webhook-id", "")

    @property
    def verified(self) -> bool:
        """Whether both verifiers accept it."""
        return self.verified_by is not None and self.sdk_verified

    @property
    def accepted(self) -> bool:
        """Whether the sender was told 2xx."""
        return 200 <= self.status < 300


class HookReceiver(Closing):
    """Listens on 127.0.0.1 at a free port.

    Args:
        secrets: `whsec_…`, any of which may have signed; more can be added while it runs.
        journal: file for one JSON line per delivery, on disk (fsync) before the answer; None keeps it in memory only.
    """

    def __init__(self, secrets: Sequence[str] = (), *, journal: Path | None = None) -> None:
        self.secrets = list(secrets)
        self.journal = journal
        self.port = 0
        self._deliveries: list[Delivery] = []
        self._visits: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hookd", daemon=True)
        self._thread.start()
        self._runner = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)

    def url(self, path: str = "/ok", **query: object) -> str:
        """The URL of a scripted path."""
        return f"http://127.0.0.1:{self.port}{path}" + (f"?{urlencode(query)}" if query else "")

    def deliveries(self, webhook_id: str | None = None) -> list[Delivery]:
        """What arrived so far, oldest first; of one `webhook-id` if given."""
        with self._lock:
            return [each for each in self._deliveries if webhook_id in (None, each.id)]

    def close(self) -> None:
        """Stop listening and end what hangs."""
        if self._loop.is_closed():
            return

        async def end() -> None:
            self._closing.set()
            await self._runner.cleanup()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> web.AppRunner:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._receive)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {key.lower(): value for key, value in request.headers.items()}
        visitor = (request.path, headers.get("webhook-id", ""))
        behaviour = behave(Visit(request, self._visits[visitor], self._closing))
        self._visits[visitor] += 1
        # Verifying and the disk take their time; other deliveries go on meanwhile.
        await asyncio.to_thread(self._record, request.path_qs, headers, body, behaviour.status)
        return await behaviour.answer()

    def _record(self, path: str, headers: dict[str, str], body: bytes, status: int) -> None:
        by, refusal = _verify(self.secrets, headers, body)
        text = body.decode("utf-8", "backslashreplace")
        delivery = Delivery(
            at=time.time(),
            path=path,
            headers=headers,
            body=text,
            status=status,
            verified_by=by,
            sdk_verified=by is not None and _sdk_accepts(self.secrets[by], headers, body),
            refusal=refusal,
            json=_object(text),
        )
        with self._lock:
            if self.journal is not None:
                with self.journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(delivery)) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            self._deliveries.append(delivery)


def _verify(secrets: Sequence[str], headers: dict[str, str], body: bytes) -> tuple[int | None, str]:
    """Which secret the `standardwebhooks` package accepts, or its reason for refusing the last."""
    from standardwebhooks.webhooks import Webhook, WebhookVerificationError

    refusal = "no secret given"
    for index, secret in enumerate(secrets):
        try:
            Webhook(secret).verify(body, headers, json_parse=False)
        except (WebhookVerificationError, ValueError) as error:
            # It raises a plain ValueError on a signature without a comma.
            refusal = str(error)
        else:
            return index, ""
    return None, refusal


def _sdk_accepts(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Whether `openai.OpenAI().webhooks.unwrap` accepts it."""
    from openai import InvalidWebhookSignatureError

    try:
        sdk().webhooks.unwrap(body, headers, secret=secret)
    except (InvalidWebhookSignatureError, ValueError):
        return False
    return True


@functools.cache
def sdk() -> OpenAI:
    """The OpenAI SDK's client, which is never connected; making one costs more than many verifications."""
    from openai import OpenAI

    return OpenAI(api_key="unused")


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def read_journal(path: Path) -> list[Delivery]:
    """The deliveries of a journal file; a torn last line (a crash while writing) is left out."""
    # Split at the newline alone: a body may hold the other characters that `splitlines` takes for line ends.
    return [Delivery(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]

"""What a message may be before anything of it is decoded: any program with access to the broker can put one there.

Only uncompressed JSON of bounded size, and only calls of our own tasks. Celery would decompress without a bound
(497 kB became 1 GB), run its built-in tasks (`celery.starmap` makes a thousand submissions of one message), and call
whatever a message names as callbacks.
"""

from __future__ import annotations

from typing import Any

from celery import Task
from kombu.transport.virtual import Message

from worker.base.settings import settings

#: The tasks that a message may call.
TASKS = ("stockpot.run", "stockpot.submit")
CONTENT_TYPE = "application/json"
#: A body is at most this many times as long as the largest request in it: JSON within JSON, spelled in ASCII, in base64.
_SPELLING = 6
#: What surrounds the request.
_ENVELOPE_BYTES = 64 * 1024


class RefusedMessage(ValueError):
    """The message is none that we take. It holds nothing of the message."""


class BoundedMessage(Message):
    """A message of kombu's that is refused before its body is looked at."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        """Check, then decode. Raises RefusedMessage."""
        headers = payload.get("headers") or {}
        if headers.get("compression"):
            raise RefusedMessage("it is compressed")
        if payload.get("content-type") != CONTENT_TYPE:
            raise RefusedMessage("it is no JSON")
        if headers.get("task", TASKS[0]) not in TASKS:
            raise RefusedMessage("no task of ours")
        if len(payload["body"]) > _SPELLING * settings().max_request_bytes + _ENVELOPE_BYTES:
            raise RefusedMessage("it is too large")
        # Celery shows them in logs and answers; a producer's may hold the prompt.
        payload["headers"] = {**headers, "argsrepr": "()", "kwargsrepr": "{}"}
        super().__init__(payload, channel=channel, **options)


class DoorbellTask(Task):  # type: ignore[type-arg]  # only the stubs are generic
    """A task without consequences: what a message names to be called after it is not."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Forget callbacks, chains and chords."""
        self.request.callbacks = self.request.errbacks = self.request.chain = self.request.chord = None

"""What a message may be before anything of it is decoded: any program with access to the broker can put one there.

Only uncompressed JSON of bounded size, and only calls of our own tasks. Celery would decompress without a bound
(497 kB became 1 GB), run its built-in tasks (`celery.starmap` makes a thousand submissions of one message), call
whatever a message names as callbacks, and keep each message with an `eta` in memory until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from celery import Task
from kombu import compression
from kombu.transport.virtual import Message

from api_schemas.jobs import MAX_REQUEST_BYTES
from worker.base.settings import settings
from worker.broker.queues import queues

#: The tasks that a message may call.
TASKS = ("stockpot.run", "stockpot.submit")
CONTENT_TYPE = "application/json"
#: A body is at most this many times as long as the largest request in it: JSON within JSON, spelled in ASCII, in base64.
_SPELLING = 6
#: What surrounds the request.
_ENVELOPE_BYTES = 64 * 1024
#: Where a task finds what its message had as `eta` and `expires`, as aware times.
STARTS, ENDS = "stockpot_starts", "stockpot_ends"
#: Characters of the id that logs call a message by.
_ID_LENGTH = 200


class RefusedMessage(ValueError):
    """The message is none that we take. It holds nothing of the message."""


class BoundedMessage(Message):
    """A message of kombu's that is refused before its body is looked at."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        """Check, then decode. Raises RefusedMessage."""
        headers = payload["headers"] = payload.get("headers") or {}
        if headers.get("compression"):
            raise RefusedMessage("it is compressed")
        if payload.get("content-type") != CONTENT_TYPE:
            raise RefusedMessage("it is no JSON")
        if headers.get("task", TASKS[0]) not in TASKS:
            raise RefusedMessage("no task of ours")
        properties = payload["properties"]
        delivery, tag = properties["delivery_info"], properties["delivery_tag"]
        if not all(
            isinstance(one, str) for one in (tag, delivery["exchange"], delivery["routing_key"], payload["body"])
        ):
            raise RefusedMessage("its envelope is none")
        # A message that is put back goes where it came from, whatever route it names: kombu would lose one that it cannot
        # put back, and log the whole of it.
        names = queues(settings().redis_namespace)
        route = delivery["routing_key"] if delivery["routing_key"] in names else names[0]
        payload["properties"] = {**properties, "delivery_info": {**delivery, "exchange": "", "routing_key": route}}
        if len(payload["body"]) > _SPELLING * max(settings().max_request_bytes, MAX_REQUEST_BYTES) + _ENVELOPE_BYTES:
            raise RefusedMessage("it is too large")
        super().__init__(payload, channel=channel, **options)


def refuse_compressed() -> None:
    """Let no transport of this process decompress a message. Those of Redis are refused before (`BoundedMessage`)."""
    for kind in compression.encoders():
        compression.register(_refuse, _refuse, kind)


def _refuse(_body: object) -> bytes:
    raise RefusedMessage("it is compressed")


def disarm(message: Any) -> None:
    """Leave a message only those headers that mean something here, whatever its protocol and transport.

    Celery would take each for what it should be: a missing id or an `eta` beyond the calendar raises where nothing
    acknowledges the message, and after two of them a worker takes no more; other names replace attributes of the task's
    context; a producer's `kwargsrepr` may hold the prompt.

    Raises:
        RefusedMessage: it is no call of a task of ours.
    """
    given: object = message.headers
    body = message.payload
    if not isinstance(given, Mapping) or "task" not in given:
        given = body  # protocol 1 has it all in the body
    if not isinstance(given, Mapping) or given.get("task") not in TASKS:
        raise RefusedMessage("no task of ours")
    if not _has_arguments(body):
        raise RefusedMessage("no arguments of a task")
    name = given.get("id")
    message.headers = dict.fromkeys(_EMPTY) | {
        "lang": "py",
        "task": given["task"],
        "id": name if isinstance(name, str) and len(name) <= _ID_LENGTH else str(uuid4()),
        "retries": 0,
        "argsrepr": "()",
        "kwargsrepr": "{}",
        STARTS: _moment(given.get("eta")),
        ENDS: _moment(given.get("expires")),
    }


def _has_arguments(body: object) -> bool:
    if isinstance(body, Mapping):
        return isinstance(body.get("args", []), list) and isinstance(body.get("kwargs", {}), dict)
    return isinstance(body, list) and len(body) == 3 and isinstance(body[0], list) and isinstance(body[1], dict)


#: What Celery looks for among the headers, and in the body of protocol 1 where there is no header.
_EMPTY = ("root_id", "parent_id", "group", "meth", "shadow", "eta", "expires", "timelimit", "origin")


def _moment(given: object) -> datetime | None:
    """A time as Celery writes it, in UTC; None where it is none, or beyond the calendar."""
    try:
        found = datetime.fromisoformat(str(given)) if given is not None else None
        return None if found is None else found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


class DoorbellTask(Task):  # type: ignore[type-arg]  # only the stubs are generic
    """A task without consequences: what a message names to be called after it is not."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Forget callbacks, chains and chords."""
        self.request.callbacks = self.request.errbacks = self.request.chain = self.request.chord = None

"""Bytes of an upstream, and the outcome that they are read as."""

from __future__ import annotations

import json
from typing import Any

from api_schemas.usage import Usage
from worker.upstream.answer import AnswerReading
from worker.upstream.call import CHAT, Call, Progress
from worker.upstream.outcome import Answer, Failure, Outcome
from worker.upstream.stream import Stage

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
COUNTED = Usage(input_tokens=7, output_tokens=3, total_tokens=10)


def chunk(text: str | None = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n\n" for e in events)


WHOLE = [chunk("to "), chunk("you"), chunk(finish="stop"), {"id": "c", "choices": [], "usage": USAGE}]
BODY = {
    "id": "c",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "to you"}, "finish_reason": "stop"}],
    "usage": USAGE,
}


def read(
    data: bytes,
    *,
    stream: bool = True,
    endpoint: str = CHAT,
    encoding: str = "",
    events: bool = True,
    body: bytes = b"{}",
    cut: Failure | None = None,
    progress: Progress | None = None,
    size: int = 1 << 20,
) -> Outcome:
    """What the bytes come to, cut into pieces of every kind."""
    call = Call(endpoint, body, stream, "job.1", "sk-1", 10)
    progress = progress if progress is not None else Progress(status=200)
    reading = AnswerReading(call, progress, None, lambda: 0.0, size, encoding=encoding, events=events)
    for start in range(0, len(data), 11):
        if reading.take(data[start : start + 11]) and reading.stage is Stage.FULL:
            break
    else:
        if cut is None:
            reading.end()
    return reading.outcome(cut)


def answer(data: bytes, **options: Any) -> Answer:
    outcome = read(data, **options)
    assert isinstance(outcome, Answer), outcome
    return outcome


def failed(data: bytes, **options: Any) -> Failure:
    outcome = read(data, **options)
    assert isinstance(outcome, Failure), outcome
    return outcome


# --- what follows a whole answer, and what is no piece of one --------------------------------------------------------

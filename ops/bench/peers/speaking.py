"""How a peer that drives itself talks to the benchmark: ready, go, done, as JSON lines."""

from __future__ import annotations

import sys
from typing import Any

import orjson


def say(**answer: Any) -> None:
    """One JSON line on stdout."""
    sys.stdout.write(orjson.dumps(answer).decode() + "\n")
    sys.stdout.flush()


def listen() -> dict[str, Any] | None:
    """The next question; None when the benchmark closed the pipe."""
    line = sys.stdin.buffer.readline()
    if not line:
        return None
    question: dict[str, Any] = orjson.loads(line)
    return question

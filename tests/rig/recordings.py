"""The recorded provider streams in `tests/recorded`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent.parent / "recorded"
NAMES = sorted(str(path.relative_to(DIRECTORY).with_suffix("")) for path in DIRECTORY.glob("*/*.jsonl"))


def events(name: str) -> list[bytes]:
    """The events of a recording (`chat/openai-text`), each as its JSON text."""
    return [line for line in (DIRECTORY / f"{name}.jsonl").read_bytes().split(b"\n") if line.strip()]


def endpoint(name: str) -> str:
    """The endpoint that a recording came from."""
    return "/v1/responses" if name.startswith("responses/") else "/v1/chat/completions"


def parsed(name: str) -> list[dict[str, Any]]:
    """The events of a recording, parsed."""
    return [json.loads(event) for event in events(name)]


def wire(name: str, *, done: bool = True) -> bytes:
    """A recording as an event stream, ended by `[DONE]` where the endpoint does so."""
    body = b"".join(b"data: " + event + b"\n\n" for event in events(name))
    return body + (b"data: [DONE]\n\n" if done and name.startswith("chat/") else b"")

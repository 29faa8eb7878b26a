"""The simulator of a stage as a test steers it and asks it: its own routes under `/_sim/`."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.rig.procs import Process

_ANSWER_SECONDS = 30.0


class Knobs:
    """The admin routes of a simulator that runs as a process (docs/simulator.md)."""

    def __init__(self, simulator: Process) -> None:
        self.url: str = json.loads(simulator.wait_for_line(r'^\{"url".*$')[0])["url"]

    def stats(self) -> dict[str, Any]:
        """Counters: `in_flight`, `max_in_flight`, `requests`, `billed`, `statuses`, `outcomes`, `steps`."""
        answer: dict[str, Any] = self._ask("stats", None)
        return answer

    def configure(self, **settings: object) -> None:
        """Change settings; the others stay."""
        self._ask("config", settings)

    def key(self, key: str, *, credits: int | None = None, status: str = "active") -> None:  # noqa: A002 -- the provider's word
        """Change a key: `credits` None is endless; `status` is `active`, `revoked` (401) or `limited` (403)."""
        self._ask(f"keys/{key}", {"credits": credits, "status": status})

    def release(self) -> None:
        """End the hold of every call that has come."""
        self._ask("release", {})

    def _ask(self, path: str, change: dict[str, object] | None) -> Any:
        data = None if change is None else json.dumps(change).encode()
        with urllib.request.urlopen(f"{self.url}/_sim/{path}", data, timeout=_ANSWER_SECONDS) as answer:
            return json.load(answer)

"""What happened in a soak, in order: each fault with its time, for the eyes, for the file, and for the reckoning."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Event:
    """One fault that was done.

    Attributes:
        name: of the fault.
        detail: who was hit, for how long.
        began, ended: Unix time, seconds; the damage was done and was over.
        costs_calls: whether it may make a job's call be made again. What Redis suffers must not.
        kills: workers that died of SIGKILL in it.
        terms: workers that were asked to end.
    """

    name: str
    detail: str
    began: float
    ended: float
    costs_calls: bool
    kills: int = 0
    terms: int = 0


class History:
    """The events of one run, written to a JSONL file as they happen."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.began = time.time()
        self.events: list[Event] = []
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, event: Event) -> None:
        """Keep an event and tell of it."""
        self.events.append(event)
        self._file.write(json.dumps(asdict(event)) + "\n")
        lasted = event.ended - event.began
        self.tell(f"{event.name}: {event.detail}" + (f" ({lasted:.1f} s)" if lasted >= 0.1 else ""))

    def tell(self, line: str) -> None:
        """Print a line with the time since the start."""
        minutes, seconds = divmod(time.time() - self.began, 60)
        sys.stdout.write(f"{int(minutes):3}:{seconds:04.1f}  {line}\n")
        sys.stdout.flush()

    def counts(self) -> dict[str, int]:
        """How often each fault was done, the most frequent first."""
        names = [event.name for event in self.events]
        return {name: names.count(name) for name in sorted(set(names), key=lambda name: (-names.count(name), name))}

    def costly_between(self, began: float, ended: float, *, shadow: float) -> int:
        """How many faults that may cost a call fell into a span of time; kills are counted by what they took with them.

        Args:
            shadow: seconds after its end in which a fault may still make itself felt (a lease has to run out).
        """
        return sum(
            event.costs_calls and not event.kills and event.began <= ended and event.ended + shadow >= began
            for event in self.events
        )

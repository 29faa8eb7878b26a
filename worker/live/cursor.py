"""A reader's place in a job's stream: pure, so that every order of loss and repetition can be tried.

A cursor takes events as they come (from the log or live, doubled, late, with holes) and gives those to show: each
once, in order, never mixed between attempts. After a hole that the log cannot fill it shows no more chunks of that
attempt, so that a reader's last seq stays before the hole and a reader who comes back meets it again; at the end
the whole text comes from the database instead.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worker.live.script import TERMINAL_TYPES, timestamp

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FinalState:
    """What the database says of a job. `seq` is the terminal event's where it is known."""

    status: str
    text: str = ""
    usage: Mapping[str, Any] | None = None
    cost_usd: str | float | None = None
    finish_reason: str | None = None
    error: Mapping[str, Any] | None = None
    epoch: int = 0
    seq: int | None = None

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen to the job."""
        return f"job.{self.status}" in TERMINAL_TYPES


class Step(enum.Enum):
    """What an event is to the cursor."""

    SHOW = "show"
    DROP = "drop"  # seen before, or a zombie's
    GAP = "gap"  # something before it is missing: ask the log, then `skip`
    END = "end"  # the terminal event: close with `ending`


class Cursor:
    """The place of one reader of one job."""

    def __init__(self, job_id: str, after: int = 0) -> None:
        self.job_id = job_id
        self.seq = after
        self.epoch = 0
        self.lost = False  # chunks of this attempt are missing for good
        self._whole = after == 0  # the text since the attempt's start is all known here
        self._text = hashlib.blake2b(digest_size=16)
        self._shown = False  # some text of this attempt was shown

    def step(self, event: Event) -> Step:
        """Say what an event is, without taking it."""
        if event["seq"] <= self.seq or event["epoch"] < self.epoch:
            return Step.DROP
        if event["seq"] > self.seq + 1 and not self.lost:
            return Step.GAP
        return Step.END if event["type"] in TERMINAL_TYPES else Step.SHOW

    def skip(self) -> None:
        """Accept that what is missing before the next event cannot be had."""
        self.lost = True

    def show(self, event: Event) -> Iterator[Event]:
        """Take an event of step SHOW; yields what to show, which is nothing after a loss."""
        kind = event["type"]
        if kind == "attempt.reset":
            yield from self._begin(event)
            return
        if event["epoch"] > self.epoch:
            if self._shown:
                # The reset itself was lost: what was shown belongs to an attempt that is over.
                yield self._made("attempt.reset", self.seq, {"reason": "log_lost", "attempt": None})
                self._forget()
            self.epoch = event["epoch"]
        if self.lost:
            return
        self.seq = event["seq"]
        if kind == "chunk":
            self._shown = True
            self._text.update(event["text"].encode("utf-8", "surrogatepass"))
        yield event

    def needs_text(self, event: Event) -> bool:
        """Whether the terminal event must be compared with the database before it is shown."""
        return self.lost or (event["type"] == "job.completed" and self._whole)

    def ending(self, event: Event | None, final: FinalState | None) -> Iterator[Event]:
        """Close the stream with its terminal event, or, where none came, with the one the database gives.

        When the text shown is not provably the final one, a reset and the whole text go first, so that what a
        reader puts together is always the final text.
        """
        if final is not None and (self._differs(final) or (event is None and not self._whole)):
            if self._shown or not self._whole:
                yield self._next("attempt.reset", {"reason": "log_lost", "attempt": None})
            if final.text:
                yield self._next("chunk", {"data": [], "text": final.text})
        if event is not None:
            self.seq = max(self.seq + 1, event["seq"])
            yield {**event, "seq": self.seq}
        elif final is not None:
            self.epoch = max(self.epoch, final.epoch)
            self.seq = max(self.seq, (final.seq or 0) - 1)
            yield self._next(f"job.{final.status}", _outcome(final))

    def _differs(self, final: FinalState) -> bool:
        if self.lost:
            return True
        if not self._whole or final.status != "completed":
            return False
        shown = hashlib.blake2b(final.text.encode("utf-8", "surrogatepass"), digest_size=16)
        return shown.digest() != self._text.digest()

    def _begin(self, reset: Event) -> Iterator[Event]:
        self.epoch = reset["epoch"]
        self.seq = reset["seq"]
        self.lost = False
        self._whole = True
        self._forget()
        yield reset

    def _forget(self) -> None:
        self._text = hashlib.blake2b(digest_size=16)
        self._shown = False

    def _next(self, kind: str, fields: Mapping[str, Any]) -> Event:
        """An event of our own, in the place after the last one."""
        self.seq += 1
        return self._made(kind, self.seq, fields)

    def _made(self, kind: str, seq: int, fields: Mapping[str, Any]) -> Event:
        return {"job": self.job_id, "epoch": self.epoch, "seq": seq, "type": kind, "at": timestamp(), **fields}


def _outcome(final: FinalState) -> dict[str, Any]:
    if final.status == "completed":
        return {"usage": final.usage, "cost_usd": final.cost_usd, "finish_reason": final.finish_reason}
    return {"error": final.error}

"""A reader's position in a job's stream. Pure, so that tests can try every order of loss and repetition.

A cursor takes events as they arrive (from the log or live, repeated, late, with gaps) and yields those to show: each
once, in order, never mixed between attempts. After a gap that the log cannot fill it shows no more chunks of that
attempt, so the reader's last seq stays before the gap, and a resumed reader finds the gap again.

The database decides the end: the terminal event is made from the job's row. The whole text comes before it, unless the
reader's text is provably the same. A resumed reader's text is proven, too: the log is read again from the start of the
attempt, and events that the reader already had are hashed without being shown.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from api_schemas.event_numbers import BLOCK, KEPT_FREE, block_start, opens_block
from api_schemas.events import TERMINAL_TYPES
from api_schemas.job_views import Standing

Event = dict[str, Any]


class Step(enum.Enum):
    """What an event is to the cursor."""

    SHOW = "show"
    DROP = "drop"  # seen before
    GAP = "gap"  # something before it is missing: ask the log, then `skip`
    END = "end"  # a terminal event: ask the database, then `ending`, or `void` if the job goes on


class Cursor:
    """The place of one reader of one job."""

    def __init__(self, job_id: str, after: int = 0) -> None:
        self.job_id = job_id
        self.seq = after  # of the last event that the reader has
        self.read = block_start(after)  # of the last event that was taken in, shown or not
        self.lost = False  # chunks of this attempt are missing for good
        self._proven = after == 0  # `_text` is the hash of what the reader shows
        self._text = hashlib.blake2b(digest_size=16)
        self._blank = after == 0  # the reader shows nothing

    def step(self, event: Event) -> Step:
        """Classify an event, without taking it."""
        seq, end = event["seq"], event["type"] in TERMINAL_TYPES
        if seq <= self.read:
            return Step.DROP
        if seq > self._expected(seq, end=end) and not self.lost:
            return Step.GAP
        return Step.END if end else Step.SHOW

    def _expected(self, seq: int, *, end: bool) -> int:
        """The highest number that this event can have if none is missing before it."""
        before = self.read if block_start(seq) == block_start(self.read) else block_start(seq)
        return before + 1 + (KEPT_FREE if end else 0)

    def skip(self, event: Event) -> None:
        """Accept that the events missing before this one are lost."""
        self._proven = False
        if self.read < self.seq:
            self._blank = False
        # The reader may already have the missing events: then there is no gap.
        self.lost = event["seq"] > self.seq + 1 or block_start(event["seq"]) != block_start(self.seq)
        self.read = event["seq"] - 1 - (KEPT_FREE if event["type"] in TERMINAL_TYPES else 0)

    def show(self, event: Event) -> Iterator[Event]:
        """Take an event of step SHOW; yields what to show: nothing after a loss, and nothing that the reader already has."""
        seq = event["seq"]
        if opens_block(seq):
            self._begin()
        elif block_start(seq) > self.seq and not self._blank:
            # The reset itself was lost: the reader's text belongs to an earlier attempt.
            self.seq = block_start(seq)
            yield self._made(self.seq, "attempt.reset", {"at": event["at"], "reason": "log_lost", "attempt": None})
            self._forget()
            self._proven = False
        self.read = seq
        if self.lost:
            return
        if event["type"] == "chunk":
            self._blank = self._blank and not event["text"]
            self._text.update(_bytes(event["text"]))
        if seq > self.seq:
            self.seq = seq
            yield event

    def void(self, event: Event) -> None:
        """Take a terminal event that is no longer true: the job was retried."""
        if self.seq >= event["seq"] - KEPT_FREE:
            self._doubt()
        self.read = max(self.read, event["seq"])

    def ending(self, final: Standing) -> Iterator[Event]:
        """Close the stream with the terminal event from the database; a reader that already has it gets it again.

        Unless the reader's text is provably the final one, a reset and the whole text come first, under the
        two numbers reserved for them.
        """
        reset, whole, end = final.seq - 2, final.seq - 1, final.seq
        if self.seq > self.read:
            self._doubt()
        if self.seq < reset and not (self._proven and self._text.digest() == _digest(final.text)):
            if not self._blank:
                yield self._made(reset, "attempt.reset", {"at": final.at, "reason": "log_lost", "attempt": None})
            self.seq = reset
        if self.seq == reset and final.text:
            yield self._made(whole, "chunk", {"at": final.at, "data": [], "text": final.text})
        self.seq = end
        yield self._made(end, f"job.{final.status}", {"at": final.at, **_outcome(final)})

    def _begin(self) -> None:
        """Begin an attempt: the text of an earlier one is void."""
        self.lost = False
        self._proven = True
        self._forget()

    def _doubt(self) -> None:
        """The reader has numbers that the log does not: it may have been shown an earlier end's text, made from the database."""
        self._proven = self._blank = False

    def _forget(self) -> None:
        self._text = hashlib.blake2b(digest_size=16)
        self._blank = True

    def _made(self, seq: int, kind: str, fields: Mapping[str, Any]) -> Event:
        return {"job": self.job_id, "epoch": seq // BLOCK + 1, "seq": seq, "type": kind, **fields}


def _outcome(final: Standing) -> dict[str, Any]:
    fields = {"usage": final.usage, "cost_usd": final.cost_usd, "finish_reason": final.finish_reason}
    return fields if final.status == "completed" else {**fields, "error": final.error}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(_bytes(text), digest_size=16).digest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")

"""What must hold after any run, whatever broke in it: the invariants I1 to I7, as pure functions of the evidence.

I8 (no secret outside of its places) is `canary`'s; I9 (nobody died unnoticed) is `checker.check_processes`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from api_schemas.event_numbers import KEPT_FREE, block_start, number, opens_block
from api_schemas.events import TERMINAL_TYPES
from api_schemas.text import storable
from tests.rig.evidence import Evidence, Row
from tests.rig.hookd import Delivery

TERMINAL = frozenset({"completed", "failed", "cancelled", "expired"})
#: Provider money has at most seven decimals (a credit is 5e-7 USD); SQLite shows it as a float.
_MONEY = Decimal("1e-9")
#: Names of Redis keys that a quiet system may keep: ours, Celery's queues and its table of bindings.
QUIET_KEYS = ("stockpot:*", "stockpot.*", "_kombu.binding.*")


@dataclass(slots=True, frozen=True, order=True)
class Violation:
    """A promise that was broken: which, about what, and how."""

    invariant: str
    subject: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant} {self.subject}: {self.what}"


def every_job_ends_once(evidence: Evidence) -> Iterator[Violation]:
    """I1: every submitted id is there and terminal; a terminal job has its end, its attempts have theirs."""
    for job_id in evidence.submitted or ():
        if job_id not in evidence.jobs:
            yield Violation("I1", job_id, "was accepted and is not in the database")
    for job_id, job in evidence.jobs.items():
        if job["status"] not in TERMINAL:
            yield Violation("I1", job_id, f"never ended: {job['status']}, waiting on {job['waiting_on']}")
        elif job["finished_at"] is None:
            yield Violation("I1", job_id, f"is {job['status']} without finished_at")


def answers_are_right(evidence: Evidence) -> Iterator[Violation]:
    """I2: a completed job has one response, the right text, and the usage and cost that the upstream journalled."""
    billed = {call.client_request_id: call for call in evidence.calls or () if call.billed}
    usage = {f"{row['job_id']}.{row['attempt']}": row for row in evidence.usage}
    for job_id, job in evidence.jobs.items():
        if job["status"] != "completed":
            if job_id in evidence.results:
                yield Violation("I2", job_id, f"is {job['status']} and has a response")
            continue
        if job_id not in evidence.results:
            yield Violation("I2", job_id, "is completed without a response")
        right = evidence.oracle.get(job_id)
        if right is not None and job["text"] != storable(right):
            yield Violation("I2", job_id, f"text is {job['text']!r:.80}, should be {right!r:.80}")
        for row in _completed(evidence, job_id):
            name = f"{job_id}.{row['attempt']}"
            if evidence.calls is None:
                continue
            call = billed.get(name)
            if call is None:
                yield Violation("I2", name, "is recorded as completed, and the upstream billed no such call")
            else:
                yield from _same_money(name, usage.get(name), call.input_tokens, call.output_tokens, call.usd)


def _same_money(name: str, row: Row | None, tokens_in: int, tokens_out: int, usd: str) -> Iterator[Violation]:
    if row is None:
        yield Violation("I2", name, "was billed and has no usage record")
        return
    if (row["input_tokens"], row["output_tokens"]) != (tokens_in, tokens_out):
        recorded = f"{row['input_tokens']}+{row['output_tokens']}"
        yield Violation("I2", name, f"usage is {recorded}, the upstream counted {tokens_in}+{tokens_out}")
    if row["cost_source"] == "provider" and abs(Decimal(str(row["cost_usd"])) - Decimal(usd)) > _MONEY:
        yield Violation("I2", name, f"cost is {row['cost_usd']}, the upstream charged {usd}")


def _completed(evidence: Evidence, job_id: str) -> list[Row]:
    return [row for row in evidence.attempts_of(job_id) if row["outcome"] == "completed"]


def calls_are_on_record(evidence: Evidence) -> Iterator[Violation]:
    """I3: each call has its own attempt row; one attempt completes; every other one says why there was another."""
    rows = {(row["job_id"], int(row["attempt"])): row for row in evidence.attempts}
    seen = Counter(call.client_request_id for call in evidence.calls or ())
    for name, count in seen.items():
        job_id, _, ordinal = name.rpartition(".")
        if not ordinal.isdigit() or (job_id, int(ordinal)) not in rows:
            yield Violation("I3", name or "a call without id", "was called upstream and has no attempt row")
        if count > 1:
            yield Violation("I3", name, f"one attempt, {count} calls upstream")
    for job_id, job in evidence.jobs.items():
        attempts = evidence.attempts_of(job_id)
        done = [row for row in attempts if row["outcome"] == "completed"]
        if len(done) > 1:
            yield Violation("I3", job_id, f"{len(done)} attempts completed: paid for more than once")
        if job["status"] == "completed" and not done:
            yield Violation("I3", job_id, "is completed by no attempt")
        if job["status"] in TERMINAL:
            for row in attempts:
                if row["outcome"] == "running":
                    yield Violation("I3", f"{job_id}.{row['attempt']}", "has ended and its attempt runs on")


def fences_held(evidence: Evidence) -> Iterator[Violation]:
    """I4: a later attempt has a higher fence, none is above the job's, and the one that completed is the last."""
    for job_id, job in evidence.jobs.items():
        attempts = evidence.attempts_of(job_id)
        fences = [int(row["fence"]) for row in attempts]
        if any(later <= earlier for earlier, later in pairwise(fences)):
            yield Violation("I4", job_id, f"fences do not rise with the attempts: {fences}")
        if fences and "fence" in job and max(fences) > int(job["fence"]):
            yield Violation("I4", job_id, f"an attempt's fence {max(fences)} is above the job's {job['fence']}")
        for row in attempts[:-1]:
            if row["outcome"] == "completed":
                yield Violation("I4", job_id, f"attempt {row['attempt']} completed, and another was begun after it")


def hooks_were_delivered(evidence: Evidence) -> Iterator[Violation]:
    """I5: a terminal job with a hook has its event, delivered and verified or in the dead letters; ids are stable."""
    by_job = Counter(row["job_id"] for row in evidence.events if row["job_id"] and not row["endpoint_id"])
    for job_id, job in evidence.jobs.items():
        if job.get("webhook") and job["status"] in TERMINAL and by_job[job_id] != 1:
            yield Violation("I5", job_id, f"has a hook and {by_job[job_id]} events")
    known = {row["id"] for row in evidence.events}
    for row in evidence.events:
        if row["status"] not in {"delivered", "dead", "blocked"}:
            yield Violation("I5", row["id"], f"is still {row['status']} after {row['attempts']} attempts")
    if evidence.deliveries is None:
        return
    good = {each.id for each in evidence.deliveries if each.verified and each.accepted}
    for row in evidence.events:
        if row["status"] == "delivered" and row["id"] not in good:
            yield Violation("I5", row["id"], "is recorded as delivered; no verified delivery was accepted")
    yield from _deliveries_are_ours(evidence.deliveries, known)


def _deliveries_are_ours(deliveries: Sequence[Delivery], known: Container[str]) -> Iterator[Violation]:
    bodies: dict[str, str] = {}
    for each in deliveries:
        if each.id not in known:
            yield Violation("I5", each.id or "a delivery without id", "was delivered and is no event of ours")
        if not each.verified:
            yield Violation("I5", each.id, f"a delivery does not verify: {each.refusal or 'the SDK refuses it'}")
        if bodies.setdefault(each.id, each.body) != each.body:
            yield Violation("I5", each.id, "two deliveries of one id differ in their body")


def streams_are_whole(evidence: Evidence, *, gaps_allowed: bool = False) -> Iterator[Violation]:
    """I6: every replay log that there is reads as the contract says, and adds up to the text in the database."""
    for job_id, events in (evidence.streams or {}).items():
        job = evidence.jobs.get(job_id)
        if job is None:
            yield Violation("I6", job_id, "has a live stream and is no job")
        elif events:
            yield from check_stream(job_id, events, job["status"], job["text"], gaps_allowed=gaps_allowed)


def check_stream(
    job_id: str, events: Sequence[dict[str, Any]], status: str, text: str | None, *, gaps_allowed: bool = False
) -> Iterator[Violation]:
    """The same for the events that one reader saw, or that a log holds: `docs/streams.md`.

    A log keeps the ends of lives that were retried; each must be followed by the beginning of the next life.

    Args:
        gaps_allowed: Redis was away or lost its data: `seq` may jump (never fall), and the text may have holes.
    """
    for earlier, later in pairwise(events):
        if later["seq"] <= earlier["seq"]:
            yield Violation("I6", job_id, f"seq {later['seq']} follows {earlier['seq']}")
        elif not gaps_allowed and not _follows(earlier, later):
            yield Violation("I6", job_id, f"seq jumps from {earlier['seq']} to {later['seq']}")
        if later["epoch"] < earlier["epoch"] or block_start(later["seq"]) != number(later["epoch"], 0):
            yield Violation("I6", job_id, f"seq {later['seq']} in epoch {later['epoch']} after {earlier['epoch']}")
        if earlier["type"] in TERMINAL_TYPES and later["epoch"] == earlier["epoch"]:
            yield Violation("I6", job_id, "has events after its terminal event")
    ended = events[-1]["type"] if events and events[-1]["type"] in TERMINAL_TYPES else None
    if status in TERMINAL and ended != f"job.{status}" and not (gaps_allowed and ended is None):
        yield Violation("I6", job_id, f"is {status}, and its stream ends with {ended}")
    shown = storable(shown_text(events))
    if status == "completed" and shown and not gaps_allowed and opens_block(events[0]["seq"]) and shown != text:
        yield Violation("I6", job_id, f"streamed {shown!r:.80}, stored {text!r:.80}")


def _follows(earlier: dict[str, Any], later: dict[str, Any]) -> bool:
    """Whether nothing is missing between two events: the numbers before an end, and between blocks, are no gap."""
    seq, free = later["seq"], KEPT_FREE if later["type"] in TERMINAL_TYPES else 0
    made = (
        KEPT_FREE - 1 if later["type"] == "chunk" and not later.get("data", True) else 0
    )  # the whole text, from the database
    before = earlier["seq"] if block_start(seq) == block_start(earlier["seq"]) else block_start(seq)
    return seq - before - 1 in {0, free, made} or seq == block_start(seq)


def shown_text(events: Iterable[dict[str, Any]]) -> str:
    """What a reader shows at the end: the chunks of the last attempt."""
    shown = ""
    for event in events:
        if event["type"] in {"attempt.reset", "job.started"}:
            shown = ""
        elif event["type"] == "chunk":
            shown += event.get("text", "")
    return shown


def everything_is_quiet(evidence: Evidence, *, allowed_keys: Sequence[str] = QUIET_KEYS) -> Iterator[Violation]:
    """I7: no lease is held, nothing is unacknowledged, and Redis has no key of a stranger."""
    for job_id, job in evidence.jobs.items():
        if job["status"] == "in_progress":
            yield Violation("I7", job_id, "is still leased")
    for row in evidence.events:
        if row["status"] == "delivering":
            yield Violation("I7", row["id"], "is still leased")
    if evidence.unacked:
        yield Violation("I7", "unacked", f"{evidence.unacked} messages are unacknowledged")
    for name in evidence.redis_names or ():
        if not any(fnmatchcase(name, pattern) for pattern in allowed_keys):
            yield Violation("I7", name, "is a Redis key that nobody owns")


def batches_add_up(custom_ids: Iterable[str], results: Iterable[str], errors: Iterable[str]) -> Iterator[Violation]:
    """The batch promise: every `custom_id` ends exactly once in results or errors. Takes the files' lines."""
    ended = Counter(json.loads(line)["custom_id"] for file in (results, errors) for line in file if line.strip())
    wanted = Counter(custom_ids)
    for custom_id in sorted(wanted.keys() | ended.keys()):
        if wanted[custom_id] != ended[custom_id]:
            yield Violation("batch", custom_id, f"asked {wanted[custom_id]} times, ended {ended[custom_id]} times")

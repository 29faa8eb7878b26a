"""What a run left behind, read once: the database's views, the upstream's journal, the receiver's journal, the streams.

The checker's invariants are pure functions of this.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa

from tests.rig import hookd
from tests.rig.environment import PAYLOAD_KEY
from worker.base.payloads import Payloads
from worker.live.script import read

Row = Mapping[str, Any]
#: The replay log of a job; RELIABILITY section 7 and the contract name it.
LOG_PREFIX = "stockpot:job:"


@dataclass(slots=True, frozen=True)
class UpstreamCall:
    """One call in the simulator's journal: what it received, and how it ended if it did."""

    client_request_id: str
    job_id: str
    billed: bool
    outcome: str
    status: int
    input_tokens: int
    output_tokens: int
    usd: str
    inference_id: str


@dataclass(slots=True)
class Evidence:
    """Everything the invariants look at. `None` means "not looked at", which is not the same as empty.

    `submitted`: the ids that a submit returned. `streams`: events by job. `oracle`: the right text by job, for those
    that completed. `redis_names`: all keys.
    """

    jobs: dict[str, Row]
    attempts: list[Row]
    usage: list[Row]
    results: dict[str, Row]
    events: list[Row]
    webhook_attempts: list[Row]
    calls: list[UpstreamCall] | None = None
    deliveries: list[hookd.Delivery] | None = None
    hook_secrets: Sequence[str] | None = None
    streams: dict[str, list[dict[str, Any]]] | None = None
    redis_names: list[str] | None = None
    unacked: int = 0
    submitted: Collection[str] | None = None
    oracle: dict[str, str] = field(default_factory=dict)
    _by_job: dict[str, list[Row]] = field(default_factory=dict, init=False, repr=False)
    _sorted_out: int = field(default=0, init=False, repr=False)

    def attempts_of(self, job_id: str) -> list[Row]:
        """The attempt rows of a job, by ordinal. Ten thousand jobs ask: the rows are sorted out once."""
        if self._sorted_out != len(self.attempts):
            self._sorted_out = len(self.attempts)
            self._by_job.clear()
            for row in self.attempts:
                self._by_job.setdefault(row["job_id"], []).append(row)
        return sorted(self._by_job.get(job_id, []), key=lambda row: int(row["attempt"]))


def collect(
    database_url: str,
    *,
    journals: Sequence[Path] = (),
    hooks: Path | None = None,
    hook_secrets: Sequence[str] | None = None,
    redis_url: str | None = None,
    submitted: Collection[str] | None = None,
    oracle: bool = True,
) -> Evidence:
    """Read everything.

    Args:
        journals: of the simulator; several if several ran.
        hooks: the webhook receiver's journal.
        hook_secrets: what the receiver accepts, to verify its journal once more.
        redis_url: for the replay logs and the key inventory.
        submitted: the ids that were promised to the submitters.
        oracle: compute the right answers from the stored requests, with the simulator's own oracle.
    """
    evidence = _database(database_url)
    evidence.submitted = submitted
    if journals:
        evidence.calls = [call for journal in journals for call in upstream_calls(journal)]
        if oracle:
            evidence.oracle = _oracle(database_url)
    if hooks is not None:
        evidence.deliveries = hookd.read_journal(hooks) if hooks.exists() else []
        evidence.hook_secrets = hook_secrets
    if redis_url is not None:
        _read_redis(evidence, redis_url)
    return evidence


def _database(url: str) -> Evidence:
    engine, payloads = sa.create_engine(url, poolclass=sa.NullPool), _payloads()
    with engine.connect() as connection:

        def rows(view: str) -> list[Row]:
            return [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {view}")).mappings()]

        evidence = Evidence(
            jobs={row["id"]: opened(row, payloads) for row in rows("jobs_v")},
            attempts=rows("attempts_v"),
            usage=rows("usage_v"),
            results={row["job_id"]: row for row in rows("results_v")},
            events=rows("webhook_events_v"),
            webhook_attempts=rows("webhook_attempts_v"),
        )
    engine.dispose()
    return evidence


def upstream_calls(path: Path) -> list[UpstreamCall]:
    """The calls that a simulator's journal tells of."""
    from worker.simulator.journal import calls, read_journal

    found = []
    for call in calls(read_journal(path)):
        done = call.done
        found.append(
            UpstreamCall(
                client_request_id=call.received.client_request_id or "",
                job_id=call.received.job,
                billed=done is not None and done.billed,
                outcome=done.outcome if done else "unknown",
                status=done.status if done else 0,
                input_tokens=done.input_tokens if done else 0,
                output_tokens=done.output_tokens if done else 0,
                usd=format(done.usd, "f") if done else "0",
                inference_id=done.inference_id if done else "",
            )
        )
    return found


def _oracle(url: str) -> dict[str, str]:
    """The right text of every completed job, from its stored request."""
    from worker.simulator.oracle import expected_text

    engine = sa.create_engine(url, poolclass=sa.NullPool)
    statement = sa.text(
        "SELECT j.id, j.endpoint, CAST(r.body AS text) FROM jobs_v j JOIN requests r ON r.job_id = j.id"
        " WHERE j.status = 'completed'"
    )
    with engine.connect() as connection:
        stored = connection.execute(statement).all()
    engine.dispose()
    payloads = _payloads()
    return {
        job_id: expected_text(endpoint, json.loads(payloads.open_json(body, f"requests.body:{job_id}")))
        for job_id, endpoint, body in stored
    }


def _payloads() -> Payloads:
    """What opens payloads that the run's workers encrypted (`make test-encrypted`)."""
    key = os.environ.get(PAYLOAD_KEY)
    return Payloads([key] if key else [])


def _read_redis(evidence: Evidence, url: str) -> None:
    payloads = _payloads()
    with redis.Redis.from_url(url) as client:
        names = sorted(key.decode("utf-8", "backslashreplace") for key in client.scan_iter(count=1000))
        evidence.redis_names = names
        evidence.unacked = int(client.hlen("stockpot.unacked"))
        evidence.streams = {
            name.removeprefix(LOG_PREFIX): [_event(fields[b"e"], payloads) for _, fields in client.xrange(name)]
            for name in names
            if name.startswith(LOG_PREFIX) and client.type(name) == b"stream"
        }


def _event(envelope: bytes, payloads: Payloads) -> dict[str, Any]:
    """An event of the log; what is none is left to the invariants as it is."""
    found: dict[str, Any] = read(envelope, payloads) or json.loads(envelope)
    return found


def opened(row: Mapping[str, Any], payloads: Payloads) -> dict[str, Any]:
    """A row with its texts as they were before they were encrypted, where the columns that name it were read with them."""
    found = dict(row)
    if {"id", "text"} <= found.keys():
        found["text"] = payloads.open(found["text"], f"results.text:{found['id']}")
    if {"job_id", "attempt", "partial_text"} <= found.keys():
        place = f"attempts.partial_text:{found['job_id']}.{found['attempt']}"
        found["partial_text"] = payloads.open(found["partial_text"], place)
    return found

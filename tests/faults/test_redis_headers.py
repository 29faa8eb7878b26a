"""What the headers of a message may do to a worker: nothing. And whoever names a job in a submission finds that job (F31)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api_schemas.ids import job_id
from tests.rig.stage import SetStage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.base.errors import NotAllowed

pytestmark = pytest.mark.fault

#: Longer than any of these faults: nobody dies here with a job in hand, in seconds.
LEASE = 60
QUEUE = "stockpot.interactive"
NOW = datetime.now(UTC)
NEVER = "9999-12-31T23:59:59.999999-23:59"

#: Headers over those of a good message; None leaves one out.
ODD: dict[str, dict[str, Any]] = {
    "no id": {"id": None},
    "an id that is no text": {"id": {"a": [1]}},
    "a long id": {"id": "x" * 200_000},
    "a time limit that is none": {"timelimit": 5},
    "a time limit that is over": {"timelimit": [1e-9, 1e-9]},
    "an eta beyond every calendar": {"eta": NEVER},
    "an eta that is none": {"eta": "tomorrow"},
    "an eta that is a number": {"eta": 1e300},
    "an expiry beyond every calendar": {"expires": NEVER},
    "an expiry that is none": {"expires": {"when": 1}},
    "a shadow": {"shadow": {"a": 1}},
    "stamps": {"stamped_headers": 5, "stamps": "x"},
    "a group, a chord, retries": {"group": "g", "group_index": "x", "root_id": 5, "retries": "many", "chord": {"a": 1}},
    "replies": {"reply_to": "stockpot.interactive", "ignore_result": False},
    "another language": {"lang": "js", "origin": 7, "replaced_task_nesting": "x"},
    "attributes of Celery's": {"called_directly": True, "_protected": 1, "update": 5, "get": 5, "callbacks": [1]},
    "attributes of Python's": {"__class__": 5, "__dict__": 5, "__init__": "x", "args": 1, "kwargs": 2},
}


def message(
    job: object, headers: Mapping[str, Any], properties: Mapping[str, Any] | None = None, *, body: str | None = None
) -> str:
    """A submission (protocol 2) as kombu's Redis transport stores it."""
    usual: dict[str, Any] = {"lang": "py", "task": "stockpot.submit", "id": job_id(), "retries": 0}
    body = body or json.dumps([[], {"job": job}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    envelope = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {name: value for name, value in {**usual, **headers}.items() if value is not None},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": job_id(),
            **(properties or {}),
        },
    }
    return json.dumps(envelope)


#: Properties over those of a good message; such messages are none, and are dropped.
ODD_PROPERTIES: list[dict[str, Any]] = [
    {"delivery_tag": {"a": 1}},
    {"delivery_tag": None},
    {"delivery_info": 5},
    {"delivery_info": {"exchange": [1], "routing_key": QUEUE}},
    {"delivery_info": {"exchange": "", "routing_key": None}},
    {"body_encoding": "zlib"},
    {"delivery_info": {"exchange": "no.such", "routing_key": "elsewhere"}, "body_encoding": None},
    {"priority": "first", "correlation_id": [5], "reply_to": 7},
]
#: Bodies of calls that are none.
ODD_BODIES = [
    "[]",
    "5",
    "null",
    '"x"',
    "[1]",
    "{}",
    '[[], {"a": 1}]',
    "[1, 2, 3]",
    "[" * 5_000 + "]" * 5_000,
    "[[], {}",
]


def test_odd_headers_stop_no_worker_and_lose_no_submission(stage: SetStage) -> None:
    """Each stands before a submission; more than a worker takes at once, so that one which stayed in its hand would show."""
    on = stage("sqlite", workers=0, lease_seconds=LEASE)
    asked = {name: job_id() for name in ODD}
    old = job_id()
    odd = [message({"id": asked[name], "body": on.body()}, headers) for name, headers in ODD.items()]
    odd += [message({"id": job_id(), "body": on.body()}, {}, properties) for properties in ODD_PROPERTIES]
    odd += [message("", {}, body=body) for body in ODD_BODIES]
    none: list[Any] = [None, [], 5, "x"]
    odd += [json.dumps({**json.loads(odd[0]), "headers": headers}) for headers in none]
    first = {
        "task": "stockpot.submit",
        "id": "7",
        "args": [],
        "kwargs": {"job": {"id": old, "body": on.body()}},
        "eta": NEVER,
    }
    odd.append(message("", {"task": None, "id": None}, body=json.dumps(first)))
    last = job_id()
    with Witness("the queue held messages with odd headers") as witness, on.valkey.client() as redis:
        witness.inject(lambda: redis.lpush(QUEUE, *odd * 3, message({"id": last, "body": on.body()}, {})))
        witness.saw(redis.llen(QUEUE) == 3 * len(odd) + 1)
        (worker,) = on.start(1)
        eventually(lambda: redis.llen(QUEUE) == 0, 120, "the queue is empty")
        eventually(lambda: redis.hlen("stockpot.unacked") == 0, 60, "nothing stays in a worker's hand")
    on.hears_doorbells()
    on.quiesce()
    there = {row["id"] for row in on.rows("SELECT id FROM jobs_v")}
    assert [name for name, made in (asked | {"protocol 1": old, "a good one": last}).items() if made not in there] == []
    assert worker.running
    assert on.logged("worker_stuck") == 0
    assert "canary-prompt" not in worker.output


def test_a_submission_ends_under_its_id_whatever_is_wrong_with_it(stage: SetStage) -> None:
    """A request that is none, or whose key is another one's, has failed; Celery's `eta` and `expires` are the job's times."""
    on = stage("postgres", workers=0, lease_seconds=LEASE, max_request_bytes=2_048)
    body, hook = on.body(), on.hooks.url("/ok")
    key = on.pot.submit(body, idempotency_key="taken").id
    soon, past = (NOW + timedelta(hours=1)).isoformat(), (NOW - timedelta(hours=1)).isoformat()
    long = body["messages"][0]["content"] + " ü\u20ac\N{GRINNING FACE}" * 90_000
    wrong: dict[str, dict[str, Any]] = {
        "a cost beyond 64 bits": {"body": body, "max_cost_usd": 9.3e6, "webhook": hook, "metadata": {"a": "b"}},
        "a cost that is none": {"body": body, "max_cost_usd": "NaN", "tenant": "acme"},
        "half a character": {"body": body, "metadata": {"\ud800": "x"}, "tenant": "not a tenant!"},
        "a field of a later version": {"body": body, "later": 1, "lane": "bulk"},
        "a start in a hundred years": {"body": body, "not_before": "2126-01-01T00:00:00Z"},
        "no body": {"webhook": "ftp://x"},
        "too many bytes": {"body": {**body, "x": "x" * 1_100_000}},
        "a key of another request": {"body": {**body, "seed": 5}, "idempotency_key": "taken"},
    }
    ids = {name: job_id() for name in (*wrong, "later", "over", "long")}
    sent = [message(json.dumps({"id": ids[name], **job}), {}) for name, job in wrong.items()]
    sent += [
        message({"id": ids["later"], "body": body}, {"eta": soon, "expires": None}),
        message({"id": ids["over"], "body": body}, {"expires": past}),
        message({"id": ids["long"], "body": {**body, "messages": [{"role": "user", "content": long}]}}, {}),
        message({"id": "job_none", "body": body}, {}),
    ]
    with Witness("the queue held submissions that cannot be jobs") as witness, on.valkey.client() as redis:
        witness.inject(lambda: redis.lpush(QUEUE, *sent * 2))
        witness.saw(redis.llen(QUEUE) >= 2 * len(sent))
        on.start(1)
        eventually(lambda: on.count() == len(ids) + 1, 120, "each is there, once")
        eventually(lambda: on.done() == len(ids), 60, "all but one are over")
    rows = {row["id"]: row for row in on.rows("SELECT * FROM jobs_v")}
    for name in wrong:
        row = rows[ids[name]]
        code = "idempotency_conflict" if name.startswith("a key") else "invalid_submission"
        assert (row["status"], row["error_class"], row["error_code"]) == ("failed", "invalid_request", code), name
        assert "canary" not in row["error_message"]
    assert rows[ids["a cost that is none"]]["tenant"] == "acme"
    assert rows[ids["a field of a later version"]]["lane"] == "bulk"
    assert "max_cost_usd" in rows[ids["a cost beyond 64 bits"]]["error_message"]
    assert (rows[ids["over"]]["status"], rows[ids["long"]]["status"], rows[key]["status"]) == (
        "expired",
        "completed",
        "completed",
    )
    assert rows[ids["later"]]["status"] == "queued"
    [event] = on.rows("SELECT type, job_id FROM webhook_events")
    assert event["type"] == "job.failed"
    assert list(on.pot.events(ids["no body"]))[-1]["type"] == "job.failed"
    with pytest.raises(NotAllowed):
        on.pot.retry(ids["no body"])
    refused = 2 * (len(wrong) - 1) + 2
    eventually(lambda: on.logged("submission_refused") == refused, 60, "each is logged, the second time, too")
    on.pot.cancel(ids["later"])
    on.quiesce()

"""What others do to our Redis: messages that are no doorbells, and readers that do not read (F31, F33)."""

from __future__ import annotations

import base64
import json
import pickle
import sys
import zlib
from collections.abc import Callable
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from api_schemas.ids import job_id
from tests.rig.invariants import check_stream, shown_text
from tests.rig.procs import Process
from tests.rig.stage import SetStage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

#: What a compressed message of some hundred kB would become.
BOMB_BYTES = 512 * 1024 * 1024
#: The idempotency key of a submission that only a chain would make.
CHAINED = "made-by-a-chain"

#: Longer than any of these faults on any machine: nobody dies here with a job in hand, so no lease plays a part, in seconds.
LEASE = 60


def _message(task: str, body: bytes, content_type: str = "application/json", **more: str) -> str:
    """A Celery message (protocol 2) as kombu's Redis transport stores it."""
    headers = {"lang": "py", "task": task, "id": job_id(), "argsrepr": "()", "kwargsrepr": "{}", "retries": 0} | more
    properties = {
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "stockpot.interactive"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": job_id(),
        "correlation_id": headers["id"],
    }
    envelope = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "binary" if "python" in content_type else "utf-8",
        "content-type": content_type,
        "headers": headers,
        "properties": properties,
    }
    return json.dumps(envelope)


def _call(**kwargs: Any) -> bytes:
    """The body of a Celery message: args, kwargs, embedded workflow."""
    return json.dumps([[], kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()


def _call_with_chain(**kwargs: Any) -> bytes:
    """A call of ours that names a submission to be made after it."""
    job = {"idempotency_key": CHAINED, "body": {"model": "m", "messages": [{"role": "user", "content": "x"}]}}
    after = {"task": "stockpot.submit", "kwargs": {"job": job}, "options": {"queue": "stockpot.interactive"}}
    later = {**after, "args": [], "subtask_type": None, "immutable": True, "chord_size": None}
    return json.dumps(
        [[], kwargs, {"callbacks": [later], "errbacks": [later], "chain": [later], "chord": None}]
    ).encode()


class _Bomb:
    """Unpickled, it would leave a file."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, ("pickled-and-executed", "w"))


def test_the_queue_holds_what_is_no_doorbell(stage: SetStage) -> None:
    """F31: nothing of it is executed, every worker lives, and the doorbells behind it are heard."""
    on = stage("postgres", workers=0, lease_seconds=LEASE)
    known = on.submit()
    garbage = [
        _message("stockpot.run", pickle.dumps(_Bomb()), "application/x-python-serialize"),
        _message("stockpot.no_such_task", _call()),
        _message("os.system", _call(command="touch executed")),
        _message("stockpot.run", b"[[], {"),
        _message("celery.starmap", _call(task="stockpot.submit", it=[[{}]] * 1_000)),
        _message("celery.chord_unlock", _call()),
        _message("stockpot.submit", zlib.compress(b" " * BOMB_BYTES, 9), compression="application/x-gzip"),
        _message("stockpot.submit", b" " * 20_000_000),
        _message("stockpot.run", _call_with_chain(ids=[known])),
        _message("stockpot.run", json.dumps([[], 5, None]).encode()),
        _message("stockpot.run", _call(ids="not a list", lane=7)),
        _message("stockpot.run", _call(ids=[job_id(), "../../etc/passwd", None, 5, {"a": 1}])),
        _message("stockpot.run", _call(ids=["x" * 5_000_000])),
        _message("stockpot.run", _call(ids=[known], lane="no such lane", later="argument")),
        *[_message("stockpot.run", _call(ids=[known]))] * 1_000,
    ]
    with Witness("garbage was taken from the queue") as witness, on.valkey.client() as redis:
        witness.inject(lambda: redis.lpush("stockpot.interactive", *garbage))
        waiting = redis.llen("stockpot.interactive")
        on.start(2)
        on.load(20)
        eventually(lambda: redis.llen("stockpot.interactive") == 0, 120, "the queue is empty")
        witness.saw(waiting >= len(garbage) and on.logged("doorbell_refused") >= 2)
        witness.saw(on.logged("queue_item_dropped") >= 8)
    on.hears_doorbells()
    on.quiesce()
    on.check(allowed_errors=ALLOWED)
    assert on.extra_calls() == 0
    assert on.count(f"idempotency_key = '{CHAINED}'") == 0
    peak = max(psutil.Process(worker.pid).memory_info().rss for worker in on.workers if worker.running)
    assert peak < BOMB_BYTES, "it was decompressed"
    assert not [worker for worker in on.workers if "touch executed" in worker.output], "a body was logged"
    assert not list(on.home.parent.rglob("pickled-and-executed"))
    assert all(worker.running for worker in on.workers)


#: What Celery says of messages that it drops.
ALLOWED = (
    r"ContentDisallowed",
    r"DecodeError",
    r"KeyError",
    r"InvalidTaskError",
    r"ValueError",
    r"JSONDecodeError",
    r"TypeError",
)


def test_the_queue_holds_what_is_no_message(stage: SetStage) -> None:
    """F31: kombu would end its worker over each; ours drops them, shows nobody what they said, and goes on."""
    on = stage("postgres", workers=0, lease_seconds=LEASE)
    strangers = ["no JSON of hers", '{"hers": "but no message"}', "[]", "5", "\x00\xff", "[" * 100_000]
    with Witness("such items were taken from the queue") as witness, on.valkey.client() as redis:
        witness.inject(lambda: redis.lpush("stockpot.interactive", *strangers))
        waiting = redis.llen("stockpot.interactive")
        (worker,) = on.start(1)
        on.load(20)
        on.quiesce()
        eventually(lambda: redis.llen("stockpot.interactive") == 0, 120, "the queue is empty")
        witness.saw(waiting == len(strangers) and on.logged("queue_item_dropped") == len(strangers))
    on.hears_doorbells()
    on.quiesce()
    on.check()
    assert worker.running
    assert "hers" not in worker.output
    assert on.extra_calls() == 0


#: Prints the events of a job, each on a line.
READER = """
import json, sys
from worker import Stockpot
with Stockpot() as pot:
    for event in pot.events(sys.argv[1]):
        event.pop("data", None)
        print(json.dumps(event), flush=True)
"""


def test_a_reader_does_not_read(stage: SetStage, launch: Callable[..., Process]) -> None:
    """F33: Redis throws it out; the publisher does not notice, and it resumes without a gap.

    Valkey 9.1 does not enforce its pub/sub buffer limit on a reader that stands still: CLIENT KILL is the kick.
    """
    on = stage("postgres", lease_seconds=LEASE)
    job = on.submit("slow=100", stream=True)
    reader = launch([sys.executable, "-c", READER, job], name="reader", env=on.env(), cwd=on.home)
    with Witness("Redis threw a slow reader out") as witness, on.valkey.client() as redis:
        reader.wait_for_line('"chunk"')
        before = len(reader.output)
        witness.inject(reader.stop)
        on.load(30)
        on.quiesce()
        killed = 0

        def throw_out() -> None:
            nonlocal killed
            killed = int(redis.client_kill_filter(_type="pubsub", skipme=True))

        witness.inject(throw_out)
        # The two workers listen for cancellations; the third connection is the reader's.
        witness.saw(reader.frozen and killed >= 3 and before)
        witness.inject(reader.cont)
    assert reader.wait() == 0, reader.tail()
    seen = [json.loads(line) for line in reader.stdout.read_text().splitlines()]
    on.check()
    assert not list(check_stream(job, seen, "completed", on.pot.get(job).text))
    assert shown_text(seen) == on.pot.get(job).text
    assert seen[-1]["type"] == "job.completed"
    assert on.extra_calls() == 0

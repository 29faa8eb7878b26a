"""What others do to our Redis: messages that are no doorbells, and readers that do not read (F31, F33)."""

from __future__ import annotations

import base64
import json
import pickle
import threading
from typing import Any

import pytest

from api_schemas.ids import job_id
from tests.rig.invariants import check_stream
from tests.rig.stage import SetStage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault


def _message(task: str, body: bytes, content_type: str = "application/json") -> str:
    """A Celery message (protocol 2) as kombu's Redis transport stores it."""
    headers = {"lang": "py", "task": task, "id": job_id(), "argsrepr": "()", "kwargsrepr": "{}", "retries": 0}
    properties = {
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "interactive"},
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


class _Bomb:
    """Unpickled, it would leave a file."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return (open, ("pickled-and-executed", "w"))


def test_the_queue_holds_what_is_no_doorbell(stage: SetStage) -> None:
    """F31: nothing of it is executed, every worker lives, and the doorbells behind it are heard."""
    on = stage("postgres", workers=0)
    known = on.submit()
    garbage = [
        _message("stockpot.run", pickle.dumps(_Bomb()), "application/x-python-serialize"),
        _message("stockpot.no_such_task", _call()),
        _message("os.system", _call(command="touch executed")),
        _message("stockpot.run", b"[[], {"),
        _message("stockpot.run", json.dumps([[], 5, None]).encode()),
        _message("stockpot.run", _call(ids="not a list", lane=7)),
        _message("stockpot.run", _call(ids=[job_id(), "../../etc/passwd", None, 5, {"a": 1}])),
        _message("stockpot.run", _call(ids=["x" * 5_000_000])),
        _message("stockpot.run", _call(ids=[known], lane="no such lane", later="argument")),
        *[_message("stockpot.run", _call(ids=[known]))] * 1_000,
    ]
    with Witness("garbage was taken from the queue") as witness, on.valkey.client() as redis:
        witness.inject(lambda: redis.lpush("interactive", *garbage))
        waiting = redis.llen("interactive")
        on.start(2)
        on.load(20)
        eventually(lambda: redis.llen("interactive") == 0, 60, "the queue is empty")
        witness.saw(waiting >= len(garbage) and on.logged("doorbell_refused") >= 2)
    on.hears_doorbells()
    on.quiesce()
    on.check(allowed_errors=ALLOWED)
    assert on.extra_calls() == 0
    assert not list(on.home.parent.rglob("pickled-and-executed"))
    assert all(worker.running for worker in on.workers)


#: What Celery says of messages that it drops.
ALLOWED = (r"ContentDisallowed", r"DecodeError", r"KeyError", r"InvalidTaskError", r"ValueError", r"JSONDecodeError", r"TypeError")


def test_the_queue_holds_what_is_no_message(stage: SetStage) -> None:
    """F31: kombu ends its worker over an item without an envelope, each item once; the supervisor starts it again."""
    on = stage("postgres", workers=0)
    strangers = ["this is no JSON", '{"json": "but no message"}', "[]", "\x00\xff"]
    with Witness("such items were taken from the queue") as witness, on.valkey.client() as redis:
        witness.inject(lambda: redis.lpush("interactive", *strangers))
        waiting = redis.llen("interactive")
        on.supervised("supervised")
        on.load(20)
        on.quiesce()
        eventually(lambda: redis.llen("interactive") == 0, 60, "the queue is empty")
        witness.saw(waiting == len(strangers))
    on.hears_doorbells()
    on.quiesce()
    on.check(allowed_errors=ALLOWED)
    assert on.extra_calls() == 0


def test_a_reader_does_not_read(stage: SetStage) -> None:
    """F33: Redis throws it out at its buffer limit; the publisher does not notice, and it resumes without a gap."""
    on = stage("postgres")
    big = "bigline=4000000+slow=25"
    with Witness("Redis threw a slow reader out") as witness, on.valkey.client() as redis:
        witness.inject(lambda: redis.config_set("client-output-buffer-limit", "pubsub 1mb 512kb 1"))
        job = on.submit(big, stream=True, delay_seconds=1)
        seen: list[dict[str, Any]] = []
        reader = threading.Thread(target=lambda: seen.extend(on.pot.events(job)))
        reader.start()
        on.load(30)
        reader.join(60)
        on.quiesce()
        print("DBG", [(e["type"], len(str(e))) for e in seen][:8], redis.info("stats"), redis.config_get("client-output*"), on.attempts(job))
        witness.saw(int(redis.info("stats").get("client_output_buffer_limit_disconnections", 0)) > 0)
    on.check()
    assert not list(check_stream(job, seen, "completed", on.job(job)["text"]))
    assert seen[-1]["type"] == "job.completed"
    assert on.extra_calls() == 0

"""Every call of the unmodified SDK whose answer is lost, by a reset or with its gateway: its own repeat finds it (G11).

The SDK sends no key of its own. A file that is sent twice is there twice; nothing else is, and no call is paid twice.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.file_factories import jsonl, line
from tests.rig.faultproxy import FaultProxy
from tests.rig.gateway import gateway_process
from tests.rig.ports import free_port
from tests.rig.simulated import Knobs
from tests.rig.stage import SetStage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

MODEL = "openai/gpt-4o-mini"
LINES = 3
Call = Callable[[openai.OpenAI], Any]


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """What a test starts, and ends with it."""
    with ExitStack() as stack:
        yield stack


def client(port: int, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", timeout=100, **options)


def stored(port: int, script: str = "ok") -> str:
    """A batch's file."""
    lines = jsonl(*(line(number, body_model=f"{MODEL}@sim:{script}") for number in range(1, LINES + 1)))
    with client(port) as sdk:
        return sdk.files.create(file=lines, purpose="batch").id


def job(what: str) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": what}]}


def of_one_job() -> dict[str, tuple[bytes, Call]]:
    """Calls that are one job each: what of the request is seen on the wire, and the call."""
    return {
        "chat": (b"/chat/completions", lambda sdk: sdk.chat.completions.create(**job("a"))),
        "chat stream": (b"/chat/completions", lambda sdk: list(sdk.chat.completions.create(**job("b"), stream=True))),
        "response": (b"/responses", lambda sdk: sdk.responses.create(model=MODEL, input="c")),
        "response stream": (b"/responses", lambda sdk: list(sdk.responses.create(model=MODEL, input="d", stream=True))),
        "background": (b"/responses", lambda sdk: sdk.responses.create(model=MODEL, input="e", background=True)),
        "background stream": (
            b"/responses",
            lambda sdk: list(sdk.responses.create(model=MODEL, input="f", background=True, stream=True)),
        ),
        "native job": (b"/jobs", lambda sdk: sdk.post("/jobs", body=job("g"), cast_to=object)),
    }


def ended(port: int, batch: str) -> Any:
    """A batch once it is over, with all its lines."""
    with client(port) as sdk:
        done: Any = eventually(
            lambda: (one := sdk.batches.retrieve(batch)).status in {"completed", "cancelled"} and one, 120, "its end"
        )
        if done.status == "completed":
            assert sdk.files.content(done.output_file_id or "").text.count("\n") == LINES
        return done


def test_the_answer_of_every_call_is_lost_on_its_way(stage: SetStage, processes: ExitStack, tmp_path: Path) -> None:
    """G11: one job a call, one batch of each order, one bill."""
    # What is held until it is cancelled takes a slot each, and must not be given up as late.
    on = stage("postgres", workers=1, concurrency=16, first_event_timeout=110)
    port = free_port()
    processes.enter_context(gateway_process(on, tmp_path, port))
    file = stored(port)
    order: dict[str, Any] = {
        "input_file_id": file,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"for": "one"},
    }
    held: dict[str, Any] = {"model": f"{MODEL}@sim:hold", "input": "hi", "background": True}
    with client(port) as sdk:
        running = sdk.responses.create(**held)
        other = sdk.batches.create(**{**order, "input_file_id": stored(port, "hold")})
    calls = of_one_job() | {
        "batch": (b"/batches", lambda sdk: sdk.batches.create(**order)),
        "cancelled batch": (b"/cancel", lambda sdk: sdk.batches.cancel(other.id)),
        "cancelled response": (b"/cancel", lambda sdk: sdk.responses.cancel(running.id)),
        "file": (b"/files", lambda sdk: sdk.files.create(file=b"data", purpose="user_data")),
    }
    done: dict[str, Any] = {}
    with Witness("the connection of each call was reset behind it") as witness:
        for name, (seen, call) in calls.items():
            with FaultProxy("127.0.0.1", port) as proxy, client(proxy.port) as sdk:
                witness.inject(lambda proxy=proxy, seen=seen: proxy.drop_reply_after(seen))  # type: ignore[misc]
                done[name] = call(sdk)
                assert proxy.stats().dropped_replies == (1 if witness.faults_on else 0), name
        witness.saw(len(done) == len(calls))
    Knobs(on.simulator).release()
    on.quiesce()
    batch = ended(port, done["batch"].id)
    assert ended(port, other.id).status == "cancelled"
    assert on.count(table="batches") == 2 and batch.metadata == {"for": "one"}
    assert done["cancelled response"].status == "cancelled"
    jobs = on.rows("SELECT id, status FROM jobs_v WHERE batch_id IS NULL")
    assert sorted(one["status"] for one in jobs) == ["cancelled", *["completed"] * len(of_one_job())]
    assert on.count(f"batch_id = '{batch.id}'") == LINES
    assert on.unexplained_calls() == 0, "one was paid twice"


@pytest.mark.parametrize(
    "name",
    [
        "batch",
        "native job",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("background", "cancelled response", "file")),
    ],
)
def test_the_gateway_is_killed_when_the_call_is_kept_and_not_answered(
    stage: SetStage, processes: ExitStack, tmp_path: Path, name: str
) -> None:
    """G1-G3: what was asked is done, its answer never leaves, and the repeat comes to the next gateway."""
    on = stage("postgres", workers=1)
    port = free_port()
    gateway = processes.enter_context(gateway_process(on, tmp_path, port))
    proxy = processes.enter_context(FaultProxy("127.0.0.1", port))
    order: dict[str, Any] = {
        "input_file_id": stored(port),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    with client(port) as sdk:
        held = sdk.responses.create(model=f"{MODEL}@sim:hold", input="hi", background=True)
    calls = of_one_job() | {
        "batch": (b"/batches", lambda sdk: sdk.batches.create(**order)),
        "cancelled response": (b"/cancel", lambda sdk: sdk.responses.cancel(held.id)),
        "file": (b"/files", lambda sdk: sdk.files.create(file=b"data", purpose="user_data")),
    }
    seen, call = calls[name]
    sdk = processes.enter_context(client(proxy.port, max_retries=20))
    with Witness("the gateway died of SIGKILL, and its answer with it") as witness, ThreadPoolExecutor(1) as pool:
        witness.inject(lambda: proxy.drop_reply_after(seen, ending="silence"))
        answer = pool.submit(call, sdk)
        if witness.faults_on:
            eventually(lambda: proxy.stats().dropped_replies == 1, what="the answer is lost")
            gateway.kill9()
            processes.enter_context(gateway_process(on, tmp_path, port, "gateway-2"))
            proxy.reset_all()
        done: Any = answer.result(120)
        witness.saw(gateway.returncode == -signal.SIGKILL)
    with client(port) as direct:
        direct.responses.cancel(held.id)
    Knobs(on.simulator).release()
    on.quiesce()
    alone = on.rows("SELECT status FROM jobs_v WHERE batch_id IS NULL")
    made = ["completed"] if name in {"background", "native job"} else []
    assert sorted(one["status"] for one in alone) == ["cancelled", *made]
    assert on.count(table="batches") == (name == "batch")
    if name == "batch":
        assert ended(port, done.id).status == "completed" and on.count("batch_id IS NOT NULL") == LINES
    assert on.unexplained_calls() == 0, "one was paid twice"


@pytest.mark.long
def test_gateway_worker_and_redis_are_killed_under_a_batch(
    stage: SetStage, processes: ExitStack, tmp_path: Path
) -> None:
    """G1-G9: each line is answered once, and every call that was made again is one that a dead worker had made."""
    on = stage("postgres", workers=1)
    port = free_port()
    gateway = processes.enter_context(gateway_process(on, tmp_path, port))
    lines = [line(number, body_model=f"{MODEL}@sim:slow=50") for number in range(1, 13)]
    with client(port, max_retries=20) as sdk:
        file = sdk.files.create(file=jsonl(*lines), purpose="batch").id
        made = sdk.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h")
        with Witness("gateway, worker and Redis died of SIGKILL while lines were answered") as witness:
            eventually(on.running_calls, what="the upstream is called")
            redis = on.valkey.pid
            witness.inject(on.workers[0].kill9)
            witness.inject(on.valkey.kill9)
            witness.inject(gateway.kill9)
            witness.inject(lambda: on.valkey.restart(empty=True))
            on.start(1)
            if witness.faults_on:
                processes.enter_context(gateway_process(on, tmp_path, port, "gateway-2"))
            dead = [process.returncode for process in (gateway, on.workers[0])]
            witness.saw(dead == [-signal.SIGKILL] * 2 and on.valkey.pid != redis)
        done: Any = eventually(
            lambda: (one := sdk.batches.retrieve(made.id)).status == "completed" and one, 150, "its end"
        )
        answers = [json.loads(one) for one in sdk.files.content(done.output_file_id or "").text.splitlines()]
    assert sorted(one["custom_id"] for one in answers) == sorted(one["custom_id"] for one in lines)
    assert done.request_counts is not None and done.request_counts.completed == len(lines)
    assert on.unexplained_calls() == 0

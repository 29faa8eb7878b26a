"""Connections that break around the gateway: the SDK repeats, and one call stays one job and one bill (G11-G14)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from redis.exceptions import RedisError

from tests.rig.faultproxy import FaultProxy
from tests.rig.gateway import gateway_process
from tests.rig.ports import free_port
from tests.rig.stage import SetStage, Stage
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """What a test starts, and ends with it."""
    with ExitStack() as stack:
        yield stack


def one_job(on: Stage, text: str | None) -> None:
    [job] = on.rows("SELECT id, status FROM jobs_v")
    assert (job["status"], on.pot.get(job["id"]).text) == ("completed", text)
    assert len(on.calls()) == 1
    on.submitted.append(job["id"])
    on.check()


def _answers(on: Stage) -> bool:
    try:
        return bool(on.valkey.client().ping())
    except RedisError:
        return False


@pytest.mark.parametrize("streamed", [False, True])
def test_the_answer_is_lost_on_its_way_and_the_sdk_repeats(
    stage: SetStage, processes: ExitStack, tmp_path: Path, *, streamed: bool
) -> None:
    """G11: a reset behind the accepted call. The SDK sends no key of its own; its retry count is enough."""
    on = stage("postgres", workers=1)
    port = free_port()
    processes.enter_context(gateway_process(on, tmp_path, port))
    proxy = processes.enter_context(FaultProxy("127.0.0.1", port))
    sdk = processes.enter_context(
        openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key="any", timeout=60)
    )
    with Witness("the connection was reset behind the request") as witness:
        witness.inject(lambda: proxy.drop_reply_after(b"/chat/completions"))
        raw: Any = sdk.chat.completions.with_raw_response.create(**on.body(), stream=streamed)
        done: Any = raw.parse()
        text = (
            "".join(chunk.choices[0].delta.content or "" for chunk in done)
            if streamed
            else done.choices[0].message.content
        )
        witness.saw(
            proxy.stats().dropped_replies and raw.retries_taken == 1 and raw.headers.get("stockpot-joined") == "true"
        )
    one_job(on, text)


def test_the_databases_answer_to_the_commit_is_lost(stage: SetStage, processes: ExitStack, tmp_path: Path) -> None:
    """G12: whether the call was accepted is unknown; the repeat finds that it was."""
    on = stage("postgres", workers=1, proxies=("database",))
    port = free_port()
    processes.enter_context(gateway_process(on, tmp_path, port))
    sdk = processes.enter_context(openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", timeout=60))
    with Witness("the reply to the insertion of the job was lost") as witness:
        witness.inject(lambda: on.proxies["database"].drop_reply_after(b"INSERT INTO requests"))
        raw = sdk.chat.completions.with_raw_response.create(**on.body())
        witness.saw(on.proxies["database"].stats().dropped_replies and raw.retries_taken)
    one_job(on, raw.parse().choices[0].message.content)


def test_redis_is_away_when_calls_come(stage: SetStage, processes: ExitStack, tmp_path: Path) -> None:
    """G13: they are accepted and answered; streams show their text at the end."""
    on = stage("postgres", workers=1)
    port = free_port()
    processes.enter_context(gateway_process(on, tmp_path, port))
    sdk = processes.enter_context(openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", timeout=100))
    with Witness("Redis was dead while the calls were made") as witness:
        witness.inject(on.valkey.kill9)
        whole = sdk.chat.completions.create(**on.body())
        events = list(sdk.responses.create(model="openai/gpt-4o-mini", input="hi", stream=True))
        witness.saw(not _answers(on))
        witness.inject(on.valkey.start)
    texts = [on.pot.get(job["id"]).text for job in on.rows("SELECT id FROM jobs_v ORDER BY id")]
    assert texts == [whole.choices[0].message.content, events[-1].response.output_text]  # type: ignore[union-attr]
    assert len(on.calls()) == 2


def test_the_database_is_away_when_a_call_comes(stage: SetStage, processes: ExitStack, tmp_path: Path) -> None:
    """G14: 503, and nothing was accepted; the SDK repeats until it is."""
    on = stage("postgres", workers=1, proxies=("database",))
    port = free_port()
    processes.enter_context(gateway_process(on, tmp_path, port))
    proxy = on.proxies["database"]
    with Witness("the database refused connections") as witness:
        sdk = processes.enter_context(
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", timeout=60, max_retries=0)
        )
        if witness.faults_on:
            proxy.refuse()
            proxy.close_all()
            with pytest.raises(openai.InternalServerError) as caught:
                sdk.chat.completions.create(**on.body())
            witness.saw(caught.value.status_code == 503 and caught.value.response.headers["x-should-retry"] == "true")
            assert on.count() == 0
            proxy.heal()
        done = sdk.with_options(max_retries=10).chat.completions.create(**on.body())
    one_job(on, done.choices[0].message.content)

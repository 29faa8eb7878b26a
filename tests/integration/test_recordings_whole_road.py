"""The recorded streams along the whole road: upstream, worker, live stream, database; and the official SDK beside it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from api_schemas.jobs import JobDetail
from tests.rig import recordings
from tests.rig.invariants import check_stream
from tests.rig.scripted_upstream import Peer, Request, ScriptedUpstream, scripted
from worker.base.settings import Settings
from worker.db import schema
from worker.engine.engine import Engine
from worker.producer.async_stockpot import AsyncStockpot
from worker.upstream.endpoints import ENDPOINTS

pytestmark = pytest.mark.anyio

#: What the SDK refuses to put together: an error in place of an answer, and a response whose id changes on the way.
BEYOND_THE_SDK = {"responses/openai-error", "responses/openai-reasoning-encrypted"}


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """Answers with the recording that the model names."""

    async def script(request: Request, peer: Peer) -> None:
        if request.method == "GET":
            await peer.reply(b"{}", status="404 Not Found")
            return
        await peer.stream(recordings.wire(json.loads(request.body)["model"]), size=1_000)

    async with scripted(script) as served:
        yield served


def asked(name: str) -> dict[str, Any]:
    """A request for a recording."""
    if recordings.endpoint(name) == "/v1/responses":
        return {"model": name, "input": "hi", "stream": True}
    return {"model": name, "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def through_the_worker(
    upstream: ScriptedUpstream, home: Path, redis_url: str, name: str
) -> tuple[list[dict[str, Any]], JobDetail]:
    """Run one recording through an engine; the live events, and what the database has."""
    settings = Settings(
        home=home, redis_url=redis_url, upstream_url=upstream.url, api_key="sk-test", sweep_seconds=0.2, lease_seconds=3
    )
    schema.upgrade(settings)
    engine = Engine(settings)
    engine.start()
    try:
        async with AsyncStockpot(settings) as pot:
            job = await pot.submit(asked(name), max_attempts=1, ttl_seconds=3)
            events = [event async for event in pot.events(job.id)]
            return events, await pot.get(job.id)
    finally:
        engine.drain()


@pytest.mark.parametrize("name", recordings.NAMES)
async def test_a_recording_is_stored_and_shown_as_its_events_say(
    upstream: ScriptedUpstream, home: Path, redis_url: str, name: str
) -> None:
    """The database's response is what the events add up to, and a subscriber got each event verbatim, once."""
    events, job = await through_the_worker(upstream, home, redis_url, name)
    if name == "responses/openai-error":  # quota: the account's trouble; the job waits and expires
        assert job.status == "expired"
        assert job.attempts == 0
        assert job.attempt_log[0].error_code == "insufficient_quota"
        return
    whole = ENDPOINTS[recordings.endpoint(name)].accumulator(1)
    for event in recordings.events(name):
        whole.add(None, event)
    assert (job.status, job.attempts, job.text) == ("completed", 1, whole.text)
    assert job.response == json.loads(json.dumps(whole.response()))
    assert job.finish_reason == whole.finish_reason
    assert [item for event in events for item in event.get("data", [])] == recordings.parsed(name)
    assert list(check_stream(job.id, events, "completed", job.text)) == []
    assert events[-1]["type"] == "job.completed"


@pytest.mark.parametrize("name", [name for name in recordings.NAMES if name not in BEYOND_THE_SDK])
async def test_the_official_sdk_agrees(upstream: ScriptedUpstream, home: Path, redis_url: str, name: str) -> None:
    """The SDK's accumulated object of the same stream equals ours in every field that the SDK knows."""
    async with openai.AsyncOpenAI(base_url=upstream.url, api_key="sk-test", max_retries=0) as sdk:
        if recordings.endpoint(name) == "/v1/responses":
            async with sdk.responses.stream(model=name, input="hi") as stream:
                theirs = (await stream.get_final_response()).to_dict()
        else:
            async with sdk.chat.completions.stream(model=name, messages=[{"role": "user", "content": "hi"}]) as chat:
                theirs = (await chat.get_final_completion()).to_dict()
    _, job = await through_the_worker(upstream, home, redis_url, name)
    assert _common(theirs, job.response) == _common(job.response, theirs)


async def test_what_the_sdk_cannot_read_ours_can(upstream: ScriptedUpstream, home: Path, redis_url: str) -> None:
    """One provider changes the response's id between its events: the SDK raises, we store the answer."""
    name = "responses/openai-reasoning-encrypted"
    async with openai.AsyncOpenAI(base_url=upstream.url, api_key="sk-test", max_retries=0) as sdk:
        with pytest.raises(RuntimeError, match="identity changed"):
            async with sdk.responses.stream(model=name, input="hi") as stream:
                await stream.get_final_response()
    _, job = await through_the_worker(upstream, home, redis_url, name)
    assert (job.status, bool(job.text)) == ("completed", True)


def _common(one: Any, other: Any) -> Any:
    """`one`, cut down to the places that both fill: a null of the SDK is a field that its stream never named."""
    if isinstance(one, dict) and isinstance(other, dict):
        kept = {
            key: _common(value, other[key]) for key, value in one.items() if key in other and _said(value, other[key])
        }
        return {key: value for key, value in kept.items() if key not in {"object", "parsed", "parsed_arguments"}}
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [_common(mine, yours) for mine, yours in zip(one, other, strict=True)]
    return one


def _said(value: Any, other: Any) -> bool:
    return value is not None and other is not None and not (value in ([], {}) and other in ([], {}))

"""Programs that nobody here wrote, before the gateway: pydantic-ai, the OpenAI agents SDK, and the OpenAI SDK for Node."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest
from agents import Agent as OpenAIAgent
from agents import OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, set_tracing_disabled
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.openai import OpenAIResponsesModel as PydanticResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.rig import judges
from tests.rig.gateway import Gateway

MODEL = "openai/gpt-4o-mini"
PROGRAM = Path(__file__).parent / "node" / "openai_sdk.cjs"


@pytest.fixture
def client(gateway: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=gateway.base_url, api_key="any")


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [OpenAIChatModel, PydanticResponsesModel])
async def test_pydantic_ai_answers_and_streams(
    client: openai.AsyncOpenAI, kind: type[OpenAIChatModel | PydanticResponsesModel]
) -> None:
    agent = Agent(kind(MODEL, provider=OpenAIProvider(openai_client=client)))
    whole = (await agent.run("hi")).output
    async with agent.run_stream("hi") as run:
        assert await run.get_output() == whole != ""
    await client.close()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
async def test_the_agents_sdk_answers_and_streams(
    client: openai.AsyncOpenAI, kind: type[OpenAIChatCompletionsModel | OpenAIResponsesModel]
) -> None:
    set_tracing_disabled(disabled=True)
    agent = OpenAIAgent(name="cook", model=kind(model=MODEL, openai_client=client))
    whole = (await Runner.run(agent, "hi")).final_output
    run = Runner.run_streamed(agent, "hi")
    async for _ in run.stream_events():
        pass
    assert run.final_output == whole != ""
    await client.close()


def test_the_node_sdk_answers_streams_and_resumes_after_every_event(gateway: Gateway, tmp_path: Path) -> None:
    """Where npm is, which installs it; else skipped, with the reason."""
    done = judges.run([*judges.node(PROGRAM, "openai@7.57.0"), gateway.base_url], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    bad = "invalid_request_error"
    assert json.loads(done.stdout) == {
        "text": True,
        "usage": True,
        "resumed": True,
        "helped": True,
        "stored": True,
        "request_id": True,
        "refused": {
            "empty": ["BadRequestError", 400, "invalid_value", "messages", bad, "req_"],
            "unknown": ["NotFoundError", 404, None, None, bad, "req_"],
            "model": ["NotFoundError", 404, "model_not_found", "model", bad, "req_"],
            "unserved": ["NotFoundError", 404, None, None, bad, "req_"],
        },
        "paged": True,
    }

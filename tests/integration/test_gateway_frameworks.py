"""Programs that nobody here wrote, before the gateway: pydantic-ai, the OpenAI agents SDK, and the OpenAI SDK for Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import openai
import pytest
from agents import Agent as OpenAIAgent
from agents import OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, set_tracing_disabled
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.openai import OpenAIResponsesModel as PydanticResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

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


def test_the_node_sdk_answers_streams_and_resumes_after_every_event(gateway: Gateway) -> None:
    """Where node is, with the package `openai` on NODE_PATH (`npm install --prefix DIR openai`)."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node on this machine")
    env = {"PATH": os.environ["PATH"], "NODE_PATH": os.environ.get("NODE_PATH", "")}
    if subprocess.run([node, "-e", "require('openai')"], env=env, capture_output=True, check=False).returncode:
        pytest.skip("node has no package `openai`: npm install --prefix DIR openai; NODE_PATH=DIR/node_modules")
    done = subprocess.run(
        [node, PROGRAM, gateway.base_url], env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "text": True,
        "usage": True,
        "resumed": True,
        "helped": True,
        "stored": True,
        "request_id": True,
        "refused": [400, "messages"],
    }

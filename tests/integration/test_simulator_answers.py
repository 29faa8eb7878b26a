"""The simulator's answers: both endpoints, whole and streamed, judged by the stock OpenAI SDK and the oracle."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from api_schemas.usage import Usage
from worker.simulator import Simulator, SimulatorConfig, oracle

pytestmark = pytest.mark.anyio

MODEL = "openai/gpt-5-1-chat-latest"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@pytest.fixture
async def url(anyio_backend: str) -> AsyncIterator[str]:
    simulator = Simulator(SimulatorConfig(first_token_delay=0, token_delay=0, charge_lag=0, max_request_bytes=50_000))
    yield await simulator.start()
    await simulator.stop()


@pytest.fixture
async def http(anyio_backend: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sim-key"}) as session:
        yield session


def chat(prompt: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **more}


def respond(prompt: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": prompt, **more}


def request(endpoint: str, prompt: str = "hi", **more: Any) -> dict[str, Any]:
    return chat(prompt, **more) if endpoint == CHAT else respond(prompt, **more)


def events(raw: str) -> list[Any]:
    """The JSON of each `data:` line, `[DONE]` left out."""
    lines = [line.removeprefix("data: ") for line in raw.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES, "/chat/completions", "/responses"])
async def test_a_whole_answer_says_what_the_oracle_says(url: str, http: aiohttp.ClientSession, endpoint: str) -> None:
    """Text, token counts, charge and the model's other name; the charge stands in the headers and in the body."""
    body = request(CHAT if "chat" in endpoint else RESPONSES, "tell me")
    async with http.post(url + endpoint, json=body) as response:
        answer = await response.json()
    text = answer["choices"][0]["message"]["content"] if "chat" in endpoint else answer["output_text"]
    assert response.status == 200
    assert text == oracle.expected_text(endpoint, body)
    assert len(text.split()) == 40
    assert Usage.read(answer["usage"]) == oracle.expected_usage(endpoint, body)
    assert answer["model"] == "gpt-5.1-chat-latest"
    cost = oracle.expected_cost_usd(endpoint, body)
    assert Decimal(response.headers["x-aimlapi-usd-spent"]) == cost > 0
    assert Decimal(repr(answer["meta"]["usage"]["usd_spent"])) == cost
    assert int(response.headers["x-aimlapi-credits-used"]) == answer["meta"]["usage"]["credits_used"]
    assert cost * 2_000_000 == answer["meta"]["usage"]["credits_used"]
    assert response.headers["x-inference-id"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
async def test_the_same_request_gets_the_same_answer_and_another_gets_another(
    url: str, http: aiohttp.ClientSession, endpoint: str
) -> None:
    """The text is a pure function of model and prompt, whichever simulator answers."""
    first, second = request(endpoint, "one"), request(endpoint, "two")
    assert oracle.expected_text(endpoint, first) == oracle.expected_text(endpoint, dict(first))
    assert oracle.expected_text(endpoint, first) != oracle.expected_text(endpoint, second)
    assert oracle.expected_text(endpoint, first) != oracle.expected_text(endpoint, {**first, "model": "other"})


async def test_a_chat_stream_adds_up_for_the_openai_sdk(url: str) -> None:
    """Role first, deltas, one finish, the usage in a chunk of its own because it was asked for."""
    client = AsyncOpenAI(base_url=url + "/v1", api_key="sim-key", max_retries=0)
    body = chat("stream it", stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in await client.chat.completions.create(**body)]
    await client.close()
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == oracle.expected_text(CHAT, body)
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert [Usage.read(chunk.usage.model_dump()) for chunk in chunks if chunk.usage] == [
        oracle.expected_usage(CHAT, body)
    ]


async def test_a_chat_stream_ends_with_the_charge_and_done(url: str, http: aiohttp.ClientSession) -> None:
    """Usage comes only when it was asked for; the charge only in the last chunk, and not in the headers."""
    body = chat("stream it", stream=True)
    async with http.post(url + CHAT, json=body) as response:
        raw = await response.text()
    chunks = events(raw)
    assert raw.endswith("data: [DONE]\n\n")
    assert not any("usage" in chunk for chunk in chunks)
    assert [("meta" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert Decimal(repr(chunks[-1]["meta"]["usage"]["usd_spent"])) == oracle.expected_cost_usd(CHAT, body)
    assert "x-aimlapi-usd-spent" not in response.headers
    assert response.headers["x-inference-id"]


async def test_a_responses_stream_adds_up_for_the_openai_sdk(url: str) -> None:
    """The full sequence of events, numbered from 0; the last one holds the finished response."""
    client = AsyncOpenAI(base_url=url + "/v1", api_key="sim-key", max_retries=0)
    body = respond("stream it", stream=True)
    seen = [event async for event in await client.responses.create(**body)]
    await client.close()
    text = oracle.expected_text(RESPONSES, body)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == text
    assert [event.type for event in seen if event.type != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    last = seen[-1]
    assert last.response.output_text == text
    assert Usage.read(last.response.usage.model_dump()) == oracle.expected_usage(RESPONSES, body)
    assert Decimal(repr(last.meta["usage"]["usd_spent"])) == oracle.expected_cost_usd(RESPONSES, body)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_call_names_the_requests_tool_with_arguments_of_its_types(
    url: str, http: aiohttp.ClientSession, stream: bool
) -> None:
    """The arguments come in pieces in a stream and add up to the same JSON."""
    body = chat("[[sim: toolcall]] what is the weather?", tools=[TOOL], stream=stream)
    async with http.post(url + CHAT, json=body) as response:
        raw = await response.text()
    if stream:
        deltas = [event["choices"][0] for event in events(raw) if event["choices"]]
        parts = [part for choice in deltas for part in choice["delta"].get("tool_calls", [])]
        name, arguments = parts[0]["function"]["name"], "".join(part["function"]["arguments"] for part in parts)
        reason = deltas[-1]["finish_reason"]
        assert len(parts) > 2
    else:
        choice = json.loads(raw)["choices"][0]
        function, reason = choice["message"]["tool_calls"][0]["function"], choice["finish_reason"]
        name, arguments = function["name"], function["arguments"]
    call = oracle.expected(body).choices[0].tool_call
    assert call is not None
    assert (name, arguments, reason) == ("weather", call.arguments, "tool_calls")
    given = json.loads(arguments)
    assert isinstance(given["city"], str)
    assert isinstance(given["days"], int)


async def test_a_tool_call_in_the_responses_api_is_an_item_of_its_own(url: str, http: aiohttp.ClientSession) -> None:
    """`function_call_arguments` deltas add up to the item's arguments."""
    tool = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
    body = respond("[[sim: reasoning+toolcall]]", tools=[tool], stream=True)
    async with http.post(url + RESPONSES, json=body) as response:
        seen = events(await response.text())
    deltas = [event["delta"] for event in seen if event["type"] == "response.function_call_arguments.delta"]
    reasoning, call = seen[-1]["response"]["output"]
    assert reasoning["type"] == "reasoning"
    assert call["arguments"] == "".join(deltas)
    assert call["name"] == "weather"
    assert seen[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] == 12


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_no_text(url: str, http: aiohttp.ClientSession, endpoint: str, stream: bool) -> None:
    """The refusal has a place of its own in both endpoints."""
    body = request(endpoint, "[[sim: refusal]]", stream=stream)
    async with http.post(url + endpoint, json=body) as response:
        raw = await response.text()
    assert oracle.expected_text(endpoint, body) == ""
    assert "I cannot help with that recipe." in (
        "".join(str(event.get("delta") or _refusal(event)) for event in events(raw)) if stream else raw
    )


def _refusal(event: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("refusal") or "" for choice in event.get("choices", []))


async def test_n_choices_come_as_asked_or_as_the_script_says(url: str, http: aiohttp.ClientSession) -> None:
    """Each choice has a text of its own; `choices=1` leaves two of three out."""
    for prompt, count in (("hi", 3), ("[[sim: choices=1]]", 1), ("[[sim: choices=0]]", 0)):
        body = chat(prompt, n=3)
        async with http.post(url + CHAT, json=body) as response:
            texts = [choice["message"]["content"] for choice in (await response.json())["choices"]]
        assert len(set(texts)) == count
        assert "".join(texts) == oracle.expected_text(CHAT, body)


@pytest.mark.parametrize(
    ("endpoint", "limit"), [(CHAT, "max_tokens"), (CHAT, "max_completion_tokens"), (RESPONSES, "max_output_tokens")]
)
async def test_an_answer_that_hits_the_requests_limit_says_so(
    url: str, http: aiohttp.ClientSession, endpoint: str, limit: str
) -> None:
    """`length`, or `incomplete` with its reason; the tokens are as many as were allowed."""
    body = {**request(endpoint), limit: 16}
    async with http.post(url + endpoint, json=body) as response:
        answer = await response.json()
    assert Usage.read(answer["usage"]).output_tokens == 16  # type: ignore[union-attr]
    if endpoint == CHAT:
        assert answer["choices"][0]["finish_reason"] == "length"
    else:
        assert answer["status"] == "incomplete"
        assert answer["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize(
    ("endpoint", "change", "hint"),
    [
        (CHAT, {"messages": None}, "messages: Expected array, received undefined"),
        (CHAT, {"messages": []}, "messages: Array must contain at least 1"),
        (CHAT, {"messages": [{"role": "king", "content": "x"}]}, "messages[0].role: Expected"),
        (CHAT, {"model": 7}, "model: Expected string, received number"),
        (CHAT, {"max_tokens": 0}, "max_tokens: Number must be greater than or equal to 1"),
        (CHAT, {"seed": "x"}, "seed: Expected number, received string"),
        (CHAT, {"stream": "yes"}, "stream: Expected boolean, received string"),
        (RESPONSES, {"input": None}, "input: Expected string or array"),
        (RESPONSES, {"max_output_tokens": 15}, "max_output_tokens: Number must be greater than or equal to 16"),
    ],
)
async def test_a_bad_body_is_refused_with_what_was_expected(
    url: str, http: aiohttp.ClientSession, endpoint: str, change: dict[str, Any], hint: str
) -> None:
    """400 in the provider's own shape."""
    async with http.post(url + endpoint, json={**request(endpoint), **change}) as response:
        error = await response.json()
    assert response.status == 400
    assert set(error) == {"message", "path", "requestId", "statusCode", "timestamp"}
    assert error["message"].startswith("Body validation error")
    assert hint in error["message"]
    assert error["path"] == endpoint
    assert response.headers["x-inference-id"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"[" * 100_00])
async def test_a_body_that_is_no_object_is_refused(url: str, http: aiohttp.ClientSession, raw: bytes) -> None:
    """400 and not a crash."""
    async with http.post(url + CHAT, data=raw) as response:
        assert response.status == 400


async def test_an_unknown_step_is_refused_by_name(url: str, http: aiohttp.ClientSession) -> None:
    """A typing error in a script must not look like a good answer."""
    async with http.post(url + CHAT, json=chat("[[sim: ok, expldoe@3]]")) as response:
        error = await response.json()
    assert response.status == 400
    assert "expldoe" in error["message"]


async def test_what_is_too_large_is_413(url: str, http: aiohttp.ClientSession) -> None:
    """Above `max_request_bytes`."""
    async with http.post(url + CHAT, json=chat("x" * 60_000)) as response:
        assert response.status == 413


async def test_an_unknown_route_is_404_in_the_providers_shape(url: str, http: aiohttp.ClientSession) -> None:
    """As a wrong base URL would meet it."""
    async with http.post(url + "/v1/nowhere", json={}) as response:
        assert response.status == 404
        assert (await response.json())["message"] == "Cannot POST /v1/nowhere"


@pytest.mark.parametrize(("given", "echoed"), [("job_1.2", "job_1.2"), ("a b", None), ("x" * 129, None)])
async def test_a_client_request_id_is_echoed_when_it_is_valid(
    url: str, http: aiohttp.ClientSession, given: str, echoed: str | None
) -> None:
    """An invalid one is dropped without a word, and the call is billed."""
    async with http.post(url + CHAT, json=chat(), headers={"X-Client-Request-Id": given}) as response:
        assert response.status == 200
        assert response.headers.get("x-client-request-id") == echoed
    async with http.get(url + "/v2/logs", params={"period": "1h"}) as response:
        row = (await response.json())["data"][0]
    assert (row["client_request_id"], row["status"]) == (echoed, "succeeded")
    assert row["cost"]["credits"] > 0

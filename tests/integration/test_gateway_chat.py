"""Chat completions through the gateway, called by the unmodified OpenAI SDK: whole, streamed, stored, repeated."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import openai
import pytest

from tests.factories import chat, rows
from tests.fakes import Provider, Workplace
from tests.rig.gateway import Gateway

MODEL = "openai/gpt-4o-mini"

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


def ask(script: str = "ok", **more: Any) -> dict[str, Any]:
    return chat("hi", model=f"{MODEL}@sim:{script}", **more)


def jobs(place: Workplace) -> int:
    return int(rows(place.database, "SELECT count(*) AS n FROM jobs")[0]["n"])


def answer_of(place: Workplace, completion_id: str) -> str | None:
    return place.get("job_" + completion_id.removeprefix("chatcmpl-")).text


def test_a_whole_answer_has_every_field_and_says_which_job_it_was_and_what_it_cost(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        raw = sdk.chat.completions.with_raw_response.create(**ask())
    done = raw.parse()
    assert done.id.startswith("chatcmpl-") and done.choices[0].message.content
    assert done.usage is not None and done.usage.total_tokens > 0
    assert done.choices[0].message.refusal is None and done.choices[0].finish_reason == "stop"
    assert raw.headers["stockpot-job-id"] == "job_" + done.id.removeprefix("chatcmpl-")
    assert float(raw.headers["stockpot-cost-usd"]) > 0
    assert raw.request_id is not None and raw.request_id.startswith("req_")


def test_a_stream_has_one_id_and_usage_only_where_it_was_asked_for(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        whole = sdk.chat.completions.create(**ask()).choices[0].message.content
        plain = list(sdk.chat.completions.create(**ask(), stream=True))
        counted = list(sdk.chat.completions.create(**ask(), stream=True, stream_options={"include_usage": True}))
    for chunks in (plain, counted):
        assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(texts) == whole
    assert all(chunk.usage is None and chunk.choices for chunk in plain)
    assert all(chunk.usage is None for chunk in counted[:-1])
    assert counted[-1].choices == [] and counted[-1].usage is not None and counted[-1].usage.total_tokens > 0


def test_tools_and_their_calls_pass_untouched(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        done = sdk.chat.completions.create(**ask("toolcall", tools=TOOLS))
        with sdk.chat.completions.stream(**ask("toolcall", tools=TOOLS)) as stream:
            streamed = stream.get_final_completion()
    wholes, pieces = done.choices[0].message.tool_calls, streamed.choices[0].message.tool_calls
    assert wholes and pieces
    assert [call.to_dict()["function"] for call in wholes] == [{"name": "f", "arguments": "{}"}]
    assert [(call.function.name, call.function.arguments) for call in pieces] == [("f", "{}")]


def test_a_stored_completion_is_listed_read_changed_and_deleted(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        made = [sdk.chat.completions.create(**ask(), store=True, metadata={"n": str(number)}) for number in range(3)]
        list(sdk.chat.completions.create(**ask(), store=True, stream=True))
        sdk.chat.completions.create(**ask())  # not stored
        listed = list(sdk.chat.completions.list(limit=1))
        assert [one.id for one in listed][:3] == [one.id for one in made] and len(listed) == 4
        found = list(sdk.chat.completions.list(metadata={"n": "1"}))
        assert [one.id for one in found] == [made[1].id]
        assert sdk.chat.completions.retrieve(made[0].id).choices == made[0].choices
        changed = sdk.chat.completions.update(made[0].id, metadata={"n": "9"})
        assert changed.metadata == {"n": "9"}
        messages = list(sdk.chat.completions.messages.list(made[0].id))
        assert [message.content for message in messages] == ["hi"] and messages[0].id
        assert sdk.chat.completions.delete(made[0].id).deleted
        for gone in (made[0].id, "chatcmpl-nobody"):
            with pytest.raises(openai.NotFoundError):
                sdk.chat.completions.retrieve(gone)


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_upstream_refuses_is_an_error_with_its_status(gateway: Gateway, *, stream: bool) -> None:
    """Before a stream's first event, too."""
    with gateway.sdk(max_retries=0) as sdk, pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**ask("400"), stream=stream)
    assert caught.value.response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert caught.value.response.headers.get("x-should-retry") in {None, "false"}


def test_what_the_upstream_refuses_names_its_field_and_is_never_an_error_of_the_server(gateway: Gateway) -> None:
    """What was refused for its content, too: the SDKs would repeat a 5xx, and an application would count an outage."""
    words = {
        "message": "no such role",
        "type": "invalid_request_error",
        "param": "messages[0].role",
        "code": "bad_role",
    }
    body = quote(json.dumps({"error": words}), safe="")
    with gateway.sdk(max_retries=0) as sdk:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                sdk.chat.completions.create(**ask(f"400+body={body}"), stream=stream)
            assert (caught.value.param, caught.value.code) == ("messages[0].role", "bad_role")
            with pytest.raises(openai.PermissionDeniedError) as refused:
                sdk.chat.completions.create(**ask("flagged"), stream=stream)
            assert refused.value.type == "invalid_request_error" and "flagged" in refused.value.message


def test_a_stream_whose_attempt_broke_ends_with_an_error_and_the_repeat_gets_the_next_attempt(
    gateway: Gateway, served: Workplace
) -> None:
    with gateway.sdk() as sdk:
        body, key = ask("cut=3,ok"), {"Idempotency-Key": "once"}
        with pytest.raises(openai.APIError, match="broke off"):
            list(sdk.chat.completions.create(**body, stream=True, extra_headers=key))
        again = list(sdk.chat.completions.create(**body, stream=True, extra_headers=key))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in again) == answer_of(served, again[0].id)
    assert jobs(served) == 1


def test_a_stream_that_waits_until_the_attempt_is_sure_shows_no_broken_one(gateway: Gateway, served: Workplace) -> None:
    with gateway.sdk() as sdk:
        headers = {"Stockpot-Resumable": "wait"}
        chunks = list(sdk.chat.completions.create(**ask("cut=3,ok"), stream=True, extra_headers=headers))
        with pytest.raises(openai.BadRequestError, match="Stockpot-Resumable"):
            sdk.chat.completions.create(**ask(), stream=True, extra_headers={"Stockpot-Resumable": "always"})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer_of(served, chunks[0].id)


def test_a_repeat_joins_its_job_by_idempotency_key(gateway: Gateway, served: Workplace) -> None:
    with gateway.sdk() as sdk:
        first = sdk.chat.completions.create(**ask(), extra_headers={"Idempotency-Key": "k"})
        again = sdk.chat.completions.with_raw_response.create(**ask(), extra_headers={"Idempotency-Key": "k"})
        assert again.parse() == first and again.headers["stockpot-joined"] == "true"
        with pytest.raises(openai.ConflictError) as caught:
            sdk.chat.completions.create(**ask(), seed=7, extra_headers={"Idempotency-Key": "k"})
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert jobs(served) == 1


def test_a_repeat_of_the_sdk_joins_its_job_without_a_key(
    gateway: Gateway, served: Workplace, provider: Provider
) -> None:
    """By its retry count, path and body; a new call with an equal body is a new job."""
    with gateway.sdk() as sdk:
        ids = [sdk.chat.completions.create(**ask()).id for _ in range(3)]
        repeats = {
            sdk.chat.completions.create(**ask(), extra_headers={"x-stainless-retry-count": "1"}).id for _ in range(3)
        }
        other = sdk.chat.completions.create(**ask(), seed=1, extra_headers={"x-stainless-retry-count": "1"})
    assert len(set(ids)) == 3 and repeats == set(ids) and other.id not in ids
    assert jobs(served) == 4


BAD_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "user", "content": "x"}]}, "model"),
    ({"model": "m"}, "messages"),
    ({"model": "m", "messages": [{"content": "x"}]}, "messages[0].role"),
    ({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": "yes"}, "stream"),
    ({"model": "m", "messages": [{"role": "user", "content": "x"}], "metadata": {"a": 1}}, "metadata.a"),
    ({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream_options": {}}, "stream_options"),
    ({"body": {"model": "m", "messages": []}, "webhook": "http://10.0.0.1/"}, "model"),
]


def test_a_bad_request_names_its_field(gateway: Gateway) -> None:
    with gateway.http() as http:
        answers = [(http.post("/v1/chat/completions", json=body), param) for body, param in BAD_REQUESTS]
    for answer, param in answers:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert answer.json()["error"]["type"] == "invalid_request_error"


BAD_BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b'"text"', 400),
    (b"[" * 1_000 + b"]" * 1_000, 400),
    (b'{"a":' * 1_000 + b"1" + b"}" * 1_000, 400),
    (b'{"model": "' + b"x" * (2 * 1024 * 1024) + b'"}', 413),
    (b"\xff\xfe{}", 400),
]


def test_a_body_that_is_no_request_is_refused_with_the_error_body(gateway: Gateway) -> None:
    headers = {"content-type": "application/json"}
    with gateway.http() as http:
        for content, status in BAD_BODIES:
            answer = http.post("/v1/chat/completions", content=content, headers=headers)
            assert answer.status_code == status, content[:20]
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert (status == 413) is ("STOCKPOT_MAX_REQUEST_BYTES" in error["message"])

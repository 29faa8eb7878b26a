"""Responses through the gateway, called by the unmodified OpenAI SDK: whole, streamed, in the background, resumed."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import redis
from openai.types.responses import Response

from tests.factories import rows
from tests.fakes import Workplace
from tests.rig.gateway import Gateway
from tests.rig.waiting import eventually
from worker.db.jobs import lookup

MODEL = "openai/gpt-4o-mini"
#: GATEWAY.md 4: always present.
FIELDS = (
    "id object created_at completed_at status background error incomplete_details instructions max_output_tokens"
    " max_tool_calls model output parallel_tool_calls previous_response_id prompt_cache_key reasoning safety_identifier"
    " service_tier store temperature top_p presence_penalty frequency_penalty top_logprobs text tool_choice tools"
    " truncation metadata usage"
).split()


def ask(script: str = "ok", **more: Any) -> dict[str, Any]:
    return {"model": f"{MODEL}@sim:{script}", "input": "hi", **more}


def over(sdk: openai.OpenAI, response_id: str) -> Response:
    """The response once it is over."""

    def ended() -> Response | None:
        found = sdk.responses.retrieve(response_id)
        return None if found.status in {"queued", "in_progress"} else found

    found = eventually(ended, what=f"{response_id} ends")
    assert found is not None
    return found


#: A response that never was.
NEVER = "resp_00000000000070008000000000000000"


def upstream_input(served: Workplace, response_id: str) -> list[dict[str, Any]]:
    """The input that the upstream was sent for a response."""
    job = response_id.replace("resp_", "job_")
    found = served.database.read(lambda conn: lookup.request(conn, job))
    assert found is not None
    items: list[dict[str, Any]] = json.loads(found)["input"]
    return items


def numbered(events: list[Any]) -> list[int]:
    return [event.sequence_number for event in events]


def test_a_whole_response_has_every_field(gateway: Gateway) -> None:
    with gateway.http() as http:
        tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
        whole = http.post("/v1/responses", json=ask(tools=[tool], metadata={"a": "b"})).json()
        again = http.get(f"/v1/responses/{whole['id']}").json()
    assert [name for name in FIELDS if name not in whole] == []
    assert whole["status"] == "completed" and whole["completed_at"] and whole["metadata"] == {"a": "b"}
    assert "strict" in whole["tools"][0] and whole["store"] is True and whole["background"] is False
    assert set(whole["usage"]["input_tokens_details"]) == {"cached_tokens", "cache_write_tokens"}
    [message] = whole["output"]
    assert message["status"] == "completed" and message["content"][0]["annotations"] == []
    assert again == whole


def test_a_stream_is_numbered_from_its_creation_to_its_terminal_event(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        events = list(sdk.responses.create(**ask(), stream=True))
        stored = sdk.responses.retrieve(events[-1].response.id)
    assert numbered(events) == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed" and events[-1].response == stored
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == stored.output_text


def test_a_background_stream_cut_after_every_event_is_resumed_to_an_equal_object(gateway: Gateway) -> None:
    """With `starting_after`, and by the SDK's own helper, which asks for the whole log and drops what it has."""
    with gateway.sdk() as sdk:
        begun = sdk.responses.create(**ask(), stream=True, background=True)
        events = list(begun)
        response_id = events[-1].response.id
        final = events[-1].response
        assert [event.type for event in events[:3]] == [
            "response.created",
            "response.queued",
            "response.in_progress",
        ]
        for at in range(len(events) - 1):
            rest = list(sdk.responses.retrieve(response_id, stream=True, starting_after=at))
            assert rest == events[at + 1 :]
        with sdk.responses.stream(response_id=response_id, starting_after=4) as helper:
            assert helper.get_final_response().output_text == final.output_text


def test_a_stream_that_is_left_goes_on_and_is_there_when_the_client_comes_back(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        with sdk.responses.create(**ask("slow=30"), stream=True, background=True) as stream:
            first = next(iter(stream))
        response_id = first.response.id
        rest = list(sdk.responses.retrieve(response_id, stream=True, starting_after=0))
    assert numbered(rest) == list(range(1, len(rest) + 1)) and rest[-1].type == "response.completed"


def test_a_stream_whose_log_is_gone_is_made_from_the_stored_answer(gateway: Gateway, served: Workplace) -> None:
    """Its end comes after whatever a reader may have seen, and is the same object."""
    with gateway.sdk() as sdk:
        events = list(sdk.responses.create(**ask(), stream=True, background=True))
        final = events[-1].response
        redis.Redis.from_url(str(served.settings.redis_url)).flushall()
        whole = list(sdk.responses.retrieve(final.id, stream=True))
        rest = list(sdk.responses.retrieve(final.id, stream=True, starting_after=len(events) - 3))
        with sdk.responses.stream(response_id=final.id, starting_after=len(events) - 3) as helper:
            assert helper.get_final_response().output_text == final.output_text
    assert numbered(whole) == sorted(set(numbered(whole))) and whole[0].type == "response.created"
    assert whole[-1].response == rest[-1].response == final  # type: ignore[union-attr]
    assert "".join(event.delta for event in whole if event.type == "response.output_text.delta") == final.output_text


def test_an_attempt_that_breaks_ends_no_stream_and_the_terminal_event_has_the_answer(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        with sdk.responses.stream(**ask("cut=3,ok")) as stream:
            events = list(stream)
            final = stream.get_final_response()
        stored = sdk.responses.retrieve(final.id)
    assert events[-1].type == "response.completed" and final.output_text == stored.output_text != ""
    assert numbered(events) == list(range(len(events)))


def test_a_background_response_is_queued_polled_and_completed(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        made = sdk.responses.create(**ask(), background=True)
        assert made.status in {"queued", "in_progress"} and made.output == [] and made.background
        done = over(sdk, made.id)
        with pytest.raises(openai.BadRequestError):
            sdk.responses.retrieve(made.id, stream=True)
    assert done.status == "completed" and done.output_text


def test_a_running_background_response_is_cancelled_and_cancelling_again_changes_nothing(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        made = sdk.responses.create(**ask("hold"), background=True)
        assert sdk.responses.cancel(made.id).status == "cancelled"
        assert sdk.responses.cancel(made.id).status == sdk.responses.retrieve(made.id).status == "cancelled"
        done = over(sdk, sdk.responses.create(**ask(), background=True).id)
        assert sdk.responses.cancel(done.id) == done
        whole = sdk.responses.create(**ask())
        with pytest.raises(openai.BadRequestError):
            sdk.responses.cancel(whole.id)


def test_a_deleted_response_is_not_found(gateway: Gateway) -> None:
    with gateway.http() as http:
        made = http.post("/v1/responses", json=ask()).json()
        gone = http.delete(f"/v1/responses/{made['id']}").json()
        assert gone == {"id": made["id"], "object": "response", "deleted": True}
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            answer = http.request(method, f"/v1/responses/{made['id']}{path}")
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == f"Response with id '{made['id']}' not found."


def test_what_is_not_stored_cannot_be_read(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        made = sdk.responses.create(**ask(), store=False)
        assert made.store is False
        with pytest.raises(openai.NotFoundError):
            sdk.responses.retrieve(made.id)


def test_a_conversation_goes_on_at_a_provider_that_stores_nothing(gateway: Gateway, served: Workplace) -> None:
    """What came before is written out for the upstream, and only that is new in the job."""
    with gateway.sdk() as sdk:
        first = sdk.responses.create(**ask())
        second = sdk.responses.create(**ask(input="and?", previous_response_id=first.id))
        third = sdk.responses.create(**ask(input=[{"role": "user", "content": "so?"}], previous_response_id=second.id))
        items = list(sdk.responses.input_items.list(third.id, order="asc", limit=2))
        with pytest.raises(openai.NotFoundError):
            sdk.responses.create(**ask(previous_response_id="resp_nobody"))
    assert third.previous_response_id == second.id
    texts = [item.content[0].text for item in items]  # type: ignore[union-attr,index]
    assert texts == ["hi", first.output_text, "and?", second.output_text, "so?"]
    assert len({item.id for item in items}) == 5


@pytest.mark.clear
def test_an_item_that_is_referred_to_is_written_out_and_the_upstream_gets_its_own_ids(
    gateway: Gateway, served: Workplace
) -> None:
    """As Vercel's AI SDK sends earlier answers by default, and OpenAI's agents SDK with all that they are."""
    with gateway.sdk(max_retries=0) as sdk:
        first = sdk.responses.create(**ask())
        streamed = list(sdk.responses.create(**ask("cut=3,ok"), stream=True))
        second = streamed[-1].response
        [shown] = first.output
        void = [event.item.id for event in streamed if event.type == "response.output_item.done"]
        references = [{"type": "item_reference", "id": one} for one in (shown.id, *void)]
        third = sdk.responses.create(**ask(input=[*references, {"role": "user", "content": "so?"}]))
        fourth = sdk.responses.create(**ask(input=[shown.to_dict(), {"role": "user", "content": "so?"}]))
        sdk.responses.delete(first.id)
        for gone in (shown.id, f"msg_1-{NEVER}"):
            with pytest.raises(openai.BadRequestError, match="Item with id") as refused:
                sdk.responses.create(**ask(input=[{"id": gone}]))
            assert refused.value.param == "input[0].id"
    assert len(void) == 2 and second.output[0].id == void[1]  # the first is of the attempt that broke
    sent = [upstream_input(served, one.id) for one in (third, fourth)]
    texts = [part["text"] for item in sent[0][:2] for part in item["content"]]
    assert texts == [first.output_text, second.output_text] and len(sent[0]) == 3
    assert not any("id" in item or "status" in item for item in sent[0])
    assert f"{sent[1][0]['id']}-{first.id}" == shown.id
    asked = rows(served.database, "SELECT CAST(asked AS text) AS asked FROM api_calls")
    assert not any('"input"' in one["asked"] for one in asked)  # it is kept once


BAD_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"max_output_tokens": 3}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": "yes"}, "background"),
    ({"input": 7}, "input"),
    ({"metadata": {"k" * 65: "v"}}, "metadata"),
]


def test_a_bad_request_names_its_field(gateway: Gateway) -> None:
    with gateway.http() as http:
        answers = [(http.post("/v1/responses", json=ask(**more)), param) for more, param in BAD_REQUESTS]
    for answer, param in answers:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_what_the_upstream_refuses_is_a_status_or_a_failed_event(gateway: Gateway) -> None:
    """A status for who waits; for a background one the wire's own terminal event."""
    with gateway.sdk(max_retries=0) as sdk:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError):
                sdk.responses.create(**ask("400"), stream=stream)
        events = list(sdk.responses.create(**ask("400"), stream=True, background=True))
    assert events[-1].type == "response.failed" and events[-1].response.error is not None


def test_no_event_of_a_stream_has_an_error_key_that_the_sdks_would_raise(gateway: Gateway) -> None:
    with gateway.http() as http:
        body = http.post("/v1/responses", json=ask("400", stream=True, background=True)).text
    frames = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
    assert frames and not any(frame.get("error") for frame in frames)

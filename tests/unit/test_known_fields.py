"""Every field of a request that OpenAI's own description types is checked before a call is accepted."""

from __future__ import annotations

import pytest

from worker.gateway import known_fields
from worker.gateway.errors import ApiError

#: Of `CreateChatCompletionRequest` and `CreateResponse`, but for those that are checked where they are read (`model`,
#: `messages`, `input`, `metadata`) and `moderation`, whose shape is not settled.
CHAT = """audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens modalities n
    parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention
    reasoning_effort response_format safety_identifier seed service_tier stop store stream stream_options temperature
    tool_choice tools top_logprobs top_p user verbosity web_search_options"""
RESPONSES = """background context_management conversation include instructions max_output_tokens max_tool_calls
    parallel_tool_calls previous_response_id prompt prompt_cache_key prompt_cache_options prompt_cache_retention reasoning
    safety_identifier service_tier store stream stream_options temperature text tool_choice tools top_logprobs top_p
    truncation user"""
VALUES = {"a boolean": True, "a string": "1", "an integer": 1, "a number": 0.5, "an array": [], "an object": {}}
#: OpenAI's least values of whole numbers.
LEAST = {"max_output_tokens": 16, "max_tool_calls": 1}


@pytest.mark.parametrize(("known", "names"), [(known_fields.CHAT, CHAT), (known_fields.RESPONSES, RESPONSES)])
def test_each_field_takes_its_own_types_and_no_other(known: dict[str, tuple[str, ...]], names: str) -> None:
    assert set(known) == set(names.split())
    for name, kinds in known.items():
        known_fields.check({name: None}, known)
        for kind, given in VALUES.items():
            value = LEAST.get(name, given) if kind == "an integer" else given
            if kind in kinds or (kind == "an integer" and "a number" in kinds):
                known_fields.check({name: value}, known)
                continue
            with pytest.raises(ApiError) as refused:
                known_fields.check({name: value}, known)
            error = refused.value.body()["error"]
            assert (refused.value.status, error["param"], error["code"]) == (400, name, "invalid_type")


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_a_bound_below_openais_least_is_refused(name: str, least: int) -> None:
    known_fields.check({name: least}, known_fields.RESPONSES)
    with pytest.raises(ApiError) as refused:
        known_fields.check({name: least - 1}, known_fields.RESPONSES)
    error = refused.value.body()["error"]
    assert (error["param"], error["code"]) == (name, "integer_below_min_value")

"""A response's output as the input of the next: nothing is missing that OpenAI's wire asks for."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
from openai.types.responses.response_input_item_param import ResponseInputItemParam

from worker.gateway.conversation import again


def required(kind: Any) -> tuple[str, set[str]]:
    """The `type` of a kind of item, and the fields that it must have."""
    hints = get_type_hints(kind, include_extras=True)
    name = str((*get_args(get_type_hints(kind).get("type")), "message")[0])
    return name, {field for field, hint in hints.items() if "typing.Required[" in repr(hint)[:40]}


KINDS = [required(kind) for kind in get_args(ResponseInputItemParam)]


@pytest.mark.parametrize(("kind", "fields"), [(kind, fields) for kind, fields in KINDS if kind.endswith("_call")])
def test_a_call_that_goes_back_has_what_the_wire_asks_for(kind: str, fields: set[str]) -> None:
    item = dict.fromkeys(fields, "x") | {"type": kind, "id": "ws_1", "status": "completed"}
    [once] = again([item])
    assert once.keys() >= fields and once == again([item])[0]
    assert once.get("id") != "ws_1"


def test_most_calls_need_an_id_or_this_proves_nothing() -> None:
    assert sum("id" in fields for kind, fields in KINDS if kind.endswith("_call")) >= 5


def test_ids_that_say_something_stay_and_those_that_nobody_asks_for_go() -> None:
    request = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "n"}
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": []}
    assert again([request, sealed, {"type": "reasoning", "id": "rs_2", "summary": []}, 5, message]) == [
        request,
        sealed,
        {"type": "message", "role": "assistant", "content": []},
    ]

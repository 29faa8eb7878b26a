"""What bad input gets, on every route that takes a body: the error body, its status, the field; and no job."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.factories import rows
from tests.fakes import Workplace
from tests.rig.gateway import Gateway
from worker.gateway.openapi_words import OPERATIONS

ERROR_KEYS = {"message", "type", "param", "code"}
MODEL = "openai/gpt-4o-mini"

#: No JSON object, or none within the limits of a request.
NO_OBJECTS = [
    b"",
    b"[]",
    b'"x"',
    b"1",
    b"null",
    b"true",
    b"{",
    b'{"a": 1} {"b": 2}',
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"a":' * 1_000 + b"1" + b"}" * 1_000,
    b'{"model": NaN}',
    b'{"model": 1' + b"0" * 5_000 + b"}",
]
#: Routes whose handlers read a body; the others act by their path alone.
READERS = {
    "/chat/completions",
    "/responses",
    "/jobs",
    "/batches",
    "/webhooks/endpoints",
    "/routes/pause",
    "/routes/resume",
}


def test_what_is_no_object_is_refused_on_every_route(gateway: Gateway, served: Workplace) -> None:
    """Taken from the routes themselves, so that a new one is among them."""
    tried = 0
    with gateway.http() as http:
        for path, method in OPERATIONS:
            if method != "POST":
                continue
            for content in NO_OBJECTS:
                for kind in ("application/json", "text/plain"):
                    url = re.sub(r"{\w+(:\w+)?}", "x", path)
                    answer = http.post(url, content=content, headers={"content-type": kind})
                    assert answer.status_code in ({400, 413} if path in READERS else {400, 404, 413}), (
                        url,
                        content[:20],
                    )
                    assert set(answer.json()["error"]) == ERROR_KEYS
                    tried += 1
    assert tried > 300 and rows(served.database, "SELECT count(*) AS n FROM jobs")[0]["n"] == 0


#: Values of every type; which of them a field may hold stands beside its name.
VALUES: list[Any] = [True, 1, -3, 1.5, 10**30, "x", [], [1], {}, {"a": 1}]
TEXT, LIST, OBJECT, FLAG = ["x"], [[], [1]], [{}, {"a": 1}], [True]
FIELDS: list[tuple[str, list[Any]]] = [
    ("model", TEXT),
    ("stream", FLAG),
    ("store", FLAG),
    ("metadata", [{}]),
    ("temperature", [1, 1.5]),
    ("top_p", [1]),
    ("tools", [[]]),
    ("tool_choice", [*TEXT, *OBJECT]),
    ("user", TEXT),
    ("parallel_tool_calls", FLAG),
    ("stream_options", []),
]
CHAT = [
    *FIELDS,
    ("messages", []),
    ("stop", [*TEXT, *LIST]),
    ("response_format", OBJECT),
    ("presence_penalty", [1, 1.5]),
]
RESPONSES = [
    *FIELDS,
    ("background", FLAG),
    ("previous_response_id", []),
    ("conversation", []),
    ("instructions", [*TEXT, *LIST]),
    ("include", LIST),
    ("text", OBJECT),
    ("reasoning", OBJECT),
    ("max_tool_calls", [1, -3, 10**30]),
    ("max_output_tokens", [10**30]),
]


@pytest.mark.parametrize(
    ("path", "base", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, CHAT),
        ("/v1/responses", {"input": "hi"}, RESPONSES),
    ],
)
def test_a_field_of_another_type_is_refused_by_its_name(
    gateway: Gateway, served: Workplace, path: str, base: dict[str, Any], fields: list[tuple[str, list[Any]]]
) -> None:
    """Before a job is made of it. What may be right is not asked here: it would be a call."""
    with gateway.http() as http:
        for name, allowed in fields:
            for value in VALUES:
                if any(value == one and type(value) is type(one) for one in allowed):
                    continue
                answer = http.post(path, json={"model": MODEL, **base, name: value})
                assert answer.status_code in {400, 404}, (name, value, answer.text)
                error = answer.json()["error"]
                assert set(error) == ERROR_KEYS and str(error["param"]).startswith(name), (name, value, error)
    assert rows(served.database, "SELECT count(*) AS n FROM jobs")[0]["n"] == 0

"""How long the gateway keeps a client waiting: less than the client would."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from worker.gateway.waiting import _patience

LONGEST = 590.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, LONGEST),
        ({"user-agent": "curl/8.5"}, LONGEST),
        ({"x-stainless-read-timeout": "600"}, LONGEST),
        ({"x-stainless-read-timeout": "100"}, 99),
        ({"x-stainless-timeout": "5"}, 4.5),
        ({"x-stainless-timeout": "nan", "x-stainless-read-timeout": "-1"}, LONGEST),
        # OpenAI's SDK on Node gives its own time-out, which the `fetch` below it does not keep.
        ({"x-stainless-runtime": "node", "x-stainless-timeout": "600"}, 294),
        ({"x-stainless-runtime": "node", "x-stainless-timeout": "20"}, 19),
        ({"user-agent": "ai/7.0.1 ai-sdk/openai/4.0.1 runtime/node.js/v20.20.2"}, 294),
        ({"user-agent": "node"}, 294),
        ({"x-stainless-runtime": "browser:chrome"}, LONGEST),
    ],
)
def test_an_answer_is_on_its_way_before_the_client_hangs_up(headers: dict[str, str], seconds: float) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert _patience(Request({"type": "http", "headers": raw}), LONGEST) == seconds

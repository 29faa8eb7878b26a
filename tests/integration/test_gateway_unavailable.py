"""A 503 in the place of each call's first answer, as a proxy in front gives it: the SDK repeats, and one call stays one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import openai

from tests.factories import rows
from tests.fakes import Workplace
from tests.file_factories import CHAT, jsonl, line
from tests.rig.gateway import Gateway
from tests.rig.waiting import eventually

MODEL = "openai/gpt-4o-mini@sim:ok"
Call = Callable[[openai.OpenAI], Any]


class Unavailable(httpx.HTTPTransport):
    """Gives a 503 for the first request of a call: before the gateway has it, or in the place of the gateway's answer."""

    def __init__(self, *, behind: bool) -> None:
        super().__init__()
        self._behind = behind
        self.repeats: list[str | None] = []
        self.first = True

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One request."""
        if not self.first:
            self.repeats.append(request.headers.get("x-stainless-retry-count"))
            return super().handle_request(request)
        self.first = False
        if self._behind:
            answer = super().handle_request(request)
            assert answer.status_code in {200, 201}
            answer.read()
            answer.close()
        return httpx.Response(503, headers={"retry-after-ms": "1"}, text="<html>upstream is away</html>")


def ask(what: str) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": what}]}


def calls(sdk: openai.OpenAI, of: str) -> dict[str, Call]:
    """One of each call, and what those need that change something; equal bodies would be repeats of each other."""
    file = sdk.files.create(file=jsonl(line(1, body_model=MODEL)), purpose="batch").id
    order: dict[str, Any] = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    background: dict[str, Any] = {"model": MODEL, "background": True}
    running = sdk.responses.create(model=f"{MODEL.partition('@')[0]}@sim:hold", input=of, background=True).id
    kept = sdk.chat.completions.create(**ask(f"kept {of}"), store=True).id
    return {
        "chat": lambda sdk: sdk.chat.completions.create(**ask(f"a {of}")),
        "chat stream": lambda sdk: list(sdk.chat.completions.create(**ask(f"b {of}"), stream=True)),
        "response": lambda sdk: sdk.responses.create(model=MODEL, input=f"c {of}"),
        "response stream": lambda sdk: list(sdk.responses.create(model=MODEL, input=f"d {of}", stream=True)),
        "background": lambda sdk: sdk.responses.create(**background, input=f"e {of}"),
        "background stream": lambda sdk: list(sdk.responses.create(**background, input=f"f {of}", stream=True)),
        "native job": lambda sdk: sdk.post("/jobs", body=ask(f"g {of}"), cast_to=object),
        "batch": lambda sdk: sdk.batches.create(**order),
        "cancelled response": lambda sdk: sdk.responses.cancel(running),
        "response read": lambda sdk: sdk.responses.retrieve(running),
        "input items": lambda sdk: list(sdk.responses.input_items.list(running)),
        "completions": lambda sdk: list(sdk.chat.completions.list()),
        "metadata": lambda sdk: sdk.chat.completions.update(kept, metadata={"k": of}),
        "models": lambda sdk: list(sdk.models.list()),
        "file": lambda sdk: sdk.files.create(file=b"data", purpose="user_data"),
        "content": lambda sdk: sdk.files.content(file).read(),
    }


def ended(status: Callable[[str], str | None], name: str) -> None:
    eventually(lambda: status(name) == "completed", 60, "its end")


def test_a_call_whose_first_answer_is_a_503_is_one_call(gateway: Gateway, served: Workplace) -> None:
    """Nothing is asked for twice; reading, cancelling and a file come through as well."""
    with gateway.sdk() as direct:
        for behind in (False, True):
            done: dict[str, Any] = {}
            for name, call in calls(direct, str(behind)).items():
                transport = Unavailable(behind=behind)
                with gateway.sdk(http_client=httpx.Client(transport=transport)) as sdk:
                    done[name] = call(sdk)
                assert transport.repeats == ["1"], name
            assert done["cancelled response"].status == "cancelled"
            assert done["metadata"].metadata == {"k": str(behind)} and done["content"].count(b"\n") == 1
            ended(lambda batch: direct.batches.retrieve(batch).status, done["batch"].id)
            ended(lambda response: direct.responses.retrieve(response).status, done["background"].id)
    jobs = rows(served.database, "SELECT status FROM jobs_v WHERE batch_id IS NULL")
    # Of each round seven calls that are a job each, the completion that was kept, and what was cancelled.
    assert sorted(one["status"] for one in jobs) == ["cancelled"] * 2 + ["completed"] * 16
    assert rows(served.database, "SELECT count(*) AS n FROM batches")[0]["n"] == 2
    # A file that is sent twice is there twice, as with OpenAI.
    assert rows(served.database, "SELECT count(*) AS n FROM files WHERE purpose = 'user_data'")[0]["n"] == 3

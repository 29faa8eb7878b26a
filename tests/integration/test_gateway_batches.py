"""`/batches` through the gateway: files → batch → content with the unmodified SDK, and what bad input gets."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch

from tests.factories import rows
from tests.fakes import Workplace
from tests.file_factories import CHAT, jsonl, line
from tests.rig.gateway import Gateway
from tests.rig.waiting import eventually

OVER = {"completed", "failed", "expired", "cancelled"}
MODEL = "openai/gpt-4o-mini"


def wait_for(sdk: openai.OpenAI, batch: str, *, seconds: float = 120) -> Batch:
    """The batch when it is over."""
    eventually(lambda: sdk.batches.retrieve(batch).status in OVER, seconds)
    return sdk.batches.retrieve(batch)


def lines_of(sdk: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    return [json.loads(one) for one in sdk.files.content(file).iter_lines()]


@pytest.mark.parametrize("lines", [200, pytest.param(10_000, marks=pytest.mark.long)])
def test_files_become_a_batch_and_the_batch_becomes_files(gateway: Gateway, lines: int) -> None:
    """Each custom_id in one of both, once; the answers are chat completions, the counts are right."""
    with gateway.sdk() as sdk:
        bad = {7, 42}
        data = jsonl(*(line(n, body_model="sim:400" if n in bad else "sim:ok") for n in range(1, lines + 1)))
        file = sdk.files.create(file=("in.jsonl", data), purpose="batch")
        made = sdk.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"team": "ops"}
        )
        assert (made.status, made.errors, made.metadata) == ("validating", None, {"team": "ops"})
        assert made.request_counts is not None
        assert (made.request_counts.total, made.request_counts.completed) == (0, 0)
        assert made.expires_at == made.created_at + 86_400
        done = wait_for(sdk, made.id, seconds=240)
        assert (done.status, done.errors, done.completion_window) == ("completed", None, "24h")
        assert done.request_counts is not None
        counts = done.request_counts
        assert (counts.total, counts.completed, counts.failed) == (lines, lines - 2, 2)
        answered, failed = lines_of(sdk, done.output_file_id), lines_of(sdk, done.error_file_id)
        names = [one["custom_id"] for one in answered + failed]
        assert sorted(names) == sorted(f"r-{n}" for n in range(1, lines + 1))
        assert {one["custom_id"] for one in failed} == {"r-7", "r-42"}
        for one in answered:
            assert one["response"]["status_code"] == 200 and one["error"] is None
            assert one["response"]["body"]["object"] == "chat.completion"
        for one in failed:
            assert one["response"]["status_code"] == 400 and one["response"]["body"]["error"]
            assert one["error"]["message"]
        output = sdk.files.retrieve(str(done.output_file_id))
        assert (output.purpose, output.status) == ("batch_output", "processed")
        assert output.expires_at == output.created_at + 30 * 86_400


def test_a_batch_can_be_of_responses_and_its_files_expire_when_asked(gateway: Gateway) -> None:
    """The other endpoint, and the expiry of what it writes."""
    with gateway.sdk() as sdk:
        body = {"model": MODEL, "input": "hello"}
        one = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body}
        file = sdk.files.create(file=jsonl(one), purpose="batch")
        made = sdk.batches.create(
            input_file_id=file.id,
            endpoint="/v1/responses",
            completion_window="24h",
            output_expires_after={"anchor": "created_at", "seconds": 3_600},
        )
        done = wait_for(sdk, made.id)
        [answer] = lines_of(sdk, done.output_file_id)
        assert answer["response"]["body"]["object"] == "response"
        assert done.error_file_id is None
        output = sdk.files.retrieve(str(done.output_file_id))
        assert output.expires_at == output.created_at + 3_600


def test_what_is_wrong_with_the_file_shows_in_the_batch(gateway: Gateway) -> None:
    """One entry per line, OpenAI's codes; also for a model that the upstream does not have, and no file at all."""
    with gateway.sdk() as sdk:
        data = jsonl(line(1), b"{", line(3, custom_id=None), line(4, body_stream=True))
        file = sdk.files.create(file=data, purpose="batch")
        unknown = sdk.files.create(file=jsonl(line(1), line(2, body_model="no/such-model")), purpose="batch")
        made = [
            sdk.batches.create(input_file_id=one, endpoint=CHAT, completion_window="24h").id
            for one in (file.id, unknown.id, "file-invalid-nonexistent-id")
        ]
        bad, model, nothing = (wait_for(sdk, one) for one in made)
        assert {bad.status, model.status, nothing.status} == {"failed"}
        assert bad.errors is not None and bad.errors.object == "list" and bad.errors.data is not None
        assert [(one.line, one.code) for one in bad.errors.data] == [
            (2, "invalid_json_line"),
            (3, "missing_required_parameter"),
            (4, "streaming_unsupported"),
        ]
        assert model.errors is not None and model.errors.data is not None
        assert [(one.line, one.code, one.param) for one in model.errors.data] == [(2, "model_not_found", "body.model")]
        assert nothing.errors is not None and nothing.errors.data is not None
        assert nothing.errors.data[0].param == "file_id"
        assert nothing.failed_at is not None and nothing.in_progress_at is None


def create(http: httpx.Client, **changes: Any) -> httpx.Response:
    asked = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h", **changes}
    return http.post("/v1/batches", json={name: value for name, value in asked.items() if value is not ...})


REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"endpoint": "/v1/embeddings"}, "endpoint", "invalid_value", "Invalid endpoint: /v1/embeddings. Supported values"),
    ({"completion_window": "48h"}, "completion_window", "invalid_value", "48h"),
    ({"input_file_id": ...}, "input_file_id", "missing_required_parameter", "input_file_id"),
    ({"endpoint": ...}, "endpoint", "missing_required_parameter", "endpoint"),
    ({"completion_window": ...}, "completion_window", "missing_required_parameter", "completion_window"),
    ({"input_file_id": 7}, "input_file_id", "invalid_type", "string"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type", "string"),
    ({"metadata": "x"}, "metadata", "invalid_type", "object"),
    ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", "invalid_value", "16"),
    (
        {"output_expires_after": {"anchor": "created_at"}},
        "output_expires_after.seconds",
        "missing_required_parameter",
        "",
    ),
    (
        {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
        "output_expires_after.seconds",
        "invalid_value",
        "3600",
    ),
    ({"webhook": "ftp://x"}, "webhook", "invalid_value", ""),
    ({"color": "red"}, "color", "unknown_parameter", "color"),
]


def test_a_bad_order_is_refused_with_its_field(gateway: Gateway) -> None:
    """Each with the error body, and no batch is made."""
    with gateway.http() as http:
        for changes, param, code, words in REFUSED:
            answer = create(http, **changes)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (400, param, code), changes
            assert words in error["message"]
        for raw in (b"", b"[]", b"nope", b'{"a":' + b"[" * 1_000 + b"]" * 1_000 + b"}"):
            answer = http.post("/v1/batches", content=raw, headers={"content-type": "application/json"})
            assert answer.status_code == 400 and set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert http.get("/v1/batches").json() == {"object": "list", "data": [], "has_more": False}
        for query, param in (("limit=0", "limit"), ("limit=101", "limit"), ("color=red", "color")):
            answer = http.get(f"/batches?{query}")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        answer = http.get("/v1/batches?after=batch_nope")
        assert answer.status_code == 404 and "No batch found" in answer.json()["error"]["message"]


def test_one_idempotency_key_is_one_batch(gateway: Gateway) -> None:
    """By the header or in the body; with other parameters a conflict that the SDK does not repeat."""
    with gateway.sdk() as sdk, gateway.http() as http:
        file = sdk.files.create(file=jsonl(line(1)), purpose="batch").id
        asked: dict[str, Any] = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        keyed = {"Idempotency-Key": "order-17"}
        first = sdk.batches.create(**asked, extra_headers=keyed)
        assert sdk.batches.create(**asked, extra_headers=keyed).id == first.id
        assert create(http, input_file_id=file, idempotency_key="order-17").json()["id"] == first.id
        with pytest.raises(openai.ConflictError) as caught:
            sdk.batches.create(**asked, metadata={"a": "b"}, extra_headers=keyed)
        assert caught.value.response.headers["x-should-retry"] == "false" and "conflict" in caught.value.message
        assert [one.id for one in sdk.batches.list()] == [first.id]


def test_the_list_is_paged_newest_first(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        made = [
            sdk.batches.create(input_file_id=f"file-{n}", endpoint=CHAT, completion_window="24h").id for n in range(5)
        ]
        assert [one.id for one in sdk.batches.list(limit=2)] == made[::-1]
        page = sdk.batches.list(limit=2)
        assert page.has_more and [one.id for one in page.data] == made[:2:-1]


def test_a_batch_is_cancelled_once_and_for_all(gateway: Gateway) -> None:
    """`cancelling` at once, `cancelled` with partial files; again is fine; over or unknown is not."""
    with gateway.sdk() as sdk:
        data = jsonl(*(line(n, body_model="sim:ok" if n == 1 else "sim:hold") for n in range(1, 6)))
        file = sdk.files.create(file=data, purpose="batch").id
        made = sdk.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
        cancelling = sdk.batches.cancel(made.id)
        assert cancelling.status in {"cancelling", "cancelled"} and isinstance(cancelling.cancelling_at, int)
        done = wait_for(sdk, made.id)
        assert done.status == "cancelled" and done.cancelled_at is not None
        assert sdk.batches.cancel(made.id).status == "cancelled"
        for lost in (sdk.batches.cancel, sdk.batches.retrieve):
            with pytest.raises(openai.NotFoundError, match="No batch found with id 'batch_nope'"):
                lost("batch_nope")
        clean = sdk.batches.create(
            input_file_id=sdk.files.create(file=jsonl(line(1)), purpose="batch").id,
            endpoint=CHAT,
            completion_window="24h",
        )
        wait_for(sdk, clean.id)
        with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'"):
            sdk.batches.cancel(clean.id)


def test_a_file_is_read_while_it_grows_and_goes_on_behind_a_line(gateway: Gateway, served: Workplace) -> None:
    """`X-Incomplete`, `X-Last-Line`, `?offset=`: nothing missed, nothing twice."""
    with gateway.sdk() as sdk, gateway.http() as http:
        data = jsonl(*(line(n, body_model="sim:ok" if n < 4 else "sim:delay=3,ok") for n in range(1, 7)))
        file = sdk.files.create(file=data, purpose="batch").id
        made = sdk.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
        assert made.output_file_id is not None
        url = f"/v1/files/{made.output_file_id}/content"
        eventually(lambda: int(http.get(url).headers["x-last-line"]) >= 1)
        early = http.get(url)
        assert early.headers["content-disposition"] == f'attachment; filename="{made.id}_output.jsonl"'
        seen = [json.loads(one)["custom_id"] for one in early.text.splitlines()]
        offset = int(early.headers["x-last-line"])
        assert offset == len(seen)
        done = wait_for(sdk, made.id)
        assert done.status == "completed"
        rest = http.get(url, params={"offset": offset})
        assert (rest.headers["x-incomplete"], rest.headers["x-last-line"]) == ("false", "6")
        seen += [json.loads(one)["custom_id"] for one in rest.text.splitlines()]
        assert sorted(seen) == [f"r-{n}" for n in range(1, 7)]
        assert http.get(url, params={"offset": 99}).text == ""
        assert http.get(url, params={"offset": "x"}).status_code == 400
    assert rows(served.database, "SELECT count(*) AS n FROM jobs")[0]["n"] == 6


def test_a_batch_is_paused_resumed_quoted_and_its_failed_lines_tried_again(gateway: Gateway) -> None:
    """What OpenAI's wire has no word for."""
    with gateway.sdk() as sdk, gateway.http() as http:
        file = sdk.files.create(file=jsonl(line(1, body_model="sim:400"), line(2)), purpose="batch").id
        made = sdk.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h").id
        done = wait_for(sdk, made)
        quote = http.get(f"/batches/{made}/quote").json()
        assert (quote["lines"], quote["done"], quote["status"]) == (2, 2, "completed")
        assert quote["quoted_tokens"] > 0
        for verb in ("pause", "resume"):
            answer = http.post(f"/batches/{done.id}/{verb}")
            assert answer.status_code == 409 and answer.headers["x-should-retry"] == "false"
        again = http.post(f"/v1/batches/{made}/retry-failed").json()
        assert (again["retry_of"], again["input_file_id"]) == (made, file)
        assert http.post(f"/v1/batches/{made}/retry-failed").json()["id"] == again["id"]
        retried = wait_for(sdk, again["id"])
        assert retried.request_counts == httpx_counts(1, 0, 1)
        [line_again] = lines_of(sdk, retried.error_file_id)
        assert line_again["custom_id"] == "r-1" and retried.output_file_id is None


def test_a_stored_file_is_quoted_before_there_is_a_batch(gateway: Gateway, served: Workplace) -> None:
    """Lines, tokens, cost, and every problem; nothing is stored."""
    with gateway.http() as http:

        def upload(data: bytes) -> str:
            form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", data)}}
            return str(http.post("/files", **form).json()["id"])

        good = http.get(f"/batches/{upload(jsonl(line(1), line(2)))}/quote").json()
        assert (good["status"], good["lines"]) == ("quoted", 2) and good["quoted_tokens"] > 0 and good["quoted_usd"] > 0
        bad = http.post(f"/batches/{upload(jsonl(line(1), b'{', line(1)))}/quote").json()
        assert (bad["status"], bad["bad_lines"], len(bad["problems"])) == ("invalid", 2, 2)
        assert http.get("/batches/file-nope/quote").status_code == 404
    assert rows(served.database, "SELECT id FROM batches") == []


def httpx_counts(total: int, completed: int, failed: int) -> Any:
    from openai.types import BatchRequestCounts

    return BatchRequestCounts(total=total, completed=completed, failed=failed)

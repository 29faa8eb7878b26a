"""Every route × every kind of id of another tenant: unknown, in the words of an id that never was, and nothing changes.

The table is made of the routes themselves. A route whose path has an id that stands in no row here, or that has no id
and is not named in `WITHOUT_IDS`, fails it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.factories import rows
from tests.fakes import Workplace
from tests.file_factories import jsonl, line
from tests.rig.gateway import Gateway
from tests.rig.waiting import eventually
from worker.gateway.openapi_words import OPERATIONS
from worker.producer.keys import Keys
from worker.producer.stockpot import Stockpot

MODEL = "openai/gpt-4o-mini"
CHAT = "/v1/chat/completions"
ERROR_KEYS = {"message", "type", "param", "code"}
#: Ids that never were, by the name that a path has for their kind.
NEVER = {
    "file_id": "file-00000000000070008000000000000000",
    "batch_id": "batch_00000000000070008000000000000000",
    "endpoint_id": "we_00000000000070008000000000000000",
    "event_id": "evt_00000000000070008000000000000000",
    "job_id": "job_00000000000070008000000000000000",
    "completion_id": "chatcmpl-00000000000070008000000000000000",
    "response_id": "resp_00000000000070008000000000000000",
}
#: Routes without an id: what they show is the caller's own, or nobody's.
WITHOUT_IDS = {
    ("/models", "GET"),
    ("/models/{model_id:path}", "GET"),
    ("/chat/completions", "GET"),
    ("/chat/completions", "POST"),
    ("/responses", "POST"),
    ("/files", "GET"),
    ("/files", "POST"),
    ("/batches", "GET"),
    ("/batches", "POST"),
    ("/jobs", "GET"),
    ("/jobs", "POST"),
    ("/usage", "GET"),
    ("/routes", "GET"),
    ("/routes/pause", "POST"),
    ("/routes/resume", "POST"),
    ("/webhooks/endpoints", "GET"),
    ("/webhooks/endpoints", "POST"),
    ("/webhooks/events", "GET"),
}
#: What the owner's call of these is refused with, for its own sake: the thing is over, or was not asked for properly.
OWNERS = {400, 409}


def param_of(path: str) -> str:
    """The name that a path has for its id."""
    [name] = re.findall(r"{(\w+)", path)
    return str(name)


def filled(path: str, value: str) -> str:
    return re.sub(r"{\w+(:\w+)?}", value, path)


WITH_IDS = [(path, method) for path, method in OPERATIONS if (path, method) not in WITHOUT_IDS]


@pytest.fixture
def owner(gateway: Gateway, served: Workplace) -> Iterator[httpx.Client]:
    with gateway.http(Keys(served.database).create("acme")[1]) as http:
        yield http


@pytest.fixture
def stranger(gateway: Gateway, served: Workplace) -> Iterator[httpx.Client]:
    """Who names the owner's tenant, too, without the right to."""
    with gateway.http(Keys(served.database).create("other")[1]) as http:
        http.headers["Stockpot-Tenant"] = "acme"
        yield http


@pytest.fixture
def theirs(owner: httpx.Client, served: Workplace) -> dict[str, str]:
    """An id of each kind of the owner's, by the name that a path has for its kind; and a batch's output file."""

    def made(path: str, **body: Any) -> dict[str, Any]:
        answer = owner.post(path, json=body)
        assert answer.status_code in {200, 201}, answer.text
        return dict(answer.json())

    form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("f", jsonl(line(1)))}}
    file = owner.post("/files", **form).json()["id"]
    batch = made("/batches", input_file_id=file, endpoint=CHAT, completion_window="24h")["id"]
    endpoint = made("/webhooks/endpoints", url="https://example.com/hook")["id"]
    messages = [{"role": "user", "content": "hi"}]
    completion = made(CHAT, model=MODEL, messages=messages, store=True, metadata={"a": "b"})["id"]
    # Streamed, so that it can be followed again; its id is in the head.
    stream = owner.post("/responses", json={"model": MODEL, "input": "hi", "background": True, "stream": True})
    response = stream.headers["stockpot-job-id"].replace("job_", "resp_")
    job = made("/jobs", body={"model": MODEL, "messages": messages}, webhook="https://example.com/one")["id"]
    served.ended(job)
    over = eventually(lambda: (one := owner.get(f"/batches/{batch}").json())["status"] == "completed" and one)
    event = owner.get("/webhooks/events", params={"job": job}).json()["data"][0]["id"]
    return {
        "file_id": file,
        "batch_id": batch,
        "endpoint_id": endpoint,
        "event_id": event,
        "job_id": job,
        "completion_id": completion,
        "response_id": response,
        "output": over["output_file_id"],
    }


def reads(theirs: dict[str, str]) -> list[str]:
    """The URL of all that can be read of the owner's, but for webhooks, whose deliveries are tried meanwhile."""
    found = [
        filled(path, theirs[param_of(path)])
        for path, method in WITH_IDS
        if method == "GET" and not path.startswith("/webhooks/")
    ]
    return [*found, f"/files/{theirs['output']}/content", f"/responses/{theirs['response_id']}?stream=true"]


def call(http: httpx.Client, method: str, url: str) -> httpx.Response:
    body: dict[str, Any] = {"json": {"metadata": {"mine": "now"}}} if method == "POST" else {}
    return http.request(method, url, **body)


def test_every_route_with_another_tenants_id_is_unknown_and_changes_nothing(
    owner: httpx.Client, stranger: httpx.Client, theirs: dict[str, str]
) -> None:
    before = {url: owner.get(url) for url in reads(theirs)}
    assert {answer.status_code for answer in before.values()} == {200}  # or what follows would prove nothing
    tried = 0
    for path, method in WITH_IDS:
        own = param_of(path)
        for kind, given in theirs.items():
            for prefix in ("", "/v1"):
                answer = call(stranger, method, prefix + filled(path, given))
                assert answer.status_code == 404, f"{method} {prefix}{path} {kind}: {answer.status_code}"
                error = answer.json()["error"]
                assert set(error) == ERROR_KEYS
                tried += 1
                if kind == own:
                    never = call(stranger, method, prefix + filled(path, NEVER[own])).json()["error"]
                    assert error["message"].replace(given, "") == never["message"].replace(NEVER[own], ""), path
                    assert {**error, "message": ""} == {**never, "message": ""}, path
            if method == "GET":
                assert stranger.head(filled(path, given)).status_code == 404
    assert tried == 2 * len(WITH_IDS) * len(theirs) > 400
    for url, answer in before.items():
        assert owner.get(url).content == answer.content, f"{url} has changed"
    # The owner's own calls find it: what is 404 above is not so for everybody. What deletes comes last.
    for path, method in sorted(WITH_IDS, key=lambda one: one[1] == "DELETE"):
        answer = call(owner, method, filled(path, theirs[param_of(path)]))
        assert answer.status_code < 300 or answer.status_code in OWNERS, (path, method, answer.text)


def test_no_list_and_no_query_shows_anything_of_another_tenants(
    owner: httpx.Client, stranger: httpx.Client, theirs: dict[str, str], served: Workplace
) -> None:
    shown = ""
    for path, method in sorted(WITHOUT_IDS):
        assert (path, method) in OPERATIONS, f"{method} {path} is served no more"
        if method != "GET" or "{" in path:
            continue
        shown += owner.get(path).text
        answers = [stranger.get(path)]
        for name in OPERATIONS[path, method].query:
            answers += [stranger.get(path, params={name: given}) for given in theirs.values()]
        for answer in answers:
            assert answer.status_code in {200, 400, 404} or (path, answer.status_code) == ("/routes", 403), answer.url
            if answer.status_code == 200:
                found = [one for one in theirs.values() if one in answer.text]
                assert not found, (answer.url, found)
                assert path in {"/models", "/usage"} or answer.json()["data"] == [], answer.url
    assert all(one in shown for kind, one in theirs.items() if kind != "response_id")  # the owner's lists have them
    assert stranger.get("/usage").json()["data"][0]["jobs"] == 0
    # Ids in a body.
    order = {"input_file_id": theirs["file_id"], "endpoint": CHAT, "completion_window": "24h"}
    batch = stranger.post("/batches", json=order).json()["id"]
    failed = eventually(lambda: (one := stranger.get(f"/batches/{batch}").json())["status"] == "failed" and one)
    assert "Cannot find file" in failed["errors"]["data"][0]["message"]
    continued = {"model": MODEL, "input": "hi", "previous_response_id": theirs["response_id"]}
    assert stranger.post("/responses", json=continued).status_code == 404
    for response in (theirs["response_id"], NEVER["response_id"]):
        referred = {"model": MODEL, "input": [{"type": "item_reference", "id": f"msg_1-{response}"}]}
        error = stranger.post("/responses", json=referred).json()["error"]
        assert error["message"] == f"Item with id 'msg_1-{response}' not found."
    native = {"body": {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}, "tenant": "acme"}
    assert stranger.post("/jobs", json=native).status_code == 400
    assert rows(served.database, "SELECT count(*) AS n FROM jobs WHERE tenant = 'other'")[0]["n"] == 0


def test_a_signed_url_opens_its_job_and_is_no_key(
    gateway: Gateway, served: Workplace, stranger: httpx.Client, theirs: dict[str, str]
) -> None:
    made = stranger.post("/jobs", json={"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).json()["id"]
    with Stockpot(served.settings, tenant="other") as pot:
        url = pot.stream_url(made)
    token = url.split("token=")[1]
    with gateway.http() as anyone:
        # Only loopback could be let in without a key, and with keys it is not.
        assert anyone.get(url).status_code == 200
        for path, method in OPERATIONS:
            own = "" if "{" not in path or (path, method) in WITHOUT_IDS else param_of(path)
            target = filled(path, theirs.get(own, "x"))
            for headers in ({}, {"authorization": f"Bearer {token}"}):
                answer = anyone.request(method, target, params={"token": token}, headers=headers)
                assert answer.status_code == 401, (method, path)
                assert set(answer.json()["error"]) == ERROR_KEYS
                assert not any(one in json.dumps(answer.json()) for one in theirs.values())

"""What OpenAI's wire has no word for, through the gateway: jobs, usage, routes, webhooks; and what a browser needs."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import httpx
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from tests.factories import chat
from tests.fakes import Workplace
from tests.file_factories import CHAT, jsonl, line
from tests.rig.gateway import Gateway
from tests.rig.waiting import eventually
from worker.gateway.app import WIRE
from worker.gateway.openapi_words import OPERATIONS
from worker.producer.stockpot import Stockpot

ERROR_KEYS = {"message", "type", "param", "code"}


def ended(http: httpx.Client, job: str) -> dict[str, Any]:
    eventually(lambda: http.get(f"/jobs/{job}").json()["finished_at"] is not None)
    found: dict[str, Any] = http.get(f"/v1/jobs/{job}").json()
    return found


def test_a_job_is_submitted_listed_read_cancelled_and_tried_again(gateway: Gateway) -> None:
    """A bare body and a whole job; the same key is the same job."""
    with gateway.http() as http:
        keyed = {"Idempotency-Key": "order-17"}
        made = http.post("/jobs", json=chat("hi", model="sim:ok"), headers=keyed)
        assert (made.status_code, made.headers["location"]) == (201, f"/jobs/{made.json()['id']}")
        again = http.post("/jobs", json=chat("hi", model="sim:ok"), headers=keyed)
        assert (again.status_code, again.json()["id"], again.json()["created"]) == (200, made.json()["id"], False)
        conflict = http.post("/jobs", json=chat("other", model="sim:ok"), headers=keyed)
        assert conflict.status_code == 409 and conflict.headers["x-should-retry"] == "false"
        detail = ended(http, made.json()["id"])
        assert detail["status"] == "completed" and detail["text"] and detail["attempt_log"]
        whole = {"body": chat("bad", model="sim:400"), "lane": "bulk", "metadata": {"a": "b"}}
        failed = ended(http, http.post("/jobs", json=whole).json()["id"])
        assert (failed["status"], failed["lane"], failed["metadata"]) == ("failed", "bulk", {"a": "b"})
        assert http.post(f"/jobs/{failed['id']}/retry").json()["status"] == "queued"
        waiting = {"body": chat("later", model="sim:ok"), "delay_seconds": 3600}
        later = http.post("/jobs", json=waiting).json()["id"]
        assert http.post(f"/jobs/{later}/cancel").json()["status"] == "cancelled"
        refused = http.post(f"/jobs/{made.json()['id']}/cancel")
        assert refused.status_code == 409 and refused.headers["x-should-retry"] == "false"
        listed = http.get("/jobs", params={"limit": 2}).json()
        assert listed["has_more"] and len(listed["data"]) == 2
        rest = http.get("/jobs", params={"limit": 2, "after": listed["last_id"]}).json()
        assert [one["id"] for one in listed["data"] + rest["data"]] == [later, failed["id"], made.json()["id"]]
        assert [one["id"] for one in http.get("/jobs?status=cancelled").json()["data"]] == [later]


def test_a_bad_job_is_refused_as_clearly_as_by_the_command(gateway: Gateway) -> None:
    """Every problem with its field; nothing is taken and dropped."""
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"model": "m"}, "messages", "messages"),
        ({"body": chat("x"), "lane": "fast"}, "lane", "lane"),
        ({"body": chat("x"), "colour": "red"}, "colour", "colour"),
        ({"body": chat("x"), "tenant": "acme"}, "tenant", "tenant"),
        (chat("x") | {"messages": "no"}, "messages", "messages"),
    ]
    with gateway.http() as http:
        for body, param, words in cases:
            answer = http.post("/jobs", json=body)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, param) and words in error["message"], body
        for query in ("status=gone", "lane=fast", "since=yesterday", "limit=0", "colour=red"):
            answer = http.get(f"/jobs?{query}")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.split("=")[0])
        assert http.get("/jobs?after=job_nope").status_code == 404


def test_a_key_with_limits_finds_no_way_around_them(gateway: Gateway, served: Workplace) -> None:
    """A native job counts as a call; what could not be counted is refused, and a model that the key may not use, too."""
    with Stockpot(served.settings) as pot:
        _, limited = pot.keys.create(rpm=1, models=["sim:ok"])
        _, paid = pot.keys.create(budget_usd=Decimal("0.5"))
        with gateway.http(limited) as http:
            assert http.post("/jobs", json=chat("hi", model="sim:400")).status_code == 404
            job = http.post("/jobs", json=chat("hi", model="sim:ok"), headers={"Idempotency-Key": "a"}).json()["id"]
            again = http.post("/jobs", json=chat("hi", model="sim:ok"), headers={"Idempotency-Key": "a"})
            assert (again.status_code, again.json()["id"]) == (200, job)
            refused = http.post("/jobs", json=chat("hi", model="sim:ok"))
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
            assert ended(http, job)["status"] == "completed"
            assert http.post(f"/jobs/{job}/retry").status_code == 403
        with gateway.http(paid) as http:
            order = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h"}
            answer = http.post("/batches", json=order)
            assert answer.status_code == 403 and set(answer.json()["error"]) == ERROR_KEYS
            assert http.post("/batches/batch_nope/retry-failed").status_code == 404


def test_without_keys_a_page_of_another_site_is_refused(gateway: Gateway) -> None:
    """Its browser would send the request to this machine, and somebody would pay."""
    with gateway.http() as http:
        for origin, status in (
            ("https://evil.example", 401),
            ("null", 401),
            (gateway.url, 201),
            ("http://localhost:3", 201),
        ):
            answer = http.post("/jobs", json=chat("hi", model="sim:ok"), headers={"origin": origin})
            assert answer.status_code == status, origin


def test_usage_routes_and_webhooks_are_there(gateway: Gateway) -> None:
    """What their commands print."""
    with gateway.http() as http:
        ended(http, http.post("/jobs", json=chat("hi", model="sim:ok")).json()["id"])
        [total] = http.get("/usage").json()["data"]
        assert total["jobs"] == 1 and float(total["cost_usd"]) > 0
        [by_model] = http.get("/usage?by=model,day&since=2026-01-01").json()["data"]
        assert by_model["model"] == "sim:ok"
        answer = http.get("/usage?by=colour")
        assert answer.status_code == 400 and set(answer.json()["error"]) == ERROR_KEYS
        [one] = http.get("/routes").json()["data"]
        assert http.post("/routes/pause", json={"route": one["route"], "reason": "lunch"}).json()["paused"] == "manual"
        assert http.post("/routes/resume", json={"route": one["route"]}).json()["paused"] is None
        assert http.post("/routes/pause", json={}).json()["error"]["param"] == "route"

        endpoints = "/webhooks/endpoints"
        made = http.post(endpoints, json={"url": "https://example.com/hook", "events": ["job.completed"]})
        assert made.status_code == 201 and made.json()["secret"].startswith("whsec_")
        hook = made.json()["id"]
        [listed] = http.get(endpoints).json()["data"]
        assert (listed["id"], listed["events"]) == (hook, ["job.completed"]) and "secret" not in listed
        assert http.post(f"{endpoints}/{hook}/rotate").json()["secret"] != made.json()["secret"]
        assert http.post(f"{endpoints}/{hook}/disable").json()["disabled_at"] is not None
        assert http.post(f"{endpoints}/{hook}/enable").json()["disabled_at"] is None
        changed = http.post(f"{endpoints}/{hook}", json={"url": "https://example.com/two", "description": "ours"})
        assert changed.json() | {"url": "https://example.com/two", "events": ["job.completed"]} == changed.json()
        assert http.post(f"{endpoints}/{hook}", json={"events": []}).json()["events"] == []
        for wrong in ({}, {"url": "ftp://x"}, {"events": "all"}, {"secret": "x"}, {"url": None}):
            assert http.post(f"{endpoints}/{hook}", json=wrong).status_code == 400, wrong
        sent = http.post(f"{endpoints}/{hook}/test?timeout=1")
        assert (sent.status_code, sent.json()["type"]) == (200, "endpoint.test")
        for bad in ({"url": "ftp://x"}, {"url": "https://x", "events": ["no.such"]}, {"url": "https://x", "a": 1}, {}):
            answer = http.post(endpoints, json=bad)
            assert answer.status_code == 400 and set(answer.json()["error"]) == ERROR_KEYS, bad
        assert http.delete(f"{endpoints}/{hook}").json()["deleted"]
        assert http.get(f"{endpoints}/{hook}").status_code == 404
        ended_badly = http.get("/webhooks/events?status=dead,blocked").json()["data"]
        assert {one["type"] for one in ended_badly} <= {"endpoint.test"}  # its endpoint is gone


def test_the_document_has_every_route_and_no_other(gateway: Gateway) -> None:
    """Path by path, method by method."""
    served = {(one.path, method) for one in WIRE for method in one.methods - {"HEAD"}}  # type: ignore[attr-defined]
    assert served == OPERATIONS.keys()
    with gateway.http() as http:
        document = http.get("/openapi.json").json()
        assert document == http.get("/v1/openapi.json").json()
    shown = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert shown == {(path.replace(":path", ""), method) for path, method in served}
    names = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))


def test_real_answers_are_what_the_document_says(gateway: Gateway) -> None:
    """Each answer of a walk through files, batches, jobs and webhooks, refusals included."""
    with gateway.http() as http:
        document = http.get("/openapi.json").json()

        def checked(method: str, path: str, url: str | None = None, **given: Any) -> Any:
            answer = http.request(method, url or path, **given)
            operation = document["paths"][path][method.lower()]
            said = operation["responses"].get(str(answer.status_code), document["components"]["responses"]["error"])
            schema = said["content"][answer.headers["content-type"].split(";")[0]]["schema"]
            Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())
            return answer.json()

        form: dict[str, Any] = {
            "data": {"purpose": "batch"},
            "files": {"file": ("in.jsonl", jsonl(line(1), line(2, body_model="sim:400")))},
        }
        file = checked("POST", "/files", **form)["id"]
        checked("POST", "/files", data={"purpose": "batch"})
        checked("GET", "/files")
        checked("GET", "/files/{file_id}", f"/files/{file}")
        order = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h", "metadata": {"a": "b"}}
        batch = checked("POST", "/batches", json=order)["id"]
        checked("POST", "/batches", json={})
        one = "/batches/{batch_id}"
        eventually(lambda: checked("GET", one, f"/batches/{batch}")["status"] == "completed")
        checked("GET", "/batches")
        checked("GET", f"{one}/quote", f"/batches/{batch}/quote")
        checked("POST", f"{one}/cancel", f"/batches/{batch}/cancel")
        checked("POST", f"{one}/pause", f"/batches/{batch}/pause")
        checked("POST", f"{one}/retry-failed", f"/batches/{batch}/retry-failed")
        job = checked("POST", "/jobs", json=chat("hi", model="sim:ok"))["id"]
        ended(http, job)
        checked("GET", "/jobs")
        checked("GET", "/jobs/{job_id}", f"/jobs/{job}")
        checked("GET", "/jobs/{job_id}", "/jobs/job_nope")
        checked("POST", "/jobs/{job_id}/retry", f"/jobs/{job}/retry")
        checked("GET", "/usage", "/usage?by=model")
        checked("GET", "/routes")
        checked("GET", "/models")
        hooks = "/webhooks/endpoints"
        hook = checked("POST", hooks, json={"url": "https://example.com/hook"})["id"]
        checked("GET", hooks)
        checked("POST", hooks + "/{endpoint_id}/rotate", f"{hooks}/{hook}/rotate")
        checked("POST", hooks + "/{endpoint_id}/disable", f"{hooks}/{hook}/disable")
        checked("GET", "/webhooks/events")
        checked("DELETE", hooks + "/{endpoint_id}", f"{hooks}/{hook}")
        checked("DELETE", "/files/{file_id}", f"/files/{file}")


def test_pages_of_other_origins_may_call_when_the_settings_say_so(gateway: Gateway, served: Workplace) -> None:
    """And not otherwise."""
    page = {"origin": "https://app.example.com"}
    asks = page | {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    with gateway.http() as http:
        assert "access-control-allow-origin" not in http.get("/models", headers=page).headers
        assert http.options("/jobs", headers=asks).status_code == 405
    settings = served.settings.model_copy(update={"gateway_cors_origins": "https://app.example.com, https://b.example"})
    with Gateway(settings) as open_gateway, open_gateway.http() as http:
        preflight = http.options("/v1/jobs", headers=asks)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example.com"
        answer = http.get("/files/file-nope", headers=page)
        assert answer.status_code == 404 and answer.headers["access-control-allow-origin"] == page["origin"]
        assert "x-last-line" in answer.headers["access-control-expose-headers"]
        stranger = {"origin": "https://evil.example"}
        assert "access-control-allow-origin" not in http.get("/models", headers=stranger).headers


def test_nothing_of_the_document_is_a_secret(gateway: Gateway) -> None:
    """It is open to anybody, so it names no tenant, key or path of this machine."""
    with gateway.http() as http:
        text = json.dumps(http.get("/openapi.json").json())
    assert "sk-" not in text and "/tmp" not in text

"""Keys of the gateway: who is served, how much, and that nobody sees what is another tenant's."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.factories import rows, sql
from tests.fakes import Provider, Workplace, workplace
from tests.rig.gateway import Gateway
from worker.db.budgets import reservations
from worker.producer.keys import Keys

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def keys(served: Workplace) -> Keys:
    return Keys(served.database)


def body(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **more}


def ask(gateway: Gateway, key: str | None, **more: Any) -> httpx.Response:
    with gateway.http(key) as http:
        return http.post("/v1/chat/completions", json=body(**more))


def test_with_the_first_key_nobody_is_served_without(gateway: Gateway, keys: Keys) -> None:
    assert ask(gateway, None).status_code == 200
    _, secret = keys.create("acme")
    for wrong in (None, "any", "sk-sp-" + "x" * 43, secret[:-1]):
        answer = ask(gateway, wrong)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
    assert ask(gateway, secret).status_code == 200


def test_a_key_is_kept_as_its_hash_and_shows_when_it_was_used(gateway: Gateway, keys: Keys, served: Workplace) -> None:
    key, secret = keys.create("acme", name="a laptop")
    assert ask(gateway, secret).status_code == 200
    assert secret not in str([dict(row) for row in rows(served.database, "SELECT * FROM api_keys")])
    used = keys.get(key.id)
    assert used.last_used_at is not None and used.hint == secret[-4:]


def test_a_revoked_or_expired_key_is_refused_at_once(gateway: Gateway, keys: Keys) -> None:
    key, secret = keys.create("acme")
    _, past = keys.create("acme", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert ask(gateway, secret).status_code == 200 and ask(gateway, past).status_code == 401
    keys.revoke(key.id[:20])
    assert ask(gateway, secret).status_code == 401


def test_a_rotated_key_has_a_new_secret_and_the_old_one_serves_as_long_as_was_said(
    gateway: Gateway, keys: Keys
) -> None:
    key, old = keys.create("acme", rpm=100)
    rotated, new = keys.rotate(key.id, grace_seconds=3_600)
    assert rotated.id == key.id and rotated.rpm == 100
    assert ask(gateway, old).status_code == ask(gateway, new).status_code == 200
    _, newest = keys.rotate(key.id)
    assert [ask(gateway, one).status_code for one in (old, new, newest)] == [401, 401, 200]


def test_a_key_for_some_models_does_not_know_of_others(gateway: Gateway, keys: Keys) -> None:
    _, secret = keys.create("acme", models=["openai/gpt-5"])
    assert ask(gateway, secret).json()["error"]["code"] == "model_not_found"
    with gateway.http(secret) as http:
        assert [one["id"] for one in http.get("/v1/models").json()["data"]] == ["openai/gpt-5"]
        assert http.get(f"/v1/models/{MODEL}").status_code == 404


def test_a_read_only_key_changes_nothing(gateway: Gateway, keys: Keys) -> None:
    _, secret = keys.create("acme", read_only=True)
    assert ask(gateway, secret).status_code == 403
    with gateway.http(secret) as http:
        assert http.get("/v1/chat/completions").status_code == 200


def test_an_admins_key_may_speak_for_another_tenant_and_no_other_key_may(gateway: Gateway, keys: Keys) -> None:
    _, admin = keys.create("ops", admin=True)
    _, plain = keys.create("acme")
    with gateway.http(admin) as http:
        made = http.post("/v1/responses", json={"model": MODEL, "input": "hi"}, headers={"Stockpot-Tenant": "acme"})
    with gateway.http(plain) as http:
        assert http.get(f"/v1/responses/{made.json()['id']}").status_code == 200
        strange = http.get(f"/v1/responses/{made.json()['id']}", headers={"Stockpot-Tenant": "other"})
        assert strange.status_code == 200  # it is its own tenant's still


def together(gateway: Gateway, secret: str, count: int, **more: Any) -> list[httpx.Response]:
    """Calls that are made at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: ask(gateway, secret, **more), range(count)))


def test_requests_per_minute_are_exact_when_all_come_at_once(gateway: Gateway, keys: Keys) -> None:
    _, secret = keys.create("acme", rpm=4)
    answers = together(gateway, secret, 12)
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 8
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["type"] == "rate_limit_exceeded" and 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-limit-requests"] == "4"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    left = {answer.headers["x-ratelimit-remaining-requests"] for answer in answers if answer.status_code == 200}
    assert left == {"0", "1", "2", "3"}


def test_a_clock_that_was_set_back_keeps_no_minute_full_for_an_hour(
    gateway: Gateway, keys: Keys, served: Workplace
) -> None:
    _, secret = keys.create("acme", rpm=1)
    assert [ask(gateway, secret).status_code for _ in range(2)] == [200, 429]
    later = "datetime('now', '+1 hour')" if served.database.is_sqlite else "now() + interval '1 hour'"
    sql(served.database, f"UPDATE api_calls SET created_at = {later}")
    assert [ask(gateway, secret).status_code for _ in range(2)] == [200, 429]


def test_tokens_per_minute_count_what_a_call_took_once_it_is_over(gateway: Gateway, keys: Keys) -> None:
    _, secret = keys.create("acme", tpm=1_000)
    first = ask(gateway, secret, max_tokens=300)
    assert first.headers["x-ratelimit-limit-tokens"] == "1000"
    used = first.json()["usage"]["total_tokens"]
    second = ask(gateway, secret, max_tokens=300)
    assert int(second.headers["x-ratelimit-remaining-tokens"]) > 1_000 - used - 400
    too_much = ask(gateway, secret, max_tokens=2_000)
    assert too_much.status_code == 429 and too_much.headers["x-should-retry"] == "false"
    assert "retry-after" not in too_much.headers


def test_calls_in_flight_are_exact_when_all_come_at_once(gateway: Gateway, keys: Keys) -> None:
    """A place is free again when its call is over."""
    _, secret = keys.create("acme", max_in_flight=2)
    with gateway.http(secret) as http:
        held = [
            http.post("/v1/responses", json={"model": f"{MODEL}@sim:hold", "input": "hi", "background": True})
            for _ in range(2)
        ]
        refused = together(gateway, secret, 5)
        assert [answer.status_code for answer in refused] == [429] * 5
        assert refused[0].headers["retry-after"] == "1"
        http.post(f"/v1/responses/{held[0].json()['id']}/cancel")
        assert ask(gateway, secret).status_code == 200
        http.post(f"/v1/responses/{held[1].json()['id']}/cancel")  # or the worker's stop waits for it


def test_a_budget_is_never_exceeded_by_calls_that_come_at_once(gateway: Gateway, keys: Keys, served: Workplace) -> None:
    """The dearest that the calls may be is set aside; what they did not take is free again."""
    with gateway.http() as http:
        http.get("/v1/models")
    key, secret = keys.create("acme", budget_usd=Decimal("0.0001"))  # a call of 50 tokens may cost 0.00004
    answers = together(gateway, secret, 8, max_tokens=50)
    passed = [answer for answer in answers if answer.status_code == 200]
    assert passed and {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == refused.json()["error"]["type"] == "insufficient_quota"
    while ask(gateway, secret, max_tokens=50).status_code == 200:
        pass
    spent = rows(served.database, "SELECT SUM(cost_usd) AS usd FROM usage_v WHERE tenant = 'acme'")[0]["usd"]
    assert 0 < float(spent) <= 0.0001
    last = ask(gateway, secret, max_tokens=50)
    assert last.status_code == 429 and last.headers["x-should-retry"] == "false"
    assert keys.get(key.id).spent_usd == pytest.approx(Decimal(str(spent)))


def test_a_tenant_whose_budget_is_used_up_is_told_so_at_once(gateway: Gateway, served: Workplace) -> None:
    """With or without keys; its job would wait for money, and its caller with it."""
    first = ask(gateway, None)
    for tenant in ("default", "*"):
        served.database.write(lambda conn, tenant=tenant: reservations.put(conn, tenant, "day", 1))  # type: ignore[misc]
        answer = ask(gateway, None)
        assert answer.status_code == 429 and answer.json()["error"]["code"] == "insufficient_quota"
        assert answer.headers["x-should-retry"] == "false"
        served.database.write(lambda conn, tenant=tenant: reservations.remove(conn, tenant, "day"))  # type: ignore[misc]
    assert first.status_code == ask(gateway, None).status_code == 200


def test_a_repeat_is_no_second_call_of_its_limit(gateway: Gateway, keys: Keys) -> None:
    _, secret = keys.create("acme", rpm=1)
    with gateway.http(secret) as http:
        answers = [http.post("/v1/chat/completions", json=body(), headers={"Idempotency-Key": "one"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3


#: Every route that takes an id, with the kinds of ids that it might be given.
ROUTES = [
    ("GET", "/v1/responses/{response}"),
    ("GET", "/v1/responses/{response}?stream=true"),
    ("GET", "/v1/responses/{response}?stream=true&starting_after=1"),
    ("GET", "/v1/responses/{response}/input_items"),
    ("POST", "/v1/responses/{response}/cancel"),
    ("DELETE", "/v1/responses/{response}"),
    ("GET", "/v1/chat/completions/{chat}"),
    ("GET", "/v1/chat/completions/{chat}/messages"),
    ("POST", "/v1/chat/completions/{chat}"),
    ("DELETE", "/v1/chat/completions/{chat}"),
]


def test_another_tenants_ids_are_unknown_on_every_route(gateway: Gateway, keys: Keys, served: Workplace) -> None:
    """404 with the words of an id that never was; and a list has none of it."""
    owner, stranger = keys.create("acme")[1], keys.create("other")[1]
    with gateway.http(owner) as http:
        response = http.post("/v1/responses", json={"model": MODEL, "input": "hi", "stream": True, "background": True})
        response_id = next(rows(served.database, "SELECT job_id FROM api_calls").__iter__())["job_id"].replace(
            "job_", "resp_"
        )
        chat_id = http.post("/v1/chat/completions", json=body(store=True, metadata={"a": "b"})).json()["id"]
    assert response.status_code == 200
    unknown = "0" * 12 + "7" + "0" * 3 + "8" + "0" * 15
    with gateway.http(stranger) as http:
        for method, path in ROUTES:
            answers = [
                http.request(
                    method, path.format(response=one, chat=two), json={"metadata": {}} if method == "POST" else None
                )
                for one, two in ((response_id, chat_id), (f"resp_{unknown}", f"chatcmpl-{unknown}"))
            ]
            assert [answer.status_code for answer in answers] == [404, 404], path
            words = [answer.json()["error"]["message"] for answer in answers]
            assert words[0].replace(response_id, "").replace(chat_id, "") == words[1].replace(
                f"resp_{unknown}", ""
            ).replace(f"chatcmpl-{unknown}", "")
        assert http.get("/v1/chat/completions").json()["data"] == []
        assert http.get("/v1/chat/completions", params={"after": chat_id}).status_code == 400
        continued = {"model": MODEL, "input": "hi", "previous_response_id": response_id}
        assert http.post("/v1/responses", json=continued).status_code == 404
    with gateway.http(owner) as http:
        assert http.get(f"/v1/responses/{response_id}").json()["status"] == "completed"
        assert http.get(f"/v1/chat/completions/{chat_id}").json()["metadata"] == {"a": "b"}


def test_equal_keys_and_bodies_of_two_tenants_are_two_jobs(gateway: Gateway, keys: Keys) -> None:
    """Neither an idempotency key nor a repeat of an SDK leads to another tenant's answer."""
    ids = set()
    for secret in (keys.create("acme")[1], keys.create("other")[1]):
        for headers in ({"Idempotency-Key": "k"}, {"x-stainless-retry-count": "1"}):
            with gateway.http(secret) as http:
                ids.add(http.post("/v1/chat/completions", json=body(), headers=headers).json()["id"])
    assert len(ids) == 4


def test_limits_hold_on_postgresql_over_two_gateways(provider: Provider, postgres_url: str, redis_url: str) -> None:
    """Counted in the database, so however many processes serve."""
    with workplace(provider, postgres_url, redis_url) as place:
        place.start()
        _, secret = Keys(place.database).create("acme", rpm=5, max_in_flight=50, budget_usd=Decimal(1))
        with Gateway(place.settings) as one, Gateway(place.settings) as two, ThreadPoolExecutor(20) as pool:
            for gateway in (one, two):
                with gateway.http(secret) as http:
                    http.get("/v1/models")  # with the prices
            began = time.monotonic()
            answers = list(pool.map(lambda number: ask((one, two)[number % 2], secret, max_tokens=9), range(20)))
            passed = sum(answer.status_code == 200 for answer in answers)
    assert passed == 5 or time.monotonic() - began > 60

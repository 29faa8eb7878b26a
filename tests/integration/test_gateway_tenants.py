"""What all callers of a tenant together may do at the gateway: exact when they come at once, with whatever keys."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.factories import rows
from tests.fakes import Provider, Workplace, workplace
from tests.rig.gateway import Gateway
from tests.rig.waiting import eventually
from worker.base.money import PICO
from worker.db.budgets import reservations
from worker.producer.keys import Keys

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def keys(served: Workplace) -> Keys:
    return Keys(served.database)


@pytest.fixture
def callers(gateway: Gateway, keys: Keys) -> Iterator[list[httpx.Client]]:
    """Two keys of one tenant."""
    with gateway.http(keys.create("acme")[1]) as one, gateway.http(keys.create("acme")[1]) as two:
        yield [one, two]


def ask(http: httpx.Client, **more: Any) -> httpx.Response:
    return http.post(
        "/v1/chat/completions", json={"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **more}
    )


def together(callers: list[httpx.Client], count: int, **more: Any) -> list[httpx.Response]:
    """Calls of both at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda number: ask(callers[number % 2], **more), range(count)))


def held(http: httpx.Client) -> str:
    """A call that runs until it is cancelled; its id."""
    made = http.post("/v1/responses", json={"model": f"{MODEL}@sim:hold", "input": "hi", "background": True})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def test_calls_per_minute_of_all_its_keys_are_exact(keys: Keys, callers: list[httpx.Client]) -> None:
    keys.limit_tenant("acme", rpm=3)
    keys.limit_tenant("other", rpm=1)
    answers = together(callers, 10)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 7 and {answer.status_code for answer in answers} == {200, 429}
    for answer in refused:
        assert answer.json()["error"]["type"] == "rate_limit_exceeded" and "tenant" in answer.json()["error"]["message"]
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["x-ratelimit-limit-requests"] == "3"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    keys.unlimit_tenant("acme")
    assert ask(callers[0]).status_code == 200


def test_of_a_keys_and_its_tenants_limits_the_nearer_one_is_shown_and_both_hold(gateway: Gateway, keys: Keys) -> None:
    keys.limit_tenant("acme", rpm=10, tpm=100_000)
    with gateway.http(keys.create("acme", rpm=2)[1]) as http:
        first = ask(http)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-limit-tokens"] == "100000"
        assert [ask(http).status_code for _ in range(2)] == [200, 429]
    keys.limit_tenant("acme", tpm=300)
    with gateway.http(keys.create("acme")[1]) as http:
        large = ask(http, max_tokens=400)
        assert large.status_code == 429 and large.headers["x-should-retry"] == "false"
        assert "retry-after" not in large.headers
        assert ask(http, max_tokens=250).headers["retry-after"]  # beside what the two calls before took


def test_calls_in_flight_are_exact_and_native_jobs_are_among_them(keys: Keys, callers: list[httpx.Client]) -> None:
    keys.limit_tenant("acme", max_in_flight=2)
    job = callers[0].post("/jobs", json={"model": f"{MODEL}@sim:hold", "messages": [{"role": "user", "content": "hi"}]})
    response = held(callers[1])
    refused = together(callers, 4)
    assert [answer.status_code for answer in refused] == [429] * 4 and refused[0].headers["retry-after"] == "1"
    assert callers[0].get(f"/v1/chat/completions/chatcmpl-{job.json()['id'].removeprefix('job_')}").status_code == 404
    callers[1].post(f"/v1/responses/{response}/cancel")
    eventually(lambda: ask(callers[0]).status_code == 200)
    assert callers[1].post(f"/jobs/{job.json()['id']}/cancel").status_code == 200
    assert callers[1].post(f"/jobs/{job.json()['id']}/retry").status_code == 403  # it would not be counted


def test_a_budget_that_has_not_enough_left_refuses_at_once(
    keys: Keys, callers: list[httpx.Client], served: Workplace
) -> None:
    """The money for calls that wait is not given away twice; what a call did not take is free again."""
    callers[0].get("/v1/models")
    served.database.write(lambda conn: reservations.put(conn, "acme", "day", int(Decimal("0.0001") * PICO)))
    answers = together(callers, 8, max_tokens=50)  # a call of 50 tokens may cost 0.00004
    passed = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert passed and len(passed) + len(refused) == 8
    assert {answer.json()["error"]["code"] for answer in refused} == {"insufficient_quota"}
    while ask(callers[0], max_tokens=50).status_code == 200:
        pass
    spent = rows(served.database, "SELECT SUM(cost_usd) AS usd FROM usage_v WHERE tenant = 'acme'")[0]["usd"]
    assert 0 < float(spent) <= 0.0001
    last = ask(callers[1], max_tokens=50)
    assert last.status_code == 429 and last.headers["x-should-retry"] == "false"


def test_a_repeat_is_no_second_call_of_its_tenants_limit(keys: Keys, callers: list[httpx.Client]) -> None:
    keys.limit_tenant("acme", rpm=1)
    callers[0].headers["Idempotency-Key"] = "one"
    assert [ask(callers[0]).status_code for _ in range(3)] == [200] * 3


def test_limits_hold_on_postgresql_over_two_gateways(provider: Provider, postgres_url: str, redis_url: str) -> None:
    """With the tenant's lock before the key's, whichever key calls."""
    with workplace(provider, postgres_url, redis_url) as place:
        place.start()
        keys = Keys(place.database)
        keys.limit_tenant("acme", rpm=5, max_in_flight=50)
        secrets = [keys.create("acme", rpm=4)[1], keys.create("acme")[1], keys.create("ops", admin=True, rpm=99)[1]]
        with Gateway(place.settings) as one, Gateway(place.settings) as two:
            clients = [gateway.http(secret) for gateway in (one, two) for secret in secrets]
            for client in clients:
                client.headers["Stockpot-Tenant"] = "acme"
            with ThreadPoolExecutor(24) as pool:
                answers = list(pool.map(lambda number: ask(clients[number % 6], max_tokens=9), range(24)))
            for client in clients:
                client.close()
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 19

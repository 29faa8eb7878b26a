"""The simulator's books: keys, limits, logs, charges, the journal, and its own routes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.rig.waiting import eventually_async
from worker.simulator import Simulator, SimulatorConfig, oracle
from worker.simulator.journal import Call, Done, Received, calls, calls_by_job, read_journal

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
#: An hour: a charge that has not landed when the test ends.
NEVER = 3600


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


@pytest.fixture
async def simulator(anyio_backend: str, journal: Path) -> AsyncIterator[Simulator]:
    made = Simulator(SimulatorConfig(first_token_delay=0, token_delay=0, charge_lag=0, journal=journal))
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def http(simulator: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(simulator.url, headers={"Authorization": "Bearer sim-key"}) as session:
        yield session


def chat(script: str = "ok", **more: Any) -> dict[str, Any]:
    return {"model": f"openai/gpt-5@sim:{script}", "messages": [{"role": "user", "content": "hi"}], **more}


async def post(http: aiohttp.ClientSession, body: dict[str, Any], **headers: str) -> tuple[int, str]:
    """Status and message of one call; (0, "") when the connection broke."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        async with http.post(CHAT, json=body, headers=given) as response:
            raw = await response.read()
            return response.status, json.loads(raw).get("message", "") if raw.startswith(b"{") else ""
    except aiohttp.ClientError:
        return 0, ""


async def get(http: aiohttp.ClientSession, path: str, **query: Any) -> dict[str, Any]:
    async with http.get(path, params=query) as response:
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
        return found


async def sim(http: aiohttp.ClientSession, path: str, **body: Any) -> int:
    async with http.post("/_sim/" + path, json=body) as response:
        return response.status


async def test_the_journal_has_a_line_for_the_arrival_and_one_for_the_end(
    http: aiohttp.ClientSession, journal: Path
) -> None:
    """With all that a checker needs, and no more of the key than its tail."""
    body = chat("503,ok")
    for attempt in (1, 2):
        await post(http, body, X_Client_Request_Id=f"job_7.{attempt}")
    entries = read_journal(journal)
    assert [type(entry) for entry in entries] == [Received, Done, Received, Done]
    first, second = calls_by_job(entries)["job_7"]
    assert [call.received.attempt for call in (first, second)] == [1, 2]
    assert [call.received.step for call in (first, second)] == ["503", "ok"]
    assert first.done is not None
    assert (first.done.status, first.done.billed, first.done.usd) == (503, False, Decimal(0))
    assert second.done is not None
    assert (second.done.status, second.done.outcome, second.done.billed) == (200, "completed", True)
    assert second.done.usd == oracle.expected_cost_usd(CHAT, body)
    assert second.received.model == "openai/gpt-5"
    assert b"sim-key" not in journal.read_bytes()


@pytest.mark.parametrize(
    ("script", "stream", "billed", "outcome"),
    [
        ("ok", True, True, "completed"),
        ("nodone", True, True, "completed"),
        ("html", False, False, "cut"),
        ("cut@3", True, False, "cut"),
        ("cut@3+billed", True, True, "cut"),
        ("hangup", False, False, "cut"),
        ("hangup+billed", False, True, "cut"),
        ("end@3", True, False, "cut"),
        ("donenofinish", True, True, "completed"),
        ("503+billed", False, False, "completed"),
    ],
)
async def test_only_what_was_finished_is_billed_unless_the_script_says_so(
    http: aiohttp.ClientSession, journal: Path, script: str, stream: bool, billed: bool, outcome: str
) -> None:
    """The journal, the logs and the ledger agree."""
    body = chat(script, stream=stream)
    await post(http, body)
    (call,) = calls(read_journal(journal))
    assert call.done is not None
    assert (call.done.billed, call.done.outcome) == (billed, outcome)
    assert call.done.usd == (oracle.expected_cost_usd(CHAT, body) if billed else 0)
    (row,) = (await get(http, "/v2/logs", period="1h"))["data"]
    assert (row["status"], row["inference_id"]) == ("succeeded" if billed else "failed", call.done.inference_id)
    ledger = (await get(http, "/v2/billing/transactions"))["data"]
    assert [entry["reference_id"] for entry in ledger] == ([call.done.inference_id] if billed else [])


async def leave(simulator: Simulator, http: aiohttp.ClientSession, body: dict[str, Any]) -> None:
    """Make a call, and close its connection once the simulator has it."""
    state = simulator.state
    assert state is not None
    before = state.stats.in_flight
    task = asyncio.create_task(post(http, body))

    async def there() -> bool:
        return state.stats.in_flight == before + 1

    await eventually_async(there)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def done_call(journal: Path) -> Call:
    """The only call, once it has ended."""

    async def ended() -> list[Call]:
        return [call for call in calls(read_journal(journal)) if call.done is not None]

    return (await eventually_async(ended))[0]


async def test_a_whole_answer_whose_client_left_is_finished_and_billed(
    simulator: Simulator, http: aiohttp.ClientSession, journal: Path
) -> None:
    """It can be found in the logs by the client's own id, which is how an ambiguous attempt is reconciled."""
    await leave(simulator, http, chat("hold"))
    await sim(http, "release")
    call = await done_call(journal)
    assert call.done is not None
    assert (call.done.outcome, call.done.billed) == ("aborted_by_client", True)
    assert [row["status"] for row in (await get(http, "/v2/logs", period="1h"))["data"]] == ["succeeded"]


async def test_a_stream_whose_client_left_ends_there_and_is_not_billed(
    simulator: Simulator, http: aiohttp.ClientSession, journal: Path
) -> None:
    """And its place is free at once."""
    await leave(simulator, http, chat("stall@2", stream=True))
    call = await done_call(journal)
    assert call.done is not None
    assert (call.done.outcome, call.done.billed) == ("aborted_by_client", False)
    assert simulator.state is not None
    assert simulator.state.stats.in_flight == 0


async def test_a_refusal_whose_client_left_is_not_billed(
    simulator: Simulator, http: aiohttp.ClientSession, journal: Path
) -> None:
    """A failed request is billed nothing, whoever listens."""
    await leave(simulator, http, chat("503+hold"))
    call = await done_call(journal)
    assert call.done is not None
    assert (call.done.outcome, call.done.billed) == ("aborted_by_client", False)


async def test_a_charge_lands_after_the_answer(http: aiohttp.ClientSession) -> None:
    """Until then neither logs nor ledger nor balance know of it."""
    await sim(http, "config", charge_lag=NEVER)
    await sim(http, "keys/sim-key", credits=10_000)
    assert (await post(http, chat()))[0] == 200
    assert (await get(http, "/v2/logs", period="1h"))["data"] == []
    assert (await get(http, "/v2/billing/transactions"))["data"] == []
    assert (await get(http, "/v2/billing"))["current_balance"] == 0.005


async def test_a_key_that_has_spent_its_credits_is_refused_until_it_is_filled(http: aiohttp.ClientSession) -> None:
    """The last call may overspend; the balance is never shown below zero."""
    await sim(http, "keys/sim-key", credits=1)
    assert (await post(http, chat()))[0] == 200
    assert await post(http, chat()) == (403, "You've run out of credits")
    assert (await get(http, "/v2/billing"))["current_balance"] == 0
    await sim(http, "keys/sim-key", credits=2_000_000)
    assert (await get(http, "/v2/billing"))["current_balance"] == 1
    assert (await post(http, chat()))[0] == 200


async def test_keys_may_be_revoked_limited_or_unknown(http: aiohttp.ClientSession) -> None:
    """401, 403, 401; a key that was configured is known when others are not."""
    await sim(http, "keys/sim-key", status="revoked")
    assert (await post(http, chat()))[0] == 401
    await sim(http, "keys/sim-key", status="limited")
    assert await post(http, chat()) == (403, "The spending limit of this key is reached")
    await sim(http, "keys/sim-key", status="active")
    await sim(http, "config", accept_any_key=False)
    assert (await post(http, chat()))[0] == 200
    assert (await post(http, chat(), Authorization="Bearer other"))[0] == 401
    assert (await post(http, chat(), Authorization=""))[0] == 401
    async with http.get("/v2/logs", params={"period": "1h"}, headers={"Authorization": "Bearer other"}) as response:
        assert response.status == 401


async def test_models_may_be_unknown_or_under_maintenance(http: aiohttp.ClientSession) -> None:
    """Any id goes until the simulator is told to be strict."""
    other = {**chat(), "model": "some/model"}
    assert (await post(http, other))[0] == 200
    await sim(http, "config", strict_models=True, maintenance=["openai/gpt-5"])
    assert (await post(http, other))[0] == 404
    assert await post(http, chat()) == (500, "The model is under maintenance")


async def test_requests_and_tokens_a_window_are_limited_per_model(http: aiohttp.ClientSession) -> None:
    """A refusal uses no step of the script, and has the headers that were configured."""
    await sim(http, "config", rpm=1, window_seconds=NEVER, limit_headers={"retry-after": "7"})
    assert (await post(http, chat("400,201")))[0] == 400
    async with http.post(CHAT, json=chat("400,201")) as response:
        assert (response.status, response.headers["retry-after"]) == (429, "7")
    assert (await post(http, {**chat(), "model": "another"}))[0] == 200
    await sim(http, "config", rpm=None)
    assert (await post(http, chat("400,201")))[0] == 201
    await sim(http, "config", tpm=10)
    assert (await post(http, chat()))[0] == 200
    assert (await post(http, chat()))[0] == 429


async def test_capacity_bounds_the_calls_in_flight(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    """The third of two is refused; there is room again when one has ended."""
    await sim(http, "config", capacity=2)
    held = [asyncio.create_task(post(http, chat("hold"))) for _ in range(2)]
    state = simulator.state
    assert state is not None

    async def full() -> bool:
        return state.stats.in_flight == 2

    await eventually_async(full)
    assert (await post(http, chat()))[0] == 429
    await sim(http, "release")
    assert [status for status, _ in await asyncio.gather(*held)] == [200, 200]
    assert (await post(http, chat()))[0] == 200
    stats = await get(http, "/_sim/stats")
    assert (stats["in_flight"], stats["max_in_flight"], stats["statuses"]) == (0, 2, {"429": 1, "200": 3})


async def test_logs_come_in_pages_newest_first_and_only_the_keys_own(http: aiohttp.ClientSession) -> None:
    """With filters by status and model."""
    for number in range(5):
        await post(http, chat("503" if number == 2 else "ok"), X_Client_Request_Id=f"job_{number}.1")
    await post(http, chat(), Authorization="Bearer other")
    page = await get(http, "/v2/logs", period="1h", limit=2, offset=1)
    assert [row["client_request_id"] for row in page["data"]] == ["job_3.1", "job_2.1"]
    assert page["pagination"] == {"limit": 2, "offset": 1, "total": 5, "has_more": True}
    failed = await get(http, "/v2/logs", period="7d", status="failed", model="gpt-5")
    assert [(row["client_request_id"], row["cost"]["usd"]) for row in failed["data"]] == [("job_2.1", 0)]
    assert (await get(http, "/v2/logs", start="2020-01-01T00:00:00Z", end="2020-02-01"))["data"] == []


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"period": "0d"},
        {"period": "1h", "start": "2026-01-01", "end": "2026-01-02"},
        {"start": "2026-01-01"},
        {"start": "2026-01-01", "end": "2026-06-01"},
        {"period": "1h", "limit": "101"},
        {"period": "1h", "offset": "-1"},
        {"period": "1h", "status": "succeeded,failed"},
    ],
)
async def test_logs_refuse_a_bad_query(http: aiohttp.ClientSession, query: dict[str, str]) -> None:
    """400, as the provider documents it."""
    async with http.get("/v2/logs", params=query) as response:
        assert response.status == 400


async def test_logs_are_limited_to_so_many_requests_a_minute(http: aiohttp.ClientSession) -> None:
    """A client that pages through them without pause meets a 429."""
    statuses = []
    for _ in range(201):
        async with http.get("/v2/logs", params={"period": "1h", "limit": 1}) as response:
            statuses.append(response.status)
    assert statuses == [200] * 200 + [429]


async def test_transactions_are_walked_by_cursor(http: aiohttp.ClientSession) -> None:
    """Each charge once, newest first; a cursor that was not issued is refused."""
    for _ in range(5):
        await post(http, chat())
    seen, query = [], {"limit": "2"}
    while True:
        page = await get(http, "/v2/billing/transactions", **query)
        seen += [entry["reference_id"] for entry in page["data"]]
        if not page["pagination"]["has_more"]:
            break
        query["cursor"] = page["pagination"]["next_cursor"]
    rows = (await get(http, "/v2/logs", period="1h"))["data"]
    assert seen == [row["inference_id"] for row in rows]
    assert (await get(http, "/v2/billing/transactions", direction="TOPUP"))["data"] == []
    async with http.get("/v2/billing/transactions", params={"cursor": "x"}) as response:
        assert response.status == 400


async def test_models_have_an_etag_and_sections_on_request(http: aiohttp.ClientSession) -> None:
    """No key is needed; an unchanged catalogue is 304."""
    async with http.get("/v1/models", headers={"Authorization": ""}) as response:
        etag, plain = response.headers["ETag"], (await response.json())["data"]
    async with http.get("/v1/models", headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")
    assert "pricing" not in plain[0]
    priced = await get(http, "/v1/models", include="pricing,unknown", id="gpt-5")
    assert [model["id"] for model in priced["data"]] == ["openai/gpt-5"]
    units = {unit["name"]: unit["price"] / unit["per"] for unit in priced["data"][0]["pricing"]["units"]}
    answer = oracle.expected(chat())
    exact = units["input"] * answer.input_tokens + units["output"] * answer.output_tokens
    assert exact == pytest.approx(answer.credits / 2_000_000, abs=1 / 2_000_000)


async def test_metrics_measure_what_was_answered(http: aiohttp.ClientSession) -> None:
    """The time to the first token only for streams; any other parameter is refused."""
    assert (await get(http, "/models/metrics"))["models"] == []
    await post(http, chat(stream=True))
    (model,) = (await get(http, "/models/metrics", aliases="openai/gpt-5"))["models"]
    assert (model["alias"], model["endpoint"]) == ("openai/gpt-5", CHAT)
    assert set(model["metrics"]) == {"ttft_ms", "tps", "duration_ms"}
    assert set(model["metrics"]["tps"]) == {"p50", "p75", "p90", "p99"}
    async with http.get("/models/metrics", params={"alias": "x"}) as response:
        assert response.status == 400


async def test_the_simulators_own_routes_refuse_what_they_do_not_know(http: aiohttp.ClientSession) -> None:
    """A typing error in a test's set-up must not pass for a setting."""
    assert await sim(http, "config", rpmm=1) == 400
    assert await sim(http, "config", journal="/elsewhere") == 400
    assert await sim(http, "keys/k", status="asleep") == 400
    assert await sim(http, "keys/k", credits="many") == 400
    assert (await get(http, "/_sim/config"))["rpm"] is None


async def test_reset_forgets_attempts_rows_and_keys(http: aiohttp.ClientSession) -> None:
    """The next request starts its script anew."""
    await sim(http, "keys/sim-key", credits=1_000_000)
    assert (await post(http, chat("503,ok")))[0] == 503
    assert await sim(http, "reset") == 200
    assert (await post(http, chat("503,ok")))[0] == 503
    assert len((await get(http, "/v2/logs", period="1h"))["data"]) == 1
    assert (await get(http, "/v2/billing"))["current_balance"] == 1_000_000


async def test_a_reset_leaves_calls_in_flight_alone(simulator: Simulator, http: aiohttp.ClientSession) -> None:
    """They end as they would have, and the capacity that they held is counted right."""
    await sim(http, "config", capacity=1)
    held = asyncio.create_task(post(http, chat("hold")))
    state = simulator.state
    assert state is not None

    async def there() -> bool:
        return state.stats.in_flight == 1

    await eventually_async(there)
    await sim(http, "reset")
    assert state.stats.in_flight == 1
    await sim(http, "release")
    assert (await held)[0] == 200
    assert state.stats.in_flight == 0
    assert (await post(http, chat()))[0] == 200

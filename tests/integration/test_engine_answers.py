"""Answers of the world through a whole worker, on both databases: what the job ends as, what is booked, who waits.

`tests/unit/test_upstream_answers.py` has the many forms; here stands what follows from each kind.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.counted import Counted
from tests.fakes import Place
from tests.rig.waiting import eventually

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
THOUGHT = {
    **USAGE,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
FINE = {
    "id": "c",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
    "usage": USAGE,
}
BILLED = {"x-aimlapi-usd-spent": "0.25"}


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def piece(text: str = "", finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more}


def refusal(message: str, **more: Any) -> bytes:
    return json.dumps({"error": {"message": message, **more}}).encode()


Reply = tuple[int, dict[str, str], bytes]
ANSWERS: dict[str, Reply] = {
    "fine": (200, {}, json.dumps(FINE).encode()),
    "failed-and-billed": (
        200,
        BILLED,
        json.dumps({**FINE, "choices": [{**FINE["choices"][0], "finish_reason": "error"}]}).encode(),  # type: ignore[index]
    ),
    "no-choices-and-billed": (200, BILLED, json.dumps({**FINE, "choices": []}).encode()),
    "error-and-billed": (500, BILLED, json.dumps({"error": {"message": "late"}, "usage": USAGE}).encode()),
    "stream-for-json": (200, {}, sse(piece("fine"), piece(finish="stop"), {"choices": [], "usage": USAGE})),
    "thoughtful-and-odd": (200, {}, sse(piece("fine"), {"choices": [], "usage": THOUGHT}, "[DONE]")),
    "429-in-the-middle": (200, {}, sse(piece("a", usage=USAGE), {"error": {"message": "tpm", "code": 429}})),
    "abort": (200, {}, sse(piece("a"), piece(finish="abort"), {"choices": [], "usage": USAGE})),
    "afford": (402, {}, refusal("This request requires more credits, or fewer max_tokens.")),
    "flagged": (403, {}, refusal("Your input was flagged for violence")),
    "waf": (403, {}, b"<html><title>Attention</title><h1>You have been blocked</h1></html>"),
    "tier": (403, {}, refusal("The model x is not available on your plan")),
    "credits": (402, {}, refusal("Insufficient Balance")),
    "bare": (403, {}, b""),
}


TOKENS = (
    "gen_ai_client_inference_usage_input_tokens",
    "gen_ai_client_inference_usage_cache_read_input_tokens",
    "gen_ai_client_inference_usage_output_tokens",
    "gen_ai_client_inference_usage_reasoning_output_tokens",
)


class World:
    """Answers each POST by the model's name; `changes` replaces an answer while it runs."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.prompts: defaultdict[str, list[str]] = defaultdict(list)
        self.changes: dict[str, str] = {}
        world = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                name = body["model"]
                world.calls[name] += 1
                world.prompts[name].append(body["messages"][-1]["content"])
                status, headers, answer = ANSWERS[world.changes.get(name, name)]
                if body["messages"][-1]["content"] == "doomed":
                    status, headers, answer = ANSWERS["credits"]
                self.send_response(status)
                for key, value in {**headers, "content-length": str(len(answer))}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(answer)

            def do_GET(self) -> None:
                self.send_response(404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Before(Place):
    """A worker before the world."""

    def submit(self, model: str, *, stream: bool = False, prompt: str = "hi", **options: Any) -> str:
        """Insert a job; its id."""
        messages = [{"role": "user", "content": prompt}]
        return self.submit_body({"model": model, "messages": messages, "stream": stream}, **options)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.server.shutdown()
    world.server.server_close()


@pytest.fixture
def place(world: World, database_url: str, redis_url: str) -> Iterator[Before]:
    place = Before(world.url, database_url, redis_url, on_ambiguous="retry")
    place.start()
    yield place
    place.close()


def test_what_each_answer_said_of_cost_and_usage_is_booked_whatever_it_came_to(world: World, place: Before) -> None:
    """On every attempt; a failed one's too."""
    costly = {name: place.submit(name) for name in ("failed-and-billed", "no-choices-and-billed", "error-and-billed")}
    streams = ("429-in-the-middle", "abort")
    broken = {name: place.submit(name, stream=True) for name in streams}
    whole = place.submit("stream-for-json")
    tokens = [Counted(f"{name}_total", gen_ai_request_model="thoughtful-and-odd") for name in TOKENS]
    odd = Counted("stockpot_upstream_oddities_total", what="no_finish_reason")
    thoughtful = place.submit("thoughtful-and-odd", stream=True)
    for name, job in (costly | broken).items():
        ended = place.ended(job)
        assert ended.status == "failed", name
        assert len(ended.attempt_log) == world.calls[name] <= 3, name
        assert ended.attempts == len(ended.attempt_log), "each begun answer has spent its attempt"
        for attempt in ended.attempt_log:
            assert attempt.output_tokens == 3, name
            if name in costly:
                assert float(attempt.cost_usd or 0) == 0.25, name
    good = place.ended(whole)
    assert (good.status, good.text, world.calls["stream-for-json"]) == ("completed", "fine", 1)
    assert place.ended(thoughtful).text == "fine"
    eventually(lambda: ([one() for one in tokens], odd()) == ([7, 5, 3, 2], 1), what="its tokens and its oddity count")


def test_the_bound_of_a_jobs_cost_counts_failed_calls(world: World, place: Before) -> None:
    """After one call of 0.25 another does not fit into 0.3, and is not made."""
    ended = place.ended(place.submit("failed-and-billed", max_cost_usd=0.3))
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.code == "budget_exceeded"
    assert world.calls["failed-and-billed"] == 1


def test_a_refusal_of_one_request_fails_its_job_and_nobody_waits(world: World, place: Before) -> None:
    """Not the key, not the model."""
    refused = {name: place.submit(name) for name in ("afford", "flagged", "waf", "tier")}
    others = [place.submit("fine") for _ in range(5)]
    found = {}
    for name, job in refused.items():
        error = place.ended(job).error
        assert error is not None
        found[name] = error.error_class
        assert world.calls[name] == 1
    assert found == {"afford": "invalid_request", "flagged": "refused", "waf": "refused", "tier": "not_found"}
    assert {place.ended(job).status for job in others} == {"completed"}


@pytest.mark.long
def test_refusals_without_a_reason_pause_the_account_after_several_in_a_row(world: World, place: Before) -> None:
    """The first few fail; the others wait, and go on when the upstream relents."""
    jobs = [place.submit("bare", prompt=f"p{number}") for number in range(30)]
    eventually(lambda: any(place.get(job).waiting_on == "paused" for job in jobs), 60, "the account is paused")
    world.changes["bare"] = "fine"
    status = Counter(place.ended(job).status for job in jobs)
    assert status["completed"] >= 10
    assert status["failed"] >= 4


@pytest.mark.long
def test_a_job_that_is_refused_while_others_pass_ends_and_is_never_the_probe_twice_in_a_row(
    world: World, place: Before
) -> None:
    """Its words speak of the account, and are wrong."""
    doomed = place.submit("fine", prompt="doomed")
    eventually(lambda: place.get(doomed).waiting_on == "paused", 60, "the account is paused")
    others = [place.submit("fine", prompt=f"p{number}") for number in range(5)]
    assert {place.ended(job).status for job in others} == {"completed"}

    def over_while_others_pass() -> bool:
        assert place.ended(place.submit("fine")).status == "completed"
        return place.get(doomed).finished_at is not None

    eventually(over_while_others_pass, 120, "the job has itself to blame")
    error = place.get(doomed).error
    assert error is not None
    assert error.error_class == "refused"

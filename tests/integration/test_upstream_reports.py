"""Answers as public reports have them, over sockets through a whole worker: what each job stores, and what it paid.

Each is asked for as a stream and as one object, on both databases.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from api_schemas.jobs import JobDetail
from tests import reported_cases
from tests.answer_factories import BODY
from tests.fakes import Place
from tests.reported_answers import CHAT, EVENTS, OBJECT, Reported, as_json
from tests.reported_cases import CASES, WAITING
from tests.reported_responses import RESPONSES
from tests.rig.waiting import eventually

TABLES = {"chat": CHAT, "responses": RESPONSES}
RELENTS = Reported(as_json(BODY))
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}


class Wire:
    """Answers each POST with the bytes that its model is named after."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.relents: set[str] = set()  # whose answer is a good one by now
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(caller,), daemon=True).start()

    def _answer(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(ConnectionError), caller.makefile("rb") as reader:
            while (line := reader.readline()) and self._answered(line, reader, caller):
                pass

    def _answered(self, line: bytes, reader: io.BufferedReader, caller: socket.socket) -> bool:
        """Answer one request; return whether there may be another: who closes must say so, or the next call may be lost."""
        size = 0
        while header := reader.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                size = int(value)
        if not line.startswith(b"POST"):
            caller.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        model = json.loads(reader.read(size))["model"]
        self.calls[model] += 1
        table, case, _ = model.split("/")
        if table == "cases" and case not in self.relents:
            caller.sendall(reported_cases.raw(case))
            return True
        caller.sendall(raw(RELENTS if case in self.relents else TABLES[table][case]))
        return False

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()


def raw(answer: Reported) -> bytes:
    """The whole HTTP answer."""
    label = answer.label or (OBJECT if answer.body[:1] in (b"{", b"[") else EVENTS)
    headers = [("Content-Type", label), ("Connection", "close"), *answer.headers]
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {answer.status} X\r\n{head}\r\n".encode() + answer.body


def request(table: str, name: str, *, stream: bool) -> dict[str, Any]:
    """The request that the answer is given to."""
    model = f"{table}/{name}/{'stream' if stream else 'object'}"
    if table == "chat":
        tool: dict[str, Any] = {"type": "function", "function": FUNCTION}
        said: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    else:
        tool, said = {"type": "function", **FUNCTION}, {"input": "hi"}
    return {"model": model, "stream": stream, "tools": [tool], **said}


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def place(wire: Wire, database_url: str, redis_url: str) -> Iterator[Place]:
    """A worker before the wire."""
    place = Place(wire.url, database_url, redis_url, on_ambiguous="retry")
    place.start()
    yield place
    place.close()


@pytest.mark.parametrize("table", TABLES)
def test_a_reported_answer_is_stored_and_paid_as_it_was_meant(wire: Wire, place: Place, table: str) -> None:
    asked = [request(table, name, stream=stream) for name in TABLES[table] for stream in (True, False)]
    differences = []
    for body, job in zip(asked, place.submit_bodies(asked), strict=True):
        name = body["model"].split("/")[1]
        found = different(place.ended(job, 120), TABLES[table][name], wire.calls[body["model"]], table)
        differences += [f"{body['model']}: {each}" for each in found]
    assert differences == []


def test_a_whole_answer_of_a_report_is_stored_and_paid_as_it_was_meant(wire: Wire, place: Place) -> None:
    """The limit and the refused key come last: nothing before them has stopped the key, which the limit's job then uses."""
    asked = {(name, stream): _case(name, stream=stream) for name in CASES for stream in (True, False)}
    ending = {key: body for key, body in asked.items() if key[0] not in WAITING}
    differences = []
    for (name, stream), job in zip(ending, place.submit_bodies(list(ending.values())), strict=True):
        model, ended = ending[name, stream]["model"], place.ended(job, 120)
        # A refusal that names the option we add to a stream is asked for once more without it (and was not paid).
        again = stream and b"stream_options" in reported_cases.raw(name)
        calls = wire.calls[model] - again
        found = reported_cases.differences(name, ended, calls, place.settings.max_attempts)
        differences += [f"{model}: {each}" for each in found]
    assert differences == []
    limit, key = WAITING
    limited = place.submit_bodies([asked[limit, True], asked[limit, False]])
    eventually(lambda: all(wire.calls[asked[limit, stream]["model"]] > 1 for stream in (True, False)), 60, "they wait")
    wire.relents.add(limit)
    assert {(ended.status, ended.attempts) for ended in map(place.ended, limited)} == {("completed", 1)}
    refused = place.submit_bodies([asked[key, True], asked[key, False]])
    eventually(lambda: any(_waits_for_its_key(place.get(job)) for job in refused), 60, "the key is paused")


def _waits_for_its_key(job: JobDetail) -> bool:
    says = [attempt.error_message or "" for attempt in job.attempt_log]
    return job.waiting_on == "paused" and job.attempts == 0 and any("login fail" in each for each in says)


def _case(name: str, *, stream: bool) -> dict[str, Any]:
    return reported_cases.request(name, f"cases/{name}/{'stream' if stream else 'object'}", stream=stream)


def different(job: JobDetail, wanted: Reported, calls: int, table: str) -> list[str]:
    """What a job has that it should not have."""
    usual = "stop" if table == "chat" else "completed"
    ought: dict[str, Any] = {"status": "failed" if wanted.failed else "completed", "calls": wanted.asked}
    found: dict[str, Any] = {"status": job.status, "calls": calls}
    if wanted.failed:
        ought |= {"class": wanted.failed, "says": True}
        message = (job.error.message if job.error else None) or ""
        found |= {"class": job.error and job.error.error_class, "says": wanted.says in message or message}
    else:
        ought |= {"text": wanted.text, "finish": usual if wanted.finish == "" else wanted.finish, "tools": wanted.calls}
        found |= {"text": job.text or "", "finish": job.finish_reason, "tools": called(job)}
    if wanted.counted:
        ought["tokens"] = {(7, 3)}
        found["tokens"] = {(attempt.input_tokens, attempt.output_tokens) for attempt in job.attempt_log}
    if wanted.cost is not None:
        ought["cost"] = {wanted.cost}
        found["cost"] = {float(attempt.cost_usd or 0) for attempt in job.attempt_log}
    return [f"{what}: {found[what]!r}, not {ought[what]!r}" for what in ought if found[what] != ought[what]]


def called(job: JobDetail) -> tuple[tuple[str, str], ...]:
    """The calls of the stored answer."""
    stored: dict[str, Any] = dict(job.response or {})
    if "choices" in stored:
        functions = [one["function"] for one in stored["choices"][0]["message"].get("tool_calls") or []]
    else:
        functions = [item for item in stored["output"] if item["type"] == "function_call"]
    return tuple((one["name"], one["arguments"]) for one in functions)

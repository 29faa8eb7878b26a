"""One call's life in the simulator: read, admit, answer, settle.

    read      the body is read to its end; the journal gets `received` before anything else happens
    admit     key, body, model, balance, limits, maintenance, in the provider's order; then the script's step
    answer    `whole` or `stream` answers as the step describes
    settle    the journal gets `done`, the key its row and charge; exactly once, before the client sees the end

A whole answer whose client has left is generated to its end and billed, as the provider does; a stream whose
client has left ends there and is not. A step that breaks the answer off bills nothing unless it has `billed`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from worker.simulator import catalog
from worker.simulator.chat import Head
from worker.simulator.generation import Generation
from worker.simulator.journal import Done, Outcome, Received
from worker.simulator.keys import Account, Row
from worker.simulator.limits import Limits, Route
from worker.simulator.script import OK, Step
from worker.simulator.state import State, Timing

#: The provider's rule for `X-Client-Request-Id`; what does not fit is dropped without a word.
_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(slots=True)
class Call:
    """One request and all that becomes known of it. Times are from `time.monotonic` unless the name has `at`."""

    state: State
    request: web.Request
    endpoint: str
    raw: bytes
    body: Any
    key: str
    client_request_id: str | None
    number: int
    job: str
    started: float = field(default_factory=time.monotonic)
    inference_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    step: Step = OK
    step_text: str = ""
    attempt: int = 1
    model: str = ""
    account: Account | None = None
    route: Route | None = None
    limits: Limits | None = None
    answer: Generation | None = None
    chunks: int = 0
    first_token: float | None = None
    settled: bool = False
    release: asyncio.Event = field(init=False)

    def __post_init__(self) -> None:
        """Its release is the next one from now on, although it gets to its `hold` some steps later."""
        self.release = self.state.next_release

    @property
    def stream(self) -> bool:
        """Whether the request asks for a stream."""
        return isinstance(self.body, dict) and self.body.get("stream") is True

    @property
    def streamed(self) -> bool:
        """Whether the answer is a stream: as the request asks, unless the step overrides it."""
        if "twolengths" in self.step or "badhead" in self.step:
            return False  # such a head is written by hand, before one object
        return "jsonforstream" not in self.step if self.stream else "streamforjson" in self.step

    @property
    def head(self) -> Head:
        """What identifies the answer."""
        return Head(self.inference_id, int(time.time()), catalog.answered_name(self.model))

    @property
    def headers(self) -> dict[str, str]:
        """The headers that every response carries."""
        headers = {"x-inference-id": self.inference_id, "x-request-id": "req-" + self.inference_id[:16]}
        if self.client_request_id is not None:
            headers["x-client-request-id"] = self.client_request_id
        return headers

    async def think(self) -> None:
        """Wait as long as the answer takes up to its first token: the hold, the delay, the model."""
        if "hold" in self.step:
            await self.release.wait()
        wait = self.step.number("delay") / 1000
        if self.streamed:
            await _sleep(wait)
            return
        config = self.state.config
        tokens = self.answer.output_tokens if self.answer else 0
        per_token = self.step.number("slow", config.token_delay)
        await _sleep(self.started + wait + (config.first_token_delay + per_token * tokens) / 1000 - time.monotonic())

    async def think_before_refusal(self) -> None:
        """Wait for what the step asks for by name; a refusal costs the model no time."""
        if "hold" in self.step:
            await self.release.wait()
        await _sleep(self.step.number("delay") / 1000)

    async def settle(self, status: int, *, outcome: Outcome = "completed", billed: bool = False) -> None:
        """Settle, and wait until the journal is on the disk."""
        self.settle_now(status, outcome=outcome, billed=billed)
        await self.state.journal.durable()

    def settle_now(self, status: int, *, outcome: Outcome = "completed", billed: bool = False) -> None:
        """Note how the call ended, in the journal and in the key's account; a second time does nothing."""
        if self.settled:
            return
        self.settled = True
        billed = (billed or "billed" in self.step) and self.answer is not None
        tokens = (self.answer.input_tokens, self.answer.output_tokens) if self.answer and billed else (0, 0)
        charge = self.answer.credits if self.answer and billed else 0
        now = time.time()
        self.state.journal.write(
            Done(
                self.number, now, status, self.chunks, outcome, *tokens, catalog.usd(charge), billed, self.inference_id
            )
        )
        stats = self.state.stats
        stats.statuses[str(status)] += 1
        stats.outcomes[outcome] += 1
        stats.billed += billed
        self.leave(sum(tokens))
        if self.account is not None:
            self._account_row(self.account, now, billed=billed, tokens=tokens, charge=charge)

    def enter(self, route: Route) -> None:
        """Take a place among the calls in flight."""
        config, stats = self.state.config, self.state.stats
        self.route, self.limits = route, self.state.limits
        self.limits.enter(route, time.monotonic(), counted=config.rpm is not None)
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)

    def leave(self, tokens: int = 0) -> None:
        """Give the place back, once: the call has ended with that many tokens, or its client has gone."""
        if self.route is None or self.limits is None:
            return
        counted = tokens if self.state.config.tpm is not None else 0
        # The limits that it entered, not those that a reset may have put in their place.
        self.limits.leave(self.route, time.monotonic(), tokens=counted)
        self.route = None
        self.state.stats.in_flight -= 1

    def _account_row(self, account: Account, now: float, *, billed: bool, tokens: tuple[int, int], charge: int) -> None:
        landed = now + self.state.config.charge_lag
        row = Row(
            created=now - (time.monotonic() - self.started),
            landed=landed,
            number=self.number,
            model=self.model,
            succeeded=billed,
            credits=charge,
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            request_id="req-" + self.inference_id[:16],
            inference_id=self.inference_id,
            client_request_id=self.client_request_id,
        )
        account.add(row, now)
        if billed:
            took = max(time.monotonic() - self.started, 1e-6)
            first = None if self.first_token is None else (self.first_token - self.started) * 1000
            self.state.timings.append(Timing(now, self.model, self.endpoint, first, took * 1000, tokens[1] / took))

    def received(self) -> Received:
        """The journal's line for the arrival."""
        return Received(
            call=self.number,
            at=time.time(),
            client_request_id=self.client_request_id,
            job=self.job,
            key_tail=self.key[-4:],
            model=self.model,
            endpoint=self.endpoint,
            stream=self.stream,
            body_sha256=hashlib.sha256(self.raw).hexdigest(),
            step=self.step_text,
            attempt=self.attempt,
        )


async def _sleep(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


def arrive(state: State, request: web.Request, endpoint: str, raw: bytes) -> Call:
    """A call from a request that was read to its end; the body is None when it is no JSON."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = _lenient(raw)
    given = request.headers.get("X-Client-Request-Id", "")
    client_request_id = given if _CLIENT_REQUEST_ID.fullmatch(given) else None
    job = client_request_id.rpartition(".")[0] or client_request_id if client_request_id else None
    state.calls += 1
    state.stats.requests += 1
    return Call(
        state,
        request,
        endpoint,
        raw,
        body,
        request.headers.get("Authorization", "").removeprefix("Bearer ").strip(),
        client_request_id,
        state.calls,
        job or hashlib.sha256(raw).hexdigest(),
    )


def _lenient(raw: bytes) -> Any:
    """What Python's own reader takes and orjson refuses (deep nesting, huge integers); None for the rest."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None

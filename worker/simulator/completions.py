"""`POST /v1/chat/completions` and `POST /v1/responses`: who may call, and what answers."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from worker.simulator import catalog, stream, whole
from worker.simulator.call import Call, arrive
from worker.simulator.generation import generate
from worker.simulator.keys import Account
from worker.simulator.refuse import MAINTENANCE, problem, refusal, scripted
from worker.simulator.script import UnknownStep, last_prompt, parse, plain_model, script_of, step_of
from worker.simulator.state import State
from worker.simulator.validate import problem as body_problem


async def complete(state: State, request: web.Request, endpoint: str) -> web.StreamResponse:
    """One call, from its first byte to its row in the books."""
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        return _too_large(state, request)
    call = arrive(state, request, endpoint, raw)
    progress = state.progress(call.job)
    progress.arrived += 1
    call.attempt = progress.arrived
    refused = _admit(call)
    if refused is None:
        call.step_text = call.step.text
        progress.position += 1
        state.stats.steps[call.step.text] += 1
        refused = scripted(call)
    if refused is not None:
        call.answer = None
    state.journal.write(call.received())
    try:
        await state.journal.durable()
        return await _answer(call, refused)
    except asyncio.CancelledError:
        _client_left(call)
        raise
    except ConnectionError:
        _client_left(call)
        return web.Response()  # goes nowhere: the connection is closed
    finally:
        call.leave()


def _too_large(state: State, request: web.Request) -> web.Response:
    """413: the body was not read to its end, so there is nothing to put into the journal."""
    state.stats.requests += 1
    state.stats.statuses["413"] += 1
    body = problem(413, "Request entity too large", path=request.path, request_id="req-0")
    return web.json_response(body, status=413, headers={"Connection": "close"})


def _admit(call: Call) -> web.Response | None:
    """Everything that the provider checks before it generates; None when the call may go on."""
    config = call.state.config
    account = call.state.keys.account(call.key, accept_any=config.accept_any_key) if call.key else None
    model = call.body.get("model") if isinstance(call.body, dict) else None
    call.model = plain_model(model) if isinstance(model, str) else ""
    if account is None:
        return refusal(call, 401)
    wrong = body_problem(call.endpoint, call.body)
    if wrong is not None:
        return refusal(call, 400, f"Body validation error: {wrong}")
    try:
        steps = parse(script_of(model, last_prompt(call.body)) or "ok")
    except UnknownStep as error:
        return refusal(call, 400, f"Body validation error: {error}")
    call.account = account
    refused = _refuse_account(call, account)
    if refused is not None:
        return refused
    call.step = step_of(steps, call.state.progress(call.job).position)
    if "toolcall" in call.step and not call.body.get("tools"):
        return refusal(call, 400, "Body validation error: step 'toolcall' needs tools in the request")
    call.answer = generate(call.body, call.step, config.tokens)
    return None


def _refuse_account(call: Call, account: Account) -> web.Response | None:
    """What the key may not do now: an unknown model, spent credits, a limit; a model under maintenance."""
    config = call.state.config
    if config.strict_models and catalog.find(call.model) is None:
        return refusal(call, 404, f"Model {call.model} not found")
    if account.status == "limited":
        return refusal(call, 403, "The spending limit of this key is reached")
    if account.spent(time.time()):
        return refusal(call, 403)
    limited = _limit(call)
    if limited is not None:
        return limited
    return refusal(call, 500, MAINTENANCE) if call.model in config.maintenance else None


def _limit(call: Call) -> web.Response | None:
    config, limits, now = call.state.config, call.state.limits, time.monotonic()
    route = (call.key, call.model)
    broken = limits.refusal(
        route, now, rpm=config.rpm, tpm=config.tpm, capacity=config.capacity, window=config.window_seconds
    )
    if broken is not None:
        return refusal(call, 429, f"Too Many Requests: the limit of {broken} is reached", config.limit_headers)
    call.enter(route)
    return None


async def _answer(call: Call, refused: web.Response | None) -> web.StreamResponse:
    """Answer as the step describes."""
    step = call.step
    if refused is not None:
        await call.think_before_refusal()
        await call.settle(refused.status)
        return refused
    if "hangup" in step or ("rst" in step and step.parts["rst"] is None):
        return await whole.hang_up(call, rst="rst" in step)
    if "html" in step or "empty" in step or "gzip" in step:
        return await whole.wrong_content(call)
    return await (stream.answer(call) if call.streamed else whole.answer(call))


def _client_left(call: Call) -> None:
    """The client closed the connection. A whole answer is still generated, and billed when it is done."""
    if call.settled:
        return
    if call.streamed or call.answer is None or not call.step.finishes:
        call.settle_now(0 if not call.chunks else 200, outcome="aborted_by_client")
        return
    call.state.continue_alone(_finish_unheard(call))


async def _finish_unheard(call: Call) -> None:
    await call.think()
    await call.settle(200, outcome="aborted_by_client", billed=True)

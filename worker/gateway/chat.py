"""`POST /chat/completions`: whole and streamed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request

from api_schemas.jobs import TERMINAL_STATUSES
from api_schemas.usage import Usage
from worker.base.errors import StockpotError, Unreachable
from worker.gateway import chat_wire, errors, known_fields, waiting
from worker.gateway.answers import Answer, job_headers, json_response
from worker.gateway.auth import Caller
from worker.gateway.bodies import read_json
from worker.gateway.chat_wire import Broken, ChatStream
from worker.gateway.errors import ApiError
from worker.gateway.event_stream import EventStream
from worker.gateway.first import SURE_SECONDS, begun
from worker.gateway.joining import Wanted, accept
from worker.gateway.routing import route
from worker.gateway.state import Gateway
from worker.producer.async_stockpot import AsyncStockpot
from worker.producer.calls import Accepted

#: Fields that the gateway serves itself, and no upstream needs to know.
_OURS = frozenset({"store", "metadata"})


async def create(request: Request, caller: Caller) -> Answer:
    """`POST /chat/completions`."""
    waiting.check_on_disconnect(request)
    hold = waiting.hold_seconds(request)
    sent = await read_json(request)
    known_fields.check(sent, known_fields.CHAT)
    streamed = sent.get("stream") is True
    if sent.get("stream_options") is not None and not streamed:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise ApiError(400, message, param="stream_options", code="invalid_value")
    wanted = Wanted("chat.completion", "/v1/chat/completions", sent, _upstream_body(sent), sent.get("store") is True)
    accepted = await accept(request, caller, wanted)
    if streamed:
        return await _stream(request, caller, accepted, sent, hold)
    job = await waiting.ended(request, caller, accepted.job_id)
    if job.status != "completed":
        raise await waiting.failed(Gateway.of(request).pot(caller.tenant), job)
    whole = chat_wire.completion(
        job.response, completion_id=id_of(accepted.call.hex), created=_created(accepted), model=job.model
    )
    return json_response(whole, headers=job_headers(accepted, job))


def _upstream_body(sent: Mapping[str, Any]) -> dict[str, Any]:
    body = {name: value for name, value in sent.items() if name not in _OURS}
    if sent.get("stream") is True:
        # Usage is always requested for the ledger; the client sees it only if it asked for it.
        options = sent.get("stream_options")
        body["stream_options"] = (options if isinstance(options, dict) else {}) | {"include_usage": True}
    return body


def id_of(digits: str) -> str:
    """A call's id as clients know it."""
    return f"chatcmpl-{digits}"


def _created(accepted: Accepted) -> int:
    return int(accepted.call.created_at.timestamp())


async def _stream(request: Request, caller: Caller, accepted: Accepted, sent: Mapping[str, Any], hold: float) -> Answer:
    gateway = Gateway.of(request)
    pot = gateway.pot(caller.tenant)
    options = sent.get("stream_options")

    def wire() -> ChatStream:
        return ChatStream(
            completion_id=id_of(accepted.call.hex),
            created=_created(accepted),
            model=str(sent["model"]),
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
            first_epoch=accepted.first_epoch,
        )

    return EventStream(
        await begun(_frames(pot, accepted.job_id, wire, hold)),
        send_seconds=gateway.settings.gateway_send_seconds,
        headers=job_headers(accepted),
        closing=gateway.closing,
        farewell=_farewell,
        on_disconnect=lambda: waiting.end_if_asked(request, pot, accepted.job_id),
    )


def _farewell() -> bytes:
    """The end of a connection that is not the end of the answer."""
    stops = ApiError(500, "The gateway stops; repeat the call to get its answer.", code="still_running")
    return chat_wire.frame(stops.body()) + chat_wire.DONE


async def _frames(pot: AsyncStockpot, job_id: str, fresh: Any, hold: float) -> AsyncGenerator[bytes]:
    """The stream; an ApiError before its first frame is the answer of the whole call."""
    stream: ChatStream = fresh()
    clock = asyncio.get_running_loop().time
    early_until = clock() + SURE_SECONDS
    held: list[bytes] = []
    holding_until = clock() + hold
    sent = last = False
    try:
        async with contextlib.aclosing(pot.events(job_id)) as events:
            async for event in events:
                if held and event["type"] == "attempt.reset":
                    held.clear()
                    stream = fresh()
                last = event["type"].removeprefix("job.") in TERMINAL_STATUSES
                out = b"".join(
                    [
                        chat_wire.frame(chunk)
                        for chunk in (
                            [one async for one in _end(pot, job_id, stream, event)] if last else stream.take(event)
                        )
                    ]
                )
                if out:
                    held.append(out)
                if held and (last or clock() >= holding_until):
                    yield b"".join(held)
                    sent = True
                    held.clear()
                    holding_until = 0.0
        # A process that is asked to end ends its readers (worker.producer.shutdown): that is no end of the answer.
        yield chat_wire.DONE if last else _farewell()
    except (Broken, StockpotError, ApiError) as error:
        answer = _as_answer(error)
        if not sent and clock() < early_until:
            raise answer from None
        yield chat_wire.frame(answer.body()) + chat_wire.DONE


async def _end(
    pot: AsyncStockpot, job_id: str, stream: ChatStream, event: Mapping[str, Any]
) -> AsyncGenerator[chat_wire.Chunk]:
    if event["type"] != "job.completed":
        raise await waiting.failed(pot, await pot.get(job_id))
    if stream.needs_answer:
        for chunk in stream.complete((await pot.get(job_id)).response):
            yield chunk
    counted = event.get("usage")
    for chunk in stream.end(Usage(**counted) if isinstance(counted, dict) else None):
        yield chunk


def _as_answer(error: Broken | StockpotError | ApiError) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Unreachable):
        return ApiError(
            503, "A dependency is away; repeat the call to get its answer.", code="still_running", retry_after=1
        )
    if isinstance(error, StockpotError):
        return errors.of(error)
    return ApiError(502, f"{error}; repeat the call to get the new answer.", code="attempt_broken")


ROUTES = [route("/chat/completions", create, "POST")]

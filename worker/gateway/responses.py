"""`/responses`: create whole, streamed, in the background or both; read, follow, cancel, delete, list what went in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from anyio import to_thread
from starlette.requests import Request

from api_schemas.ids import is_job_id
from api_schemas.jobs import TERMINAL_STATUSES, JobDetail
from worker.base.errors import NotAllowed, NotFound, StockpotError, WaitTimeout
from worker.gateway import conversation, response_object, response_wire, waiting
from worker.gateway.answers import Answer, job_headers, json_response
from worker.gateway.auth import Caller
from worker.gateway.bodies import read_json
from worker.gateway.errors import ApiError
from worker.gateway.event_stream import EventStream
from worker.gateway.first import SURE_SECONDS, begun
from worker.gateway.joining import Wanted, accept
from worker.gateway.queries import check_query, flag, number, page
from worker.gateway.response_wire import ResponseStream
from worker.gateway.routing import route
from worker.gateway.state import Gateway
from worker.producer.async_stockpot import AsyncStockpot
from worker.producer.calls import Accepted, Call

#: How long a cancellation may take to reach the worker that makes the call, in seconds; one that is dead never answers.
CANCEL_SECONDS = 10.0


async def create(request: Request, caller: Caller) -> Answer:
    """`POST /responses`."""
    waiting.check_on_disconnect(request)
    sent = await read_json(request)
    conversation.check(sent)
    sent = await conversation.written_out(request, caller, sent)
    body = await conversation.upstream_body(request, caller, sent)
    background, streamed = sent.get("background") is True, sent.get("stream") is True
    stored = sent.get("store") is not False
    accepted = await accept(request, caller, Wanted("response", "/v1/responses", sent, body, stored, background))
    gateway = Gateway.of(request)
    pot = gateway.pot(caller.tenant)
    if streamed:
        frames = Frames(pot, accepted.call, sent, str(sent["model"]), early=not background)
        return await _stream(request, pot, accepted, frames, at_once=background)
    if background:
        job = await pot.get(accepted.job_id)
        return json_response(response_object.of(accepted.call, sent, job), headers=job_headers(accepted))
    job = await waiting.ended(request, caller, accepted.job_id)
    if job.status != "completed":
        raise await waiting.failed(pot, job)
    return json_response(response_object.of(accepted.call, sent, job), headers=job_headers(accepted, job))


async def _stream(request: Request, pot: AsyncStockpot, accepted: Accepted, frames: Frames, *, at_once: bool) -> Answer:
    gateway = Gateway.of(request)
    stream = frames.run()
    return EventStream(
        stream if at_once else await begun(stream),
        send_seconds=gateway.settings.gateway_send_seconds,
        headers=job_headers(accepted),
        closing=gateway.closing,
        farewell=frames.farewell,
        on_disconnect=lambda: waiting.end_if_asked(request, pot, accepted.job_id),
    )


class Frames:
    """The frames of one reader of one response's stream.

    Args:
        after: the number of the last event that the reader has.
        early: what goes wrong before the upstream's first event is raised, to be the answer of the whole call.
    """

    def __init__(
        self,
        pot: AsyncStockpot,
        call: Call,
        sent: Mapping[str, Any],
        model: str,
        *,
        after: int = -1,
        early: bool = False,
    ) -> None:
        self._pot, self._call, self._sent, self._after = pot, call, sent, after
        self._wire = ResponseStream(call, sent, model)
        self._early = early
        self._early_until = 0.0

    def farewell(self) -> bytes:
        """The end of a connection that is not the end of the stream."""
        message = f"The gateway stops; go on with GET /responses/{response_object.response_id(self._call)}?stream=true"
        return response_wire.frame(self._wire.interrupted(f"{message}&starting_after={self._wire.last}"))

    async def run(self) -> AsyncGenerator[bytes]:
        """The frames."""
        clock = asyncio.get_running_loop().time
        self._early_until = clock() + SURE_SECONDS
        held = list(self._wire.begin())
        over = False
        if not self._early:
            if out := self._new(held):
                yield out
            held = []
        try:
            async with contextlib.aclosing(self._pot.events(self._call.job_id)) as events:
                async for event in events:
                    self._early = self._early and clock() < self._early_until
                    over = event["type"].removeprefix("job.") in TERMINAL_STATUSES
                    if over:
                        held += await self._end()
                    else:
                        held += self._wire.take(event)
                        if self._early and event["type"] != "chunk":
                            continue
                    self._early = False
                    if out := self._new(held):
                        yield out
                    held = []
            if not over:  # a process that is asked to end ends its readers (worker.producer.shutdown)
                yield self.farewell()
        except StockpotError:
            if self._early and clock() < self._early_until:
                raise
            yield self.farewell()

    def _new(self, events: list[response_wire.Event]) -> bytes:
        return b"".join(response_wire.frame(event) for event in events if event["sequence_number"] > self._after)

    async def _end(self) -> list[response_wire.Event]:
        job = await self._pot.get(self._call.job_id)
        if self._early and job.status != "completed":
            raise await waiting.failed(self._pot, job)
        whole = response_object.of(self._call, self._sent, job)
        return list(self._wire.finish(whole, calls=len(job.attempt_log)))


async def _found(request: Request, caller: Caller) -> tuple[Call, JobDetail, dict[str, Any]]:
    """The call of the path, its job, and the request as it was sent."""
    call = await find(request, caller, request.path_params["response_id"])
    job, body = await to_thread.run_sync(Gateway.of(request).pot(caller.tenant).blocking.calls.whole, call)
    return call, job, call.request(body or {})


async def find(request: Request, caller: Caller, response_id: str) -> Call:
    """The call of a response id. Raises ApiError 404."""
    job_id = "job_" + response_id.removeprefix("resp_")
    if response_id.startswith("resp_") and is_job_id(job_id):
        calls = Gateway.of(request).pot(caller.tenant).blocking
        with contextlib.suppress(NotFound):
            call, _ = await to_thread.run_sync(lambda: calls.calls.get(job_id, "response"))
            return call
    raise ApiError(404, f"Response with id '{response_id[:128]}' not found.", flat=request.method != "GET")


async def retrieve(request: Request, caller: Caller) -> Answer:
    """`GET /responses/{id}`: the object, or with `stream=true` its events."""
    call, job, sent = await _found(request, caller)
    if not flag(request, "stream"):
        if "starting_after" in request.query_params:
            message = "'starting_after' is only allowed with 'stream=true'."
            raise ApiError(400, message, param="starting_after", code="invalid_value")
        return json_response(
            response_object.of(call, sent, job), headers=job_headers(Accepted(job.id, created=True, call=call), job)
        )
    if sent.get("stream") is not True:
        message = "This response was not created with 'stream=true', so it cannot be streamed."
        raise ApiError(400, message, param="stream", code="invalid_value")
    after = number(request, "starting_after", least=0)
    pot = Gateway.of(request).pot(caller.tenant)
    frames = Frames(pot, call, sent, job.model, after=-1 if after is None else after)
    return await _stream(request, pot, Accepted(job.id, created=True, call=call), frames, at_once=True)


async def cancel(request: Request, caller: Caller) -> Answer:
    """`POST /responses/{id}/cancel`: a background one that runs; one that is over is left as it is."""
    call, job, sent = await _found(request, caller)
    if not call.background:
        raise ApiError(400, "Cannot cancel a synchronous response.", code="invalid_value")
    pot = Gateway.of(request).pot(caller.tenant)
    if job.finished_at is None:
        with contextlib.suppress(NotAllowed):  # it has ended meanwhile
            await pot.cancel(job.id)
            with contextlib.suppress(WaitTimeout):
                await pot.wait(job.id, CANCEL_SECONDS)
        job = await pot.get(job.id)
    whole = response_object.of(call, sent, job)
    if job.finished_at is None:
        whole["status"] = "cancelled"  # its worker is dead or frozen; nothing of it counts any more
    return json_response(whole)


async def delete(request: Request, caller: Caller) -> Answer:
    """`DELETE /responses/{id}`; one that runs is cancelled."""
    response_id = request.path_params["response_id"]
    call = await find(request, caller, response_id)
    pot = Gateway.of(request).pot(caller.tenant)
    with contextlib.suppress(NotAllowed):
        await pot.cancel(call.job_id)
        with contextlib.suppress(WaitTimeout):
            await pot.wait(call.job_id, CANCEL_SECONDS)
    await to_thread.run_sync(lambda: pot.blocking.calls.delete(call.job_id, "response"))
    return json_response({"id": response_id, "object": "response", "deleted": True})


async def input_items(request: Request, caller: Caller) -> Answer:
    """`GET /responses/{id}/input_items`."""
    check_query(request, "after", "limit", "order", "include[]")
    call = await find(request, caller, request.path_params["response_id"])
    _, body = await to_thread.run_sync(Gateway.of(request).pot(caller.tenant).blocking.calls.whole, call)
    items = conversation.input_items(call, (body or {}).get("input"))
    return page(request, items, default_order="desc", limit=20, most=100)


ROUTES = [
    route("/responses", create, "POST"),
    route("/responses/{response_id}", retrieve),
    route("/responses/{response_id}", delete, "DELETE"),
    route("/responses/{response_id}/cancel", cancel, "POST"),
    route("/responses/{response_id}/input_items", input_items),
]

"""An answer in one piece: the JSON body, with what the step breaks."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

from aiohttp import web

from worker.simulator import catalog, chat, faults, oddities, responses
from worker.simulator.call import Call
from worker.simulator.frames import dumps, hurt, spoil
from worker.simulator.refuse import openai_error
from worker.simulator.script import Step

_HTML = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body><h1>It works</h1></body></html>"
#: Steps that break an answer in one piece off in its middle.
_BREAKS = ("cut", "end", "rst", "stall")


async def answer(call: Call) -> web.StreamResponse:
    """Send the whole answer, or as much of it as the step leaves."""
    await call.think()
    step = call.step
    body = hurt(dumps(oddities.bend_body(make_body(call), step)), step)
    if "badutf8" in step:
        body = spoil(body)
    if "bom" in step:
        body = b"\xef\xbb\xbf" + body
    headers = answer_headers(call)
    if "rst@headers" in step or "silent" in step:
        return await _headers_only(call, headers, len(body))
    fault = next((name for name in _BREAKS if name in step), None)
    if fault is not None:
        return await _half(call, fault, headers, body)
    if "pings" in step or "endless" in step or "bigline" in step or "onebyte" in step:
        return await _in_pieces(call, headers, body)
    if "error" in step or "errorevent" in step:
        body = dumps(openai_error(step.count("code", 500), "The server had an error"))
    if "zip" in step:
        body = gzip.compress(body)
        headers["Content-Encoding"] = "gzip"
    good = step.finishes
    if "twolengths" in step or "badhead" in step:
        await call.settle(200, billed=True)
        faults.write_by_hand(call.request, odd_head(headers, len(body), step) + body)
        return web.Response()
    status = 201 if "status201" in step else 200
    await call.settle(status, outcome="completed" if good else "cut", billed=good)
    return web.Response(status=status, body=body, headers=headers)


def make_body(call: Call) -> dict[str, Any]:
    """The answer's body before any step touched its bytes."""
    if call.answer is None:
        return {}
    if call.endpoint.endswith("chat/completions"):
        return chat.body(call.answer, call.head, call.step)
    return responses.body(call.answer, call.head, call.step, call.body)


def answer_headers(call: Call) -> dict[str, str]:
    """The headers of a whole answer, with its charge where it is billed."""
    kind = "text/plain" if "wrongtype" in call.step else "application/json"
    headers = {**call.headers, "Content-Type": kind + "; charset=utf-8", **faults.odd_headers(call.step)}
    billed = call.step.finishes or "billed" in call.step
    if call.answer is not None and billed and "nocost" not in call.step:
        headers["x-aimlapi-credits-used"] = str(call.answer.credits)
        headers["x-aimlapi-usd-spent"] = format(catalog.usd(call.answer.credits), "f")
    return headers


def odd_head(headers: dict[str, str], length: int, step: Step) -> bytes:
    """A head that no library would write: its length twice, or a line that is no header."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {length}"] * (2 if "twolengths" in step else 1)
    lines += ["this is no header"] if "badhead" in step else []
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "Connection: close", "", ""]).encode()


async def _headers_only(call: Call, headers: dict[str, str], length: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={**headers, "Content-Length": str(length)})
    await response.prepare(call.request)
    if "silent" in call.step:
        await faults.wait_for_goodbye()
    await call.settle(200, outcome="cut")
    await asyncio.sleep(0)
    faults.reset(call.request)
    return response


async def _half(call: Call, fault: str, headers: dict[str, str], body: bytes) -> web.StreamResponse:
    """Half of the body. `end` closes a chunked body in good order; the others had announced the whole length."""
    length = {} if fault == "end" else {"Content-Length": str(len(body))}
    if fault == "rst" and call.step.parts["rst"] is None:
        return await hang_up(call, rst=True)
    response = web.StreamResponse(headers={**headers, **length})
    await response.prepare(call.request)
    await response.write(body[: len(body) // 2])
    if fault == "stall":
        await faults.wait_for_goodbye()
    await call.settle(200, outcome="cut")
    if fault == "end":
        await response.write_eof()
    elif fault == "cut":
        faults.close(call.request)
    else:
        await asyncio.sleep(0)
        faults.reset(call.request)
    return response


async def _in_pieces(call: Call, headers: dict[str, str], body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers)
    await response.prepare(call.request)
    step = call.step
    while "pings" in step:
        await response.write(b"\n")
        await asyncio.sleep(step.number("pings", 100) / 1000)
    if "endless" in step or "bigline" in step:
        await response.write(b'{"sim_big":"')
        size = 1 << 62 if "endless" in step else step.count("bigline", 100_000_000)
        async for piece in faults.filler(size):
            await response.write(piece)
            await asyncio.sleep(0)
        await response.write(b'",')
        body = body[1:]
    pieces = [body[at : at + 1] for at in range(len(body))] if "onebyte" in step else [body]
    await call.settle(200, billed=True)
    for piece in pieces:
        await response.write(piece)
        await asyncio.sleep(0)
    await response.write_eof()
    return response


async def hang_up(call: Call, *, rst: bool) -> web.StreamResponse:
    """End the connection without a byte."""
    await call.think()
    await call.settle(0, outcome="cut")
    if rst:
        faults.reset(call.request)
    else:
        faults.close(call.request)
    return web.Response()


async def wrong_content(call: Call) -> web.StreamResponse:
    """A 200 that is no answer: HTML, nothing, or a compressed bomb."""
    step = call.step
    await call.think()
    if "gzip" in step:
        prefix, suffix = b'{"id":"chatcmpl-bomb","sim_big":"', b'"}'
        if call.stream:
            prefix, suffix = b"data: " + prefix, suffix + b"\n\n"
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(None, faults.bomb, max(1, step.count("gzip", 100)), prefix, suffix)
        kind = "text/event-stream" if call.stream else "application/json"
        headers = {**call.headers, "Content-Encoding": "gzip", "Content-Type": kind}
        await call.settle(200, outcome="cut")
        return web.Response(body=body, headers=headers)
    await call.settle(200, outcome="cut")
    if "html" in step:
        return web.Response(body=_HTML, headers={**call.headers, "Content-Type": "text/html; charset=utf-8"})
    kind = "text/event-stream" if call.stream else "application/json"
    return web.Response(body=b"", headers={**call.headers, "Content-Type": kind})

"""A streamed answer: the frames of a generation, one by one, with what the step breaks.

`@N` counts the frames that carry tokens: `cut@3` is a cut after the third token, `cut@0` one before the first.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import zlib
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from worker.simulator import chat, faults, oddities, responses
from worker.simulator.call import Call
from worker.simulator.frames import Frame, dumps, encode, end_of_line, hurt, spoil
from worker.simulator.refuse import openai_error

#: Steps that end a stream after a number of tokens.
_BREAKS = ("cut", "end", "rst", "stall", "error", "errorevent")
#: Without a delay between tokens the loop still has to serve the other connections.
_TOKENS_PER_TURN = 32


class Stream:
    """The writing of one stream."""

    def __init__(self, call: Call) -> None:
        self.call = call
        status = 201 if "status201" in call.step else 200
        kind = "text/plain" if "wrongtype" in call.step else "text/event-stream"
        headers = {**call.headers, "Content-Type": kind + "; charset=utf-8", "Cache-Control": "no-cache"}
        headers |= faults.odd_headers(call.step)
        self.response = web.StreamResponse(status=status, headers=headers)
        self._zip = zlib.compressobj(wbits=31) if "zip" in call.step else None
        if self._zip is not None:
            self.response.headers["Content-Encoding"] = "gzip"
        config = call.state.config
        self.first_delay = config.first_token_delay / 1000
        self.token_delay = call.step.number("slow", config.token_delay) / 1000

    async def begin(self) -> None:
        """Send the headers."""
        await self.response.prepare(self.call.request)
        if "bom" in self.call.step:
            await self.response.write(b"\xef\xbb\xbf")

    async def send(self, frame: Frame) -> None:
        """Send one frame; a token waits for its time first."""
        call = self.call
        if frame.kind == "token":
            await self._pace()
            if "badutf8" in call.step and call.chunks == call.step.count("badutf8"):
                frame = Frame("token", spoil(frame.data), frame.event)
        await self.write(encode(frame, call.step))
        if frame.kind == "token":
            call.chunks += 1

    async def _pace(self) -> None:
        call = self.call
        delay = self.token_delay if call.chunks else self.first_delay
        if delay:
            await asyncio.sleep(delay)
        elif call.chunks % _TOKENS_PER_TURN == _TOKENS_PER_TURN - 1:
            await asyncio.sleep(0)
        if not call.chunks:
            call.first_token = time.monotonic()

    async def write(self, data: bytes) -> None:
        """Write bytes, one at a time or compressed when the step asks for it."""
        if self._zip is not None:
            data = self._zip.compress(data) + self._zip.flush(zlib.Z_SYNC_FLUSH)
        if "onebyte" not in self.call.step:
            await self.response.write(data)
            return
        for byte in data:
            await self.response.write(bytes([byte]))
            await asyncio.sleep(0)

    async def end(self) -> web.StreamResponse:
        """Finish the chunked body; with `keepopen` only when the client has left."""
        if "keepopen" in self.call.step:
            await faults.wait_for_goodbye()
        if self._zip is not None:
            await self.response.write(self._zip.flush())
        await self.response.write_eof()
        return self.response


async def answer(call: Call) -> web.StreamResponse:
    """Stream the answer to its end, or to where the step breaks it."""
    await call.think()
    stream = Stream(call)
    await stream.begin()
    if "rst@headers" in call.step:
        return await _break(stream, "rst")
    if "silent" in call.step:
        await faults.wait_for_goodbye()
    if "pings" in call.step:
        await _ping(stream)
    frames = _frames(call)
    fault = next((name for name in _BREAKS if name in call.step), None)
    if fault is not None:
        for frame in frames[: _place(frames, call.step.count(fault))]:
            await stream.send(frame)
        return await _break(stream, fault)
    if "endless" in call.step:
        await _endless(stream, frames)
    if "bigline" in call.step:
        await _big_line(stream, frames[0])
        frames = frames[1:]
    return await _to_the_end(stream, frames)


async def _to_the_end(stream: Stream, frames: Sequence[Frame]) -> web.StreamResponse:
    call = stream.call
    *most, last = frames
    for frame in most:
        await stream.send(frame)
    # Before the last frame, so that a client that has seen the end finds the call in the journal.
    good = call.step.finishes
    await call.settle(stream.response.status, outcome="completed" if good else "cut", billed=good)
    await stream.send(last)
    return await stream.end()


def _frames(call: Call) -> list[Frame]:
    if call.answer is None:
        return []
    make = chat.frames if call.endpoint.endswith("chat/completions") else responses.frames
    frames = oddities.bend(make(call.answer, call.head, call.step, call.body), call.step)
    if frames and frames[0].data != b"[DONE]":
        frames[0] = Frame(frames[0].kind, hurt(frames[0].data, call.step), frames[0].event)
    return frames


def _place(frames: Sequence[Frame], tokens: int) -> int:
    """How many frames there are up to a number of tokens; all tokens when there are fewer."""
    places = [index for index, frame in enumerate(frames) if frame.kind == "token"]
    if not places:
        return len(list(itertools.takewhile(lambda frame: frame.kind == "open", frames)))
    if tokens == 0:
        return places[0]
    return places[min(tokens, len(places)) - 1] + 1


async def _break(stream: Stream, fault: str) -> web.StreamResponse:
    """End the stream in the fault's way."""
    call = stream.call
    if fault == "stall":
        await faults.wait_for_goodbye()
    if fault == "error":
        end = 2 * end_of_line(call.step)
        if "errorfield" in call.step:
            await stream.write(b"error: " + dumps(_error(call)["error"]) + end + b"data: [DONE]" + end)
        else:
            await stream.write((b"" if "rawerror" in call.step else b"data: ") + dumps(_error(call)) + end)
    if fault == "errorevent":
        await stream.send(_error_event(call))
    await call.settle(stream.response.status, outcome="cut")
    if fault == "cut":
        faults.close(call.request)
    elif fault == "rst":
        # Give what was written a turn to leave: RST throws away what waits.
        await asyncio.sleep(0)
        faults.reset(call.request)
    else:
        return await stream.end()
    return stream.response


def _error(call: Call) -> dict[str, Any]:
    return openai_error(call.step.count("code", 500), "The server had an error")


def _error_event(call: Call) -> Frame:
    error = _error(call)["error"]
    return Frame("finish", dumps({"type": "error", "error": error, "sequence_number": call.chunks}), "error")


async def _ping(stream: Stream) -> None:
    pause = stream.call.step.number("pings", 100) / 1000
    while True:
        await stream.write(b": ping" + 2 * end_of_line(stream.call.step))
        await asyncio.sleep(pause)


async def _endless(stream: Stream, frames: Sequence[Frame]) -> None:
    """Tokens until the client leaves."""
    tokens = [frame for frame in frames if frame.kind == "token"]
    for frame in frames[: _place(frames, 0)]:
        await stream.send(frame)
    for frame in itertools.cycle(tokens):
        await stream.send(frame)


async def _big_line(stream: Stream, first: Frame) -> None:
    """The first event with one huge member, written in pieces: a client without a limit can read it."""
    step = stream.call.step
    small = encode(Frame(first.kind, first.data[:-1] + b',"sim_big":"', first.event), step)
    end = 2 * end_of_line(step)
    await stream.write(small.removesuffix(end))
    async for piece in faults.filler(step.count("bigline", 100_000_000)):
        await stream.response.write(piece)
    await stream.write(b'"}' + end)

"""Reading a streamed answer: bytes in, an outcome at the end. Knows no socket; the client feeds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from api_schemas import jsontext
from api_schemas.usage import Usage
from worker.upstream.accumulate import Accumulator, StreamBroken
from worker.upstream.accumulate_chat import ChatAccumulator
from worker.upstream.accumulate_responses import ResponsesAccumulator
from worker.upstream.call import RESPONSES, Call, ChunkSink, Progress, choices_asked
from worker.upstream.classify import classify_in_answer
from worker.upstream.cost import cost_from_meta
from worker.upstream.outcome import Answer, Failure, Kind, Outcome
from worker.upstream.sse import MAX_EVENT_BYTES, EventParser, EventTooLarge, ServerSentEvent

_DONE = b"[DONE]"


def accumulator_for(endpoint: str) -> Accumulator:
    """The accumulator of an endpoint's events."""
    return ResponsesAccumulator() if endpoint == RESPONSES else ChatAccumulator()


class StreamReading:
    """One streamed answer. Feed `take` until it says that nothing more is wanted, then ask for the `outcome`."""

    __slots__ = (
        "_broken",
        "_call",
        "_elapsed",
        "_meta",
        "_on_chunk",
        "_parser",
        "_progress",
        "_room",
        "_sum",
        "_usage",
        "done",
    )

    def __init__(
        self, call: Call, progress: Progress, on_chunk: ChunkSink | None, elapsed: Callable[[], float], max_bytes: int
    ) -> None:
        self.done = False  # [DONE] came: only stragglers can follow
        self._call = call
        self._progress = progress
        self._on_chunk = on_chunk
        self._elapsed = elapsed
        self._room = max_bytes
        # A line may be as long as an event here: the last event of a response holds the whole of it in one line.
        self._parser = EventParser(max_line=MAX_EVENT_BYTES)
        self._sum = accumulator_for(call.endpoint)
        self._usage: dict[str, Any] | None = None
        self._meta: dict[str, Any] | None = None
        self._broken: Failure | None = None

    def take(self, data: bytes) -> bool:
        """Take the next bytes; return whether a real event was among them (comments are none)."""
        self._room -= len(data)
        try:
            if self._room < 0:
                raise EventTooLarge("the answer is larger than allowed")
            events = self._parser.feed(data)
        except EventTooLarge as error:
            self._broken = Failure(Kind.TERMINAL, "too_large", "response_too_large", str(error))
            return False
        return self._take_events(events)

    @property
    def broken(self) -> bool:
        """Whether the stream has failed, so that reading on is of no use."""
        return self._broken is not None

    def end(self) -> None:
        """The upstream closed the stream in good order: take an event that lacks its blank line."""
        if not self.broken:
            self._take_events(self._parser.close())

    def outcome(self, cut: Failure | None = None) -> Outcome:
        """What the stream came to. `cut` says why reading stopped when it was not the stream's own end.

        A whole answer stays one even when the connection broke behind it: asking again would pay again.
        """
        asked = choices_asked(self._call)
        if self._broken is not None:
            return self._failed(self._broken)
        if self._sum.finished and (cut is None or self.done or self._sum.choices >= asked):
            return self._answer(cut is not None, asked)
        if cut is not None:
            return self._failed(cut)
        if not self._progress.events:
            message = "the upstream answered with an empty stream"
            return self._failed(Failure(Kind.RETRYABLE, "upstream", "wrong_content", message))
        message = "the stream ended before the answer did: no finish reason came"
        return self._failed(Failure(Kind.PARTIAL, "truncated", "no_finish_reason", message))

    def _take_events(self, events: list[ServerSentEvent]) -> bool:
        progress, add, sink = self._progress, self._sum.add, self._on_chunk
        seen = False
        for name, data in events:
            if data.startswith(_DONE):
                self.done = seen = True
                continue
            if not data or data.isspace():  # a keep-alive in the shape of an event
                continue
            seen = True
            try:
                text = add(name, data)
            except (StreamBroken, RecursionError) as error:
                if self.done:  # the answer was whole; what follows [DONE] cannot spoil it
                    continue
                self._take_money()
                self._broken = self._explain(error)
                return True
            progress.events += 1
            if text:
                if progress.first_token_after is None:
                    progress.first_token_after = self._elapsed()
                progress.parts.append(text)
            if self._sum.usage is not self._usage or self._sum.meta is not None:
                self._take_money()
            if sink is not None:
                sink(self._sum.mended or data, text)
        return seen

    def _explain(self, error: StreamBroken | RecursionError) -> Failure:
        if isinstance(error, RecursionError):
            return Failure(Kind.PARTIAL, "upstream", "invalid_event", "an event is nested too deeply to add up")
        if error.error is None:
            return Failure(Kind.PARTIAL, "upstream", "invalid_event", str(error))
        return classify_in_answer(error.error, began=self._progress.events > 0, key=self._call.key)

    def _take_money(self) -> None:
        if self._sum.usage is not self._usage:
            self._usage = self._sum.usage
            self._progress.usage = Usage.read(self._usage)
        cost = cost_from_meta(self._sum.meta)
        if cost is not None:
            self._progress.cost_usd = cost

    def _failed(self, failure: Failure) -> Failure:
        progress = self._progress
        return replace(failure, partial_text=progress.text, usage=progress.usage, cost_usd=progress.cost_usd)

    def _answer(self, cut: bool, asked: int) -> Outcome:
        response = self._sum.response()
        try:
            body = jsontext.dumps(response)
        except ValueError as error:
            return self._failed(
                Failure(Kind.RETRYABLE, "upstream", "wrong_content", f"the answer cannot be kept: {error}")
            )
        chat = self._call.endpoint != RESPONSES
        flags = {
            "no_done": chat and not self.done,
            "cut": cut and not self.done,
            "choices_missing": self._sum.choices < asked,
        }
        progress = self._progress
        provider_id, model = response.get("id"), response.get("model")
        return Answer(
            status=progress.status or 200,
            body=body,
            text=self._sum.text,
            finish_reason=self._sum.finish_reason,
            usage=progress.usage,
            cost_usd=progress.cost_usd,
            provider_id=provider_id if isinstance(provider_id, str) else None,
            model=model if isinstance(model, str) else None,
            inference_id=progress.inference_id,
            request_id=progress.request_id,
            flags=frozenset(name for name, true in flags.items() if true),
        )

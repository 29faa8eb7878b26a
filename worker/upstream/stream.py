"""Reading an answer that came as events: bytes in, an outcome at the end. Knows no socket; the client feeds it.

    WAITING ── the first event ──▶ RUNNING ── a finish reason ──▶ FINISHED ── usage or [DONE] ──▶ ENDING
    RUNNING ── an error, a cut event ──▶ ENDING         any ── more bytes than allowed ──▶ FULL

Once the answer is whole it is an answer: what follows is counted and ignored. Once it has failed, only what it states of
usage and cost is still taken. In either case the connection is not waited for much longer. What cannot be a piece of an
answer (`ping`, a time, `""`) is counted and skipped; half a JSON text breaks the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum

from api_schemas import jsontext
from api_schemas.text import storable
from api_schemas.upstream_errors import is_error
from api_schemas.usage import Usage
from worker.upstream.accumulate import OtherEndpoint, StreamBroken
from worker.upstream.call import Call, ChunkSink, Progress, choices_asked
from worker.upstream.classify import classify_in_answer
from worker.upstream.cost import cost_from_meta, cost_from_usage
from worker.upstream.endpoints import ENDPOINTS
from worker.upstream.ends import cut_off, is_answer
from worker.upstream.finish_reasons import failure_words
from worker.upstream.outcome import Answer, Failure, Kind, Outcome
from worker.upstream.received import unpacked
from worker.upstream.sse import EventParser, EventTooLarge, ServerSentEvent

#: Characters kept of a text that is no event, for the message of a stream that held nothing else.
_KEPT_WORDS = 300


class Stage(IntEnum):
    """How far a stream has come."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2  # whole, but usage may follow
    ENDING = 3  # nothing is missing, or it has failed
    FULL = 4  # nothing more is read


#: Looked at for each event; an enum looks its members up in Python (3.11).
_WAITING, _FINISHED = Stage.WAITING, Stage.FINISHED


class StreamReading:
    """One streamed answer. Feed `take`, look at `stage` when it returns True, then ask for the `outcome`."""

    __slots__ = (
        "_asked",
        "_broken",
        "_call",
        "_done",
        "_elapsed",
        "_endpoint",
        "_goes_on",
        "_header_cost",
        "_money",
        "_on_chunk",
        "_parser",
        "_progress",
        "_room",
        "_stopped",
        "_sum",
        "_words",
        "stage",
    )

    def __init__(
        self, call: Call, progress: Progress, on_chunk: ChunkSink | None, elapsed: Callable[[], float], max_bytes: int
    ) -> None:
        self.stage = Stage.WAITING
        self._call = call
        self._progress = progress
        self._on_chunk = on_chunk
        self._elapsed = elapsed
        self._room = max_bytes
        self._asked = choices_asked(call)
        self._parser = EventParser(max_bytes)
        self._endpoint = ENDPOINTS[call.endpoint]
        self._sum = self._endpoint.accumulator(self._asked)
        self._done = False  # the server sent its end marker
        self._stopped = False  # the last that came were words of an error
        self._goes_on = False  # more came behind a finish reason: it stands in each chunk and means nothing
        self._header_cost = progress.cost_usd
        self._money = 0
        self._broken: Failure | None = None
        self._words = ""

    def take(self, data: bytes) -> bool:
        """Take the next bytes; return whether `stage` has changed."""
        before = self.stage
        self._room -= len(data)
        try:
            if self._room < 0:
                raise EventTooLarge("the answer is larger than allowed")
            events = self._parser.feed(data)
        except EventTooLarge as error:
            if not self._is_whole:
                self._broken = Failure(Kind.TERMINAL, "too_large", "response_too_large", str(error))
            self.stage = Stage.FULL
            return True
        self._take_events(events)
        return self.stage is not before

    def end(self) -> None:
        """The upstream closed the stream in good order: take an event that lacks its blank line."""
        if self.stage is not Stage.FULL:
            self._take_events(self._parser.close())

    def outcome(self, cut: Failure | None = None) -> Outcome:
        """The outcome of the stream. `cut` is the reason why reading stopped before the stream's own end.

        A whole answer stays one even when the connection broke behind it: asking again would pay again.
        """
        if self._broken is not None:
            return self._failed(self._broken)
        polite = cut is None or self._done
        stated = self._sum.finished and (polite or (self._is_whole and not self._goes_on))
        if stated and self._sum.failure is not None:
            return self._failed(self._ended_badly())
        if cut is not None and not self._done and not stated:
            return self._failed(cut)
        ended = stated or ((self._done or self._sum.complete) and not self._stopped)
        if ended and is_answer(self._progress, stated=stated, gives=self._sum.gives):
            return self._answer(cut is not None)
        if not self._progress.events:
            message = self._words or "the upstream answered with an empty stream"
            return self._failed(Failure(Kind.RETRYABLE, "upstream", "wrong_content", message))
        return self._failed(cut_off(self._words))

    @property
    def _is_whole(self) -> bool:
        """Whether all that was asked for has its end."""
        return self._sum.finished and self._sum.choices >= self._asked

    def _take_events(self, events: list[ServerSentEvent]) -> None:
        progress, whole, sink = self._progress, self._sum, self._on_chunk
        for name, data in events:
            if not data.startswith(b"{") and self._is_stray(data, name):
                continue
            if self.stage >= _FINISHED:
                self._take_rest(name, data)
                continue
            try:
                text = whole.add(name, data)
            except (StreamBroken, RecursionError) as error:
                if self._take_inside(name, data, error):
                    continue
                self._take_money()
                self._broken = self._explain(error)
                self.stage = Stage.ENDING
                continue
            progress.events += 1
            if text:
                self._stopped = False
                if progress.first_token_after is None:
                    progress.first_token_after = self._elapsed()
                progress.parts.append(text)
            if whole.money != self._money:
                self._take_money()
            if self.stage is _WAITING:
                self.stage = Stage.RUNNING
            if whole.finished:
                self.stage = self._stage_of_end()
            if sink is not None and whole.failure is None:
                sink(whole.mended or data, text)

    def _take_rest(self, name: str | None, data: bytes) -> None:
        """Take what follows a whole answer, or a failure: usage and cost count, and more of an answer that went on."""
        progress, before = self._progress, self._sum.unseen
        try:
            text = self._sum.add(name, data)
        except (StreamBroken, RecursionError) as error:
            if self._take_inside(name, data, error):
                return
            self._take_money()
            self._odd("after_end")
            return
        self._take_money()
        if self._broken is not None:
            return
        progress.events += 1
        self.stage = self._stage_of_end()
        if text:
            progress.parts.append(text)
        if (text or self._sum.unseen > before) and not self._done:
            self._goes_on, self.stage = True, Stage.RUNNING
        if self._on_chunk is not None and self._sum.failure is None:
            self._on_chunk(self._sum.mended or data, text)

    def _take_inside(self, name: str | None, data: bytes, error: StreamBroken | RecursionError) -> bool:
        """Take the events that stand within one that cannot be read as it is; return whether there are any."""
        if not isinstance(error, StreamBroken) or isinstance(error, OtherEndpoint) or error.error is not None:
            return False
        inside = unpacked(data)
        self._take_events([ServerSentEvent(name, one) for one in inside])
        return bool(inside)

    def _stage_of_end(self) -> Stage:
        """What is missing of an answer that has its finish reason."""
        if self._done:
            return Stage.ENDING
        if not self._is_whole or self._goes_on or self._sum.only_thought:
            return Stage.RUNNING
        counted = self._progress.usage is not None and self._progress.usage.output_tokens > 0
        return Stage.ENDING if counted or not self._endpoint.done else Stage.FINISHED

    def _is_stray(self, data: bytes, name: str | None) -> bool:
        """Whether an event cannot be a piece of an answer: `[DONE]` in any spelling, a keep-alive, words of a proxy.

        Words of an error with nothing behind them but `[DONE]` are why the answer ended, if no finish reason came.
        """
        text = data.strip()
        if not text:
            return True
        bare = text.strip(b"\"'").upper()
        if bare.startswith(b"[DONE]") or bare == b"DONE":
            self._done = True
            self.stage = Stage.ENDING
            if not text.startswith(b"[DONE]"):
                self._odd("done_misspelled")
            return True
        if b"{" in text and not _is_json_text(text):
            return False  # an object behind spaces, a list of errors, a piece that was cut: for the accumulator
        if text.endswith(b"[DONE]") and text.startswith(b"data:"):
            self._done, self.stage = True, Stage.ENDING
        self._odd("not_an_event")
        words = storable(text.decode("utf-8", "replace").strip("\"' "))
        if "error" in words.lower() or not self._words:
            self._words = words[:_KEPT_WORDS]
        self._stopped = self._stopped or name == "error" or words.lower().startswith(("error", "[error"))
        return True

    def _explain(self, error: StreamBroken | RecursionError) -> Failure:
        if isinstance(error, RecursionError):
            return Failure(Kind.PARTIAL, "upstream", "invalid_event", "an event is nested too deeply to add up")
        if isinstance(error, OtherEndpoint):
            return Failure(Kind.TERMINAL, "upstream", "wrong_content", str(error))
        if error.error is None:
            return Failure(Kind.PARTIAL, "upstream", "invalid_event", str(error))
        return classify_in_answer(error.error, began=self._sum.began, key=self._call.key)

    def _ended_badly(self) -> Failure:
        """The failure that a finish reason or a status names."""
        if is_error(self._sum.failure):
            return classify_in_answer(self._sum.failure, began=True, key=self._call.key)
        reason = self._sum.finish_reason or "error"
        return Failure(Kind.PARTIAL, "upstream", reason[:100], failure_words(reason), begun=True)

    def _take_money(self) -> None:
        """Take the usage and cost that the answer has stated so far."""
        usage, progress = self._sum.usage, self._progress
        self._money = self._sum.money
        if usage is not None:
            progress.usage = Usage.read(usage)
        cost = cost_from_meta(self._sum.meta)
        if cost is None and not self._header_cost:
            cost = cost_from_usage(usage)
        if cost is not None:
            progress.cost_usd = cost

    def _odd(self, what: str) -> None:
        odd = self._progress.odd
        odd[what] = odd.get(what, 0) + 1

    def _failed(self, failure: Failure) -> Failure:
        return replace(failure, partial_text=self._progress.text, begun=failure.begun or self._sum.began)

    def _answer(self, cut: bool) -> Outcome:
        response = self._sum.response()
        try:
            body = jsontext.dumps(response)
        except ValueError as error:
            return self._failed(
                Failure(Kind.RETRYABLE, "upstream", "wrong_content", f"the answer cannot be kept: {error}")
            )
        flags = {
            "no_done": self._endpoint.done and not self._done,
            "cut": cut and not self._done,
            "choices_missing": self._sum.choices < self._asked,
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
            flags=frozenset(name for name, true in flags.items() if true).union(progress.odd),
        )


def _is_json_text(data: bytes) -> bool:
    """Whether it is one JSON string, whatever stands in it but an object."""
    if not data.startswith(b'"'):
        return False
    try:
        value = jsontext.loads(data)
    except ValueError:
        return False
    return isinstance(value, str) and not value.lstrip().startswith("{")

"""The events of a Responses stream, numbered from `response.created`, the same for every reader of the same log.

    response.created (0), [response.queued], response.in_progress, the upstream's own events, the terminal one

Numbers follow from the job's events alone, so a reader who comes back, to this process or another, finds the place where
it was. When an attempt breaks after items were opened, these are closed as incomplete and the next attempt's items come
behind them; the terminal event has the answer, and only it.

When the log is gone the events are made from the stored answer. These may be fewer than a reader has seen, so the
terminal one gets a number beyond all that may have been given: a client that drops known numbers still gets the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from api_schemas import jsontext
from worker.gateway import response_object
from worker.producer.calls import Call

Event = dict[str, Any]

#: Events of the upstream that frame its answer; ours take their place.
_FRAME = frozenset(
    f"response.{name}"
    for name in ("created", "queued", "in_progress", "completed", "failed", "incomplete", "cancelled")
)
#: Beyond the events of an answer that holds so many bytes: a delta has one byte at least, an item some ten events.
_MARGIN = 10_000


def frame(event: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), jsontext.dumps(event))


def is_terminal(event: Mapping[str, Any]) -> bool:
    """Whether the stream ends with this event."""
    return event["type"] in {"response.completed", "response.failed", "response.incomplete"}


class ResponseStream:
    """What comes next of one response's stream."""

    def __init__(self, call: Call, request: Mapping[str, Any], model: str) -> None:
        self._call = call
        self._request = request
        self._model = model
        self._next = 0
        self._running = False  # `response.in_progress` was given
        self._base = 0  # items of attempts that broke
        self._open: dict[int, dict[str, Any]] = {}  # items that are not done, by their index on the wire
        self._done: set[int] = set()
        self._texts: dict[tuple[int, int], list[str]] = {}
        self._lost = False

    @property
    def last(self) -> int:
        """The number of the last event."""
        return self._next - 1

    def begin(self) -> Iterator[Event]:
        """The events before the job runs."""
        background = self._call.background
        yield self._framed("response.created", "queued" if background else "in_progress")
        if background:
            yield self._framed("response.queued", "queued")

    def take(self, event: Mapping[str, Any]) -> Iterator[Event]:
        """The events of one live event of the job."""
        if event["type"] == "attempt.reset":
            if event["reason"] == "log_lost":
                self._lost = True
            else:
                yield from self._reset()
        elif event["type"] == "chunk":
            if not event["data"]:
                self._lost = True  # made from the database: the stored answer has more than its text
                return
            if self._lost:
                yield from self._reset()
            for raw in event["data"]:
                kind = raw.get("type") if isinstance(raw, dict) else None
                if isinstance(kind, str) and kind.startswith("response.") and kind not in _FRAME:
                    yield from self._run()
                    yield self._upstream(raw, kind)
        if event["type"] in {"job.started", "attempt.reset"}:
            yield from self._run()

    def finish(self, whole: Mapping[str, Any], *, calls: int = 1) -> Iterator[Event]:
        """What is missing of the answer, and the terminal event; `whole` is the response object as it ended."""
        yield from self._run()
        status = whole["status"]
        if status in {"completed", "incomplete"}:
            for number, item in enumerate(whole["output"]):
                if self._base + number not in self._done:
                    self._lost = True  # another reader may have seen more of it
                    yield from self._rest(self._base + number, item)
        if self._lost:
            self._next = max(self._next, len(jsontext.dumps(whole["output"])) * max(1, calls) + _MARGIN)
        # The wire has no event for a cancelled response: `incomplete` carries it.
        kind = status if status in {"completed", "failed"} else "incomplete"
        yield self._numbered({"type": f"response.{kind}", "response": dict(whole)})

    def interrupted(self, message: str) -> Event:
        """The end of a connection that is not the end of the stream; its number is the last one's, to go on from."""
        event = {"type": "error", "code": "stream_interrupted", "message": message, "param": None}
        return event | {"sequence_number": max(0, self.last)}

    def _run(self) -> Iterator[Event]:
        if not self._running:
            self._running = True
            yield self._framed("response.in_progress", "in_progress")

    def _framed(self, kind: str, status: str) -> Event:
        whole = response_object.waiting(self._call, self._request, self._model, status)
        return self._numbered({"type": kind, "response": whole})

    def _numbered(self, event: Event) -> Event:
        event["sequence_number"] = self._next
        self._next += 1
        return event

    def _reset(self) -> Iterator[Event]:
        """The items of an attempt that broke end here."""
        for index, item in sorted(self._open.items()):
            ended = {**item, "status": "incomplete"} if "status" in item else item
            yield self._numbered({"type": "response.output_item.done", "output_index": index, "item": ended})
        self._base = max([self._base - 1, *self._open, *self._done]) + 1
        self._open.clear()
        self._texts.clear()
        self._lost = False

    def _upstream(self, raw: Mapping[str, Any], kind: str) -> Event:
        event = dict(raw)
        index = event.get("output_index")
        if type(index) is int:
            index = event["output_index"] = self._base + index
            item = event.get("item")
            if isinstance(item, dict):
                begins = kind == "response.output_item.added"
                status = "in_progress" if begins else "completed"
                event["item"] = item = response_object.item(self._call, index, item, status)
                if begins:
                    self._open[index] = item
                elif kind == "response.output_item.done":
                    self._open.pop(index, None)
                    self._done.add(index)
        if isinstance(event.get("item_id"), str):
            event["item_id"] = response_object.item_id(self._call, event["item_id"])
        if isinstance(event.get("part"), dict):
            event["part"] = response_object.part(event["part"])
        if kind.startswith("response.output_text."):
            event.setdefault("logprobs", [])
            if kind == "response.output_text.delta" and isinstance(event.get("delta"), str) and type(index) is int:
                self._texts.setdefault((index, event.get("content_index") or 0), []).append(event["delta"])
        return self._numbered(event)

    def _rest(self, index: int, item: Mapping[str, Any]) -> Iterator[Event]:
        """What is missing of an item: nothing, or a part of it, was sent."""
        parts = item.get("content") if item.get("type") == "message" else None
        if index not in self._open:
            opening: dict[str, Any] = {"status": "in_progress"} if "status" in item else {}
            if parts is not None:
                opening["content"] = []
            if item.get("type") == "function_call":
                opening["arguments"] = ""
            added = {"type": "response.output_item.added", "output_index": index, "item": {**item, **opening}}
            yield self._numbered(added)
        spot = {"item_id": item["id"], "output_index": index}
        for number, part in enumerate(parts if isinstance(parts, list) else []):
            yield from self._rest_of_part(index, number, part, {**spot, "content_index": number})
        if item.get("type") == "function_call":
            whole = str(item.get("arguments", ""))
            if index not in self._open:
                yield self._numbered({"type": "response.function_call_arguments.delta", **spot, "delta": whole})
            done = {"type": "response.function_call_arguments.done", **spot, "arguments": whole}
            yield self._numbered(done | {"name": item.get("name")})
        self._open.pop(index, None)
        self._done.add(index)
        yield self._numbered({"type": "response.output_item.done", "output_index": index, "item": dict(item)})

    def _rest_of_part(self, index: int, number: int, part: dict[str, Any], spot: Event) -> Iterator[Event]:
        name = {"output_text": "text", "refusal": "refusal"}.get(str(part.get("type")))
        if name is None:
            return
        text = str(part.get(name) or "")
        logprobs: dict[str, Any] = {"logprobs": []} if name == "text" else {}
        sent = "".join(self._texts.get((index, number), []))
        if not sent:
            empty = {**part, name: ""}
            yield self._numbered({"type": "response.content_part.added", **spot, "part": empty})
        wire = f"response.{part['type']}" if name == "text" else "response.refusal"
        if text.startswith(sent) and len(text) > len(sent):
            yield self._numbered({"type": f"{wire}.delta", **spot, "delta": text[len(sent) :], **logprobs})
        yield self._numbered({"type": f"{wire}.done", **spot, name: text, **logprobs})
        yield self._numbered({"type": "response.content_part.done", **spot, "part": dict(part)})

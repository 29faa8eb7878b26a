"""Events of the Responses API in, one `response` object out.

    response.created → response.in_progress → …deltas and items… → response.completed, response.done    finished
                                                                 ├ response.incomplete   finished, cut by a limit
                                                                 ├ response.failed       StreamBroken
                                                                 └ error                 StreamBroken

The terminal event carries the whole response. Where a provider sends it without its output or without its calls, or not
at all although every item has come whole, the stream's own items take their place (`response_items`). A terminal event
whose response has an error or a status that means failure is one, whatever the event is called.
"""

from __future__ import annotations

from typing import Any

from api_schemas import jsontext
from api_schemas.upstream_errors import is_error, speaks
from api_schemas.usage import merge_usage, usage_objects
from worker.upstream.accumulate import OtherEndpoint, StreamBroken
from worker.upstream.call import whole_text
from worker.upstream.ends import response_gives
from worker.upstream.merge import overlay
from worker.upstream.received import read_json, within
from worker.upstream.response_items import ResponseItems
from worker.upstream.response_object import RUNNING, completed, failure_of, finish_reason, mend, output_text

_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.done"})
_PIECES = (".delta", ".partial_image")
_FAILED = frozenset({"response.failed", "response.cancelled", "response.error", "error"})


class ResponsesAccumulator:
    """The events of one response, added up."""

    __slots__ = (
        "_deltas",
        "_final",
        "_head",
        "_items",
        "_texts",
        "failure",
        "finished",
        "mended",
        "meta",
        "money",
        "usage",
    )

    def __init__(self) -> None:
        self.usage: dict[str, Any] | None = None
        self.meta: dict[str, Any] | None = None
        self.money = 0
        self.mended: bytes | None = None
        self.finished = False
        self.failure: Any = None
        self._texts: list[str] = []
        self._deltas = False  # a delta of some kind has come
        self._items = ResponseItems()
        self._head: dict[str, Any] = {}  # the response as it began
        self._final: dict[str, Any] | None = None

    def add(self, event_name: str | None, data: bytes) -> str:
        """Take one event; return its text when it is output text. See `Accumulator.add`."""
        try:
            event, self.mended = read_json(data)
        except ValueError as error:
            raise StreamBroken(f"an event is no JSON: {error}") from None
        if not isinstance(event, dict):
            if is_error(event):
                raise StreamBroken("the stream reports an error", event)
            raise StreamBroken("an event is no JSON object")
        kind = event.get("type")
        kind = kind if isinstance(kind, str) and kind else event_name
        if kind in (None, "message") and (inner := within(event)) is not None:
            self._take_money(event)
            event, self.mended = inner, jsontext.dumps(inner)
            kind = event.get("type")
        if kind == "response.output_text.delta" and isinstance(text := event.get("delta"), str):
            self._texts.append(text)
            self._items.add(kind, event)
            return text
        if event.get("object") == "response" and not event.get("type"):  # the whole object, as without streaming
            event, kind = {"response": event}, "response.completed"
        self._take_money(event)
        if kind in _FAILED or speaks(event.get("error")) or ("response" not in event and is_error(event)):
            raise StreamBroken("the stream reports an error", event)
        if isinstance(event.get("choices"), list) and any(event["choices"]) and not event.get("type"):
            raise OtherEndpoint("the upstream answered with a chat completion, not with a response")
        response = event.get("response")
        if kind in _TERMINAL:
            self._end(kind, response if isinstance(response, dict) else _flat(event) or self._head)
        elif isinstance(response, dict):
            self._head = response
            if self._final is not None:  # another response behind the one that ended: its items are its own
                self._items = ResponseItems()
        else:
            self._deltas = self._deltas or (isinstance(kind, str) and kind.endswith(_PIECES))
            if text := self._items.add(kind, event):
                self._texts.append(text)
                return text
        return ""

    def _end(self, kind: str, response: dict[str, Any]) -> None:
        """Take the response of the terminal event. Raises StreamBroken if it ended in a failure."""
        if (failure := failure_of(response)) is not None:
            raise StreamBroken("the response failed", failure)
        status = response.get("status")
        if not isinstance(status, str) or status in RUNNING:
            response = {**response, "status": "incomplete" if kind == "response.incomplete" else "completed"}
        self._final, self.finished = response, True

    @property
    def began(self) -> bool:
        """Whether any item, or any piece of one, has come."""
        return self._deltas or bool(self._texts) or self._items.began

    @property
    def unseen(self) -> int:
        """None: what comes behind the terminal event is no more of the response."""
        return 0

    @property
    def only_thought(self) -> bool:
        """No: the terminal event comes once."""
        return False

    @property
    def gives(self) -> bool:
        """Whether some item holds anything of an answer."""
        return response_gives(self.response())

    @property
    def complete(self) -> bool:
        """Whether there are items and each has come whole: all that is missing is the terminal event."""
        return self._items.all_over

    @property
    def finish_reason(self) -> str | None:
        """`completed`, or why the response is incomplete (`max_output_tokens`, `content_filter`); None without an end."""
        return finish_reason(self._final) if self._final is not None else None

    @property
    def choices(self) -> int:
        """One: the Responses API has no alternatives."""
        return 1

    @property
    def text(self) -> str:
        """The output text of all messages, joined; the text deltas while the response is not finished."""
        whole = output_text(self.response()) if self._final is not None or self.complete else ""
        return whole or whole_text(self._texts)

    def response(self) -> dict[str, Any]:
        """The `response` object of the terminal event, with `meta` where the provider sent one beside it."""
        body = dict(self._final if self._final is not None else self._head)
        if self._final is None and (self._texts or self._items.began):
            body["status"] = "completed"
        mend(body)
        if self._items.began:
            body["output"] = completed(body.get("output"), self._items.output())
            mend(body)
        if self.usage is not None and not isinstance(body.get("usage"), dict):
            body["usage"] = self.usage
        if self.meta is not None:
            body["meta"] = self.meta
        return body

    def _take_money(self, event: dict[str, Any]) -> None:
        """Take usage and cost from wherever an event has them: beside the response or in it."""
        for usage in usage_objects(event):
            if self.usage is None:
                self.usage = {}
            merge_usage(self.usage, usage)
            self.money += 1
        response = event.get("response")
        for place in (response, event) if isinstance(response, dict) else (event,):
            if isinstance(meta := place.get("meta"), dict):
                if self.meta is None:
                    self.meta = {}
                overlay(self.meta, meta)
                self.money += 1


def _flat(event: dict[str, Any]) -> dict[str, Any]:
    """The response whose fields stand in its terminal event; nothing where they do not."""
    if "output" not in event and event.get("object") != "response":
        return {}
    return {key: value for key, value in event.items() if key not in ("type", "sequence_number")}

"""Events of the Responses API in, one `response` object out.

    response.created → response.in_progress → …deltas and items… → response.completed, response.done    finished
                                                                 ├ response.incomplete   finished, cut by a limit
                                                                 ├ response.failed       StreamBroken
                                                                 └ error                 StreamBroken

The terminal event carries the whole response. Where a provider sends it with an empty `output`, or not at all although
every item is done, the stream's own items take its place (`response_items`). A terminal event whose response has the
status `failed` is a failure, whatever the event is called.
"""

from __future__ import annotations

from typing import Any

from api_schemas.upstream_errors import is_error, speaks
from api_schemas.usage import merge_usage
from worker.upstream.accumulate import StreamBroken
from worker.upstream.call import whole_text
from worker.upstream.merge import overlay
from worker.upstream.received import read_json
from worker.upstream.response_items import ResponseItems

_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.done"})
_FAILED = frozenset({"response.failed", "response.cancelled", "error"})
_FAILED_STATUS = frozenset({"failed", "cancelled"})


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
        kind = event.get("type") or event_name
        if kind == "response.output_text.delta":
            text = event.get("delta")
            if not isinstance(text, str):
                return ""
            self._texts.append(text)
            self._items.add(kind, event)
            return text
        if event.get("object") == "response" and not event.get("type"):  # the whole object, as without streaming
            event, kind = {"response": event}, "response.completed"
        self._take_money(event)
        if kind in _FAILED or speaks(event.get("error")) or ("response" not in event and is_error(event)):
            raise StreamBroken("the stream reports an error", event)
        response = event.get("response")
        if kind in _TERMINAL and isinstance(response, dict):
            if response.get("status") in _FAILED_STATUS:
                raise StreamBroken("the response failed", event)
            self._final, self.finished = response, True
        elif isinstance(response, dict):
            self._head = response
        else:
            self._deltas = self._deltas or (isinstance(kind, str) and kind.endswith(".delta"))
            self._items.add(kind, event)
        return ""

    @property
    def began(self) -> bool:
        """Whether any item, or any piece of one, has come."""
        return self._deltas or bool(self._texts) or self._items.began

    @property
    def complete(self) -> bool:
        """Whether there are items and each of them is done: all that is missing is the terminal event."""
        return self._items.all_done

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
        if self._final is None and self.complete:
            body["status"] = "completed"
        if not body.get("output") and self._items.began:
            body["output"] = self._items.output()
        if self.usage is not None and not isinstance(body.get("usage"), dict):
            body["usage"] = self.usage
        if self.meta is not None:
            body["meta"] = self.meta
        return body

    def _take_money(self, event: dict[str, Any]) -> None:
        """Take usage and cost from wherever an event has them: beside the response or in it."""
        response = event.get("response")
        for place in (response, event) if isinstance(response, dict) else (event,):
            if isinstance(usage := place.get("usage"), dict):
                if self.usage is None:
                    self.usage = {}
                merge_usage(self.usage, usage)
                self.money += 1
            if isinstance(meta := place.get("meta"), dict):
                if self.meta is None:
                    self.meta = {}
                overlay(self.meta, meta)
                self.money += 1


def output_text(response: dict[str, Any]) -> str:
    """The text of all `output_text` parts of a response object, in order, as the SDKs' `output_text` has it."""
    texts: list[str] = []
    output = response.get("output")
    for item in output if isinstance(output, list) else []:
        content = item.get("content") if isinstance(item, dict) and item.get("type") == "message" else None
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and part.get("type") == "output_text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
    return whole_text(texts)


def finish_reason(response: dict[str, Any]) -> str:
    """Why a response ended: `completed`, or the reason that it gives for being incomplete."""
    details = response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    return str(reason or response.get("status") or "completed")

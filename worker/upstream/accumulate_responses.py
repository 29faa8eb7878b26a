"""Events of the Responses API in, one `response` object out.

    response.created → response.in_progress → …deltas and items… → response.completed    finished
                                                                 ├ response.incomplete   finished, cut by a limit
                                                                 ├ response.failed       StreamBroken
                                                                 └ error                 StreamBroken

The terminal event carries the whole response, so nothing is put together here but the text that people watch. Where a
provider sends that response with an empty `output`, the finished items of the stream take its place.
"""

from __future__ import annotations

from typing import Any

from worker.upstream.accumulate import StreamBroken
from worker.upstream.call import whole_text
from worker.upstream.merge import overlay
from worker.upstream.received import read_json

_TERMINAL = frozenset({"response.completed", "response.incomplete"})
_FAILED = frozenset({"response.failed", "response.cancelled", "error"})


class ResponsesAccumulator:
    """The events of one response, added up."""

    def __init__(self) -> None:
        self.usage: dict[str, Any] | None = None
        self.meta: dict[str, Any] | None = None
        self.mended: bytes | None = None
        self._texts: list[str] = []
        self._items: dict[int, dict[str, Any]] = {}
        self._final: dict[str, Any] | None = None

    def add(self, event_name: str | None, data: bytes) -> str:
        """Take one event; return its text when it is output text. See `Accumulator.add`."""
        try:
            event, self.mended = read_json(data)
        except ValueError as error:
            raise StreamBroken(f"an event is no JSON: {error}") from None
        if not isinstance(event, dict):
            raise StreamBroken("an event is no JSON object")
        kind = event.get("type") or event_name
        if kind == "response.output_text.delta":
            return self._take_text(event.get("delta"))
        self._take_meta(event.get("meta"))
        if kind in _FAILED or event.get("error"):
            self._take_response(event.get("response"))
            raise StreamBroken("the stream reports an error", event)
        if kind == "response.output_item.done":
            index, item = event.get("output_index"), event.get("item")
            if isinstance(item, dict):
                self._items[index if isinstance(index, int) else len(self._items)] = item
        elif kind in _TERMINAL and isinstance(response := event.get("response"), dict):
            self._take_response(response)
            self._final = response
        elif isinstance(usage := event.get("usage"), dict):  # a closing event of the provider's own
            self.usage = usage
        return ""

    @property
    def finished(self) -> bool:
        """Whether the terminal event came."""
        return self._final is not None

    @property
    def finish_reason(self) -> str | None:
        """`completed`, or why the response is incomplete (`max_output_tokens`, `content_filter`)."""
        return finish_reason(self._final) if self._final is not None else None

    @property
    def choices(self) -> int:
        """One: the Responses API has no alternatives."""
        return 1

    @property
    def text(self) -> str:
        """The output text of all messages, joined; the text deltas while the response is not finished."""
        whole = output_text(self.response()) if self._final is not None else ""
        return whole or whole_text(self._texts)

    def response(self) -> dict[str, Any]:
        """The `response` object of the terminal event, with `meta` where the provider sent one beside it."""
        body = dict(self._final or {})
        if not body.get("output") and self._items:
            body["output"] = [self._items[index] for index in sorted(self._items)]
        if self.meta is not None:
            body["meta"] = self.meta
        return body

    def _take_text(self, delta: Any) -> str:
        if not isinstance(delta, str):
            return ""
        self._texts.append(delta)
        return delta

    def _take_response(self, response: Any) -> None:
        if not isinstance(response, dict):
            return
        if isinstance(usage := response.get("usage"), dict):
            self.usage = usage
        self._take_meta(response.get("meta"))

    def _take_meta(self, meta: Any) -> None:
        if isinstance(meta, dict):
            self.meta = self.meta or {}
            overlay(self.meta, meta)


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

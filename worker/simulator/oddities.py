"""Streams and answers as some providers write them: each kind as a step, so that a user can try what his program does.

The frames of a good stream go in, those of an odd one come out. What is whole stays whole, but for the steps documented
that it broke. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from worker.simulator.frames import Frame, dumps
from worker.simulator.script import Step
from worker.simulator.spellings import STEPS, respell

Event = dict[str, Any]


def bend(frames: Iterable[Frame], step: Step) -> list[Frame]:
    """The frames, as the step has them written."""
    found = list(frames)
    for name, change in _CHANGES.items():
        if name in step:
            found = change(found, step)
    return found if STEPS.isdisjoint(step.parts) else _events(found, lambda _, event: respell(event, step))


def bend_body(body: Event, step: Step) -> Event:
    """The same for an answer in one piece."""
    if "finish" in step and isinstance(body.get("choices"), list):
        for choice in body["choices"]:
            choice["finish_reason"] = step.value("finish")
    if "finish" in step and body.get("object") == "response":
        body["status"] = step.value("finish")
    return respell(body, step)


def _events(frames: list[Frame], change: Callable[[int, Event], Event | None]) -> list[Frame]:
    """Change the JSON of each frame; None leaves one out. Frames are counted from 0."""
    changed = []
    for number, frame in enumerate(frames):
        if frame.kind == "end":
            changed.append(frame)
            continue
        event = change(number, orjson.loads(frame.data))
        if event is not None:
            changed.append(Frame(frame.kind, dumps(event), frame.event))
    return changed


def _tail(frames: list[Frame], step: Step) -> list[Frame]:
    """One more event behind the whole answer, before `[DONE]`."""
    at = len(frames) - 1 if frames and frames[-1].kind == "end" else len(frames)
    return [*frames[:at], Frame("finish", step.value("tail").encode()), *frames[at:]]


def _stray(frames: list[Frame], step: Step) -> list[Frame]:
    """An event that is no piece of an answer, behind the first token."""
    at = next((number + 1 for number, frame in enumerate(frames) if frame.kind == "token"), len(frames))
    return [*frames[:at], Frame("finish", step.value("stray").encode()), *frames[at:]]


def _finish(frames: list[Frame], step: Step) -> list[Frame]:
    word = step.value("finish")

    def change(_: int, event: Event) -> Event:
        for choice in event.get("choices") or []:
            if choice.get("finish_reason"):
                choice["finish_reason"] = word
        if event.get("type") in ("response.completed", "response.incomplete"):
            event["response"]["status"] = word
        return event

    return _events(frames, change)


def _index(frames: list[Frame], step: Step) -> list[Frame]:
    def change(number: int, event: Event) -> Event:
        for choice in event.get("choices") or []:
            choice["index"] = number
        if "output_index" in event:
            event["output_index"] = 0
        return event

    return _events(frames, change)


def _usage_zero(frames: list[Frame], step: Step) -> list[Frame]:
    at = len(frames) - 1 if frames and frames[-1].kind == "end" else len(frames)
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return [*frames[:at], Frame("finish", dumps({"choices": [], "usage": zeros})), *frames[at:]]


def _usage_in_choice(frames: list[Frame], step: Step) -> list[Frame]:
    usage = next((found for frame in frames if (found := _usage_of(frame))), None)

    def change(_: int, event: Event) -> Event | None:
        if event.get("usage") and not event.get("choices"):
            return None
        for choice in event.get("choices") or []:
            if choice.get("finish_reason") and usage is not None:
                choice["usage"] = usage
        return event

    return _events(frames, change)


def _usage_split(frames: list[Frame], step: Step) -> list[Frame]:
    """The input in the first chunk, the output in the last."""
    usage = next((found for frame in frames if (found := _usage_of(frame))), None)
    if usage is None:
        return frames

    def change(number: int, event: Event) -> Event:
        if number == 0:
            event["usage"] = {**usage, "completion_tokens": 0, "total_tokens": usage["prompt_tokens"]}
        elif event.get("usage"):
            event["usage"] = {**usage, "prompt_tokens": 0, "total_tokens": usage["completion_tokens"]}
        return event

    return _events(frames, change)


def _usage_of(frame: Frame) -> Mapping[str, Any] | None:
    if frame.kind == "end":
        return None
    usage = orjson.loads(frame.data).get("usage")
    return usage if isinstance(usage, dict) else None


def _call_fragments(event: Event) -> list[Event]:
    fragments: list[Event] = []
    for choice in event.get("choices") or []:
        fragments += choice.get("delta", {}).get("tool_calls") or []
    return fragments


def _call_names(frames: list[Frame], step: Step) -> list[Frame]:
    """Id and name in each fragment of a call."""
    first = next((found for frame in frames for found in _fragments_of(frame)), None)

    def change(_: int, event: Event) -> Event:
        for fragment in _call_fragments(event):
            if first is not None:
                fragment["id"] = first["id"]
                fragment["function"]["name"] = first["function"]["name"]
        return event

    return _events(frames, change)


def _call_no_ids(frames: list[Frame], step: Step) -> list[Frame]:
    """The call twice, each in one fragment, both with the index 0 and without an id."""
    fragments = [found for frame in frames for found in _fragments_of(frame)]
    text = "".join(found["function"].get("arguments", "") for found in fragments)
    kept = [frame for frame in frames if not list(_fragments_of(frame))]
    if not fragments:
        return frames
    whole = {"index": 0, "type": "function", "function": {**fragments[0]["function"], "arguments": text}}
    at = next((number for number, frame in enumerate(kept) if frame.kind in ("finish", "end")), len(kept))
    call = Frame("token", dumps({"choices": [{"index": 0, "delta": {"tool_calls": [whole]}, "finish_reason": None}]}))
    return [*kept[:at], call, call, *kept[at:]]


def _call_mixed(frames: list[Frame], step: Step) -> list[Frame]:
    """The call twice, with an id each and without an index, piece by piece in turn."""

    def twice(frame: Frame) -> list[Frame]:
        fragments = list(_fragments_of(frame))
        if not fragments:
            return [frame]
        copies = []
        for name in ("call_sim_a", "call_sim_b"):
            calls = [{**{key: value for key, value in one.items() if key != "index"}, "id": name} for one in fragments]
            delta = {"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None}]}
            copies.append(Frame(frame.kind, dumps(delta)))
        return copies

    return [copy for frame in frames for copy in twice(frame)]


def _call_last(frames: list[Frame], step: Step) -> list[Frame]:
    """The call only in a final `message`."""
    fragments = [found for frame in frames for found in _fragments_of(frame)]
    text = "".join(found["function"].get("arguments", "") for found in fragments)
    kept = [frame for frame in frames if not list(_fragments_of(frame))]

    def change(_: int, event: Event) -> Event:
        for choice in event.get("choices") or []:
            if choice.get("finish_reason") and fragments:
                call = {**fragments[0], "function": {**fragments[0]["function"], "arguments": text}}
                choice["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
        return event

    return _events(kept, change)


def _fragments_of(frame: Frame) -> list[Event]:
    return [] if frame.kind == "end" else _call_fragments(orjson.loads(frame.data))


def _empty_output(frames: list[Frame], step: Step) -> list[Frame]:
    def change(_: int, event: Event) -> Event:
        if event.get("type") == "response.completed":
            event["response"]["output"] = []
        return event

    return _events(frames, change)


def _response_done(frames: list[Frame], step: Step) -> list[Frame]:
    changed = _events(frames, lambda _, event: {**event, "type": _renamed(event)} if "type" in event else event)
    return [
        Frame(frame.kind, frame.data, "response.done" if frame.event == "response.completed" else frame.event)
        for frame in changed
    ]


def _renamed(event: Event) -> str:
    return "response.done" if event["type"] == "response.completed" else str(event["type"])


def _no_terminal(frames: list[Frame], step: Step) -> list[Frame]:
    return _events(frames, lambda _, event: None if event.get("type") == "response.completed" else event)


_CHANGES: Mapping[str, Callable[[list[Frame], Step], list[Frame]]] = {
    "finish": _finish,
    "index": _index,
    "usageinchoice": _usage_in_choice,
    "usagesplit": _usage_split,
    "usagezero": _usage_zero,
    "callnames": _call_names,
    "callnoids": _call_no_ids,
    "callmixed": _call_mixed,
    "calllast": _call_last,
    "emptyoutput": _empty_output,
    "responsedone": _response_done,
    "noterminal": _no_terminal,
    "stray": _stray,
    "tail": _tail,
}

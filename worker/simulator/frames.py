"""Frames: the events of a stream before they are bytes, and how a step writes them down.

    Frame(kind, data, event)    kind: `open` before the tokens, `token`, `finish` after them, `end` for [DONE]

Server-sent events as in the WHATWG specification (section 9.2); a step may use the line ends, the byte order mark
and the several `data:` lines that it allows and providers rarely send.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from worker.simulator.script import Step

Kind = Literal["open", "token", "finish", "end"]

#: Python's parser gives up at 1,000 levels and orjson at 1,024; this is far beyond both.
_DEPTH = 100_000
#: CPython refuses to read integers above 4,300 digits.
_DIGITS = 5_000
_BAD_UTF8 = b"\xff\xc3\x28"


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream: its JSON (or `[DONE]`) and its event name, if it has one."""

    kind: Kind
    data: bytes
    event: str | None = None


DONE = Frame("end", b"[DONE]")


def dumps(value: Mapping[str, Any]) -> bytes:
    """JSON text; what orjson refuses (a lone surrogate) is written with escapes, as Python's own writer does."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def hurt(data: bytes, step: Step) -> bytes:
    """Add to a JSON object the members that the steps for painful JSON ask for."""
    for name, value in _wounds(step):
        data = data[:-1] + b',"' + name + b'":' + value + b"}"
    return data


def _wounds(step: Step) -> Iterator[tuple[bytes, bytes]]:
    if "deep" in step:
        depth = step.count("deep", _DEPTH)
        yield b"sim_deep", b"[" * depth + b"]" * depth
    if "nan" in step:
        yield b"sim_nan", b"[NaN,Infinity,-Infinity,1e999]"
    if "bigint" in step:
        yield b"sim_bigint", b"9" * max(1, step.count("bigint", _DIGITS))


def spoil(data: bytes) -> bytes:
    """Put bytes that are no UTF-8 at the start of the visible text."""
    for name in (b'"content":"', b'"delta":"', b'"text":"'):
        head, found, tail = data.rpartition(name)
        if found:
            return head + found + _BAD_UTF8 + tail
    return data[:-1] + b',"sim_bad":"' + _BAD_UTF8 + b'"}'


def encode(frame: Frame, step: Step) -> bytes:
    """The frame's bytes on the wire."""
    lines = [b"event: " + frame.event.encode()] if frame.event else []
    lines += [b"data: " + part for part in _data_lines(frame.data, step)]
    if "comments" in step:
        lines = [b": keep-alive", b"", *lines]
    ends = [b""] if "onenewline" in step else [b"", b""]
    return end_of_line(step).join([*lines, *ends])


def _data_lines(data: bytes, step: Step) -> list[bytes]:
    if "multiline" not in step or not data.startswith(b"{"):
        return [data]
    # A line break is white space between JSON tokens, so that the joined lines are the same object.
    return orjson.dumps(orjson.loads(data), option=orjson.OPT_INDENT_2).split(b"\n")


def end_of_line(step: Step) -> bytes:
    """How lines end under a step."""
    if "crlf" in step:
        return b"\r\n"
    return b"\r" if "cr" in step else b"\n"

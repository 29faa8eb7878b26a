"""Usage and content as some providers spell them: each spelling as a step, for streams and for whole answers. Pure.

A piece of a chat completion goes in, a chunk of a stream or the whole object; it is changed in place.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

Piece = dict[str, Any]

#: Tokens of the input that the steps about caches report as cached, at most.
_CACHED = 4


def respell(piece: Piece, step: Any) -> Piece:
    """The piece, as the step has it spelt. One without what a step is about stays as it is."""
    for name, change in USAGES.items():
        if name in step and isinstance(usage := piece.get("usage"), dict) and "prompt_tokens" in usage:
            change(piece, usage)
    for name, write in CONTENTS.items():
        if name in step:
            for choice in piece.get("choices") or []:
                for place in ("delta", "message"):
                    if isinstance(spoken := choice.get(place), dict):
                        write(spoken)
    return piece


def _both(piece: Piece, usage: Piece) -> None:
    usage.update(input_tokens=0, output_tokens=0)


def _text(piece: Piece, usage: Piece) -> None:
    piece["usage"] = {name: str(count) if isinstance(count, int) else count for name, count in usage.items()}


def _cached(piece: Piece, usage: Piece) -> None:
    hit = min(_CACHED, usage["prompt_tokens"])
    usage.pop("prompt_tokens_details", None)
    usage.update(prompt_cache_hit_tokens=hit, prompt_cache_miss_tokens=usage["prompt_tokens"] - hit)


def _beside(piece: Piece, usage: Piece) -> None:
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    usage["completion_tokens"] -= reasoning


def _timings(piece: Piece, usage: Piece) -> None:
    hit = min(_CACHED, usage["prompt_tokens"])
    counted = {"cache_n": hit, "prompt_n": usage["prompt_tokens"] - hit, "predicted_n": usage["completion_tokens"]}
    piece.pop("usage")
    piece["timings"] = {**counted, "prompt_ms": 30.5, "predicted_ms": 610.25}


def _parts(spoken: Piece) -> None:
    if isinstance(text := spoken.get("content"), str) and text:
        spoken["content"] = [{"type": "text", "text": text}]


def _audio(spoken: Piece) -> None:
    if isinstance(text := spoken.get("content"), str) and text:
        data = base64.b64encode(b"\x00" * 3 * len(text)).decode()
        spoken["content"] = None
        spoken["audio"] = {"id": "audio_sim", "transcript": text, "data": data}


def _object(spoken: Piece) -> None:
    calls = spoken.get("tool_calls")
    if isinstance(calls, list) and len(calls) == 1:
        spoken["tool_calls"] = calls[0]


USAGES: Mapping[str, Callable[[Piece, Piece], None]] = {
    "usageboth": _both,
    "usagetext": _text,
    "usagecached": _cached,
    "usagebeside": _beside,
    "timings": _timings,
}
CONTENTS: Mapping[str, Callable[[Piece], None]] = {"parts": _parts, "audio": _audio, "callobject": _object}
STEPS = frozenset({*USAGES, *CONTENTS})

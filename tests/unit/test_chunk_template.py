"""The ordinary chunk, recognised without parsing it: never another value than the parser's."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.upstream.accumulate import StreamBroken
from worker.upstream.accumulate_chat import ChatAccumulator
from worker.upstream.chunk_template import ChunkTemplate


class _Parsing(ChatAccumulator):
    """Takes every chunk the long way."""

    def add(self, event_name: str | None, data: bytes) -> str:
        self._template = None
        return super().add(event_name, data)


def _chunk(text: str, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return {"id": "c", "model": "m", "choices": [choice], "usage": None, **more}


def _bytes(value: Any, *, ascii_only: bool = False) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":")).encode()


_texts = st.text(max_size=8) | st.sampled_from(
    ['"', "\\", '"content":"', "\n", "é", "\u2028", "x", 'a","b', "\x7f", "👋"]
)
_paddings = st.none() | st.text("abcXYZ019", max_size=6) | st.sampled_from(['"', "\\", '"obfuscation":"', " "])
_mores: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{}, {}, {}, {"model": "n"}, {"content": "x"}, {"x": {"obfuscation": "abc"}}, {"big": 2**70}]
)
_edits = st.sampled_from(
    [None, None, None, None, "cut", "space", "twice", "index", "finish", "role", "raw", "parts", "bom", "nan"]
)


@st.composite
def _streams(draw: st.DrawFn) -> list[bytes]:
    found = []
    for _ in range(draw(st.integers(2, 8))):
        value = _chunk(draw(_texts), **draw(_mores))
        padding, edit = draw(_paddings), draw(_edits)
        if padding is not None:
            value["obfuscation"] = padding
        choice = value["choices"][0]
        if edit == "index":
            choice["index"] = 1
        elif edit == "finish":
            choice["finish_reason"] = "stop"
        elif edit == "role":
            choice["delta"]["role"] = "assistant"
        elif edit == "parts":
            choice["delta"]["content"] = [{"type": "text", "text": "p"}]
        data = _bytes(value, ascii_only=draw(st.booleans()))
        if edit == "cut":
            data = data[: draw(st.integers(0, len(data)))]
        elif edit == "space":
            data = data.replace(b":", b": ", 3)
        elif edit == "twice":
            data = data.replace(b'"delta"', b'"delta":{"content":"w"},"delta"', 1)
        elif edit == "bom":
            data = b"\xef\xbb\xbf" + data
        elif edit == "nan":
            data = data.replace(b'"logprobs":null', b'"logprobs":NaN', 1)
        elif edit == "raw":
            data = data.replace(b'"content":"', b'"content":"' + draw(st.sampled_from([b"\n", b"\xff", b"\x00", b'"'])))
        found.append(data)
    return found


def _taken(into: ChatAccumulator, data: bytes) -> Any:
    try:
        return into.add(None, data), into.mended or data, into.finished
    except StreamBroken:
        return "broken"


@settings(max_examples=200, deadline=None)
@given(_streams())
def test_with_and_without_the_template_a_stream_adds_up_to_the_same(stream: list[bytes]) -> None:
    """Whatever a provider puts where: quotes, escapes, keys twice, control characters, half a chunk."""
    quick, slow = ChatAccumulator(), _Parsing()
    for data in stream:
        taken = _taken(slow, data)
        assert _taken(quick, data) == taken
        if taken == "broken":
            break
    assert quick.response() == slow.response()
    assert quick.text == slow.text


def test_a_chunk_of_the_same_shape_is_recognised() -> None:
    """Also with other padding; this is what the template is for."""
    template = ChunkTemplate.of(_bytes(_chunk("Hel", obfuscation="aB3")), "Hel", "aB3")
    assert template is not None
    assert template.text_of(_bytes(_chunk("lo 👋", obfuscation="xyz0"))) == "lo 👋"
    assert template.text_of(_bytes(_chunk("", obfuscation="x"))) == ""


def test_what_differs_anywhere_else_is_left_to_the_parser() -> None:
    """Another model, a finish reason, an escape, a control character, a byte more."""
    template = ChunkTemplate.of(_bytes(_chunk("Hel")), "Hel", None)
    assert template is not None
    for other in (_chunk("x", model="n"), _chunk('"'), _chunk("\n"), _chunk("x", more=1)):
        assert template.text_of(_bytes(other)) is None
    plain = _bytes(_chunk("x"))
    assert template.text_of(plain) == "x"
    for broken in (plain + b" ", plain[:-1], plain.replace(b'"x"', b'"\x01"'), plain.replace(b'"x"', b'"\xff"')):
        assert template.text_of(broken) is None


def test_a_second_key_of_the_same_name_makes_no_template() -> None:
    """It would not be known which of the two carries the text."""
    assert ChunkTemplate.of(_bytes(_chunk("x", content="x")), "x", None) is None
    assert ChunkTemplate.of(_bytes(_chunk("x", note="content")), "x", None) is None

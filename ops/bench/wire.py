"""The bytes that the benchmark's upstream sends, made once; one source for the server and for those who check it."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

#: `model` names carry what the upstream shall do, so that every contender asks for it in the same way.
WAIT_MODEL = "bench/wait-{ms}"
STREAM_MODEL = "bench/stream-{chunks}-{interval_ms}"

#: Each prompt carries its job's number, so that doubled calls show for contenders that send no request id.
TAG = "bench:{number:08d}"
TAG_PATTERN = re.compile(rb"bench:(\d{8})")

#: Each chunk carries the moment it was written (CLOCK_MONOTONIC, ns, hexadecimal), one clock for the whole machine, in
#: the field that the provider fills with random text of its own.
STAMP_PATTERN = re.compile(rb'"obfuscation":"([0-9a-f]{16})"')

_PROMPT = (
    "{tag} You read a customer's message and answer in the shop's voice. Be brief, name the order and the next step, "
    "and promise nothing that the policy does not say. The message: my parcel was due on Tuesday and the tracking "
    "page has not moved since; the present inside is for Saturday. What happens now?"
)

_EVENT = (
    b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":1770933892,'
    b'"model":"bench-2026-01-01","service_tier":"default","system_fingerprint":"fp_de604bd877",'
)
_CHUNK_HEAD = (
    b'"choices":[{"index":0,"delta":{"content":" w%04d"},"logprobs":null,"finish_reason":null}],'
    b'"usage":null,"obfuscation":"'
)
_CHUNK_TAIL = b'"}\n\n'
_LAST = b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
_USAGE = (
    b'"choices":[],"usage":{"prompt_tokens":75,"completion_tokens":%d,"total_tokens":%d},'
    b'"meta":{"usage":{"credits_used":42,"usd_spent":0.000021}}}\n\n'
)
_STAMP_DIGITS = 16

_ANSWER = (
    b'{"id":"chatcmpl-bench00000001","object":"chat.completion","created":1770933892,"model":"bench-2026-01-01",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"I am sorry that the parcel is late. I have asked '
    b"the carrier about your order and will write again by tomorrow noon; if it has not moved by then, a second one "
    b'leaves on Thursday.","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":75,'
    b'"completion_tokens":46,"total_tokens":121},"service_tier":"default","system_fingerprint":"fp_bench",'
    b'"meta":{"usage":{"credits_used":42,"usd_spent":0.000021}}}'
)


def request_body(number: int, *, model: str, stream: bool) -> dict[str, object]:
    """The request of job `number` as every contender sends it: about 500 bytes of JSON."""
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": _PROMPT.format(tag=TAG.format(number=number))}],
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def streamed_text(chunks: int) -> str:
    """The text that a stream of `chunks` chunks adds up to; a shorter one in the database is a lost chunk."""
    return "".join(f" w{n % 10_000:04d}" for n in range(chunks))


@dataclass(frozen=True, slots=True)
class Reply:
    """What one `model` name asks for: `chunks` > 0 is a stream with `interval_ms` between chunks."""

    wait_ms: int = 0
    chunks: int = 0
    interval_ms: int = 0


@functools.cache
def reply_for(model: bytes) -> Reply | None:
    """Read `wait-200` or `stream-100-50` (the part of the model name after `bench/`); None for anything else."""
    verb, *numbers = model.decode().split("-")
    if verb == "wait" and len(numbers) == 1:
        return Reply(wait_ms=int(numbers[0]))
    if verb == "stream" and len(numbers) == 2:
        return Reply(chunks=int(numbers[0]), interval_ms=int(numbers[1]))
    return None


def answer(call: int) -> bytes:
    """One whole non-streaming response, headers included (about 950 bytes)."""
    return _ANSWER_HEAD % call + _ANSWER


_ANSWER_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-inference-id: inf-%08d\r\n"
    b"x-aimlapi-credits-used: 42\r\nx-aimlapi-usd-spent: 0.000021\r\ncontent-length: " + b"%d\r\n\r\n" % len(_ANSWER)
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"x-inference-id: inf-%08d\r\ntransfer-encoding: chunked\r\n\r\n"
)


def framed(payload: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n" % len(payload) + payload + b"\r\n"


def chunk_prefix(call: int) -> bytes:
    """What every chunk of a stream begins with, the HTTP chunk's size line included."""
    event = _EVENT % (b"%08d" % call)
    return b"%x\r\n" % (len(event) + len(_CHUNK_HEAD % 0) + _STAMP_DIGITS + len(_CHUNK_TAIL)) + event


@functools.cache
def chunk_texts(chunks: int) -> list[bytes]:
    """What stands between the prefix and the time stamp, per chunk."""
    return [_CHUNK_HEAD % (n % 10_000) for n in range(chunks)]


#: What stands after the time stamp.
CHUNK_END = _CHUNK_TAIL + b"\r\n"


def stream_end(call: int, chunks: int) -> bytes:
    """The finish reason, the usage with its cost, `[DONE]`, and the end of the body."""
    event = _EVENT % (b"%08d" % call)
    usage = event + _USAGE % (chunks, chunks + 75)
    return framed(event + _LAST) + framed(usage) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"

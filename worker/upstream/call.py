"""What one upstream call asks for, and what can be seen of it while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from api_schemas import jsontext
from api_schemas.usage import Usage
from worker.upstream.outcome import Timings

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"

ChunkSink = Callable[[bytes, str], None]
"""Called for each event of a stream with its JSON text, as the provider sent it, and its visible text (maybe empty)."""

_INCLUDE_USAGE = b'"stream_options":{"include_usage":true}'


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the upstream. `body` is the caller's JSON object as UTF-8 text; `stream` is what it asks for."""

    endpoint: str  # `/v1/chat/completions` or `/v1/responses`
    body: bytes
    stream: bool
    client_request_id: str  # 1 to 128 of A-Z a-z 0-9 . _ : -, or the provider drops it silently
    key: str | None = field(repr=False)
    total_timeout: float  # seconds left for the whole call


@dataclass(slots=True)
class Progress:
    """What has happened so far. The caller makes one, passes it along, and may read it at any time.

    It outlives the call, so after a cancellation it still says what was sent, what arrived and what that cost.
    Times are seconds since the start of the call; None for what has not happened.
    """

    sent_after: float | None = None  # request bytes may have left this machine
    headers_after: float | None = None
    first_token_after: float | None = None
    total: float | None = None
    status: int | None = None
    inference_id: str | None = None
    request_id: str | None = None
    rate_limits: dict[str, str] = field(default_factory=dict)  # the `x-ratelimit-*` headers, lower-case names
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    events: int = 0
    parts: list[str] = field(default_factory=list, repr=False)

    @property
    def sent(self) -> bool:
        """Whether bytes of the request may have left this machine, so that the call may have been paid."""
        return self.sent_after is not None

    @property
    def text(self) -> str:
        """The visible text that has arrived."""
        return whole_text(self.parts)

    @property
    def timings(self) -> Timings:
        """The times as an outcome carries them."""
        return Timings(self.sent_after, self.headers_after, self.first_token_after, self.total)


def whole_text(parts: list[str]) -> str:
    """Join pieces of text; halves of a surrogate pair that came in two pieces become their character."""
    text = "".join(parts)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


def wire_body(call: Call) -> bytes:
    """The body as it goes over the wire.

    A streamed chat completion reports its tokens only when asked to, so the option is spliced in where the caller
    said nothing about stream options. Everything else stays byte for byte what the caller gave.
    """
    if not call.stream or call.endpoint != CHAT or _names(call.body, "stream_options"):
        return call.body
    head = call.body.rstrip()
    if not head.endswith(b"}"):
        return call.body
    head = head[:-1].rstrip()
    return head + (b"" if head.endswith(b"{") else b",") + _INCLUDE_USAGE + b"}"


def choices_asked(call: Call) -> int:
    """How many choices the request asks for (`n`), at least 1."""
    if b'"n"' not in call.body:
        return 1
    asked = jsontext.loads(call.body).get("n")
    return asked if isinstance(asked, int) and asked > 1 else 1


def _names(body: bytes, key: str) -> bool:
    """Whether the object has the key at its top level; looks closer only when the word occurs at all."""
    return f'"{key}"'.encode() in body and key in jsontext.loads(body)

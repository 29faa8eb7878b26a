"""What one upstream call asks for, and what can be seen of it while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from decimal import Decimal

from api_schemas import jsontext
from api_schemas.usage import Usage
from worker.upstream.outcome import Timings
from worker.upstream.room import Share

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
    model: str = ""  # as in the body; what a model refuses is remembered for it


@dataclass(slots=True)
class Progress:
    """What has happened so far. The caller makes one, passes it along, and may read it at any time.

    It outlives the call, so after a cancellation it still holds what was sent, what arrived and what that cost.
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
    odd: dict[str, int] = field(default_factory=dict)  # what was counted and ignored, by kind
    parts: list[str] = field(default_factory=list, repr=False)
    room: Share | None = None  # what the answer takes of the worker's memory

    def give_back(self) -> None:
        """The answer is written, or will not be: others may have its room."""
        if self.room is not None:
            self.room.give_back()

    def restart(self) -> None:
        """Forget all: the request goes out once more."""
        self.give_back()
        fresh = Progress()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))

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


def wire_body(call: Call, *, with_usage: bool = True) -> bytes:
    """The body as it goes over the wire.

    A streamed chat completion reports its tokens only when asked to, so `include_usage` is spliced in, into the
    caller's own stream options where there are some. Everything else stays byte for byte what the caller gave.
    """
    if not (with_usage and asks_for_usage(call)):
        return call.body
    if _names(call.body, "stream_options"):
        document = jsontext.loads(call.body)
        document["stream_options"] = {**(document["stream_options"] or {}), "include_usage": True}
        return jsontext.dumps(document)
    head = call.body.rstrip()[:-1].rstrip()
    return head + (b"" if head.endswith(b"{") else b",") + _INCLUDE_USAGE + b"}"


def asks_for_usage(call: Call) -> bool:
    """Whether we ask for usage on the caller's behalf: who gave `include_usage` is left alone."""
    if not call.stream or call.endpoint != CHAT or not call.body.rstrip().endswith(b"}"):
        return False
    if not _names(call.body, "stream_options"):
        return True
    given = jsontext.loads(call.body)["stream_options"]
    return given is None or (isinstance(given, dict) and "include_usage" not in given)


def choices_asked(call: Call) -> int:
    """How many choices the request asks for (`n`), at least 1."""
    if b'"n"' not in call.body:
        return 1
    asked = jsontext.loads(call.body).get("n")
    return asked if isinstance(asked, int) and asked > 1 else 1


def _names(body: bytes, key: str) -> bool:
    """Whether the object has the key at its top level; looks closer only when the word occurs at all."""
    return f'"{key}"'.encode() in body and key in jsontext.loads(body)

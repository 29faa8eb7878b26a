"""Events of a stream in, the finished response object out: what all endpoints have in common.

An accumulator builds what the same call would have returned without streaming, so that later code does not depend on
how an answer came. It decides whether the answer is whole: a stream that ends early in good order looks like success
to the SDKs, and `finished` is how it is noticed here.
"""

from __future__ import annotations

from typing import Any, Protocol


class StreamBroken(Exception):
    """The stream contains an error, or something that is no event.

    `error` is the provider's error object (any shape), None when the event could not be read.
    """

    def __init__(self, message: str, error: Any = None) -> None:
        super().__init__(message)
        self.error = error


class OtherEndpoint(StreamBroken):
    """The stream is one of another endpoint: it will be the next time, too."""


class Accumulator(Protocol):
    """One stream's events, added up."""

    usage: dict[str, Any] | None  # the provider's own usage object, of all events together
    meta: dict[str, Any] | None  # the provider's `meta`, which carries the cost
    money: int  # how many events had usage or cost
    mended: bytes | None  # the last event as strictly valid JSON where it was not; None where its own bytes are
    finished: bool  # the answer has ended: every choice seen has a finish reason, or the terminal event came
    failure: Any  # what ended it as a failure (a finish reason `abort`, a status `failed`); None where nothing did

    def add(self, event_name: str | None, data: bytes) -> str:
        """Take one event's JSON and return its visible text, maybe empty.

        Raises:
            StreamBroken: an error object, or no JSON object at all. Its usage has been taken.
        """

    @property
    def began(self) -> bool:
        """Whether anything of an answer has come: a piece of text, of a tool call, of reasoning."""

    @property
    def unseen(self) -> int:
        """How many pieces have come that are no visible text: where they go on behind an end, it was none."""

    @property
    def only_thought(self) -> bool:
        """Whether all that came is reasoning: a finish reason behind it may stand in each chunk and mean nothing."""

    @property
    def gives(self) -> bool:
        """Whether anything of the answer itself has come (`ends`): reasoning and steps are none of it."""

    @property
    def complete(self) -> bool:
        """Whether what came looks whole although no event marked its end, if the stream ends here in good order."""

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended, in the provider's word."""

    @property
    def choices(self) -> int:
        """How many choices have been seen."""

    @property
    def text(self) -> str:
        """The visible text of the whole answer."""

    def response(self) -> dict[str, Any]:
        """The response object as the non-streaming call would have returned it."""

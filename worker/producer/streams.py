"""What an application does with a job's live events beside reading them: print the text, send them to a page, sign a URL.

Halves of `Stockpot` and `AsyncStockpot`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from api_schemas.argument_types import typed
from api_schemas.event_numbers import after_number
from worker.base.settings import Settings
from worker.producer.sse import HEARTBEAT, Frames, frames
from worker.producer.stream_urls import EXPIRES, sign, verify
from worker.producer.text import AGAIN, Pieces

if TYPE_CHECKING:
    from worker.producer.loop import Loop
    from worker.producer.reader import Events, Follower
    from worker.producer.stockpot import Stockpot


@typed
class Streams:
    """The blocking half."""

    if TYPE_CHECKING:
        settings: Settings
        tenant: str
        prepare: Callable[[], None]
        events: Callable[[str], Iterator[dict[str, Any]]]
        _reading: Callable[[], Loop]

        @property
        def follower(self) -> Follower:
            """What reads live events."""

    def text(self, job_id: str, *, again: str = AGAIN) -> Iterator[str]:
        """A job's text, piece by piece: `for text in pot.text(job.id): print(text, end="")` prints the answer.

        After an attempt that broke it goes on where the next one goes further. Where the next one differs, `again` comes,
        and the new text from its beginning (`worker.producer.text`).

        Raises NotCompleted where the job ends otherwise, NotFound, Unreachable.
        """
        pieces = Pieces(again)
        for event in self.events(job_id):
            yield from pieces.of(event)

    def sse(
        self,
        job_id: str,
        last_event_id: int | str | bytes | None = None,
        *,
        raw: bool = False,
        cost: bool = False,
        heartbeat: float = HEARTBEAT,
    ) -> Iterator[str]:
        """A job's events as server-sent events, for a response of any web framework; the terminal one is the last.

        Args:
            last_event_id: the browser's `Last-Event-ID`; the stream goes on after it.
            raw: with the provider's own event objects.
            cost: with what the job cost.
            heartbeat: seconds of silence after which a comment is sent, which finds clients that left.

        Raises:
            InvalidRequest: `last_event_id` is no number.
            NotFound, Unreachable: before the first frame, so that the response can be another one.
        """
        self.prepare()
        events = self.follower.events(job_id, self.tenant, after_number(last_event_id), heartbeat)
        return frames(self._reading(), events, raw=raw, cost=cost)

    def stream_url(self, job_id: str, *, expires: timedelta | float = EXPIRES, base: str = "") -> str:
        """A URL of the gateway's at which a browser can follow this job without a key, until it expires.

        Args:
            expires: a timedelta or seconds, a month at most.
            base: where browsers find the gateway (`https://llm.example.com`); without it the page's own origin.

        Raises InvalidRequest, SettingsError (the secret key cannot be had).
        """
        return f"{base.rstrip('/')}/jobs/{job_id}/events?token={sign(self._stream_keys, job_id, self.tenant, expires)}"

    def verify_stream(self, job_id: str, token: str) -> str:
        """The tenant whose job a token of `stream_url` opens. Raises NotAllowed."""
        return verify(self._stream_keys, job_id, token)

    @cached_property
    def _stream_keys(self) -> Sequence[bytes]:
        from worker.webhooks.secrets import Vault

        return Vault.of(self.settings).stream_keys()


@typed
class AsyncStreams:
    """The awaiting half: the same verbs."""

    if TYPE_CHECKING:
        _blocking: Stockpot
        events: Callable[..., Events]

    async def text(self, job_id: str, *, again: str = AGAIN) -> AsyncIterator[str]:
        """As `Stockpot.text`."""
        pieces = Pieces(again)
        async with aclosing(self.events(job_id)) as events:
            async for event in events:
                for piece in pieces.of(event):
                    yield piece

    def sse(
        self,
        job_id: str,
        last_event_id: int | str | bytes | None = None,
        *,
        raw: bool = False,
        cost: bool = False,
        heartbeat: float = HEARTBEAT,
    ) -> Frames:
        """As `Stockpot.sse`. Await it to have an unknown job refused before the response begins."""
        return Frames(self.events(job_id, after_number(last_event_id), heartbeat=heartbeat), raw=raw, cost=cost)

    def stream_url(self, job_id: str, *, expires: timedelta | float = EXPIRES, base: str = "") -> str:
        """As `Stockpot.stream_url`."""
        return self._blocking.stream_url(job_id, expires=expires, base=base)

    def verify_stream(self, job_id: str, token: str) -> str:
        """As `Stockpot.verify_stream`."""
        return self._blocking.verify_stream(job_id, token)

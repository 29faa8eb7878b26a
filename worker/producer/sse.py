"""Server-sent events: a job's live events as frames that any web framework can send as they are.

    id: 17                                        the event's seq: what a browser sends back as `Last-Event-ID`
    data: {"job": …, "type": "chunk", "text": …}

No `event:` line: a browser's `onmessage` gets them all. Silence is filled with comments, so that proxies keep the
connection and a server notices a client that left. The provider's raw objects and prices are left out unless asked for:
a frame goes to a user's browser.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, Self

from api_schemas import jsontext
from worker.live.cursor import Event

if TYPE_CHECKING:
    from worker.producer.loop import Loop
    from worker.producer.reader import Events

#: Seconds of silence after which a comment is sent.
HEARTBEAT = 15.0
#: Sent at once, so that the response's headers go out; after a loss a browser comes back in a second.
OPENING = "retry: 1000\n\n"
#: The headers of a response with these frames. The last is for nginx, which else gathers what should flow.
SSE_HEADERS: Mapping[str, str] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


@functools.cache
def stockpot_js() -> str:
    """The script for the page, `stockpot.js`: to be served beside it, as `text/javascript`."""
    return resources.files(__package__).joinpath("stockpot.js").read_text(encoding="utf-8")


def frame(event: Event, *, raw: bool = False, cost: bool = False) -> str:
    """One event as a frame; a heartbeat as a comment.

    Args:
        raw: with the provider's own event objects.
        cost: with what the job cost.
    """
    if event["type"] == "heartbeat":
        return ": heartbeat\n\n"
    hidden = {name for name, shown in (("data", raw), ("cost_usd", cost)) if not shown}
    fields: dict[str, Any] = {name: value for name, value in event.items() if name not in hidden}
    return f"id: {event['seq']}\ndata: {jsontext.dumps(fields).decode()}\n\n"


class Frames(AsyncIterator[str]):
    """A job's frames, for `async for`.

    Awaiting it first (`frames = await pot.sse(…)`) refuses an unknown job before the response begins; else the first
    step does.
    """

    def __init__(self, events: Events, *, raw: bool, cost: bool) -> None:
        self._events = events
        self._shown = {"raw": raw, "cost": cost}
        self._begun = False

    def __await__(self) -> Generator[Any, None, Self]:
        yield from self._events.open().__await__()
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if not self._begun:
            await self._events.open()
            self._begun = True
            return OPENING
        return frame(await anext(self._events), **self._shown)

    async def aclose(self) -> None:
        """Leave the job."""
        await self._events.aclose()


def frames(loop: Loop, events: Events, *, raw: bool, cost: bool) -> Iterator[str]:
    """The same for a blocking caller: an unknown job is refused here, before the first frame."""
    loop.call(events.open)
    return _frames(loop, events, raw=raw, cost=cost)


def _frames(loop: Loop, events: Events, *, raw: bool, cost: bool) -> Iterator[str]:
    yield OPENING
    for event in loop.iterate(events):
        yield frame(event, raw=raw, cost=cost)

"""One pub/sub connection for all the readers of a process.

Every reader has a short queue of envelopes. When it overflows, or the connection was lost and made again, the queue
is emptied and the reader replays the log: a slow reader costs no memory, and nothing is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Self

from redis.asyncio.client import PubSub

from worker.base.payloads import CLEAR, Payloads
from worker.base.redis import AWAY, asynchronous, pooled
from worker.base.redis_urls import namespace_of
from worker.base.tasks import end_tasks
from worker.live.keys import ENTRY_FIELD, job_key, job_prefix
from worker.live.listening import messages

#: Envelopes that wait for one reader; one arrives per window, so this is some seconds of a fast stream.
QUEUE_LENGTH = 256
#: Entries per XRANGE: a page of a few hundred kB.
PAGE = 500
#: Connections for replays, however many readers there are; the others wait their turn.
REPLAY_CONNECTIONS = 8
SOCKET_LIMIT = timedelta(seconds=2)
FIRST_PAUSE, LONGEST_PAUSE = timedelta(milliseconds=50), timedelta(seconds=1)


class Signal(enum.Enum):
    """What a reader gets instead of an envelope."""

    REPLAY = "replay"  # read the log: it holds whatever is missing here
    OVER = "over"  # the database has the job's end
    SILENCE = "silence"  # nothing for as long as was asked
    END = "end"  # the process ends its readers; the job goes on


class Tail:
    """One reader's queue. Offered to and read on one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._replay = False
        self._over = False
        self._ended = False
        self._wake = asyncio.Event()

    def offer(self, envelope: bytes) -> None:
        """Add an envelope; when the queue is full the log takes its place."""
        if len(self._waiting) >= QUEUE_LENGTH:
            self.replay()
        elif not self._replay:
            self._waiting.append(envelope)
            self._wake.set()

    def replay(self) -> None:
        """Make the reader read the log; it holds whatever waits here."""
        self._waiting.clear()
        self._replay = True
        self._wake.set()

    def over(self) -> None:
        """Make the reader look at the end that the database has."""
        self._over = True
        self._wake.set()

    def end(self) -> None:
        """End the reader at its next step, and at each after it."""
        self._ended = True
        self._wake.set()

    async def next(self, seconds: float | None) -> bytes | Signal:
        """The next envelope, or why there is none, SILENCE after `seconds`. Being cancelled loses nothing."""
        if not self._wake.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                return Signal.SILENCE
        if self._ended:
            return Signal.END
        found: bytes | Signal
        if self._replay:
            self._replay, found = False, Signal.REPLAY
        elif self._waiting:
            found = self._waiting.popleft()
        else:
            self._over, found = False, Signal.OVER
        if not (self._waiting or self._replay or self._over):
            self._wake.clear()
        return found


class Feed:
    """The process's readers' way to Redis. Use as an asynchronous context, on one event loop."""

    def __init__(self, redis_url: str, payloads: Payloads = CLEAR) -> None:
        self.payloads = payloads
        limit = SOCKET_LIMIT.total_seconds()
        self._namespace = namespace_of(redis_url)
        self._log = pooled(redis_url, seconds=limit, connections=REPLAY_CONNECTIONS)
        # In RESP3 a message is a push, which redis-py writes out for its log before it is passed on, whether one listens or
        # not: a sixth of a reader's time.
        self._live = asynchronous(redis_url, seconds=limit, protocol=2)
        self._tails: dict[str, set[Tail]] = {}
        self._confirmed: set[str] = set()
        self._changed: set[str] = set()  # channels to subscribe to, or to leave
        self._changer: asyncio.Task[None] | None = None
        self._pubsub: PubSub | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="live-feed")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening and disconnect."""
        await end_tasks([task for task in (self._task, self._changer) if task is not None])
        self._task = self._changer = None

    async def _run(self) -> None:
        """Listen until cancelled: by `aclose`, or by the loop's own end, which then leaves no connection behind."""
        try:
            await self._listen()
        finally:
            await self._live.aclose()
            await self._log.aclose()

    def end_readers(self) -> None:
        """End every reader at its next step, without an error; each can go on from the last event that it has."""
        for tails in self._tails.values():
            for tail in tails:
                tail.end()

    def join(self, job_id: str) -> Tail:
        """A tail of a job's channel. Its first signal is REPLAY, once the subscription stands."""
        tail, channel = Tail(), job_key(job_id, self._namespace)
        readers = self._tails.setdefault(channel, set())
        readers.add(tail)
        if channel in self._confirmed:
            tail.replay()
        elif len(readers) == 1:
            self._change(channel)
        return tail

    def leave(self, job_id: str, tail: Tail) -> None:
        """End a tail."""
        channel = job_key(job_id, self._namespace)
        readers = self._tails.get(channel, set())
        readers.discard(tail)
        if not readers and self._tails.pop(channel, None) is not None:
            self._confirmed.discard(channel)
            self._change(channel)

    def _change(self, channel: str) -> None:
        self._changed.add(channel)
        if self._pubsub is not None and (self._changer is None or self._changer.done()):
            self._changer = asyncio.create_task(self._subscribe(), name="live-subscribe")

    async def _subscribe(self) -> None:
        """Subscribe to the channels that have readers now, and leave those that have none, as many as there are at once.

        A failure shows in the listener too, which then subscribes to everything again.
        """
        with contextlib.suppress(*AWAY):
            while self._changed and self._pubsub is not None:
                changed, self._changed = self._changed, set()
                wanted = [channel for channel in changed if channel in self._tails]
                left = [channel for channel in changed if channel not in self._tails]
                if left:
                    await self._pubsub.unsubscribe(*left)
                if wanted:
                    await self._pubsub.subscribe(*wanted)

    async def entries(self, job_id: str, after: int) -> AsyncIterator[bytes]:
        """Yield the log's envelopes with a seq above `after`, oldest first.

        Raises:
            redis.exceptions.RedisError, OSError: Redis does not answer.
        """
        first = f"{after + 1}-0"
        while True:
            page = await self._read("XRANGE", job_key(job_id, self._namespace), first, "+", "COUNT", PAGE)
            for _, fields in page:
                yield fields.get(ENTRY_FIELD, b"")
            if len(page) < PAGE:
                return
            first = "(" + page[-1][0].decode()

    async def _read(self, command: str, *args: str | int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        run: Callable[..., Awaitable[list[tuple[bytes, dict[bytes, bytes]]]]] = self._log.execute_command
        return await run(command, *args)

    async def _listen(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._live.pubsub() as pubsub:
                    # The bare prefix is no job's channel: it keeps the connection open without readers.
                    await pubsub.subscribe(job_prefix(self._namespace))
                    self._pubsub = pubsub
                    self._changed.clear()
                    if self._tails:
                        await pubsub.subscribe(*self._tails)
                    async for message in messages(pubsub):
                        pause = FIRST_PAUSE
                        self._pass_on(message["type"], message["channel"], message["data"])
            except AWAY:
                self._pubsub = None
                self._confirmed.clear()
                await asyncio.sleep(pause.total_seconds())
                pause = min(pause * 2, LONGEST_PAUSE)
            finally:
                self._pubsub = None

    def _pass_on(self, kind: str, channel: bytes | None, data: bytes) -> None:
        name = channel.decode() if channel is not None else ""
        readers = self._tails.get(name, ())
        if kind == "message":
            for tail in readers:
                tail.offer(data)
        elif kind == "subscribe" and readers:
            self._confirmed.add(name)
            for tail in readers:
                tail.replay()

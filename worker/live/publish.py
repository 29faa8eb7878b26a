"""The publisher: all live events of one worker process, one flush per window for all its jobs.

An unavailable Redis costs live tokens, never the job: nothing here raises into the caller or blocks it. An event gets
its number (`event_numbers`) before it is sent, and keeps it. While Redis is away, events are buffered up to a bound;
beyond it, chunks are dropped and counted. Their numbers are missing then, so every reader sees the gap and reads the
database. A flush without a reply is repeated, and `append.lua` skips what it had already written, so no token is
doubled. At most one flush is in flight: when Redis is slow, the next one is larger.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import hiredis
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from api_schemas.event_numbers import FIRST_END, KEPT_FREE, MOST_EVENTS, number
from api_schemas.events import TERMINAL_TYPES
from worker.base import crashpoints
from worker.base.crashpoints import crashpoint
from worker.base.payloads import CLEAR, Payloads
from worker.base.redis import AWAY, asynchronous, namespace
from worker.base.redis_urls import namespace_of
from worker.base.tasks import end_tasks
from worker.live import script
from worker.live.keys import job_key

#: One script call blocks Redis for about 2 ms at this many jobs.
JOBS_PER_CALL = 256
#: A flush of so many streams takes a whole window: with fewer, a single call would wait for company that does not come.
FEW_STREAMS = 16
#: A flush without an answer in that time has failed.
SOCKET_LIMIT = timedelta(seconds=2)
#: The wait after a failed flush doubles from the first to the second.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(milliseconds=50), timedelta(seconds=1)
#: Bytes buffered while Redis is away, for all jobs of the process.
HELD_BYTES = 32 * 1024 * 1024
#: Finished jobs with a buffered terminal event; beyond it the oldest is dropped, and readers find it in the database.
HELD_FINISHED = 10_000
#: How long `aclose` tries to send the last events.
CLOSE_LIMIT = timedelta(seconds=2)


class LiveStream:
    """One attempt's events, in order. Its methods only append to lists."""

    __slots__ = (
        "_before",
        "_bytes",
        "_end",
        "_events",
        "_finished",
        "_has_ttl",
        "_job_id",
        "_place",
        "_publisher",
        "_queued",
        "_raws",
        "_texts",
        "epoch",
        "fenced",
        "key",
        "log",
        "seq",
    )

    def __init__(self, publisher: Publisher, job_id: str, epoch: int, *, log: bool) -> None:
        self._publisher = publisher
        self.key = job_key(job_id, publisher.namespace)
        self._job_id = job_id
        self.epoch = epoch
        self.log = log
        self.fenced = False
        self._before = self.seq = number(epoch, 0)  # `seq`: of the last event that Redis has taken
        self._place = 0  # of the last event that has a number
        self._end: int | None = None
        self._has_ttl = False  # the log has its TTL
        self._events: list[
            tuple[int, bytes, bool]
        ] = []  # number, tail, and whether it is no chunk and outlives shedding
        self._raws: list[bytes] = []
        self._texts: list[str] = []
        self._bytes = 0
        self._queued = False
        self._finished = False

    def chunk(self, raw: bytes, text: str) -> None:
        """Add one of the upstream's event objects, verbatim JSON, and its visible text."""
        if self.fenced or self._end is not None or not self.log or self._place >= MOST_EVENTS:
            return
        if crashpoints.may_die:
            crashpoint("call.chunk", self._job_id)
        self._raws.append(raw)
        self._texts.append(text)
        self._publisher.hold(self, len(raw) + len(text))

    def end(self) -> int:
        """The terminal event's place in its block, which the job's row keeps. No chunk follows."""
        if self._end is None:
            self._fold(script.timestamp().encode())
            self._end = self._place + 1 + KEPT_FREE
        return self._end

    def emit(self, event_type: str, fields: Mapping[str, Any]) -> None:
        """Add an event of another type after the chunks so far. A job without a log has only the terminal event."""
        terminal = event_type in TERMINAL_TYPES
        if self.fenced or self._finished or not (self.log or terminal):
            return
        at = script.timestamp()
        if terminal:
            self._place = self.end()
        else:
            self._fold(at.encode())
            self._place += 1
        tail = script.event_tail(event_type, at, fields)
        self._events.append((self._before + self._place, tail, True))
        self._finished = terminal
        self._publisher.hold(self, len(tail))

    def _taken(self, last: int) -> None:
        """Remove the events up to number `last`, which Redis has. Events shed meanwhile are gone already."""
        events = self._events
        if events and events[-1][0] <= last:
            events.clear()
        else:
            self._events = [event for event in events if event[0] > last]
        self.seq = last
        self._has_ttl = self.log

    def _size(self) -> int:
        tails = sum(len(tail) for _, tail, _ in self._events)
        return tails + sum(map(len, self._raws)) + sum(map(len, self._texts))

    def _fold(self, at: bytes) -> None:
        if self._raws:
            self._place += 1
            seq, payloads = self._before + self._place, self._publisher.payloads
            if self._publisher.encrypts:
                tail = script.sealed_chunk_tail(at, self._raws, self._texts, payloads, self._job_id, seq)
            else:
                tail = script.chunk_tail(at, self._raws, self._texts)
            self._events.append((seq, tail, False))
            self._raws.clear()
            self._texts.clear()

    def _shed(self) -> int:
        """Drop the buffered chunks; their numbers are not given again. Returns how many events were dropped."""
        dropped = int(bool(self._raws))
        self._place += dropped
        self._raws, self._texts = [], []
        kept = [event for event in self._events if event[2]]
        dropped += len(self._events) - len(kept)
        self._events = kept
        return dropped

    def _held(self) -> int:
        """How many events have not been sent."""
        return len(self._events) + bool(self._raws)


class Publisher:
    """Sends the events of all open streams; `dropped` and `fenced` count events and streams."""

    def __init__(
        self,
        redis_url: str,
        *,
        window_seconds: float,
        log_entries: int,
        ttl_seconds: float,
        max_ttl_seconds: float,
        payloads: Payloads = CLEAR,
    ) -> None:
        """Prepare; connects at the first flush.

        Args:
            redis_url: the URL in force.
            window_seconds: how long events are gathered before a flush.
            log_entries: about how many entries a job's log keeps.
            ttl_seconds: how long a log outlives its terminal event.
            max_ttl_seconds: how long a log outlives its last event while the job is not finished.
            payloads: what encrypts the chunks.
        """
        self.payloads, self.encrypts = payloads, bool(payloads.key_ids)
        limit = SOCKET_LIMIT.total_seconds()
        # Retries are ours (`append.lua` knows how to repeat), so redis-py makes none.
        self._redis = asynchronous(redis_url, seconds=limit)
        self.namespace = namespace_of(redis_url)
        pool = self._redis.connection_pool
        pool.connection_class = type("PackedConnection", (_Packed, pool.connection_class), {})
        self._window = window_seconds
        self._limits = (log_entries, int(max(max_ttl_seconds, 1)), int(max(ttl_seconds, 1)))
        self._due: list[LiveStream] = []
        self._held = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        self.fenced = 0

    async def start(self) -> asyncio.Task[None]:
        """Begin to flush; the task that does lasts until `aclose`."""
        self._task = asyncio.create_task(self._run(), name="live-publisher")
        return self._task

    async def aclose(self) -> None:
        """Flush what is left, within a short limit, and disconnect."""
        if self._task is not None:
            await end_tasks([self._task])
            self._task = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_LIMIT.total_seconds()):
                await self._flush()
        self.dropped += sum(stream._held() for stream in self._due)
        self._due = []
        await self._redis.aclose()

    def open(self, job_id: str, epoch: int, *, log: bool) -> LiveStream:
        """Begin the stream of one fence, the caller's own: no other process numbers events of this epoch."""
        return LiveStream(self, job_id, epoch, log=log)

    def hold(self, stream: LiveStream, size: int) -> None:
        """Note that a stream has `size` bytes more to send."""
        stream._bytes += size
        self._held += size
        if not stream._queued:
            stream._queued = True
            self._due.append(stream)
            self._wake.set()
        if self._held > HELD_BYTES:
            self._shed()

    def _shed(self) -> None:
        for stream in self._due:
            self.dropped += stream._shed()
            self._held -= stream._bytes
            stream._bytes = stream._size()
            self._held += stream._bytes
        finished = [stream for stream in self._due if stream._finished]
        for stream in finished[: max(0, len(finished) - HELD_FINISHED)]:
            self.dropped += len(stream._events)
            self._forget(stream)
            self._due.remove(stream)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause, due = FIRST_PAUSE, 0.0
        while True:
            await self._wake.wait()
            # The first event after a silence is sent at once. A dense stream is gathered: for a window from flush to flush,
            # and for half a window at least when flushes take long.
            await asyncio.sleep(max(0.0, due - loop.time()))
            # For few streams the window is shorter.
            began, window = loop.time(), self._window * min(1.0, len(self._due) / FEW_STREAMS)
            well = await self._flush()
            due = max(began + window, loop.time() + window / 2)
            if well:
                pause = FIRST_PAUSE
            else:
                await asyncio.sleep(pause.total_seconds())
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _flush(self) -> bool:
        """Send all due streams. Those that could not be sent stay due; False when there was one."""
        due, self._due = self._due, []
        self._wake.clear()
        well = True
        for start in range(0, len(due), JOBS_PER_CALL):
            part = due[start : start + JOBS_PER_CALL]
            if well:
                part = await self._send(part)
                well = not part
            # A stream that got more events meanwhile is not due twice: it stayed `_queued`.
            self._due.extend(part)
        if self._due:
            self._wake.set()
        return well

    async def _send(self, streams: list[LiveStream]) -> list[LiveStream]:
        """Send one script call; returns the streams to send again because it failed.

        Events are removed only after the answer, and the streams stay `_queued`, so `hold` makes none of them due twice.
        """
        at = script.timestamp().encode()
        args: list[Any] = [*self._limits]
        sent: list[int] = []  # of each stream: the number of its last event
        for stream in streams:
            stream._fold(at)
            log = (script.FINISHED if stream._finished else script.RUNNING) if stream.log else script.NO_LOG
            events = stream._events
            args += (stream.epoch, log, int(stream._has_ttl), len(events))
            for seq, tail, _ in events:
                args += (seq, tail)
            sent.append(events[-1][0] if events else stream.seq)
        try:
            replies = await _call(self._redis, [stream.key for stream in streams], args)
        except AWAY:
            replies = [script.REFUSED] * len(streams)
        except asyncio.CancelledError:
            self._due = streams + self._due
            raise
        return [
            stream
            for stream, last, reply in zip(streams, sent, replies, strict=True)
            if not self._take(stream, last, reply)
        ]

    def _take(self, stream: LiveStream, last: int, reply: int) -> bool:
        """Apply one job's reply; False when its events must be sent again."""
        if reply == script.REFUSED:
            return False
        if reply == script.FENCED:
            stream.fenced = True
            self.fenced += 1
            self.dropped += stream._held()
            self._forget(stream)
            return True
        stream._taken(last)
        self._held -= stream._bytes
        stream._bytes = 0
        stream._queued = False
        if stream._events or stream._raws:
            self.hold(stream, stream._size())
        return True

    def _forget(self, stream: LiveStream) -> None:
        self._held -= stream._bytes
        stream._bytes = 0
        stream._queued = False
        stream._events, stream._raws, stream._texts = [], [], []


class _Packed:
    """Packs commands in C; redis-py's asynchronous connections do it in Python, a quarter of a flush's CPU."""

    def pack_command(self, *args: Any) -> list[bytes]:
        name, *rest = args
        return [hiredis.pack_command((*name.split(), *rest))]


async def _call(redis: Redis, keys: list[str], args: list[Any]) -> list[int]:
    run: Callable[..., Awaitable[list[int]]] = redis.execute_command
    try:
        return await run("EVALSHA", script.digest(), len(keys), *keys, *args)
    except NoScriptError:
        return await run("EVAL", script.source(), len(keys), *keys, *args)


def announce(
    redis: SyncRedis,
    job_id: str,
    epoch: int,
    event_type: str,
    fields: Mapping[str, Any],
    *,
    log: bool,
    log_entries: int,
    ttl_seconds: float,
) -> int | None:
    """Publish the terminal event of a job that no worker runs (cancelled while queued).

    Args:
        redis: a synchronous client with short timeouts; the call blocks for as long as they allow.
        epoch: the job's fence, which was raised for this end.

    Returns:
        The event's seq; None when Redis did not take it or a higher epoch has written. The database answers then.
    """
    kept, seq = int(max(ttl_seconds, 1)), number(epoch, FIRST_END)
    tail = script.event_tail(event_type, script.timestamp(), fields)
    args: list[Any] = [log_entries, kept, kept, epoch, script.FINISHED if log else script.NO_LOG, 0, 1, seq, tail]
    try:
        reply = int(redis.eval(script.source(), 1, job_key(job_id, namespace(redis)), *args)[0])
    except RedisError:
        return None
    return seq if reply == 0 else None

"""Live streams against a real Valkey: publisher, readers, and what happens to both when Redis misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence

import pytest
import redis

from api_schemas.event_numbers import BLOCK, FIRST_END, KEPT_FREE, number
from api_schemas.job_views import Standing
from tests.rig.invariants import shown_text
from tests.rig.live import JOB, RUNNING, Reader, completed, over, publishing, say, sent, until
from tests.rig.servers import ValkeyServer
from worker.live.control import Control, publish_cancel
from worker.live.feed import Feed
from worker.live.keys import job_key
from worker.live.publish import Publisher, announce
from worker.live.subscribe import Follow
from worker.live.watch import Watch

pytestmark = pytest.mark.anyio


async def test_a_late_reader_gets_everything_once_and_in_order(redis_url: str) -> None:
    """The log is replayed, then live events follow, the upstream's objects verbatim."""
    async with publishing(redis_url) as publisher:
        stream = publisher.open(JOB, 1, log=True)
        stream.emit("job.started", {"attempt": 1, "model": "m"})
        say(stream, "a")
        await sent(stream, 2)
        reader = Reader(redis_url)
        await reader.sees("a")
        say(stream, "b")
        say(stream, "c")
        await reader.sees("abc")
        reader.final = over("abc", stream.end())
        completed(stream)
        events = await reader.end()
    assert [event["seq"] for event in events[:-1]] == list(range(1, len(events)))
    assert events[-1]["seq"] == len(events) + KEPT_FREE
    assert [event["type"] for event in events][-1] == "job.completed"
    assert events[1]["data"] == [{"choices": [{"delta": {"content": "a"}}]}]
    assert shown_text(events) == "abc"


async def test_a_reader_that_comes_back_continues_where_it_was(redis_url: str) -> None:
    """`after` skips what was seen; a reader at the end or beyond it gets the terminal event again."""
    async with publishing(redis_url) as publisher:
        stream = publisher.open(JOB, 1, log=True)
        say(stream, "a")
        await sent(stream, 1)
        say(stream, "b")
        final = over("ab", stream.end())
        completed(stream)
        await sent(stream, final.seq)
        events = await Reader(redis_url, after=1, final=final).end()
        assert [event["seq"] for event in events] == [2, final.seq]
        for after in (final.seq, final.seq + 10**12):
            assert await Reader(redis_url, after=after, final=final).end() == events[-1:]


async def test_a_flushed_log_costs_a_late_reader_tokens_and_never_the_text(own_valkey: ValkeyServer) -> None:
    """FLUSHALL in mid-stream: who was there misses nothing, who comes later gets the whole text at the end."""
    async with publishing(own_valkey.url) as publisher:
        stream = publisher.open(JOB, 1, log=True)
        early = Reader(own_valkey.url)
        say(stream, "a")
        await early.sees("a")
        own_valkey.flush()
        say(stream, "b")
        await early.sees("ab")
        late = Reader(own_valkey.url)
        say(stream, "c")
        early.final = late.final = over("abc", stream.end())
        completed(stream)
        assert shown_text(await early.end()) == "abc"
        events = await late.end()
    assert shown_text(events) == "abc"
    assert [event["type"] for event in events] == ["chunk", "job.completed"]
    assert events[0]["seq"] < events[1]["seq"]


async def test_no_log_and_no_redis_end_with_the_databases_text(own_valkey: ValkeyServer) -> None:
    """A log that is gone, then a server that is gone: the database answers both."""
    final = over("all of it")
    events = await Reader(own_valkey.url, final=final).end()
    assert shown_text(events) == "all of it"
    own_valkey.kill9()
    events = await Reader(own_valkey.url, final=final).end()
    assert shown_text(events) == "all of it"
    assert events[-1]["finish_reason"] == "stop"


async def test_a_frozen_server_delays_tokens_and_doubles_none(own_valkey: ValkeyServer) -> None:
    """The flush whose reply is lost is executed after all; its repetition adds nothing."""
    async with publishing(own_valkey.url) as publisher:
        stream = publisher.open(JOB, 1, log=True)
        reader = Reader(own_valkey.url)
        say(stream, "a")
        await reader.sees("a")
        own_valkey.freeze()
        fresh = publisher.open(JOB + "b", 1, log=True)
        say(fresh, "x")
        say(stream, "b")
        # The second window finds the first flush without an answer: its events are folded apart from the later ones.
        await until(lambda: len(stream._events) == 1, what="a flush in flight")
        say(stream, "c")
        await until(lambda: len(stream._events) == 2, what="a flush that failed, and its repetition")
        own_valkey.thaw()
        await reader.sees("abc")
        other = Reader(own_valkey.url, JOB + "b", final=RUNNING)
        await other.sees("x")
        reader.final = over("abc", stream.end())
        completed(stream)
        assert shown_text(await reader.end()) == "abc"
        await other.leave()
        assert publisher.dropped == 0


async def test_a_killed_server_comes_back_and_no_token_is_missing(own_valkey: ValkeyServer) -> None:
    """Publisher and reader connect again by themselves and the reader replays what it missed."""
    async with publishing(own_valkey.url) as publisher:
        stream = publisher.open(JOB, 1, log=True)
        reader = Reader(own_valkey.url)
        say(stream, "a")
        await reader.sees("a")
        own_valkey.kill9()
        say(stream, "b")
        own_valkey.start()
        await reader.sees("ab")
        reader.final = over("ab", stream.end())
        completed(stream)
        assert shown_text(await reader.end()) == "ab"


async def test_readers_whose_connections_are_killed_miss_nothing(own_valkey: ValkeyServer) -> None:
    """As a slow reader is kicked: the shared connection is made again, and every reader replays."""
    client = redis.Redis.from_url(own_valkey.url)
    async with publishing(own_valkey.url) as publisher, Feed(own_valkey.url) as feed:
        stream = publisher.open(JOB, 1, log=True)
        readers = [Reader(feed) for _ in range(20)]
        text = ""
        for letter in "abcdefgh":
            say(stream, letter)
            text += letter
            for reader in readers:
                await reader.sees(text)
            # The text may come from the log while the connection is still being made again.
            await until(lambda: client.client_kill_filter(_type="pubsub") == 1, what="the one connection is killed")
        for reader in readers:
            reader.final = over(text, stream.end())
        completed(stream)
        for reader in readers:
            assert shown_text(await reader.end()) == text
    client.close()


async def test_a_slow_reader_is_kept_short_and_still_gets_all(redis_url: str) -> None:
    """More envelopes than a queue holds, between two looks of the reader: the log takes the queue's place."""
    publisher = Publisher(redis_url, window_seconds=1, log_entries=20_000, ttl_seconds=60, max_ttl_seconds=600)
    async with Feed(redis_url) as feed:
        stream = publisher.open(JOB, 1, log=True)
        text = "".join(chr(97 + n % 26) for n in range(600))

        async def read(ids: Sequence[str]) -> Mapping[str, Standing]:
            return dict.fromkeys(ids, over(text, stream.end()) if stream.seq > len(text) else RUNNING)

        say(stream, text[0])
        await publisher._flush()
        events = []
        watch = Watch(read, 0.1)
        async for event in Follow(feed, watch, JOB):
            events.append(event)
            if len(events) == 1:
                for letter in text[1:]:
                    say(stream, letter)
                    await publisher._flush()
                completed(stream)
                await publisher._flush()
        await watch.aclose()
    await publisher.aclose()
    assert [event["seq"] for event in events] == [*range(1, len(text) + 1), stream.end()]
    assert shown_text(events) == text


async def test_a_new_attempt_resets_and_the_zombie_is_refused(redis_url: str) -> None:
    """After epoch 2 wrote, epoch 1 writes nothing more and knows it."""
    async with publishing(redis_url) as publisher:
        zombie = publisher.open(JOB, 1, log=True)
        reader = Reader(redis_url)
        say(zombie, "old")
        await reader.sees("old")
        stream = publisher.open(JOB, 2, log=True)
        stream.emit("attempt.reset", {"reason": "lease_lost", "attempt": 2})
        say(stream, "new")
        await reader.sees("new")
        say(zombie, "er")
        await until(lambda: zombie.fenced, what="the zombie is fenced")
        reader.final = over("new", number(2, stream.end()))
        completed(stream)
        events = await reader.end()
        assert publisher.fenced == 1
    assert shown_text(events) == "new"
    assert [event["seq"] for event in events] == [1, BLOCK + 1, BLOCK + 2, BLOCK + 5]


async def test_a_zombie_whose_log_was_lost_harms_no_reader(redis_url: str) -> None:
    """Its numbers are below those of the claim that wrote the new log, and Redis refuses them."""
    client = redis.Redis.from_url(redis_url)
    async with publishing(redis_url) as publisher:
        zombie = publisher.open(JOB, 1, log=True)
        for seq in range(1, 6):
            say(zombie, "old")
            await sent(zombie, seq)
        client.flushall()
        reader = Reader(redis_url)
        stream = publisher.open(JOB, 2, log=True)
        stream.emit("attempt.reset", {"reason": "lease_lost", "attempt": 2})
        say(stream, "new")
        await reader.sees("new")
        say(zombie, "er")
        await until(lambda: zombie.fenced, what="the zombie is fenced")
        say(stream, "er")
        await sent(stream, number(2, 3))
        final = over("newer", number(2, stream.end()))
        reader.final = final
        late = Reader(redis_url)
        late.final = final
        completed(stream)
        for each in (reader, late):
            events = await each.end()
            assert shown_text(events) == "newer"
            assert {event["epoch"] for event in events} == {2}
    client.close()


async def test_an_unlogged_job_publishes_its_end_and_leaves_no_key(redis_url: str) -> None:
    """Bulk jobs cost Redis no memory; a waiting reader still hears the end at once and gets the text."""
    async with publishing(redis_url) as publisher:
        # It asks the database once, when it has subscribed, and then only hears: the end must come by the channel.
        reader = Reader(redis_url, poll_seconds=60)
        client = redis.Redis.from_url(redis_url)
        await until(lambda: reader.asked, what="the reader has subscribed and looked")
        stream = publisher.open(JOB, 3, log=False)
        say(stream, "unheard")
        reader.final = over("text", number(3, stream.end()))
        completed(stream)
        events = await reader.end()
        assert client.keys() == []
        client.close()
    assert events[-1]["seq"] == number(3, FIRST_END)
    assert shown_text(events) == "text"


async def test_every_log_expires_also_one_that_was_lost(redis_url: str) -> None:
    """No key without a TTL: while the job runs, after FLUSHALL, and shorter once it is finished."""
    client = redis.Redis.from_url(redis_url)
    async with publishing(redis_url) as publisher:
        stream = publisher.open(JOB, 1, log=True)
        for number in (1, 2, 3):
            say(stream, "a")
            await sent(stream, number)
            assert 60 < client.ttl(job_key(JOB)) <= 600
            if number == 2:
                client.flushall()
        completed(stream)
        await sent(stream, stream.end())
        assert 0 < client.ttl(job_key(JOB)) <= 60
    client.close()


async def test_announce_ends_a_queued_job_and_logs_expire(redis_url: str) -> None:
    """A process without a publisher ends a stream with the same script; the log gets its TTL."""
    client = redis.Redis.from_url(redis_url)
    reader = Reader(redis_url)
    await until(lambda: reader.asked, what="the reader is there")
    reader.final = over("", number(2, FIRST_END), "cancelled")
    error = {"class": "cancelled", "code": None, "message": "cancelled", "status": None}
    seq = announce(client, JOB, 2, "job.cancelled", {"error": error}, log=True, log_entries=100, ttl_seconds=60)
    assert seq == number(2, FIRST_END)
    events = await reader.end()
    assert [event["type"] for event in events] == ["job.cancelled"]
    assert 0 < client.ttl(job_key(JOB)) <= 60
    client.close()


async def test_a_full_server_keeps_the_terminal_event_until_there_is_room(own_valkey: ValkeyServer) -> None:
    """With `noeviction` and no memory writes are refused: the publisher waits and goes on by itself."""
    client = redis.Redis.from_url(own_valkey.url)
    async with publishing(own_valkey.url) as publisher:
        stream = publisher.open(JOB, 1, log=True)
        client.config_set("maxmemory", 1)
        say(stream, "a")
        completed(stream)
        await until(lambda: client.info("errorstats").get("errorstat_OOM"), what="OOM errors")
        assert stream.seq == 0
        client.config_set("maxmemory", 0)
        await sent(stream, stream.end())
    client.close()


async def test_two_thousand_cancelled_flushes_never_cross_replies(redis_url: str) -> None:
    """S10: a publisher torn down in mid-flush leaves no reply for the next; each job's seq and log are its own."""
    publisher = Publisher(redis_url, window_seconds=0.001, log_entries=10_000, ttl_seconds=60, max_ttl_seconds=60)
    streams = [publisher.open(f"job_{n}", n + 1, log=True) for n in range(4)]
    cancelled = 0
    for turn in range(2_000):
        for stream in streams:
            say(stream, f"{turn},")
        flush = asyncio.create_task(publisher._flush())
        for _ in range(turn % 5):
            await asyncio.sleep(0)
        flush.cancel()
        cancelled += isinstance((await asyncio.gather(flush, return_exceptions=True))[0], asyncio.CancelledError)
    await publisher._flush()
    await publisher.aclose()
    assert cancelled > 1_000
    client = redis.Redis.from_url(redis_url)
    for n, stream in enumerate(streams):
        events = [json.loads(fields[b"e"]) for _, fields in client.xrange(stream.key)]  # type: ignore[index, union-attr]
        assert shown_text(events) == "".join(f"{turn}," for turn in range(2_000))
        assert {event["job"] for event in events} == {f"job_{n}"}
        assert stream.seq == events[-1]["seq"] == number(n + 1, len(events))
    client.close()


async def test_a_cancellation_reaches_the_workers_through_a_lost_connection(own_valkey: ValkeyServer) -> None:
    """The control channel connects again by itself."""
    client = redis.Redis.from_url(own_valkey.url)
    heard: list[str] = []
    listening = asyncio.create_task(Control(own_valkey.url).listen(heard.append))
    await until(lambda: publish_cancel(client, "job_1"), what="a listener")
    await until(lambda: "job_1" in heard, what="job_1 heard")
    assert client.client_kill_filter(_type="pubsub") == 1
    await until(lambda: publish_cancel(client, "job_2"), what="a listener again")
    await until(lambda: "job_2" in heard, what="job_2 heard")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    client.close()

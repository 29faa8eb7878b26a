"""The faults of a soak: what is done, how often, and what it may cost. Each ends what it began, then tells what it did."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from sqlalchemy.engine import make_url

from tests.rig.faultproxy import FaultProxy
from tests.rig.waiting import eventually
from tests.soak.arena import LEASE_SECONDS, Arena
from tests.soak.history import Event
from worker.base.errors import NotAllowed, Unreachable

#: Blows of a storm of resets, and the seconds between two.
BLOWS, BETWEEN_BLOWS = (3, 12), (0.1, 0.5)


@dataclass(frozen=True, slots=True)
class Done:
    """What a fault did: a line for the history, and the workers it killed or asked to end."""

    detail: str
    kills: int = 0
    terms: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        weight: how often it is drawn, against the others.
        costs_calls: it may cost a job that it hits one more call.
        strike: does it.
    """

    name: str
    weight: int
    costs_calls: bool
    strike: Callable[[Arena], Done]

    def done_to(self, arena: Arena) -> Event:
        """Strike, and say when."""
        began = time.time()
        done = self.strike(arena)
        return Event(self.name, done.detail, began, time.time(), self.costs_calls, done.kills, done.terms)


# ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kill(arena: Arena) -> Done:
    arena.mortal()
    process = arena.kill_one(arena.rng)
    if process is None:
        return Done("nobody was there to be killed")
    return Done(f"{process.name}, {len(arena.on.held_by(process))} calls in its hands", kills=1)


def _ask_to_end(arena: Arena) -> Done:
    process = arena.mortal().process
    with contextlib.suppress(ProcessLookupError):
        process.term()
        return Done(process.name, terms=1)
    return Done(f"{process.name} had ended already")


def _freeze(arena: Arena) -> Done:
    with arena.freezing() as process:
        if process is None:
            return Done("it had ended already")
        seconds = arena.pause(0.3 * LEASE_SECONDS, 2 * LEASE_SECONDS)
        return Done(f"{process.name} for {seconds:.1f} s, lease {LEASE_SECONDS:g} s")


# ── Redis ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kill_redis(arena: Arena) -> Done:
    arena.on.valkey.kill9()
    try:
        seconds = arena.pause(0, 3)
    finally:
        arena.on.valkey.start()
    return Done(f"back after {seconds:.1f} s with its data")


def _empty_redis(arena: Arena) -> Done:
    with arena.on.valkey.client() as client:
        keys = client.dbsize()
        client.flushall()
    return Done(f"{keys} keys gone")


def _freeze_redis(arena: Arena) -> Done:
    arena.on.valkey.freeze()
    try:
        seconds = arena.pause(0.5, 6)
    finally:
        arena.on.valkey.thaw()
    return Done(f"for {seconds:.1f} s")


def _half_open_redis(arena: Arena) -> Done:
    proxy = arena.on.proxies["redis"]
    before = proxy.stats().blackholed_bytes
    proxy.blackhole()
    try:
        arena.pause(1, 6)
    finally:
        proxy.heal()
    return Done(f"{proxy.stats().blackholed_bytes - before} bytes vanished")


# ── PostgreSQL ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _kill_postgres(arena: Arena) -> Done:
    arena.postgres.kill9()
    try:
        seconds = arena.pause(0, 2)
    finally:
        arena.postgres.start()
    return Done(f"back after {seconds:.1f} s and its recovery")


def _postgres_away(arena: Arena) -> Done:
    """For longer than a lease. Every worker that lives through it keeps its calls."""
    arena.postgres.stop("immediate")
    try:
        seconds = arena.pause(1.2 * LEASE_SECONDS, 2.5 * LEASE_SECONDS)
    finally:
        arena.postgres.start()
    return Done(f"for {seconds:.1f} s, lease {LEASE_SECONDS:g} s")


def _table_locked(arena: Arena) -> Done:
    """Somebody's lock on the jobs, for longer than a lease."""
    url = make_url(arena.on.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as stranger:
        stranger.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        seconds = arena.pause(1.2 * LEASE_SECONDS, 2.5 * LEASE_SECONDS)
    return Done(f"for {seconds:.1f} s, lease {LEASE_SECONDS:g} s")


def _terminate_backends(arena: Arena) -> Done:
    name = arena.on.database_url.rsplit("/", 1)[1]
    ended = arena.postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND random() < 0.7"
    )
    return Done(f"{len(ended)} backends")


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _reset(name: str) -> Callable[[Arena], Done]:
    def storm(arena: Arena) -> Done:
        proxy: FaultProxy = arena.on.proxies[name]
        blows, hit = arena.rng.randint(*BLOWS), 0
        for _ in range(blows):
            hit += proxy.reset_all()
            arena.pause(*BETWEEN_BLOWS)
        return Done(f"{hit} connections in {blows} blows")

    return storm


def _reset_upstream(arena: Arena) -> Done:
    # One blow: each may cost every job in flight a call, and the reckoning allows one per fault.
    return Done(f"{arena.on.proxies['upstream'].reset_all()} connections")


def _upstream_away(arena: Arena) -> Done:
    proxy = arena.on.proxies["upstream"]
    proxy.refuse()
    hit = proxy.reset_all()
    try:
        seconds = arena.pause(0.3, 3)
    finally:
        proxy.heal()
    return Done(f"{hit} connections reset, refused for {seconds:.1f} s")


# ── callers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cancel(arena: Arena) -> Done:
    """Cancel some jobs that are not over; those without a webhook are asked for again (one event per job is the rule)."""
    waiting = (
        "SELECT id, webhook FROM jobs_v WHERE status IN ('queued', 'in_progress') ORDER BY created_at DESC LIMIT 8"
    )
    chosen = arena.on.rows(waiting)
    cancelled = again = 0
    for row in chosen:
        try:
            arena.on.pot.cancel(row["id"])
            cancelled += 1
            if row["webhook"] is None and arena.rng.random() < 0.5:
                eventually(lambda job=row["id"]: arena.on.job(job)["status"] == "cancelled", 10)  # type: ignore[misc]
                arena.on.pot.retry(row["id"])
                again += 1
        except (NotAllowed, Unreachable, AssertionError):
            # It was over first; or the database sheds connections; or its worker is dead and the lease must run out.
            continue
    return Done(f"{cancelled} cancelled, {again} of them asked for again")


FAULTS: Sequence[Fault] = (
    Fault("worker-killed", 8, True, _kill),
    Fault("worker-frozen", 3, True, _freeze),
    Fault("worker-asked-to-end", 2, True, _ask_to_end),
    Fault("redis-killed", 2, False, _kill_redis),
    Fault("redis-emptied", 2, False, _empty_redis),
    Fault("redis-frozen", 1, False, _freeze_redis),
    Fault("redis-half-open", 1, False, _half_open_redis),
    Fault("redis-connections-reset", 2, False, _reset("redis")),
    Fault("postgres-killed", 1, True, _kill_postgres),
    # What lasts longer than a lease costs a living worker no call.
    Fault("postgres-away-for-leases", 2, False, _postgres_away),
    Fault("jobs-locked-for-leases", 1, False, _table_locked),
    Fault("postgres-backends-ended", 2, True, _terminate_backends),
    Fault("postgres-connections-reset", 2, True, _reset("database")),
    Fault("upstream-connections-reset", 2, True, _reset_upstream),
    Fault("upstream-away", 1, True, _upstream_away),
    Fault("jobs-cancelled", 2, True, _cancel),
)


def drawn(rng: random.Random, names: Sequence[str]) -> Fault:
    """The next fault, of these names (all if there are none)."""
    among = [fault for fault in FAULTS if not names or fault.name in names]
    return rng.choices(among, [fault.weight for fault in among])[0]

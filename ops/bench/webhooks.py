"""Webhooks to many endpoints, some of which hang: what the others feel. `python -m ops.bench.webhooks`.

Events come at a steady rate, shared evenly by the endpoints; the hanging ones take the connection and never answer. The
latency of an event runs from its settling transaction's commit to its arrival at the receiver, which runs in a process
of its own. Printed is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

import structlog
from aiohttp import web
from sqlalchemy import Connection

from ops.bench import page
from ops.bench.measure import spread
from ops.bench.options import command_line
from ops.bench.rig import Rig
from tests.factories import opened
from worker.db.connect import Database
from worker.db.webhooks import outbox
from worker.webhooks import admin
from worker.webhooks.addresses import PRIVATE, Policy
from worker.webhooks.deliver import Deliverer
from worker.webhooks.egress import Egress
from worker.webhooks.envelope import Settled
from worker.webhooks.secrets import Vault
from worker.webhooks.subscriptions import Subscriptions

#: Events per settling transaction: what the engine's group commit makes of a loaded worker.
_SLICE = 16


def receive(pipe: Pipe) -> None:
    """The receiver's process: answers `/ok/…` at once and `/hang/…` never; sends arrival times when asked."""
    arrived: dict[str, float] = {}

    async def ok(request: web.Request) -> web.Response:
        await request.read()
        arrived.setdefault(request.headers["webhook-id"], time.time())
        return web.Response(status=204)

    async def hang(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/ok/{number}", ok)
        app.router.add_post("/hang/{number}", hang)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        pipe.send(runner.addresses[0][1])
        while (await asyncio.to_thread(pipe.recv)) != "stop":
            pipe.send(arrived)

    asyncio.run(serve())


async def measure(database: Database, port: int, pipe: Pipe, options: argparse.Namespace) -> dict[str, Any]:
    """Settle events at the rate, deliver them, and wait until all that can arrive have arrived."""
    vault = Vault([b"the key of a benchmark"])
    tenants = [f"t{number}" for number in range(options.endpoints)]

    def register(conn: Connection) -> None:
        for number, tenant in enumerate(tenants):
            kind = "hang" if number < options.hanging else "ok"
            admin.add_endpoint(conn, vault, f"http://127.0.0.1:{port}/{kind}/{number}", tenant=tenant)

    database.write(register)
    subscriptions = Subscriptions()
    deliverer = Deliverer(
        lambda work: asyncio.to_thread(database.write, work),
        vault,
        Egress(Policy(PRIVATE)),
        owner="bench",
    )
    deliverer.start()
    committed: dict[str, float] = {}
    began = time.perf_counter()
    for first in range(0, options.events, _SLICE):
        numbers = range(first, min(first + _SLICE, options.events))
        settled = [
            Settled(
                kind="job",
                id=f"job_{number}",
                tenant=tenants[number % len(tenants)],
                status="completed",
                settled_at=int(time.time()),
                response=b'{"id":"resp_1","output":"' + b"x" * 1_000 + b'"}',
            )
            for number in numbers
        ]

        def write(conn: Connection, these: list[Settled] = settled) -> list[str]:
            rows = subscriptions.rows(conn, these)
            outbox.enqueue(conn, rows)
            return [row.id for row in rows]

        ids = await asyncio.to_thread(database.write, write)
        deliverer.wake()
        now = time.time()
        for number, event_id in zip(numbers, ids, strict=True):
            if number % len(tenants) >= options.hanging:
                committed[event_id] = now
        await asyncio.sleep(max(0.0, began + (first + _SLICE) / options.rate - time.perf_counter()))
    offered = time.perf_counter() - began
    arrived: dict[str, float] = {}
    while len(arrived) < len(committed) and time.perf_counter() - began < offered + options.patience:
        await asyncio.sleep(0.5)
        pipe.send("report")
        arrived = await asyncio.to_thread(pipe.recv)
    took = time.perf_counter() - began
    await deliverer.stop(drain=0)
    latencies = [arrived[event_id] - at for event_id, at in committed.items() if event_id in arrived]
    return {
        "database": database.engine.dialect.name,
        "events": options.events,
        "endpoints": options.endpoints,
        "hanging": options.hanging,
        "offered_per_s": round(options.events / offered, 1),
        "expected": len(committed),
        "arrived": len(latencies),
        "seconds": round(took, 2),
        **{f"{name}_s": value for name, value in spread(latencies, digits=4).items()},
    }


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("webhooks", __doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=50)
    parser.add_argument("--hanging", type=int, default=5)
    parser.add_argument("--rate", type=float, default=300.0, help="events a second")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for stragglers")
    parser.add_argument("--sqlite", action="store_true", help="SQLite instead of PostgreSQL")
    return parser


def main() -> None:
    """Read the options, run, print."""
    given = arguments().parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    receiver = context.Process(target=receive, args=(theirs,), daemon=True)
    receiver.start()
    try:
        with Rig() as rig, opened(rig.database("sqlite" if given.sqlite else "postgres")) as database:
            result = asyncio.run(measure(database, ours.recv(), ours, given))
    finally:
        ours.send("stop")
        receiver.join(5)
        receiver.terminate()
    page.measurement("webhooks", **result)


if __name__ == "__main__":
    main()

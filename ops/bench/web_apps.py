"""The three applications of `docs/web` under load: `python -m ops.bench.web_apps [--streams N] [--readers N]`.

For each of them, on the same PostgreSQL, Valkey, upstream and worker: N jobs that are asked for through the application and N
that another process sends over the broker; the application streams all of them at once, each to a reader of its own. More
readers come and go: they leave after a few frames and go on after the last event that they had. Then the application is
asked to stop while it streams. Prints one JSON object for each; `wrong` counts the readers whose text was not the job's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from ops.bench import page, wire
from ops.bench.children import raise_file_limit
from ops.bench.measure import cpu_seconds, pss_mib
from ops.bench.options import command_line
from ops.bench.rig import Rig
from stockpot.light import BrokerProducer
from tests.rig.ports import free_port
from tests.rig.procs import Process
from tests.rig.waiting import eventually

APPS = Path(__file__).parents[2] / "docs" / "web"
CHUNKS, INTERVAL_MS = 30, 500
MODEL = wire.STREAM_MODEL.format(chunks=CHUNKS, interval_ms=INTERVAL_MS)
#: Frames that a reader takes who comes and goes.
TAKES = 5
PATIENCE = 300.0


def commands(port: int, streams: int) -> dict[str, list[str]]:
    """How each is started: as its own docstring says, with a thread for each stream where a stream holds one."""
    uvicorn = ["uvicorn", "--port", str(port)]
    threads = ["--worker-class", "gthread", "--workers", "2", "--threads", str(streams), "--graceful-timeout", "1"]
    return {
        "fastapi": [*uvicorn, "fastapi_app:app"],
        "flask": ["gunicorn", *threads, "--bind", f"127.0.0.1:{port}", "flask_app:app"],
        "django": [*uvicorn, "--timeout-graceful-shutdown", "1", "django_app:app"],
    }


class Reader:
    """One reader of one job: what it was shown, and when it saw the first of it."""

    def __init__(self, job: str) -> None:
        self.job, self.last, self.text = job, "", ""
        self.ends: list[str] = []
        self.visits = 0
        self.first: float | None = None

    async def read(self, client: aiohttp.ClientSession, *, takes: int = sys.maxsize) -> None:
        """Read to the end, `takes` frames to a visit."""
        began = time.monotonic()
        while not self.ends:
            self.visits += 1
            headers = {"Last-Event-ID": self.last} if self.last else {}
            async with client.get(f"/jobs/{self.job}/events", headers=headers) as answer:
                answer.raise_for_status()
                left = takes
                async for line in answer.content:
                    if line.startswith(b"id: "):
                        self.last = line[4:].decode().strip()
                    elif line.startswith(b"data: "):
                        self._take(orjson.loads(line[6:]), began)
                        left -= 1
                        if not left:
                            break

    def _take(self, event: dict[str, Any], began: float) -> None:
        if event["type"] == "chunk":
            self.first = self.first or time.monotonic() - began
            self.text += event["text"]
        elif event["type"] == "attempt.reset":
            self.text = ""
        elif event["type"].startswith("job.") and event["type"] != "job.started":
            self.ends.append(event["type"])

    @property
    def right(self) -> bool:
        """Whether it was shown the job's text, and one end."""
        return self.text == wire.streamed_text(CHUNKS) and self.ends == ["job.completed"]


async def load(port: int, broker: str, streams: int, readers: int) -> list[Reader]:
    """Ask, send, read and come and go, all at once."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector, timeout=timeout) as client:

        async def ask(number: int) -> str:
            async with client.post("/jobs", data={"prompt": f"bench {number}", "model": MODEL}) as answer:
                answer.raise_for_status()
                return str((await answer.json())["id"])

        def send(number: int) -> str:
            return producer.submit(wire.request_body(number, model=MODEL, stream=True))

        async def known(job: str) -> Reader:
            """A job that a worker has to insert first is unknown until then."""
            while True:
                async with client.get(f"/jobs/{job}/events") as answer:
                    if answer.status != 404:
                        return Reader(job)
                await asyncio.sleep(0.2)

        async def sent(number: int) -> None:
            reader = await known(await asyncio.to_thread(send, number))
            found.append(reader)
            await reader.read(client)

        async def asked(number: int) -> None:
            reader = Reader(await ask(number))
            found.append(reader)
            others = [Reader(reader.job)] if number < readers else []
            found.extend(others)
            await asyncio.gather(reader.read(client), *(one.read(client, takes=TAKES) for one in others))

        found: list[Reader] = []
        with BrokerProducer(broker) as producer:
            await asyncio.gather(*map(asked, range(streams)), *map(sent, range(streams)))
        return found


def listens(port: int) -> bool:
    """Whether something does."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


async def stop_amid(port: int, process: Process, streams: int) -> float:
    """How long the application takes to end, asked while it streams."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as client:

        async def first_frame(number: int) -> aiohttp.ClientResponse:
            async with client.post("/jobs", data={"prompt": f"stop {number}", "model": MODEL}) as answer:
                job = (await answer.json())["id"]
            stream = await client.get(f"/jobs/{job}/events")
            await stream.content.readline()
            return stream

        open_streams = await asyncio.gather(*map(first_frame, range(streams)))
        began = time.monotonic()
        process.term()
        await asyncio.to_thread(process.wait)
        for stream in open_streams:
            stream.close()
        return time.monotonic() - began


def measure(rig: Rig, env: dict[str, str], name: str, streams: int, readers: int) -> dict[str, Any]:
    """One application, from its start to its end."""
    port = free_port()
    command: list[str | Path] = [sys.executable, "-m", *commands(port, 2 * streams + readers)[name]]
    with Process(command, logs=rig.scratch, name=name, env=env, cwd=APPS) as process:
        eventually(lambda: listens(port), PATIENCE, what="the application listens")
        cpu, began = cpu_seconds(process.pid), time.monotonic()
        found = asyncio.run(load(port, rig.valkey.url, streams, readers))
        took, cpu, memory = time.monotonic() - began, cpu_seconds(process.pid) - cpu, pss_mib(process.pid)
        stop = asyncio.run(stop_amid(port, process, min(streams, 50)))
    firsts = sorted(one.first or 0.0 for one in found)
    return {
        "readers": len(found),
        "visits": sum(one.visits for one in found),
        "wrong": sum(not one.right for one in found),
        "seconds": round(took, 1),
        "first_text_p50_s": round(firsts[len(firsts) // 2], 2),
        "first_text_p99_s": round(firsts[len(firsts) * 99 // 100], 2),
        "cpu_s": round(cpu, 1),
        "pss_mib": round(memory),
        "stop_s": round(stop, 1),
    }


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("web_apps", __doc__)
    parser.add_argument("--streams", type=int, default=150, help="of each kind")
    parser.add_argument("--readers", type=int, default=20, help="that come and go")
    parser.add_argument("--only", choices=sorted(commands(0, 0)))
    return parser


def main() -> None:
    """Measure and print."""
    given = arguments().parse_args()
    raise_file_limit()
    with Rig() as rig:
        env = rig.environment(rig.database(), in_flight=3 * given.streams)  # with those that outlive a stop
        rig.worker(env)
        for name in [given.only] if given.only else commands(0, 0):
            figures = measure(rig, env | {"PYTHONPATH": str(APPS.parents[1])}, name, given.streams, given.readers)
            page.measurement(name, **figures)


if __name__ == "__main__":
    main()

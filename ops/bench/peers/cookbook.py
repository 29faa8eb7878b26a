"""The algorithm of the OpenAI cookbook's parallel request script, written anew.

JSONL in, JSONL appended out; a request bucket and a token bucket that refill with time; one loop that takes a
request when both have room, starts it as a task and naps for a millisecond; failures go to a retry queue. The
standard library's loop and JSON, as it comes. Its only record of what was done is the output file.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from ops.bench import wire
from ops.bench.peers.speaking import listen, say

#: The nap of the loop; it bounds the rate at which requests start to under 1,000/s.
NAP = 0.001
#: Far above what the run reaches: the buckets are worked, never empty.
REQUESTS_PER_MINUTE = 10_000_000.0
TOKENS_PER_MINUTE = 10_000_000_000.0
_MAX_ATTEMPTS = 5
_CHARACTERS_PER_TOKEN = 4


@dataclass
class Bucket:
    """Room that refills continuously up to a minute's worth."""

    per_minute: float
    room: float = 0.0
    at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.room = self.per_minute

    def refill(self, now: float) -> None:
        """Add what time has earned."""
        self.room = min(self.per_minute, self.room + self.per_minute * (now - self.at) / 60)
        self.at = now


@dataclass
class Status:
    """Counts of one run."""

    running: int = 0
    done: int = 0
    failed: int = 0


@dataclass
class Request:
    """One line of the input on its way."""

    number: int
    body: dict[str, Any]
    tokens: int
    attempts_left: int = _MAX_ATTEMPTS
    errors: list[str] = field(default_factory=list)

    async def call(
        self, session: aiohttp.ClientSession, url: str, output: Path, again: asyncio.Queue[Request], status: Status
    ) -> None:
        """Make the call; append what came of it, or queue it again."""
        try:
            async with session.post(url, headers={"Authorization": "Bearer bench"}, json=self.body) as response:
                answer = await response.json()
        except aiohttp.ClientError as error:
            answer = {"error": str(error)}
        if "error" not in answer:
            append(output, [self.body, answer])
            status.done += 1
            status.running -= 1
            return
        self.errors.append(str(answer["error"]))
        if self.attempts_left:
            again.put_nowait(self)
            return
        append(output, [self.body, self.errors])
        status.failed += 1
        status.running -= 1


def append(path: Path, record: list[Any]) -> None:
    """One line, the file opened and closed for it."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def requests_in(path: Path) -> Iterator[Request]:
    """The input, line by line."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            body = json.loads(line)
            words = sum(len(str(message["content"])) for message in body["messages"])
            yield Request(number, body, words // _CHARACTERS_PER_TOKEN)


async def run(url: str, source: Path, output: Path) -> dict[str, int]:
    """Work through the file."""
    again: asyncio.Queue[Request] = asyncio.Queue()
    status = Status()
    requests, tokens = Bucket(REQUESTS_PER_MINUTE), Bucket(TOKENS_PER_MINUTE)
    waiting: Request | None = None
    lines = requests_in(source)
    exhausted = False
    tasks: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession() as session:
        while True:
            if waiting is None:
                if not again.empty():
                    waiting = again.get_nowait()
                elif not exhausted:
                    waiting = next(lines, None)
                    exhausted = waiting is None
                    status.running += waiting is not None
            now = time.time()
            requests.refill(now)
            tokens.refill(now)
            if waiting is not None and requests.room >= 1 and tokens.room >= waiting.tokens:
                requests.room -= 1
                tokens.room -= waiting.tokens
                waiting.attempts_left -= 1
                task = asyncio.create_task(waiting.call(session, url, output, again, status))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                waiting = None
            if exhausted and status.running == 0:
                return {"done": status.done, "failed": status.failed}
            await asyncio.sleep(NAP)


def main(base_url: str, home: Path) -> None:
    """Ready, then one run per question; the input file is written before the clock starts."""
    say(ready=True)
    while (question := listen()) is not None:
        if question.get("prepare"):
            with (home / "requests.jsonl").open("w", encoding="utf-8") as file:
                for number in range(question["first"], question["first"] + question["jobs"]):
                    file.write(json.dumps(wire.request_body(number, model=question["model"], stream=False)) + "\n")
            (home / "results.jsonl").unlink(missing_ok=True)
            say(prepared=True)
        else:
            url = f"{base_url}/chat/completions"
            say(**asyncio.run(run(url, home / "requests.jsonl", home / "results.jsonl")))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

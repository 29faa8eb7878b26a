"""The simulator as a process: it prints where it listens, stops on SIGTERM, and its journal survives a kill."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.factories import chat as body
from tests.rig.procs import Process
from tests.rig.waiting import eventually_async
from worker.simulator.journal import calls, read_journal

pytestmark = pytest.mark.anyio


async def post(http: aiohttp.ClientSession, script: str, **more: Any) -> int:
    """The status of one call; 0 when the connection broke."""
    try:
        async with http.post("/v1/chat/completions", json=body(model=f"openai/gpt-5@sim:{script}", **more)) as response:
            await response.read()
            return response.status
    except aiohttp.ClientError:
        return 0


async def test_a_process_of_its_own_says_where_it_listens_and_stops_on_sigterm(
    launch: Callable[..., Process], tmp_path: Path
) -> None:
    """The journal survives, and its lines are those that the route shows."""
    journal = tmp_path / "calls.jsonl"
    command = [sys.executable, "-m", "worker.simulator", "--instant", "--journal", str(journal)]
    process = launch(command, name="simulator")
    url = json.loads(process.wait_for_line(r"^\{.*\}$")[0])["url"]
    async with aiohttp.ClientSession(url, headers={"Authorization": "Bearer k"}) as http:
        assert await post(http, "ok") == 200
        async with http.get("/_sim/journal") as response:
            shown = await response.read()
        stalled = asyncio.create_task(post(http, "stall@1", stream=True))

        async def stalls() -> bool:
            async with http.get("/_sim/stats") as response:
                return bool((await response.json())["in_flight"])

        await eventually_async(stalls)
        process.term()
        assert process.wait() == 0
        await asyncio.gather(stalled, return_exceptions=True)
    assert journal.read_bytes().startswith(shown)
    assert [call.done is not None for call in calls(read_journal(journal))] == [True, True]


async def test_a_killed_simulator_leaves_the_arrival_in_the_journal(
    launch: Callable[..., Process], tmp_path: Path
) -> None:
    """What was received is known, and that it never ended."""
    journal = tmp_path / "calls.jsonl"
    process = launch([sys.executable, "-m", "worker.simulator", "--journal", str(journal)], name="simulator")
    url = json.loads(process.wait_for_line(r"^\{.*\}$")[0])["url"]
    async with aiohttp.ClientSession(url, headers={"Authorization": "Bearer k"}) as http:
        held = asyncio.create_task(post(http, "hold"))

        async def received() -> bool:
            return journal.exists() and bool(read_journal(journal))

        await eventually_async(received)
        process.kill9()
        assert await held == 0
    (call,) = calls(read_journal(journal))
    assert call.done is None
    assert call.received.at <= time.time()

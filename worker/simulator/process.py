"""The simulator as a process: it prints where it listens, and stops on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from worker.simulator.config import SimulatorConfig
from worker.simulator.server import Simulator


async def serve(config: SimulatorConfig, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until a signal comes; `ready` is called with the base URL once requests are taken.

    Raises:
        OSError: the port is taken, or the journal cannot be written.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    simulator = Simulator(config)
    ready(await simulator.start(host, port))
    try:
        await stopped.wait()
    finally:
        await simulator.stop()

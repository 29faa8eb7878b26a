"""The upstream simulator: a provider on this machine, for the demo, the tests and users' own tests.

`docs/simulator.md` tells what it does. The parts, from the outside in:

    server, __main__       the HTTP server, in-process or as a process
    completions, call      one call's life: read, admit, answer, settle
    stream, whole, faults  how an answer is sent, and how it breaks
    chat, responses        an answer in each endpoint's words; `frames` are a stream's events
    models, logs, billing  the provider's other pages; `admin` is the simulator's own
    state, keys, limits    what it remembers; `journal` is what it swears to
    script, generation, catalog, validate, oracle    pure: what to do, what to say, what it costs
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.sandbox.simulator.config import SimulatorConfig
    from worker.sandbox.simulator.server import Simulator

__all__ = ["Simulator", "SimulatorConfig"]


def __getattr__(name: str) -> Any:
    """Load the server on first use: the oracle and the journal's reader are needed without it."""
    homes = {"Simulator": "server", "SimulatorConfig": "config"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{homes[name]}"), name)

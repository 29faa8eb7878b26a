"""The upstream simulator: a provider on this machine, for the demo, the tests and users' own tests.

`docs/simulator.md` describes it. The parts, from the outside in:

    __main__     `python -m worker.simulator`: prints `{"url":
    admin        The routes under `/_sim/`: what a test sets in the simulator, and what it may read
    billing      `GET /v2/billing` and `GET /v2/billing/transactions`
    call         One call's life in the simulator: read, admit, answer, settle
    catalog      The simulated catalogue: models, prices, and how an answer spells the model's name
    chat         Chat completions: a generation as the response body, or as the chunks of a stream
    completions  `POST /v1/chat/completions` and `POST /v1/responses`: who may call, and what answers
    config       The simulator's settings, with their defaults; `POST /_sim/config` changes them while it runs
    faults       Faults below HTTP
    fitting      What a model makes of tools and schemas
    frames       Frames: the events of a stream before they are bytes, and how a step writes them down
    generation   The simulated model's text: a pure function of the request and the script's step
    journal      The journal: one line when a request was read, one when it ended
    keys         API keys with their balances, rows and charges
    limits       The simulated rate limits: requests and tokens a window, calls in flight
    logs         `GET /v2/logs`: one row per request of the key, newest first
    models       `GET /v1/models` and `GET /models/metrics`
    oddities     Streams and answers as some providers write them, each kind as a step
    oracle       What the simulator will answer and charge, for tests to compare with what a client stored
    process      The simulator as a process: it prints where it listens, and stops on SIGTERM or SIGINT
    refuse       Error responses: the provider's body shape, and OpenAI's for the steps that ask for it
    responses    Responses: a generation as the response object, or as the events of a stream
    script       Scripts
    server       The simulator
    spellings    Usage and content as some providers spell them: each spelling as a step, for streams and for whole answers
    state        What one simulated provider holds: settings, keys, limits, journal, counters
    stream       A streamed answer: the frames of a generation, one by one, with what the step breaks
    validate     Body validation as the provider does it
    whole        An answer in one piece: the JSON body, with what the step breaks
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.simulator.config import SimulatorConfig
    from worker.simulator.server import Simulator

__all__ = ["Simulator", "SimulatorConfig"]


def __getattr__(name: str) -> Any:
    """Load the server on first use: the oracle and the journal's reader are needed without it."""
    homes = {"Simulator": "server", "SimulatorConfig": "config"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{homes[name]}"), name)

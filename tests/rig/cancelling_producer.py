"""A producer in a process of its own that asks, cancels in the middle of the call, and asks again: `… SECONDS_OF_LOOPS SEED`.

Its stdout has a line for each job: the id, and how often it was asked for.
"""

from __future__ import annotations

import random
import sys
import time

from tests.rig.waiting import eventually
from worker.base.errors import NotAllowed
from worker.base.settings import settings
from worker.producer.stockpot import Stockpot

#: Half of the answers come in one piece: the provider makes and bills those to their end, whoever has left.
MODELS = ("openai/gpt-5-1-chat-latest@sim:slow=40", "openai/gpt-5-1-chat-latest@sim:delay=400")
#: How often a job is asked for again, at most.
AGAIN = 3


def main(seconds: float, seed: int, bound: str | None) -> None:
    """Submit, cancel, retry, until the time is over. Settings come from the environment."""
    rng = random.Random(seed)
    until = time.monotonic() + seconds
    with Stockpot(settings()) as pot:
        while time.monotonic() < until:
            number = rng.randrange(2)
            body = {
                "model": MODELS[number],
                "messages": [{"role": "user", "content": f"{seed} {rng.random()}"}],
                "max_tokens": 60,
                "stream": number == 0,
            }
            job = pot.submit(body, max_cost_usd=bound).id
            asked = 1
            for _ in range(rng.randint(0, AGAIN)):
                if not _cut(pot, job, until, rng):
                    break
                pot.retry(job)
                asked += 1
            _cut(pot, job, until, rng)
            sys.stdout.write(f"{job} {asked}\n")
            sys.stdout.flush()


def _cut(pot: Stockpot, job: str, until: float, rng: random.Random) -> bool:
    """Cancel it once it runs (or the time is over); False when it was over by itself."""
    eventually(lambda: pot.get(job).status != "queued" or time.monotonic() >= until, what="it runs")
    time.sleep(rng.random() * 0.3)  # somewhere in the call
    try:
        pot.cancel(job)
    except NotAllowed:
        return False
    done = pot.wait(job, timeout=60)
    return done.status == "cancelled"


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)

"""The producer's side of Stockpot in a process of its own: submits by the public API, counts by the public views.

Its settings come from the environment, as any producer's do. One JSON line per question.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Engine, create_engine, text

from ops.bench import wire
from ops.bench.peers.speaking import listen, say
from worker import Stockpot
from worker.base.settings import settings
from worker.db.url import database_url


def submit_many(pot: Stockpot, question: dict[str, Any]) -> dict[str, Any]:
    """Submit `jobs` requests in bulk. Seconds it took."""
    begun = time.monotonic()
    numbers = range(question["first"], question["first"] + question["jobs"])
    bodies = (wire.request_body(number, model=question["model"], stream=question["stream"]) for number in numbers)
    count = len(pot.submit_many(bodies, lane="interactive" if question["stream"] else "bulk"))
    return {"submitted": count, "seconds": time.monotonic() - begun}


def submit_one(pot: Stockpot, question: dict[str, Any]) -> dict[str, Any]:
    """Submit one request. The moments (CLOCK_MONOTONIC, ns) before and after."""
    body = wire.request_body(question["first"], model=question["model"], stream=question["stream"])
    before = time.monotonic_ns()
    job = pot.submit(body)
    return {"id": job.id, "before_ns": before, "after_ns": time.monotonic_ns()}


def count_done(engine: Engine, characters: int | None) -> dict[str, Any]:
    """How many jobs have ended: completed (with a text of `characters`, where given) and otherwise."""
    right = "status = 'completed'" + ("" if characters is None else f" AND length(text) = {characters}")
    with engine.connect() as connection:
        row = connection.execute(
            text(
                f"SELECT count(CASE WHEN {right} THEN 1 END), count(CASE WHEN status = 'completed' THEN 1 END),"
                " count(CASE WHEN status IN ('failed', 'cancelled', 'expired') THEN 1 END) FROM jobs_v"
            )
        ).one()
    return {"right": row[0], "completed": row[1], "not": row[2]}


def main() -> None:
    """Ready, then one answer per question."""
    pot = Stockpot()
    engine = create_engine(database_url(settings()))
    say(ready=True)
    while (question := listen()) is not None:
        if question["do"] == "submit_many":
            say(**submit_many(pot, question))
        elif question["do"] == "submit":
            say(**submit_one(pot, question))
        else:
            say(**count_done(engine, question.get("characters")))


if __name__ == "__main__":
    main()

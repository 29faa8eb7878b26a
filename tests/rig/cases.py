"""Rows of a fault matrix that need no killing: many scripts at once on one stage, each with what must become of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.rig.simulated import Knobs
from tests.rig.stage import Stage
from tests.rig.witness import Witness
from worker.simulator.script import Step, parse


@dataclass(frozen=True, slots=True)
class Case:
    """One job: what its upstream does, and what its attempts and itself come to.

    Attributes:
        script: of the simulator (docs/simulator.md).
        outcomes: of the attempts, in order; each is one upstream call.
        stream: whether a stream is asked for.
        status: of the job.
        error: its error class, where it ends with one.
        code: the error code of the first attempt, where it matters.
        ttl: seconds until the job expires.
    """

    script: str
    outcomes: Sequence[str]
    stream: bool = True
    status: str = "completed"
    error: str | None = None
    code: str | None = None
    ttl: float | None = None


class Playbill:
    """The cases of one test with their jobs."""

    def __init__(self, on: Stage) -> None:
        self._on = on
        self._jobs: list[tuple[Case, str]] = []

    def play(self, cases: Sequence[Case], **options: Any) -> None:
        """Submit a job for each case."""
        for case in cases:
            job = self._on.submit(case.script, stream=case.stream, ttl_seconds=case.ttl, **options)
            self._jobs.append((case, job))

    def job(self, script: str) -> str:
        """The job of the first case with this script."""
        return next(job for case, job in self._jobs if case.script == script)

    @property
    def jobs(self) -> list[tuple[Case, str]]:
        """All cases that were played, with their jobs."""
        return list(self._jobs)

    def seen(self) -> bool:
        """Whether the upstream took every step of every script that an attempt was to meet: the witness."""
        taken = Knobs(self._on.simulator).stats()["steps"]
        wanted = [step.text for case, _ in self._jobs for step in _met(case)]
        return bool(wanted) and all(taken.get(step) for step in wanted)

    def differences(self) -> list[str]:
        """What came out otherwise than its case says."""
        made = self._on.calls()
        found = []
        for case, job in self._jobs:
            row, attempts = self._on.job(job), self._on.attempts(job)
            got = (
                row["status"],
                row["error_class"],
                tuple(each["outcome"] for each in attempts),
                sum(call.job_id == job for call in made),
            )
            want = (case.status, case.error, tuple(case.outcomes), len(case.outcomes))
            code = attempts[0]["error_code"] if attempts else None
            if got != want or (case.code is not None and code != case.code):
                kind = "stream" if case.stream else "whole"
                found.append(f"{case.script} ({kind}): {got} {code}, should be {want} {case.code}")
        return found


def _met(case: Case) -> Sequence[Step]:
    steps = parse(case.script)
    return [steps[min(position, len(steps) - 1)] for position in range(len(case.outcomes))]


def play_rows(on: Stage, rows: Mapping[str, Sequence[Case]], **options: Any) -> dict[str, Playbill]:
    """Play several rows of the matrix at once, each with a witness of its own, and wait until everything has ended.

    Args:
        rows: what the witness of each row saw, in words, with its cases.
        options: of every submission.
    """
    bills = {name: Playbill(on) for name in rows}
    with contextlib.ExitStack() as stack:
        witnesses = {name: stack.enter_context(Witness(name)) for name in rows}
        for name, cases in rows.items():
            witnesses[name].inject(partial(bills[name].play, cases, **options))
        on.quiesce()
        for name, witness in witnesses.items():
            witness.saw(bills[name].seen())
    return bills


def differences(bills: Mapping[str, Playbill]) -> list[str]:
    """What came out otherwise than the cases say, over all rows."""
    return [line for bill in bills.values() for line in bill.differences()]

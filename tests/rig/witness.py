"""The guard against vacuous fault tests: a fault that nobody saw happen proves nothing.

    with Witness("the worker died of SIGKILL") as witness:
        witness.inject(worker.kill9)
        …
        witness.saw(worker.returncode == -9)

Leaving the block without having seen the fault fails the test. With `STOCKPOT_TEST_FAULTS=off` nothing is injected, and
every fault test must then fail for want of its witness; `tests/conftest.py` turns that expectation into the verdict.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

#: Read once, when the tests start: the variable itself is removed, because the product refuses unknown settings.
FAULTS_ON = os.environ.get("STOCKPOT_TEST_FAULTS", "on") != "off"

#: The witnesses of the running test; `tests/conftest.py` empties it before each.
called: list[Witness] = []


class NotWitnessed(AssertionError):
    """The fault that the test is about did not happen."""


class Witness:
    """Demands evidence of one fault.

    Args:
        what: the fault in words, as it must have happened.
        faults_on: False skips the injection; None asks the environment.
    """

    def __init__(self, what: str, *, faults_on: bool | None = None) -> None:
        self.what = what
        self.faults_on = FAULTS_ON if faults_on is None else faults_on
        self.evidence: list[object] = []
        called.append(self)

    def inject(self, fault: Callable[[], object]) -> None:
        """Do the damage, unless faults are switched off."""
        if self.faults_on:
            fault()

    def saw(self, evidence: object) -> bool:
        """Record evidence; what is false (0, None, an empty list) is none. Returns whether it counts."""
        if evidence:
            self.evidence.append(evidence)
        return bool(evidence)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.evidence:
            return
        if error is None:
            raise NotWitnessed(f"void: nobody saw that {self.what}")
        if not self.faults_on and isinstance(error, Exception):
            raise NotWitnessed(f"void: nobody saw that {self.what}") from error

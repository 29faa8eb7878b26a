"""Problems of a batch file by kind: two hundred lines with the same mistake are one line of words."""

from __future__ import annotations

import re
from collections.abc import Callable

from api_schemas.batch import BatchProblem
from worker.cli.output import cell

#: Kinds that are counted separately, and lines that are named of each.
_KINDS, _NAMED = 50, 5
_NUMBER = re.compile(r"0x[0-9a-f]+|\d[\d,]*")


class Problems:
    """Takes the problems of a file as they are found, in bounded memory, and prints them by kind."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str | None, str], list[BatchProblem]] = {}
        self._counts: dict[tuple[str, str | None, str], int] = {}
        self._others = 0

    def add(self, problem: BatchProblem) -> None:
        """Take a problem. What differs in its numbers only is of the same kind."""
        kind = problem.code, problem.param, _NUMBER.sub("#", problem.message)
        if kind not in self._kinds and len(self._kinds) == _KINDS:
            self._others += 1
            return
        first = self._kinds.setdefault(kind, [])
        if len(first) < _NAMED:
            first.append(problem)
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def report(self, put: Callable[[str], object]) -> None:
        """Print each kind on a line, in the order in which they were first found."""
        for kind, first in self._kinds.items():
            count = self._counts[kind]
            field = f"{first[0].param}: " if first[0].param else ""
            put(f"{_lines([one.line or 0 for one in first], count)}: {field}{cell(first[0].message)}")
        if self._others:
            put(f"{self._others:,} problems of other kinds")


def _lines(named: list[int], count: int) -> str:
    if count == 1:
        return f"line {named[0]}"
    listed = ", ".join(map(str, named))
    return f"{count:,} lines ({listed}{', …' if count > len(named) else ''})"

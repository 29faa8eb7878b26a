"""The survey: a batch file read to its end, every line validated, before anything is stored or called."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from api_schemas.batch import BatchLine, BatchProblem
from worker.bulk.custom_ids import CustomIds
from worker.bulk.reading import BatchFile
from worker.errors import InvalidRequest

#: How often progress is told, in lines.
TELL_EVERY = 2_000


@dataclass(slots=True)
class Asked:
    """What a file asks of one model. `bounded` lines say how many tokens they want at most: `output_bound` in sum."""

    lines: int = 0
    body_bytes: int = 0
    bounded: int = 0
    output_bound: int = 0


@dataclass(slots=True)
class Survey:
    """What is in a file. `problems` counts all of them, `bad_lines` the lines that have any."""

    lines: int = 0
    bad_lines: int = 0
    problems: int = 0
    endpoint: str = ""
    models: dict[str, Asked] = field(default_factory=dict)
    sha256: str = ""

    @property
    def valid(self) -> bool:
        """Whether the file may be submitted."""
        return self.bad_lines == 0 and self.lines > 0

    @property
    def model(self) -> str | None:
        """The one model that all lines name, if it is one."""
        return next(iter(self.models)) if len(self.models) == 1 else None


def survey(
    file: BatchFile,
    *,
    max_line_bytes: int,
    on_problem: Callable[[BatchProblem], None],
    on_progress: Callable[[int], None] = lambda _: None,
) -> Survey:
    """Read a file to its end and tell every problem of every line, in bounded memory.

    Args:
        on_problem: is told of each; those of repeated custom ids come last.
        on_progress: is told how many bytes of the file are read.

    Raises:
        InvalidRequest: the gzip data is damaged.
    """
    found = Survey()
    ids = CustomIds()
    digest = hashlib.sha256()
    bad: set[int] = set()
    for number, raw in file.lines(longest=max_line_bytes, digest=digest):
        found.lines += 1
        line = BatchLine.read(raw, number, max_bytes=max_line_bytes)
        if isinstance(line, BatchLine):
            ids.add(line.custom_id, number)
            _note(found, line, len(raw))
        else:
            found.bad_lines += 1
            for problem in line:
                found.problems += 1
                on_problem(BatchProblem(line=number, message=problem.message, param=problem.field or None))
        if found.lines % TELL_EVERY == 0:
            on_progress(file.position)
    for number, first in ids.repeated():
        bad.add(number)
        found.problems += 1
        message = f"stands in line {first:,} already; every line needs a custom_id of its own"
        on_problem(BatchProblem(code="duplicate_custom_id", line=number, message=message, param="custom_id"))
    found.bad_lines += len(bad)
    found.sha256 = digest.hexdigest()
    on_progress(file.position)
    return found


#: Where a body says how many tokens it wants at most.
_BOUNDS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


def _note(found: Survey, line: BatchLine, size: int) -> None:
    found.endpoint = found.endpoint or line.endpoint
    model = str(line.body["model"])
    asked = found.models.get(model)
    if asked is None:
        asked = found.models.setdefault(model, Asked())
    asked.lines += 1
    asked.body_bytes += size
    bound = _bound(line.body)
    if bound is not None:
        asked.bounded += 1
        asked.output_bound += bound


def _bound(body: dict[str, Any]) -> int | None:
    for name in _BOUNDS:
        value = body.get(name)
        if type(value) is int and value > 0:
            return value
    return None


def require_valid(found: Survey, name: str) -> None:
    """Raise InvalidRequest unless a file may be submitted; its problems have been told one by one."""
    if found.lines == 0:
        raise InvalidRequest(f"{name}: there is no line in it; expected one request per line")
    if not found.valid:
        raise InvalidRequest(
            f"{name}: {found.bad_lines:,} of {found.lines:,} lines cannot be accepted, so nothing was submitted"
        )

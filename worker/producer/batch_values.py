"""What `pot.batches` gives back: a quoted file, a submitted batch, a file that cannot be one."""

from __future__ import annotations

from dataclasses import dataclass

from api_schemas.batch import BatchProblem
from worker.base.errors import InvalidRequest
from worker.batches.quote import Quote
from worker.batches.survey import Survey
from worker.db.batches.records import BatchRow


class BadBatch(InvalidRequest):
    """A file that cannot be submitted: lines of it are bad, or it has none. Nothing was stored."""

    def __init__(self, name: str, found: Survey, problems: list[BatchProblem]) -> None:
        what = f"{found.bad_lines:,} of {found.lines:,} lines are bad" if found.lines else "it has no lines"
        super().__init__(f"{name}: {what}; nothing was submitted.")
        self.lines, self.bad_lines, self.batch_problems = found.lines, found.bad_lines, problems


@dataclass(frozen=True, slots=True)
class QuotedFile:
    """A file that was read to its end and priced. `problems` has the first hundred."""

    name: str
    lines: int
    bad_lines: int
    problem_count: int
    problems: list[BatchProblem]
    quote: Quote

    @property
    def valid(self) -> bool:
        """Whether the file may be submitted."""
        return self.bad_lines == 0 and self.lines > 0


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """A batch that is in the database. `created` is False when the same file with the same options found it there.

    `skipped` counts its bad lines, which have failed (`skip_bad`).
    """

    batch: BatchRow
    created: bool
    skipped: int = 0

    @property
    def id(self) -> str:
        """The batch's id."""
        return self.batch.id

"""The survey: a batch file read to its end, every line validated, before anything is stored or called."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from api_schemas import jsontext
from api_schemas.batch import MAX_CUSTOM_ID, BatchLine, BatchProblem
from api_schemas.errors import FieldProblem
from api_schemas.text import storable
from worker.base.errors import InvalidRequest
from worker.batches.reading import BatchFile
from worker.batches.repeats import Repeats
from worker.provider.prices import output_bound

#: Reads a line, given its number: the line itself, or everything that is wrong with it.
ReadLine = Callable[[bytes, int], BatchLine | Sequence[FieldProblem | BatchProblem]]

#: How often progress is reported, in lines.
TELL_EVERY = 2_000
#: Bad lines that may be skipped: each is kept in memory until the import. A file with more is another mistake.
MOST_SKIPPED = 100_000
_CUSTOM_ID = re.compile(rb'"custom_id"\s*:\s*"([^"\\\x00-\x1f]{1,512})"')


@dataclass(slots=True)
class BadLine:
    """A line that is skipped (`skip_bad`), its own id if it has one that no line before it has, and what is wrong with it."""

    number: int
    custom_id: str | None
    message: str


@dataclass(slots=True)
class Asked:
    """What a file asks of one model. `bounded` lines have a bound on their output tokens: `output_bound` in sum."""

    lines: int = 0
    body_bytes: int = 0
    bounded: int = 0
    output_bound: int = 0

    def add(self, size: int, bound: int) -> None:
        """A line of `size` bytes; `bound` 0: it sets none."""
        self.lines += 1
        self.body_bytes += size
        if bound:
            self.bounded += 1
            self.output_bound += bound


@dataclass(frozen=True, slots=True)
class Copies:
    """Lines that ask what another line asks."""

    first: array[int]  # by line number: the line that asks the same first; 0: none does before it
    answers: array[int]  # by line number: how many lines it answers, itself included; 0: itself alone
    lines: int
    saved: dict[str, Asked]  # what the copies would have asked, by model

    def first_of(self, number: int) -> int:
        """The line that answers this one; 0 when that is itself."""
        return self.first[number] if number < len(self.first) else 0

    def answers_of(self, number: int) -> int:
        """How many lines this one answers, itself included."""
        return max(1, self.answers[number]) if number < len(self.answers) else 1


@dataclass(slots=True)
class Survey:
    """What is in a file. `problems` counts all of them, `bad_lines` the lines that have any.

    `models` is what will be called for; with `copies` (asked for by `dedupe`) that is less than the lines have.
    """

    lines: int = 0
    bad_lines: int = 0
    problems: int = 0
    endpoint: str = ""
    models: dict[str, Asked] = field(default_factory=dict)
    sha256: str = ""
    copies: Copies | None = None
    skipped: dict[int, BadLine] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """Whether the file may be submitted: every line is good, or skipped, and not all are skipped."""
        return self.bad_lines == len(self.skipped) < self.lines

    @property
    def duplicates(self) -> int:
        """Lines that will be answered with another's call."""
        return 0 if self.copies is None else self.copies.lines

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
    dedupe: bool = False,
    skip_bad: bool = False,
    read: ReadLine | None = None,
) -> Survey:
    """Read a file to its end and report every problem of every line, in bounded memory.

    Args:
        on_problem: called with each; those of repeated custom ids come last.
        on_progress: called with the number of bytes read so far.
        dedupe: find the lines that ask the same (endpoint and body, whatever the order of its keys).
        skip_bad: note the bad lines in `skipped`, to be imported as failed ones.
        read: reads one line of so many bytes at most, given its number: the line, or what is wrong with it.

    Raises:
        InvalidRequest: the gzip data is damaged.
    """
    found = Survey()
    ids = Repeats()
    bodies = _Bodies() if dedupe else None
    digest = hashlib.sha256()
    models = found.models
    if read is None:
        read = partial(BatchLine.read, max_bytes=max_line_bytes)
    for number, raw, size in file.lines(longest=max_line_bytes, digest=digest):
        found.lines += 1
        line = read(raw, number) if size <= max_line_bytes else [_too_long(number, size, max_line_bytes)]
        if isinstance(line, BatchLine):
            ids.add(line.custom_id.encode(), number)
            model, bound = str(line.body["model"]), output_bound(line.body)
            asked = models.get(model)
            if asked is None:
                found.endpoint = found.endpoint or line.endpoint
                asked = models.setdefault(model, Asked())
            asked.add(len(raw), bound)
            if bodies is not None:
                bodies.add(line, len(raw), bound)
        else:
            found.bad_lines += 1
            problems = [_of_line(number, problem) for problem in line]
            if skip_bad:
                _skip(found, ids, raw, problems)
            for problem in problems:
                found.problems += 1
                on_problem(problem)
        if found.lines % TELL_EVERY == 0:
            on_progress(file.position)
    # A repeated line may be the one that others are copies of: it is not skipped then.
    _report_repeated(found, ids, on_problem, skip_bad=skip_bad and not dedupe)
    if bodies is not None:
        found.copies = bodies.copies()
        _called_once(models, found.copies.saved)
    found.sha256 = digest.hexdigest()
    on_progress(file.position)
    return found


def _of_line(number: int, problem: FieldProblem | BatchProblem) -> BatchProblem:
    if isinstance(problem, BatchProblem):
        return problem
    return BatchProblem(line=number, message=problem.message, param=problem.field or None)


def _too_long(number: int, size: int, longest: int) -> BatchProblem:
    message = f"has {size:,} bytes; STOCKPOT_MAX_REQUEST_BYTES allows {longest:,}"
    return BatchProblem(line=number, message=message)


def _skip(found: Survey, ids: Repeats, raw: bytes, problems: Sequence[BatchProblem]) -> None:
    """Note a bad line, with its id if that can be read."""
    first = problems[0]
    number = first.line or 0
    try:
        document = jsontext.loads(raw)
        given = document.get("custom_id") if isinstance(document, dict) else None
    except ValueError:
        found_id = _CUSTOM_ID.search(raw)  # of a line that is too long its beginning is here
        given = None if found_id is None else found_id[1].decode("utf-8", "replace")
    custom_id = (
        given if isinstance(given, str) and 0 < len(given) <= MAX_CUSTOM_ID and storable(given) == given else None
    )
    if custom_id is not None:
        ids.add(custom_id.encode(), number)
    _note(found, BadLine(number, custom_id, "; ".join(map(_words, problems))))


def _note(found: Survey, line: BadLine) -> None:
    if len(found.skipped) == MOST_SKIPPED:
        raise InvalidRequest(f"more than {MOST_SKIPPED:,} lines are bad: too many to be skipped")
    found.skipped[line.number] = line


def _words(problem: BatchProblem) -> str:
    return f"line {problem.line:,}: {f'{problem.param}: ' if problem.param else ''}{problem.message}"


def _report_repeated(
    found: Survey, ids: Repeats, on_problem: Callable[[BatchProblem], None], *, skip_bad: bool
) -> None:
    for number, first in enumerate(ids.firsts()):
        if not first:
            continue
        message = f"stands in line {first:,} already; every line needs a custom_id of its own"
        problem = BatchProblem(code="duplicate_custom_id", line=number, message=message, param="custom_id")
        found.problems += 1
        on_problem(problem)
        before = found.skipped.get(number)
        if before is not None:  # one that is bad for another reason, too
            before.custom_id = None
            continue
        found.bad_lines += 1
        if skip_bad:
            _note(found, BadLine(number, None, _words(problem)))


class _Bodies:
    """What each line asks, until it is known which ask the same: 40 bytes a line."""

    def __init__(self) -> None:
        self._repeats = Repeats()
        self._models: dict[str, int] = {}
        self._numbers, self._sizes, self._bounds, self._model_of = array("I"), array("I"), array("Q"), array("I")

    def add(self, line: BatchLine, size: int, bound: int) -> None:
        """Remember a line."""
        self._repeats.add(line.endpoint.encode() + jsontext.canonical(line.body), line.number)
        self._numbers.append(line.number)
        self._sizes.append(size)
        self._bounds.append(bound)
        self._model_of.append(self._models.setdefault(str(line.body["model"]), len(self._models)))

    def copies(self) -> Copies:
        """Which lines ask what another asks; ends this object."""
        first = self._repeats.firsts()
        answers = array("I", bytes(4 * len(first)))
        names, saved, lines = list(self._models), dict[str, Asked](), 0
        for at, number in enumerate(self._numbers):
            before = first[number]
            if before:
                lines += 1
                answers[before] = max(1, answers[before]) + 1
                saved.setdefault(names[self._model_of[at]], Asked()).add(self._sizes[at], self._bounds[at])
        return Copies(first, answers, lines, saved)


def _called_once(models: dict[str, Asked], saved: dict[str, Asked]) -> None:
    """Take what is not called for out of what the file asks."""
    for name, less in saved.items():
        asked = models[name]
        asked.lines -= less.lines
        asked.body_bytes -= less.body_bytes
        asked.bounded -= less.bounded
        asked.output_bound -= less.output_bound

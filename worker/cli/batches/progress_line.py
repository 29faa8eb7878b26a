"""How a batch goes, while people wait: one line that fits its terminal, and a sentence for each change of what it waits on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from rich.cells import cell_len
from rich.progress import ProgressColumn, Task
from rich.text import Text

from worker.base.errors import Unreachable
from worker.batches.progress import Pace
from worker.cli.jobs.following import sentence
from worker.cli.output import cell, cost, span
from worker.producer.batches import BatchRow, Look
from worker.producer.routes import RouteState
from worker.producer.stockpot import Stockpot

#: Characters of the bar.
_BAR = 20
_GAP = " · "
#: So long nothing ends before it is asked what the next line waits on, in seconds.
PATIENCE_SECONDS = 2.0
#: The same while lines are in flight: answers take their time.
_BUSY_PATIENCE_SECONDS = 15.0
#: Between two such questions: some ten rows, and Redis.
_ASK_SECONDS = 2.0
#: What a queued line waits on although all is well: its turn.
_TURNS = frozenset({"turn", "running", "batch", "concurrency", "fair_share"})


def line(row: BatchRow, parts: Iterable[str], width: int) -> str:
    """The bar, the count and the percentage, and of the other parts as many as fit, whole."""
    share = row.done / row.total if row.total else 0.0
    full = round(share * _BAR)
    percent = int(100 * share)
    text = f"{'━' * full}{'─' * (_BAR - full)} {row.done:,} of {row.total:,} {percent} %"
    for part in parts:
        if cell_len(text) + len(_GAP) + cell_len(part) > width:
            break
        text += _GAP + part
    return text


def words(found: Look, in_flight: int, pace: Pace) -> list[str]:
    """How it goes, what matters most first."""
    row = found.row
    eta = None if row.over or row.done >= row.total else pace.eta(row)
    parts = [f"{span(eta)} left"] if eta is not None else []
    parts += [f"{row.failed + row.expired:,} failed"] if row.failed + row.expired else []
    parts += [
        cost(row.cost_usd, row.unpriced),
        f"{pace.lines_per_second:,.1f}/s",
        f"{in_flight:,} in flight",
        f"{pace.tokens_per_minute:,.0f} tokens/min",
    ]
    return parts


class Line(ProgressColumn):
    """The whole line as the only column of rich's progress: its own layout cuts columns to nothing at 80 characters."""

    max_refresh = None

    def render(self, task: Task) -> Text:
        """The line that the task was given last."""
        return Text(task.fields["line"], no_wrap=True, overflow="ellipsis")


class Reasons:
    """Prints in a sentence each change of what a batch waits on, and when it goes on."""

    def __init__(self, pot: Stockpot, put: Callable[[str], object]) -> None:
        self._pot, self._put = pot, put
        self._last: str | None = None
        self._done = -1
        self._moved = self._asked = time.monotonic()

    def see(self, found: Look) -> None:
        """Look at where the batch stands, and print what is new of it."""
        now = time.monotonic()
        if found.row.done != self._done:
            self._done, self._moved = found.row.done, now
        standing = now - self._moved
        stands = found.row.hold_reason is not None or found.next_line is None
        if found.waits_on is not None and (stands or (found.refused is not None and standing >= PATIENCE_SECONDS)):
            self._tell(found.waits_on, f"It waits on {found.waits_on}.")
        elif standing < PATIENCE_SECONDS:
            if self._last is not None and standing == 0 and not found.row.over:
                self._put("It goes on.")
                self._last = None
        elif found.next_line is not None and now - self._asked >= _ASK_SECONDS:
            self._asked = now
            self._ask(found, found.next_line, standing)

    def _ask(self, found: Look, job_id: str, standing: float) -> None:
        try:
            why = self._pot.waiting(job_id)
        except Unreachable:
            return
        if why is None or (why.reason in _TURNS and found.running and standing < _BUSY_PATIENCE_SECONDS):
            return
        self._tell(why.text, f"The next line waits: {sentence(why)}")

    def _tell(self, text: str, sentence: str) -> None:
        if text != self._last:
            self._last = text
            self._put(cell(sentence))


def reason(pot: Stockpot, found: Look) -> str | None:
    """What a batch waits on; where nothing of its own keeps it, what keeps its next line, as for a job."""
    if not found.by_line or found.next_line is None:
        return found.waits_on
    try:
        why = pot.waiting(found.next_line)
    except Unreachable:
        return found.waits_on
    return found.waits_on if why is None else sentence(why)


def calls_in_flight(pot: Stockpot, found: Look) -> int:
    """The calls that are out: of the lines that workers hold, those that the limits of their models have let through.

    Lines that the provider refuses, or that wait for a place, are held and not called. Without Redis: all that are held.
    """
    if not found.held:
        return 0
    try:
        routes = pot.routes.list()
    except Unreachable:
        return found.running
    return sum(min(lines, _of(model, routes)) for model, lines in found.held.items())


def _of(model: str, routes: Sequence[RouteState]) -> int:
    return sum(state.in_flight for state in routes if state.route.model == model)

"""A job followed to its end: live tokens while it runs, the answer and what it cost when it is over.

Tokens go where people look: to stdout if that is a terminal, else to stderr if that is one. A file or pipe on stdout
gets the final answer, once, and never the text of an attempt that broke. Ctrl-C leaves the job running and says how
to watch it again.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO

import click

from api_schemas.events import is_terminal
from api_schemas.jobs import JobDetail
from worker.cli.exits import FAILED, INTERRUPTED
from worker.cli.output import money, say, shown, span
from worker.errors import WaitTimeout
from worker.producer import Stockpot

#: A job that has not begun after this long gets a word: most often there is no worker.
_PATIENCE_SECONDS = 5.0
#: How long the row may lag behind the terminal event, which is sent once the row is committed.
_SETTLED_SECONDS = 10.0


class Follower:
    """Follows one job for people. `seq` is the last event seen, from which watching can go on.

    Args:
        live: show tokens as they come.
        quiet: stdout belongs to somebody else (`--json`): tokens go to stderr, the answer nowhere.
    """

    def __init__(self, pot: Stockpot, job_id: str, *, live: bool, quiet: bool = False, after: int = 0) -> None:
        self._pot, self._job_id, self._after, self._quiet = pot, job_id, after, quiet
        self._screen = _terminal(quiet=quiet) if live else None
        self._text = ""  # of this attempt, as shown
        self.seq = after

    def follow(self, timeout: float | None) -> JobDetail:
        """Show the job until it is over, then its answer (unless `quiet`) and a summary.

        Raises:
            WaitTimeout: it goes on after `timeout` seconds.
        """
        with _interruptible(self), _deadline(timeout, self._job_id), _word_when_idle(self._pot, self._job_id) as begun:
            for event in self._pot.events(self._job_id, after=self._after):
                begun()
                self._show(event)
                if is_terminal(event):
                    break
        detail = settled(self._pot, self._job_id)
        self._finish(detail)
        return detail

    def _show(self, event: dict[str, Any]) -> None:
        self.seq = event["seq"]
        if event["type"] == "chunk" and self._screen is not None:
            text = str(event.get("text") or "")
            self._text += text
            click.echo(shown(text), file=self._screen, nl=False)
        elif event["type"] == "attempt.reset":
            if self._text:  # nothing was shown, nothing is void
                click.echo(file=self._screen)
                say(click.style(f"↺ starting again ({event.get('reason')}); what was shown is void", fg="yellow"))
            self._text = ""

    def _finish(self, detail: JobDetail) -> None:
        if self._text:
            click.echo(file=self._screen)
        answer = detail.text or ""
        whole = self._text == answer and self._screen is sys.stdout
        if answer and not self._quiet and not whole and (self._after == 0 or self._screen is not sys.stdout):
            click.echo(shown(answer) if sys.stdout.isatty() else answer.encode("utf-8", "replace"))
        say(click.style(summary(detail), dim=True))


def settled(pot: Stockpot, job_id: str) -> JobDetail:
    """The job once its row is terminal."""
    detail = pot.get(job_id)
    return detail if detail.finished_at is not None else pot.wait(job_id, timeout=_SETTLED_SECONDS)


def exit_code(detail: JobDetail) -> int:
    """What the job's end means for the command: 0 completed, 1 otherwise."""
    return 0 if detail.status == "completed" else FAILED


def summary(detail: JobDetail) -> str:
    """The end of a job in one line, with the reason when it did not complete."""
    parts = [detail.id, detail.status]
    if detail.error is not None:
        parts.append(f"{detail.error.error_class}: {shown(detail.error.message)}")
    if detail.usage is not None:
        parts.append(f"{detail.usage.input_tokens:,} + {detail.usage.output_tokens:,} tokens")
    if detail.cost_usd is not None:
        parts.append(money(detail.cost_usd))
    if detail.finished_at is not None:
        parts.append(span((detail.finished_at - detail.created_at).total_seconds()))
    if detail.attempts > 1:
        parts.append(f"{detail.attempts} attempts")
    return " · ".join(parts)


@contextlib.contextmanager
def _interruptible(follower: Follower) -> Iterator[None]:
    """Ctrl-C ends the watching, not the job."""
    try:
        yield
    except KeyboardInterrupt:
        farewell(follower._pot, follower._job_id, follower.seq)  # noqa: SLF001 -- two halves of one thing


def farewell(pot: Stockpot, job_id: str, seq: int) -> None:
    """Say how to go on watching, and exit as an interrupted command does."""
    whose = "" if pot.tenant == "default" else f" --tenant {pot.tenant}"
    after = f" --after {seq}" if seq else ""
    say(f"\nThe job goes on. Watch it again: stockpot watch {job_id}{after}{whose}")
    click.get_current_context().exit(INTERRUPTED)


@contextlib.contextmanager
def _deadline(seconds: float | None, job_id: str) -> Iterator[None]:
    """Raise WaitTimeout in the block after `seconds`; the main thread only, which a command is."""
    if seconds is None:
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise WaitTimeout(f"{job_id} is not finished after {seconds:g} s; it goes on. Watch it: stockpot watch {job_id}")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _word_when_idle(pot: Stockpot, job_id: str) -> Iterator[Callable[[], None]]:
    """Say once why nothing happens yet; the block calls what it is given when something does."""

    def word() -> None:
        job = pot.get(job_id)
        if job.status == "queued":
            why = f" (waiting on {job.waiting_on})" if job.waiting_on else "; is a worker running? `stockpot up` starts one"
            say(click.style(f"still queued{why}", fg="yellow"))

    timer = threading.Timer(_PATIENCE_SECONDS, word)
    timer.daemon = True
    timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()


def _terminal(*, quiet: bool) -> TextIO | None:
    """Where tokens are shown live: a terminal, or nowhere."""
    streams = (sys.stderr,) if quiet else (sys.stdout, sys.stderr)
    return next((stream for stream in streams if stream.isatty()), None)

"""A job followed to its end: live tokens while it runs, the answer and what it cost when it is over.

Tokens go where people look: to stdout if that is a terminal, else to stderr if that is one. A file or pipe on stdout
gets the final answer, once, and never the text of an attempt that broke. Ctrl-C leaves the job running and prints how
to watch it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, TextIO

import click

from api_schemas.jobs import JobDetail
from worker.base.errors import StockpotError, Unreachable, WaitTimeout
from worker.base.settings import load
from worker.base.wrapping import Wrapper
from worker.cli.exit_codes import FAILED, INTERRUPTED
from worker.cli.output import cell, money, say, shown, span
from worker.local.running import beside
from worker.producer.async_stockpot import AsyncStockpot
from worker.producer.waiting import Waiting

#: After so many seconds without an event a job gets a word on why, and at each change of it.
_PATIENCE_SECONDS = 2.0
_LOOK_SECONDS = 1.0
#: How long the row may lag behind the terminal event, which is sent once the row is committed.
_SETTLED_SECONDS = 10.0


class Follower:
    """Follows one job for people. `seq` is the last event seen, from which watching can go on.

    It runs an event loop of its own, so that Ctrl-C and the timeout end the watching at once and cleanly.

    Args:
        live: show tokens as they come.
        quiet: stdout is the command's (`--json`): tokens go to stderr, the answer nowhere.
        after: go on after this event.
        each: called with every event, for who prints them as they are.
    """

    def __init__(
        self,
        tenant: str,
        job_id: str,
        *,
        live: bool,
        quiet: bool = False,
        after: int = 0,
        each: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._tenant, self._job_id, self._after, self._quiet, self._each = tenant, job_id, after, quiet, each
        self._screen = _terminal(quiet=quiet) if live else None
        self._text = ""  # of this attempt, as shown
        self._wrapper = Wrapper(shutil.get_terminal_size().columns)
        self.seq = after

    def follow(self, timeout: float | None = None) -> JobDetail:
        """Show the job until it is over, then its answer (unless `quiet`) and a summary.

        Raises:
            WaitTimeout: it goes on after `timeout` seconds.
            NotFound, Unreachable: as the producer's `events`.
        """
        try:
            detail = asyncio.run(self._follow(timeout))
        except KeyboardInterrupt:
            say(f"\nThe job goes on. Watch it again: {self.again()}")
            click.get_current_context().exit(INTERRUPTED)
        self._finish(detail)
        return detail

    async def _follow(self, timeout: float | None) -> JobDetail:
        async with AsyncStockpot(beside(load()), tenant=self._tenant) as pot:
            await pot.get(self._job_id)  # an unknown job is refused before Redis is asked, or started
            try:
                async with (
                    asyncio.timeout(timeout),
                    _words_while_idle(pot, self._job_id) as happened,
                    contextlib.aclosing(pot.events(self._job_id, after=self._after)) as events,
                ):
                    async for event in events:
                        happened()
                        self._show(event)
            except TimeoutError:
                message = f"{self._job_id} is not finished after {timeout:g} s; it goes on. Watch it: {self.again()}"
                raise WaitTimeout(message) from None
            detail = await pot.get(self._job_id)
            if detail.finished_at is None:
                detail = await pot.wait(self._job_id, timeout=_SETTLED_SECONDS)
            return detail

    def again(self) -> str:
        """The command that goes on where this one ends."""
        whose = "" if self._tenant == "default" else f" --tenant {self._tenant}"
        after = f" --after {self.seq}" if self.seq else ""
        return f"stockpot watch {self._job_id}{after}{whose}"

    def _show(self, event: dict[str, Any]) -> None:
        self.seq = event["seq"]
        if self._each is not None:
            self._each(event)
        if event["type"] == "chunk" and self._screen is not None:
            text = str(event.get("text") or "")
            self._text += text
            click.echo(self._wrapper.feed(shown(text)), file=self._screen, nl=False)
        elif event["type"] == "attempt.reset":
            if self._text:  # nothing was shown, nothing is void
                click.echo(self._wrapper.end(), file=self._screen)
                say(f"↺ starting again ({event.get('reason')}); what was shown is void", fg="yellow")
            self._text = ""

    def _finish(self, detail: JobDetail) -> None:
        if self._text:
            click.echo(self._wrapper.end(), file=self._screen)
        answer = detail.text or ""
        whole = self._text == answer and self._screen is sys.stdout
        if answer and not self._quiet and not whole and (self._after == 0 or self._screen is not sys.stdout):
            click.echo(shown(answer) if sys.stdout.isatty() else answer.encode("utf-8", "replace"))
        say(summary(detail), dim=True)


def exit_code(detail: JobDetail) -> int:
    """What the job's end means for the command: 0 completed, 1 otherwise."""
    return 0 if detail.status == "completed" else FAILED


def summary(detail: JobDetail) -> str:
    """The end of a job in one line, with the reason when it did not complete."""
    parts = [detail.id, detail.status]
    if detail.error is not None:
        parts.append(f"{detail.error.error_class}: {cell(detail.error.message)}")
    if detail.usage is not None:
        parts.append(f"{detail.usage.input_tokens:,} + {detail.usage.output_tokens:,} tokens")
    if detail.cost_usd is not None:
        parts.append(money(detail.cost_usd))
    if detail.finished_at is not None:
        parts.append(span((detail.finished_at - detail.created_at).total_seconds()))
    if detail.attempts > 1:
        parts.append(f"{detail.attempts} attempts")
    return " · ".join(parts)


def sentence(why: Waiting) -> str:
    """Why a job is not over, with what happens next and when."""
    return cell(why.text) + (f"; {why.then} in {span(why.seconds)}" if why.then and why.seconds is not None else "")


@contextlib.asynccontextmanager
async def _words_while_idle(pot: AsyncStockpot, job_id: str) -> AsyncIterator[Callable[[], None]]:
    """Print why nothing happens, and each change of it; the block calls what it is given when something happens."""
    happened = asyncio.get_running_loop().time()

    def note() -> None:
        nonlocal happened
        happened = asyncio.get_running_loop().time()

    async def words() -> None:
        last: str | None = None
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if asyncio.get_running_loop().time() - happened < _PATIENCE_SECONDS:
                continue
            with contextlib.suppress(Unreachable):  # the events show it, or the wait does
                why = await pot.waiting(job_id)
                if why is None or why.text == last or (why.reason == "running" and last is None):
                    continue
                last = why.text
                say(sentence(why), fg="yellow")

    printing = asyncio.create_task(words())
    try:
        yield note
    finally:
        printing.cancel()
        with contextlib.suppress(asyncio.CancelledError, StockpotError):
            await printing


def _terminal(*, quiet: bool) -> TextIO | None:
    """Where tokens are shown live: a terminal, or nowhere."""
    streams = (sys.stderr,) if quiet else (sys.stdout, sys.stderr)
    return next((stream for stream in streams if stream.isatty()), None)

"""`pot.batches`: files of requests, quoted, submitted, read while they run, paused, cancelled, retried, reported."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal, Unpack

from sqlalchemy import Connection

from api_schemas.argument_types import typed
from api_schemas.batch import BatchProblem, BatchStatus
from api_schemas.bodies import ENDPOINTS
from worker.base.errors import WaitTimeout
from worker.base.money import PICO
from worker.batches import continuing, importing, output_paths, results
from worker.batches.importing import Quoted
from worker.batches.progress import Look, look
from worker.batches.quote import Quote, check_prices
from worker.batches.quote import quote as price
from worker.batches.reading import STDIN, BatchFile
from worker.batches.report import Report, make
from worker.batches.result_files import Exported, Files
from worker.batches.results import Order, ResultLine
from worker.batches.survey import Survey, survey
from worker.db.batches import changes, records, stored
from worker.db.batches.records import BatchRow
from worker.job.consequences import Consequences
from worker.producer import batch_control as control
from worker.producer import stored_batches
from worker.producer.batch_options import BatchOptions, read_options
from worker.producer.batch_values import BadBatch, QuotedFile, SubmittedBatch
from worker.producer.scope import Scope
from worker.provider.market import Market, ask, missing_models

__all__ = [
    "BadBatch",
    "BatchOptions",
    "BatchRow",
    "Batches",
    "Exported",
    "Look",
    "Order",
    "Quote",
    "QuotedFile",
    "Report",
    "ResultLine",
    "SubmittedBatch",
]

Stage = Literal["checking", "importing"]
Progress = Callable[[Stage, int, int], object]
"""Called with how far a stage is: bytes of the file while it is checked, lines while it is imported."""

#: Problems that an exception names; all of them are counted, and passed to `on_problem`.
NAMED_PROBLEMS = 100
#: Between two looks at a batch that is waited for, in seconds: one row each time.
LOOK_SECONDS = 0.5


@typed
class Batches:
    """A tenant's batches."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def quote(
        self,
        file: str | Path | BinaryIO,
        *,
        dedupe: bool = False,
        max_in_flight: int | None = None,
        on_problem: Callable[[BatchProblem], object] | None = None,
        on_progress: Progress | None = None,
    ) -> QuotedFile:
        """Check a file whole and price it; nothing is stored, no model is called.

        Args:
            file: one request per line in OpenAI's batch format, plain or gzip: a path, or a binary file.
            dedupe: price lines that ask the same once.
            on_problem: called with every problem of every line.

        Raises:
            InvalidRequest: the gzip data is damaged.
            OSError: the file cannot be read.
        """
        with self._open(file) as source:
            found, problems, market = self._surveyed(
                source, dedupe=dedupe, on_problem=on_problem, on_progress=on_progress
            )
            offer = price(found, market, self._scope.settings, max_in_flight=max_in_flight)
            return QuotedFile(source.name, found.lines, found.bad_lines, found.problems, problems, offer)

    def submit(
        self,
        file: str | Path | BinaryIO,
        *,
        again: bool = False,
        on_problem: Callable[[BatchProblem], object] | None = None,
        on_quote: Callable[[Quote], object] | None = None,
        on_progress: Progress | None = None,
        **options: Unpack[BatchOptions],
    ) -> SubmittedBatch:
        """Submit a file: checked whole first, then imported; workers begin with the first lines.

        The same file with the same options is the same batch: a submission that was killed is finished by repeating it,
        and a finished one is found. `again` makes a new batch of it.

        Raises:
            BadBatch: a line is bad, or there is none; nothing was stored.
            InvalidRequest: an option is wrong.
            FileChanged: the file was written to meanwhile.
            NotAllowed: the file was submitted with other options, and not `again`; the batch was cancelled, or another
                command imports it.
            Unreachable: the database does not answer; submit the same file again.
        """
        wanted = read_options(self._scope.tenant, options)
        database, settings = self._scope.database, self._scope.settings
        with self._open(file) as source:
            found, problems, market = self._surveyed(
                source,
                dedupe=bool(wanted.dedupe),
                skip_bad=bool(wanted.skip_bad),
                on_problem=on_problem,
                on_progress=on_progress,
            )
            if not found.valid:
                raise BadBatch(source.name, found, problems)
            offer = price(found, market, settings, max_in_flight=wanted.max_in_flight)
            if wanted.max_cost_usd is not None:
                check_prices(offer, settings)
            if on_quote is not None:
                on_quote(offer)
            quoted = Quoted(offer.tokens, offer.cost_usd)
            batch, created = importing.begin(database, source.name, found, wanted, quoted, again=again)
            if batch.imported < batch.total and not batch.over:
                if on_progress is not None:
                    on_progress("importing", batch.imported, batch.total)
                with importing.resumable(batch):
                    importing.import_lines(
                        database,
                        batch,
                        source,
                        found,
                        max_line_bytes=settings.max_request_bytes,
                        write_ends=Consequences().write,
                        on_progress=_stage(on_progress, "importing", batch.total),
                    )
                self._scope.wake()
        return SubmittedBatch(batch, created, len(found.skipped))

    def create(
        self,
        input_file: str,
        *,
        endpoint: str = ENDPOINTS[0],
        metadata: Mapping[str, str] | None = None,
        webhook: str | None = None,
        output_expires_seconds: int | None = None,
        idempotency_key: str | None = None,
        models: Collection[str] | None = None,
        key_id: str | None = None,
        repeats: bool = False,
    ) -> BatchRow:
        """Make a batch of a stored file (`pot.files`); a worker reads it, and the batch reports what is wrong with it.

        Args:
            models: those that its lines may name; None: any.
            output_expires_seconds: how long its output and error files are kept; 30 days.
            key_id: the API key that asks.
            repeats: the caller lost the answer to an equal order; without an idempotency key it gets the batch of a while
                ago that the same API key made by one, if there is such a batch.

        Raises:
            InvalidRequest: the endpoint is none that batches have.
            IdempotencyConflict: the key belongs to a batch with other parameters.
            Unreachable: the database does not answer.
        """
        order = stored_batches.order(
            self._scope,
            input_file,
            endpoint=endpoint,
            metadata=metadata,
            webhook=webhook,
            output_expires_seconds=output_expires_seconds,
            idempotency_key=idempotency_key,
            models=models,
            key_id=key_id,
        )

        def create(conn: Connection) -> BatchRow:
            before = stored.repeated(conn, order) if repeats and idempotency_key is None else None
            return before or stored.create(conn, order, place=self._scope.settings.file_store)[0]

        return self._scope.announce(create)

    def get(self, batch: str) -> Look:
        """Where a batch stands: its counters, the lines in flight, and what it waits on. Raises NotFound."""
        return self._scope.read(lambda conn: look(conn, batch, tenant=self._scope.tenant))

    def list(
        self,
        *,
        status: BatchStatus | None = None,
        limit: int = 100,
        before: str | None = None,
        all_tenants: bool = False,
    ) -> builtins.list[BatchRow]:
        """Batches of this tenant, or of all, newest first; `before` is the id that the page before ended with."""
        of = None if all_tenants else self._scope.tenant
        return self._scope.read(lambda conn: records.newest(conn, tenant=of, status=status, limit=limit, before=before))

    def wait(self, batch: str, *, timeout: float | None = None) -> BatchRow:
        """Wait until a batch is over. Raises NotFound; WaitTimeout after `timeout` seconds (the batch goes on)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (found := self.get(batch).row).over:
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeout(f"{batch} is not finished after {timeout:g} s; it goes on")
            time.sleep(LOOK_SECONDS)
        return found

    def results(
        self,
        batch: str,
        *,
        offset: int = 0,
        follow: bool = False,
        order: Order | Literal["file", "ended"] = Order.ENDED,
    ) -> Iterator[ResultLine]:
        """The lines of a batch that are over, behind the first `offset` of them; with `follow` until the batch is over.

        Each has the `offset` behind it: a reader that goes on from the last one that it has kept, at any time, gets each
        `custom_id` once. `order="file"` is the order of the input: a line waits until all before it are over.

        Raises:
            NotFound: no such batch of this tenant.
            Unreachable: the database does not answer; go on from the last offset.
        """
        self._scope.read(lambda conn: records.get(conn, batch, tenant=self._scope.tenant))
        for page in results.read(self._scope.database, batch, offset=offset, follow=follow, order=Order(order)):
            yield from page

    def save(
        self,
        batch: str,
        output: str,
        *,
        errors: str | None = None,
        offset: int | None = None,
        follow: bool = False,
        order: Order | Literal["file", "ended"] | None = None,
        stop: threading.Event | None = None,
        shared: bool = False,
        overwrite: bool = False,
        force: bool = False,
    ) -> Exported:
        """Write what a batch has answered so far to an output file and an error file.

        Args:
            output: a path, or `-` for stdout.
            errors: the error file's path; beside the output when left out, in it when that is no file (stdout, a pipe).
            offset: leave out the first so many lines, and append the rest; files that hold lines must end there.
            follow: go on writing lines as they come, until the batch is over or `stop` is set.
            shared: make the files readable as the umask allows, and not by their owner alone.
            overwrite: replace an output file that is there, unless it holds more answers than are written now.
            force: replace whatever is there, but for a file of requests.
            order: the order of the input, or (the default with `follow` or `offset`) that in which lines end.

        Raises:
            NotFound: no such batch of this tenant.
            InvalidRequest: a path cannot be written, or something there would be lost.
            NotWritten: a file cannot be made, the disk is full, or the reader has gone; has the offset to go on from.
        """
        wanted = Order(order or (Order.ENDED if follow or offset is not None else Order.FILE))
        self._scope.read(lambda conn: records.get(conn, batch, tenant=self._scope.tenant))
        database = self._scope.database
        append = bool(offset)
        output_paths.check(output, errors, continues=append, overwrite=overwrite, force=force, grows=follow or append)
        with Files(output, errors, grows=follow, append=append, shared=shared, force=force, stop=stop) as files:
            if append and not force:  # now that no other command lets them grow
                continuing.check(database, batch, output, errors, offset=offset or 0, order=wanted)
            if wanted is Order.FILE and not follow and offset is None:
                written = results.export(database, batch, files)
            else:
                written = results.write_on(
                    database, batch, files, offset=offset or 0, follow=follow, order=wanted, stop=stop
                )
        files.remove_stale_errors()
        return written

    def report(self, batch: str) -> Report:
        """What became of a batch, in numbers; best when it is over. Raises NotFound."""
        self._scope.read(lambda conn: records.get(conn, batch, tenant=self._scope.tenant))
        return self._scope.read(lambda conn: make(conn, batch))

    def cancel(self, batch: str, *, in_flight: Literal["abort", "finish"] = "abort") -> BatchRow:
        """Cancel a batch: queued lines at once; it is `cancelling` until its calls in flight have ended.

        Raises:
            NotFound: no such batch of this tenant.
            NotAllowed: it has ended in another way.
        """
        return control.cancel(self._scope.database, batch, tenant=self._scope.tenant, abort=in_flight == "abort")

    def begin_cancel(self, batch: str) -> BatchRow:
        """Admit no more lines, for good; what runs ends with its answer, and the workers cancel what is queued.

        Raises:
            NotFound: no such batch of this tenant.
            NotAllowed: it has ended in another way.
        """
        return self._scope.announce(lambda conn: changes.begin_cancel(conn, batch, tenant=self._scope.tenant))

    def pause(self, batch: str) -> BatchRow:
        """Admit no more lines within a second; calls in flight go on. Raises NotFound, NotAllowed."""
        return self._scope.write(lambda conn: changes.pause(conn, batch, tenant=self._scope.tenant))

    def resume(self, batch: str, *, max_cost_usd: Decimal | float | None = None) -> BatchRow:
        """Admit lines again; one that stopped at its `max_cost_usd` needs a higher one. Raises NotFound, NotAllowed."""
        most = None if max_cost_usd is None else int(Decimal(str(max_cost_usd)) * PICO)
        return self._scope.announce(
            lambda conn: changes.resume(conn, batch, tenant=self._scope.tenant, max_cost_picousd=most)
        )

    def retry_failed(
        self, batch: str, *, cancelled: bool = False, again: bool = False, **options: Unpack[BatchOptions]
    ) -> SubmittedBatch:
        """Make a new batch of the failed and expired lines of a batch that is over; repeating it finds that batch.

        It keeps the bounds of that batch (cost, calls in flight, attempts, hours), its webhook and metadata, unless
        other ones are given. Its completion window is a day.

        Args:
            cancelled: of its cancelled lines, too.
            again: make another one although there is one.

        Raises:
            NotFound: no such batch of this tenant.
            InvalidRequest: an option is wrong.
            NotAllowed: the batch is not over, has no failed lines, or their requests were purged; or they were
                submitted again before, with other options, and not `again`.
        """
        return SubmittedBatch(
            *control.retry_failed(
                self._scope.database, batch, options, tenant=self._scope.tenant, cancelled=cancelled, again=again
            )
        )

    def _open(self, file: str | Path | BinaryIO) -> BatchFile:
        home = self._scope.settings.home
        if isinstance(file, str | Path):
            return BatchFile(str(file), home=home)
        named = getattr(file, "name", "")  # a number of a descriptor's file, `<stdin>` of standard input
        name = Path(named).name if isinstance(named, str) and not named.startswith("<") else ""
        return BatchFile(STDIN, home=home, stdin=file, name=name)

    def _surveyed(
        self,
        source: BatchFile,
        *,
        dedupe: bool,
        skip_bad: bool = False,
        on_problem: Callable[[BatchProblem], object] | None,
        on_progress: Progress | None,
    ) -> tuple[Survey, builtins.list[BatchProblem], Market]:
        """Read the file, and meanwhile ask the provider for prices."""
        problems: builtins.list[BatchProblem] = []

        def note(problem: BatchProblem) -> None:
            if len(problems) < NAMED_PROBLEMS:
                problems.append(problem)
            if on_problem is not None:
                on_problem(problem)

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, self._scope.settings)
            found = survey(
                source,
                max_line_bytes=self._scope.settings.max_request_bytes,
                on_problem=note,
                on_progress=_stage(on_progress, "checking", source.bytes),
                dedupe=dedupe,
                skip_bad=skip_bad,
            )
            market = asked.result()
            missing = missing_models(self._scope.settings, found.models) if found.valid else set()
            return found, problems, replace(market, missing=frozenset(missing))


def _stage(on_progress: Progress | None, stage: Stage, total: int) -> Callable[[int], Any]:
    if on_progress is None:
        return lambda _: None
    return lambda done: on_progress(stage, done, total)

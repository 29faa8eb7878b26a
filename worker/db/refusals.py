"""Rows that the database refuses to change: each is set aside, and stops no other.

A constraint, a trigger that raises, a key of another program's table, a number out of range: whatever the reason, the
database answers, and waiting for it mends nothing. What concerns many rows is done in one transaction, and in one for each
where that is refused (`Apart`); a walk steps over what is refused (`Walk`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import StatementError

from worker.base import metrics
from worker.base.errors import Unreachable
from worker.base.log import get_logger

if TYPE_CHECKING:
    from worker.db.threads import DatabaseThreads

log = get_logger(__name__)

#: The database, or its driver, takes this row as it is at no time. (An `OperationalError` among them, which is a
#: `StatementError`, is a limit of PostgreSQL's own: all others are `Unreachable` by now.)
REFUSED: tuple[type[Exception], ...] = (StatementError, ValueError, TypeError, OverflowError)
#: What is logged of an error, in characters: its first line, since PostgreSQL's second one shows the row.
_DETAIL = 300

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """Which rows are meant: this one only, or all but these."""

    only: str | None = None
    but: Collection[str] = ()

    def __contains__(self, row: str) -> bool:
        return row == self.only if self.only is not None else row not in self.but


ALL = Part()

#: The execution option under which a verb that claims many rows takes each by itself; its value is `Refusals`.
APART = "apart"


def apart(conn: Connection) -> Refusals | None:
    """The rows that were refused, where each row is to be taken by itself (`APART`)."""
    found: Refusals | None = conn.get_execution_options().get(APART)
    return found


class Work(Protocol[T_co]):
    """Does what is to be done for a part of the rows, in one transaction."""

    def __call__(self, conn: Connection, part: Part, /) -> T_co:
        """The caller commits."""


class Write(Protocol):
    """Runs a function in a transaction, and commits."""

    def __call__(self, work: Callable[[Connection], T], /) -> Awaitable[T]:
        """What the function has returned."""


class Refusals:
    """Which rows of a kind the database refuses, as seen last. Each is logged and counted once while that lasts."""

    def __init__(self, what: str) -> None:
        """`what` names the kind, for the log and the metric."""
        self._what = what
        self.rows: set[str] = set()

    def add(self, row: str, error: Exception) -> None:
        """The database has refused this row."""
        if row not in self.rows:
            self.rows.add(row)
            metrics.REFUSED_ROWS.labels(self._what).inc()
            log.error("row_refused", what=self._what, id=row, error=_first_line(error))

    def each(self, conn: Connection, rows: Sequence[str], work: Callable[[str], Sequence[T]], limit: int) -> list[T]:
        """Work on one row after the other, each in a savepoint, until there are `limit` results."""
        done: list[T] = []
        for row in rows:
            if len(done) >= limit:
                break
            try:
                with conn.begin_nested():
                    done += work(row)
            except REFUSED as error:
                self.add(row, error)
            else:
                self.rows.discard(row)
        return done


class Apart(Refusals):
    """Work on many rows in one transaction, or in one for each; `away`: the database did not answer to all of it."""

    def __init__(self, what: str) -> None:
        """`what` as for `Refusals`."""
        super().__init__(what)
        self.away = False

    async def run_apart(
        self,
        database: DatabaseThreads,
        work: Work[T],
        rows: Callable[[Connection, int], Sequence[str]],
        event: str,
    ) -> list[T]:
        """As `gather`; when the database does not answer, `event` is logged, and the rest is left to the next time."""
        done: list[T] = []
        self.away = False
        try:
            await self.gather(database.write, work, rows, done)
        except Unreachable as error:
            self.away = True
            database.delayed(event, error)
        return done

    async def gather(
        self, write: Write, work: Work[T], rows: Callable[[Connection, int], Sequence[str]], done: list[T]
    ) -> None:
        """Do the work.

        Args:
            write: runs a function in a transaction.
            work: does it for all rows (it may leave out those that were refused last), or for one.
            rows: reads which there are, so many more than are looked at once: some may be refused again.
            done: gets what each transaction that was committed has returned.

        Raises:
            Unreachable: the database does not answer.
        """
        try:
            done.append(await write(partial(_do, work, Part(but=frozenset(self.rows)))))
            left = sorted(self.rows)
        except REFUSED:
            left = list(await write(lambda conn: rows(conn, len(self.rows))))
            self.rows &= set(left)
        for row in left:
            try:
                done.append(await write(partial(_do, work, Part(only=row))))
            except REFUSED as error:
                self.add(row, error)
            else:
                self.rows.discard(row)


class Walk(Refusals):
    """A walk in slices; one that is refused is halved, down to a single row, which is stepped over."""

    def __init__(self, what: str, most: int) -> None:
        """`most`: rows of a slice."""
        super().__init__(what)
        self._most = self._limit = most

    async def take_slice(
        self,
        database: DatabaseThreads,
        take: Callable[[Connection, int], T],
        next_row: Callable[[Connection], str | None],
        over: Callable[[str], T],
        otherwise: T,
        event: str,
    ) -> T:
        """Do the next slice.

        Args:
            take: does one of so many rows at most.
            next_row: reads which row comes next.
            over: the result of a step over this row, which is refused.
            otherwise: the result when the database does not answer, which is logged as `event`.
        """
        while True:
            try:
                done = await database.write(partial(_take, take, self._limit))
            except Unreachable as error:
                database.delayed(event, error)
                return otherwise
            except REFUSED as error:
                if self._limit > 1:
                    self._limit //= 2
                    continue
                row = await database.try_read(next_row, None, event) or ""
                self.add(row, error)
                return over(row)
            self._limit = min(self._most, 2 * self._limit)
            return done


def _take(take: Callable[[Connection, int], T], limit: int, conn: Connection) -> T:
    return take(conn, limit)


def _do(work: Work[T], part: Part, conn: Connection) -> T:
    return work(conn, part)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:_DETAIL]

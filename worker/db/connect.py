"""The connection to the database: PostgreSQL through psycopg 3, or SQLite in WAL mode.

On PostgreSQL each transaction sets what it depends on by itself, in the round trip of its BEGIN: timeouts, the date
format, the schema, and for the engine the planner's. Nothing depends on a session, on a role's or a database's defaults,
or on the URL's `options`, so that a pooler in transaction mode may stand in between. No statement is prepared
on the server for the same reason, and since a plan that is kept is one for yesterday's rows.

Every SQLite transaction begins with BEGIN IMMEDIATE: a deferred one that reads first and writes later fails at once
with "database is locked", and the busy timeout does not apply to it (RELIABILITY D3). `synchronous=NORMAL` survives
kill -9 of any process; a power loss may cost the last commits of SQLite. PostgreSQL is for those who cannot have that.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Dialect, Engine, ExceptionContext, create_engine, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from worker.base.errors import InvalidRequest, Refused, StatementTimeout, Unreachable
from worker.base.payloads import Payloads
from worker.base.settings import Settings
from worker.base.sockets import is_readable
from worker.db import sqlite_file
from worker.db.sqlite_writers import SQLITE_BUSY_MS, begin_immediate, count_writers
from worker.db.url import database_url, display_url

T = TypeVar("T")

#: No statement of ours takes seconds; one that does is stuck behind something that will not move. A transaction that
#: idles is that of a frozen process: while it lasts, no worker can take back the jobs that it has locked.
#: A compiled plan (`jit`) costs more than any statement of ours takes.
_TRANSACTION = {
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "5s",
    "DateStyle": "ISO",
    "jit": "off",
}
#: Claims and fences are written for this level; under another that a role has by default, claims fail beside each other.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
#: The engine's statements are each made for one index. Statistics may be hours old, from before a million rows came or
#: went; by them the planner would read another index whole and sort what it finds (measured: 2 ms became 600).
_BY_INDEX = {"enable_seqscan": "off", "enable_sort": "off"}

#: What stays of SQLite's write-ahead log once it is written back. It grows while a reader stays (a backup, a person who
#: looks), and would keep that size on the disk for as long as any process has the database open.
WAL_BYTES = 64 * 1024 * 1024

#: A server that has not answered by then stands still: `statement_timeout` would have ended whatever it works at.
ANSWER_SECONDS = 40.0

#: A connection whose other end has gone without a word is given up after about ten seconds, not after two hours. What
#: the URL sets stands before this.
_PG_CONNECTION = {
    "connect_timeout": 5,
    "fallback_application_name": "stockpot",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def connect(
    settings: Settings, *, pool_size: int = 4, ask_first: bool = True, patient: bool = False, by_index: bool = False
) -> Engine:
    """An engine for the settings' database; connects at first use.

    `ask_first` looks whether a pooled connection still stands before it is used, for callers that do not try again, so
    that a restarted PostgreSQL costs them nothing. The engine tries again, and does without. `patient` waits
    for each answer for as long as it takes; others give up after `ANSWER_SECONDS`. `by_index` is for statements that
    are each made for one index, and shall have no other plan whatever the statistics are.

    Raises:
        SettingsError: the URL is not one, or names a database that Stockpot does not speak.
    """
    url = database_url(settings)
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, settings, pool_size)
    from worker.db.bounded import BoundedConnection  # psycopg is optional

    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_use_lifo=True,  # who seldom needs two has one
        hide_parameters=True,
        execution_options={"payloads": Payloads.of(settings)},
        connect_args={name: value for name, value in _PG_CONNECTION.items() if name not in url.query}
        | {"client_encoding": "utf8", "prepare_threshold": None},
    )
    event.listen(engine, "handle_error", _leave_read_only)
    within = None if patient else ANSWER_SECONDS

    @event.listens_for(engine, "do_connect")
    def open_bounded(_dialect: object, _record: object, args: Any, options: Any) -> BoundedConnection:
        connection = BoundedConnection.connect(*args, **options)
        connection.answer_within = within
        return connection

    @event.listens_for(engine, "connect")
    def begin_ourselves(connection: Any, _record: object) -> None:
        connection.autocommit = True

    if ask_first:
        event.listen(engine, "checkout", partial(_look_first, engine.dialect))
    begin = _begin(settings, by_index=by_index)

    @event.listens_for(engine, "begin")
    def begin_transaction(conn: Connection) -> None:
        if conn.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            conn.exec_driver_sql(begin)

    return engine


def _look_first(dialect: Dialect, connection: Any, _record: object, _proxy: object) -> None:
    """Have a connection replaced whose server has gone, and with it all that idle beside it.

    A server that goes closes its connections: an idle one has something to read then. Only then it is asked; a look costs
    nothing, and a question to the server a round trip.
    """
    try:
        if is_readable(connection.pgconn.socket):
            dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


def _begin(settings: Settings, *, by_index: bool) -> str:
    """BEGIN and all that the transaction depends on: several statements, one round trip."""
    given = _TRANSACTION | (_BY_INDEX if by_index else {})
    statements = [f"SET LOCAL {name} = '{value}'" for name, value in given.items()]
    if settings.schema_name is not None:
        statements.append(f'SET LOCAL search_path = "{settings.schema_name}"')
    return "; ".join([_BEGIN, *statements])


def _leave_read_only(context: ExceptionContext) -> None:
    """Drop a connection that takes no writes: after a failover the same name leads to a server that does."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def _sqlite(url: URL, settings: Settings, pool_size: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,
        execution_options={"payloads": Payloads.of(settings)},
        connect_args={"timeout": SQLITE_BUSY_MS / 1000, "check_same_thread": False},
    )

    @event.listens_for(engine, "do_connect")
    def make_private(_dialect: object, _record: object, _args: object, _options: object) -> None:
        sqlite_file.make_private(
            Path(str(url.database)), settings.home
        )  # now: a process that stores nothing makes no file

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we send BEGIN ourselves
        for pragma in (
            f"busy_timeout={SQLITE_BUSY_MS}",
            "journal_mode=WAL",
            f"journal_size_limit={WAL_BYTES}",
            "synchronous=NORMAL",
            "temp_store=MEMORY",
            "cache_size=-16000",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        if conn.get_execution_options().get("sqlite_read_only", False):
            conn.exec_driver_sql("BEGIN")
        else:
            begin_immediate(conn, str(url.database))

    count_writers(engine, str(url.database))
    return engine


class OtherSchema(Unreachable):
    """The database answers and is not one that this version may use: waiting mends nothing."""

    def __init__(self, detail: str, mend: str) -> None:
        super().__init__("the database", detail, mend)
        self.args = (f"the database {detail}\n{mend}",)


class Database:
    """One engine with the two ways in: `write` (one transaction) and `read` (a snapshot, no lock on SQLite)."""

    def __init__(
        self,
        settings: Settings,
        *,
        pool_size: int = 4,
        ask_first: bool = True,
        patient: bool = False,
        by_index: bool = False,
    ) -> None:
        """See `connect`."""
        self.settings = settings
        self._ask_first = ask_first
        self.engine = connect(settings, pool_size=pool_size, ask_first=ask_first, patient=patient, by_index=by_index)

    @property
    def payloads(self) -> Payloads:
        """What encrypts payloads in this database, and decrypts them."""
        found: Payloads = self.engine.get_execution_options()["payloads"]
        return found

    @property
    def is_sqlite(self) -> bool:
        """Whether one writer at a time is all there can be."""
        return self.engine.dialect.name == "sqlite"

    def write(self, verb: Callable[[Connection], T]) -> T:
        """Run `verb` in a transaction and commit it.

        Raises:
            InvalidRequest: what no database keeps: a text with NUL or half of a surrogate pair, a time beyond the calendar.
            StatementTimeout: PostgreSQL has cancelled a statement; nothing was committed.
            Unreachable: the database does not answer. Whether the transaction was committed is unknown then.
        """
        with self.translated(), self._begun() as conn:
            return verb(conn)

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` in a read-only transaction.

        Raises:
            InvalidRequest: as `write`.
            StatementTimeout: PostgreSQL has cancelled a statement.
            Unreachable: the database does not answer.
        """
        with self.translated(), self._begun(read_only=True) as conn:
            return query(conn)

    @contextlib.contextmanager
    def _begun(self, *, read_only: bool = False) -> Iterator[Connection]:
        """A transaction; one that only reads is rolled back at the end.

        A server that goes may take the connection between the look at it and BEGIN. Nothing has been done by then, so
        another connection begins; whose caller tries again by itself does without, as without the look.
        """
        with contextlib.ExitStack() as stack:
            try:
                conn = self._begin(stack, read_only=read_only)
            except DBAPIError as error:
                if not (self._ask_first and error.connection_invalidated):
                    raise
                stack.close()
                conn = self._begin(stack, read_only=read_only)
            yield conn

    def _begin(self, stack: contextlib.ExitStack, *, read_only: bool) -> Connection:
        conn = stack.enter_context(self.engine.connect().execution_options(sqlite_read_only=read_only))
        transaction = conn.begin()
        if not read_only:
            stack.enter_context(transaction)
        return conn

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """A driver's error in the block is raised as the one of ours that it means; see `read`, `write`."""
        try:
            yield
        except UnicodeEncodeError:
            raise InvalidRequest(_NO_TEXT) from None
        except OverflowError:
            raise InvalidRequest(_NO_NUMBER) from None
        except PoolTimeout as error:
            raise Unreachable("the database", "every connection of this process's pool is busy") from error
        except OperationalError as error:
            if _too_much(error):
                raise
            if _missing(error):
                raise _lacks(error) from error
            if _cancelled(error):
                raise StatementTimeout(_detail(error)) from error
            if self._is_full(error):
                where = Path(str(self.engine.url.database)).parent
                raise Unreachable("the database", f"{_detail(error)}: no room in {where}", _FULL) from error
            raise Unreachable("the database", _detail(error), self._mend()) from error
        except DBAPIError as error:
            if (mend := _REFUSALS.get(_sqlstate(error))) is not None:
                raise Refused(_detail(error), mend) from error
            if error.connection_invalidated:
                raise Unreachable("the database", _detail(error), self._mend()) from error
            if _missing(error):
                raise _lacks(error) from error
            if CLOSED in str(error.orig):
                raise Unreachable("the database", CLOSED, MOVED) from error
            if "file is not a database" in str(error.orig):
                raise Unreachable(
                    "the database", f"{self.engine.url.database} is no SQLite database", _OTHER
                ) from error
            if "NUL (0x00)" in str(error.orig):
                raise InvalidRequest(_NO_TEXT) from None
            raise
        except StatementError as error:  # SQLAlchemy's own, about a value that it could not hand to the driver
            if isinstance(error.orig, UnicodeEncodeError):
                raise InvalidRequest(_NO_TEXT) from None
            if isinstance(error.orig, OverflowError):
                raise InvalidRequest(_NO_NUMBER) from None
            raise

    def _is_full(self, error: OperationalError) -> bool:
        """Whether SQLite has no room on its disk: some of its files report that as an I/O error."""
        detail = str(error.orig)
        if not self.is_sqlite or detail not in {"database or disk is full", "disk I/O error"}:
            return False
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(Path(str(self.engine.url.database)).parent).free
            return detail != "disk I/O error" or free < _ROOM
        return False

    def _mend(self) -> str:
        return f"Is it running? STOCKPOT_DATABASE_URL is {display_url(self.settings)}; `stockpot doctor` checks it."

    def close_idle(self) -> None:
        """Close the idle connections to a server; the next transaction opens one. Those in use go on."""
        if not self.is_sqlite:
            self.engine.dispose()

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


_NO_TEXT = "expected text, got one with the character U+0000 (NUL) or half of a surrogate pair"
_NO_NUMBER = "expected a number or a time that a database can keep"
#: What a database answers to every write once `stockpot db copy` has closed it, and what to do then.
CLOSED = "it was moved by stockpot db copy and takes no more work"
MOVED = "Set STOCKPOT_DATABASE_URL to the new one. A move that was given up is undone by `stockpot db copy --reopen`."
_READ_ONLY, _NO_RIGHT = "25006", "42501"
#: What PostgreSQL refuses for good, or for as long as it is a standby (RELIABILITY F44), and what to do.
_REFUSALS = {
    _READ_ONLY: "It takes no writes: a standby, or `default_transaction_read_only` of its role, the database or the server."
    " Name the primary.",
    _NO_RIGHT: "The role of STOCKPOT_DATABASE_URL needs USAGE on the schema, and SELECT, INSERT, UPDATE and DELETE on"
    " Stockpot's tables; for `stockpot db upgrade` it must own them and may CREATE.",
}
_HOME = "Set STOCKPOT_HOME or STOCKPOT_DATABASE_URL to a place that you may write."
_CANCELLED = "57014"
_OTHER = "Set STOCKPOT_HOME or STOCKPOT_DATABASE_URL to another file."
_FULL = "Make room there; what was committed is kept, and the same command goes on."
#: Less than this and SQLite's own files cannot grow, in bytes.
_ROOM = 1024 * 1024
_LACKS = (
    "Was it restored, or another put in its place? `stockpot db check` compares it; `stockpot db upgrade` makes tables that"
    " are new."
)


_MISSING = {"42P01", "42703"}  # a table, a column


def _sqlstate(error: DBAPIError) -> str:
    """PostgreSQL's code of an error; empty on SQLite."""
    return str(getattr(error.orig, "sqlstate", None) or "")


def _missing(error: DBAPIError) -> bool:
    """Whether a table or a column that this version uses is not there."""
    return str(error.orig).startswith(("no such table", "no such column")) or _sqlstate(error) in _MISSING


def _lacks(error: DBAPIError) -> OtherSchema:
    return OtherSchema(f"lacks what this version of Stockpot uses: {str(error.orig).splitlines()[0]}", _LACKS)


def _cancelled(error: DBAPIError) -> bool:
    """Whether PostgreSQL has cancelled the statement: by `statement_timeout`, or since an operator asked for it."""
    return _sqlstate(error) == _CANCELLED


def _too_much(error: DBAPIError) -> bool:
    """Whether PostgreSQL has refused a value as too deep or too long (class 54): trying again does not help."""
    return _sqlstate(error).startswith("54")


def _detail(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split())[:300]

"""The connection to the database: PostgreSQL through psycopg 3, or SQLite in WAL mode.

Every SQLite transaction begins with BEGIN IMMEDIATE: a deferred one that reads first and writes later fails at once
with "database is locked", and the busy timeout does not apply to it (RELIABILITY D3). `synchronous=NORMAL` survives
kill -9 of any process; a power loss may cost the last commits of SQLite. PostgreSQL is for those who cannot have that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from worker.base import private, urls
from worker.base.errors import SettingsError, Unreachable
from worker.base.settings import Settings

T = TypeVar("T")

#: A writer waits this long for another process's SQLite transaction; ours are a few milliseconds long.
SQLITE_BUSY_MS = 10_000
#: No statement of ours takes seconds; one that does is stuck behind something that will not move. A transaction that
#: idles is that of a frozen process: while it lasts, nobody can take back the jobs that it has locked.
PG_TIMEOUTS = "-c statement_timeout=30000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=5000"

#: A server that has not answered by then stands still: `statement_timeout` would have ended whatever it works at.
ANSWER_SECONDS = 40.0

#: A connection whose other end has gone without a word is given up after about ten seconds, not after two hours.
PG_CONNECTION = {
    "connect_timeout": 5,
    "options": PG_TIMEOUTS,
    "application_name": "stockpot",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def connect(settings: Settings, *, pool_size: int = 4, ask_first: bool = True, patient: bool = False) -> Engine:
    """An engine for `settings.sqlalchemy_url`; connects at first use.

    `ask_first` asks a pooled connection whether it still stands before it is used: 0.1 ms for callers that do not try
    again, so that a restarted PostgreSQL costs them nothing. The engine tries again, and does without. `patient` waits
    for each answer for as long as it takes; others give up after `ANSWER_SECONDS`.

    Raises:
        SettingsError: the URL is not one, or names a database that Stockpot does not speak.
    """
    try:
        url = make_url(settings.sqlalchemy_url)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise SettingsError(f"STOCKPOT_DATABASE_URL: {error}") from None
    if backend == "sqlite":
        return _sqlite(settings, pool_size)
    if backend != "postgresql":
        raise SettingsError(f"STOCKPOT_DATABASE_URL: {backend} is not spoken here; use postgresql:// or sqlite:///")
    try:
        engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=10,
            pool_pre_ping=ask_first,
            hide_parameters=True,
            connect_args=PG_CONNECTION,
        )
        from worker.db.bounded import BoundedConnection  # psycopg is optional
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"STOCKPOT_DATABASE_URL: {error.name} is missing; pip install 'stockpot[postgres]'"
        ) from None
    event.listen(engine, "handle_error", _leave_read_only)
    within = None if patient else ANSWER_SECONDS

    @event.listens_for(engine, "do_connect")
    def open_bounded(_dialect: object, _record: object, args: Any, options: Any) -> BoundedConnection:
        connection = BoundedConnection.connect(*args, **options)
        connection.answer_within = within
        return connection

    return engine


def _leave_read_only(context: ExceptionContext) -> None:
    """Drop a connection that takes no writes: after a failover the same name leads to a server that does."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def _sqlite(settings: Settings, pool_size: int) -> Engine:
    url = make_url(settings.sqlalchemy_url)
    if url.database and url.database != ":memory:":
        _make_private(Path(url.database), settings.home)
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"timeout": SQLITE_BUSY_MS / 1000, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in (
            f"busy_timeout={SQLITE_BUSY_MS}",
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "temp_store=MEMORY",
            "cache_size=-16000",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        deferred = conn.get_execution_options().get("sqlite_read_only", False)
        conn.exec_driver_sql("BEGIN" if deferred else "BEGIN IMMEDIATE")

    return engine


def _make_private(file: Path, home: Path) -> None:
    """Make the database's file, or close an existing one, with its log: SQLite gives the log the file's own mode."""
    try:
        if file.parent == home or not file.parent.exists():
            private.make_directory(file.parent)
        private.make_file(file)
        for beside in ("-wal", "-shm", "-journal"):
            private.close_file(file.with_name(file.name + beside))
    except OSError as error:
        raise Unreachable("the database", f"cannot use {file}: {error.strerror}", _HOME) from error


class Database:
    """One engine with the two ways in: `write` (one transaction) and `read` (a snapshot, no lock on SQLite)."""

    def __init__(
        self, settings: Settings, *, pool_size: int = 4, ask_first: bool = True, patient: bool = False
    ) -> None:
        """See `connect`."""
        self.settings = settings
        self.engine = connect(settings, pool_size=pool_size, ask_first=ask_first, patient=patient)

    @property
    def is_sqlite(self) -> bool:
        """Whether one writer at a time is all there can be."""
        return self.engine.dialect.name == "sqlite"

    def write(self, verb: Callable[[Connection], T]) -> T:
        """Run `verb` in a transaction and commit it.

        Raises:
            Unreachable: the database does not answer. Whether the transaction was committed is unknown then.
        """
        with self._told(), self.engine.begin() as conn:
            return verb(conn)

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` in a read-only transaction.

        Raises:
            Unreachable: the database does not answer.
        """
        with self._told(), self.engine.connect().execution_options(sqlite_read_only=True) as conn:
            return query(conn)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except PoolTimeout as error:
            raise Unreachable("the database", "every connection of this process's pool is busy") from error
        except OperationalError as error:
            if _too_much(error):
                raise
            raise Unreachable("the database", _detail(error), self._mend(error)) from error
        except DBAPIError as error:
            if error.connection_invalidated or _read_only(error):
                raise Unreachable("the database", _detail(error), self._mend(error)) from error
            if _missing_table(error):
                raise Unreachable("the database", "it has no tables of Stockpot yet", _UPGRADE) from error
            raise

    def _mend(self, error: DBAPIError) -> str:
        if _missing_table(error):
            return _UPGRADE
        where = urls.without_credentials(self.settings.sqlalchemy_url)
        return f"Is it running? STOCKPOT_DATABASE_URL is {where}; `stockpot doctor` checks it."

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


_READ_ONLY = "25006"
_HOME = "Set STOCKPOT_HOME or STOCKPOT_DATABASE_URL to a place that you may write."
_UPGRADE = "Run `stockpot db upgrade`."


def _missing_table(error: DBAPIError) -> bool:
    detail = str(error.orig)
    return "no such table" in detail or getattr(error.orig, "sqlstate", None) == "42P01"


def _read_only(error: DBAPIError) -> bool:
    """Whether PostgreSQL takes no writes now, as a standby does until it is promoted (RELIABILITY F44)."""
    return getattr(error.orig, "sqlstate", None) == _READ_ONLY


def _too_much(error: DBAPIError) -> bool:
    """Whether PostgreSQL has refused a value as too deep or too long (class 54): trying again does not help."""
    return str(getattr(error.orig, "sqlstate", None) or "").startswith("54")


def _detail(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split())[:300]

"""What in a database is Stockpot's, and what is another program's: nothing of that is read, changed or dropped.

Ours are the tables of `metadata`, the version table `stockpot_version` and the views, in one schema. A database that an
older Stockpot has upgraded has its version in `alembic_version`, which an application's own migrations may want for
themselves: it is taken over, and what is not ours in it stays.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from worker.base.errors import SettingsError
from worker.db.clock import is_postgres
from worker.db.columns import metadata

VERSION_TABLE = "stockpot_version"
#: Where the first releases kept it.
_OLD_VERSION_TABLE = "alembic_version"
#: The revisions that were ever written there.
_OLD_REVISIONS = ("0001", "0002")
#: A table `jobs` with these columns is ours, wherever the version stands.
_OUR_COLUMNS = {"id", "fence", "lease_owner", "lease_until", "max_attempts", "on_ambiguous", "request_hash"}
#: The views of the first releases, which made them without the mark.
_FIRST_VIEWS = frozenset(
    {
        "jobs_v",
        "results_v",
        "usage_v",
        "attempts_v",
        "webhook_events_v",
        "webhook_attempts_v",
        "batches_v",
        "batch_lines_v",
    }
)
#: The mark of a view of ours: its comment on PostgreSQL, a part of its text on SQLite.
VIEW_MARK = "Stockpot's: made anew by each upgrade"


def relations(conn: Connection) -> set[str]:
    """The names of all tables, views and the like, in the one schema that Stockpot's tables are in."""
    statement = (
        "SELECT relname FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
        " AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')"
        if is_postgres(conn)
        else "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'"
    )
    return {row[0] for row in conn.execute(text(statement))}


def own_schema(conn: Connection) -> str:
    """The schema that Stockpot's tables are in; empty on SQLite."""
    return str(conn.execute(text("SELECT current_schema()")).scalar_one()) if is_postgres(conn) else ""


def revision(conn: Connection) -> str | None:
    """The revision that the database is at; None when it never was Stockpot's."""
    there = relations(conn)
    if VERSION_TABLE in there:
        at: str | None = conn.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        return at
    return _old_revision(conn, there)


def take_over(conn: Connection) -> None:
    """Move the version of an older Stockpot's database to where it belongs. The caller commits."""
    there = relations(conn)
    old = None if VERSION_TABLE in there else _old_revision(conn, there)
    if old is None:
        return
    conn.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    conn.execute(text(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES (:old)"), {"old": old})
    conn.execute(text(f"DELETE FROM {_OLD_VERSION_TABLE} WHERE version_num = :old"), {"old": old})
    if conn.execute(text(f"SELECT 1 FROM {_OLD_VERSION_TABLE}")).first() is None:
        conn.execute(text(f"DROP TABLE {_OLD_VERSION_TABLE}"))


def _old_revision(conn: Connection, there: set[str]) -> str | None:
    if _OLD_VERSION_TABLE not in there or not {"jobs", "attempts", "requests", "results"} <= there:
        return None
    if not _columns(conn, "jobs") >= _OUR_COLUMNS:
        return None
    found = {row[0] for row in conn.execute(text(f"SELECT version_num FROM {_OLD_VERSION_TABLE}"))}
    return next((old for old in _OLD_REVISIONS if old in found), None)


def _columns(conn: Connection, table: str) -> set[str]:
    """The columns of a table of that schema."""
    statement = (
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(format('%I.%I', current_schema(), CAST(:table AS text)))"
        " AND attnum > 0 AND NOT attisdropped"
        if is_postgres(conn)
        else "SELECT name FROM pragma_table_info(:table)"
    )
    return {row[0] for row in conn.execute(text(statement), {"table": table})}


def refuse_strangers(conn: Connection, views: set[str], *, fresh: bool) -> None:
    """Refuse a database in which another program's table or view has one of our names.

    Args:
        views: the names of our views.
        fresh: the database was never Stockpot's, so that nothing in it is.

    Raises:
        SettingsError: it names what stands in the way, and what to do.
    """
    there = relations(conn)
    strangers = there & views - _marked(conn) - (frozenset() if fresh else _FIRST_VIEWS)
    if fresh:
        strangers |= there & set(metadata.tables)
    if strangers:
        raise taken(conn, sorted(strangers))


def taken(conn: Connection, names: list[str]) -> SettingsError:
    """The error for names of ours that another program's tables or views have."""
    mend = (
        "set STOCKPOT_SCHEMA to a schema of its own (`db upgrade` makes it), or use a database of its own"
        if is_postgres(conn)
        else "use a file of its own"
    )
    return SettingsError(
        f"STOCKPOT_DATABASE_URL: the database has {', '.join(names)} already, and not from Stockpot; nothing was"
        f" changed.\nNames would collide: {mend}."
    )


def _marked(conn: Connection) -> set[str]:
    statement = (
        "SELECT relname FROM pg_class WHERE relkind = 'v' AND obj_description(oid, 'pg_class') = :mark"
        " AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
        if is_postgres(conn)
        else "SELECT name FROM sqlite_master WHERE type = 'view' AND instr(sql, :mark) > 0"
    )
    return {row[0] for row in conn.execute(text(statement), {"mark": VIEW_MARK})}


def refuse_encoding(conn: Connection) -> None:
    """Refuse a database that cannot hold every text that a model may answer.

    Raises:
        SettingsError: its encoding is not UTF-8.
    """
    if not is_postgres(conn):
        return
    encoding = conn.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise SettingsError(
            f"STOCKPOT_DATABASE_URL: the database's encoding is {encoding}, which cannot hold every answer;"
            " use one that was made with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def enter_schema(conn: Connection, name: str | None) -> None:
    """Make the schema if there is none, and let this transaction see no other. The caller commits.

    Raises:
        SettingsError: there is no schema to make tables in.
    """
    if not is_postgres(conn):
        if name is not None:
            raise SettingsError("STOCKPOT_SCHEMA: SQLite has no schemas; unset it, or use PostgreSQL")
        return
    known = text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
    if name is not None and conn.execute(known, {"name": name}).first() is None:
        conn.execute(text(f'CREATE SCHEMA "{name}"'))
    schema = conn.execute(text("SELECT current_schema()")).scalar()
    if schema is None:
        raise SettingsError(
            "STOCKPOT_DATABASE_URL: no schema of its search_path exists; make it, or set STOCKPOT_SCHEMA instead"
        )
    conn.execute(text(f"SET LOCAL search_path = {conn.dialect.identifier_preparer.quote(str(schema))}"))

"""A database that refuses to change a row: a trigger raises, as a constraint or another program's trigger does."""

from __future__ import annotations

from tests.factories import sql
from worker.db.connect import Database


def refuse(database: Database, table: str, condition: str, *, when: str = "UPDATE") -> None:
    """Refuse what `when` does to the rows of a table that meet the condition, until `allow`."""
    what = "BEGIN SELECT RAISE(ABORT, 'this row stays'); END"
    if not database.is_sqlite:
        raising = "BEGIN RAISE EXCEPTION 'this row stays'; END"
        sql(database, f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {raising} $$")
        what = "EXECUTE FUNCTION refuse()"
    sql(database, f"CREATE TRIGGER refusing BEFORE {when} ON {table} FOR EACH ROW WHEN ({condition}) {what}")


def allow(database: Database, table: str) -> None:
    """Refuse nothing any more."""
    sql(database, "DROP TRIGGER refusing" + ("" if database.is_sqlite else f" ON {table}"))

"""A database that others use too, and servers with settings of their own: what is theirs stays, and what is ours works."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from tests.factories import chat, claimed, opened, settlement, submitted
from tests.revisions import upgrade_to
from tests.rig import pgbouncer
from tests.rig.postgres import PostgresServer
from worker.base.errors import Refused, SettingsError, StatementTimeout
from worker.base.settings import Settings
from worker.cli.app import main
from worker.cli.operations import checks
from worker.db import identity, schema, views
from worker.db.connect import Database, OtherSchema
from worker.db.jobs import listing, lookup, settle
from worker.db.ready import ensure_schema
from worker.db.revisions import HEAD
from worker.producer.stockpot import Stockpot

#: What each of our transactions has, whatever is set elsewhere.
OURS = {
    "transaction_isolation": "read committed",
    "statement_timeout": "30s",
    "client_encoding": "UTF8",
}
ANSWER = "naïve ☃ 漢字 🙂"


@pytest.fixture
def theirs(empty_database_url: str) -> Iterator[Engine]:
    """The application's own way into a database that was never Stockpot's."""
    engine = create_engine(empty_database_url)
    yield engine
    engine.dispose()


def run(engine: Engine, *statements: str) -> None:
    """Run statements as the application would."""
    with engine.begin() as conn:
        for statement in statements:
            conn.execute(text(statement))


def first_release(url: str) -> None:
    """A database as the first release left it: at 0001, its version where alembic keeps it by default, with a job."""
    with opened(url) as database:

        def make(conn: Connection) -> None:
            upgrade_to(conn, "0001")
            conn.execute(text("ALTER TABLE stockpot_version RENAME TO alembic_version"))
            for name in ("results_v", "attempts_v"):  # those that are still as they were then
                select = views.definitions(conn.dialect.name)[name]
                conn.execute(text(f"CREATE VIEW {name} AS {select.replace('::', schema.CAST)}"))

        database.write(make)
        at = "'2026-01-01 00:00:00.000'"
        job = f"""INSERT INTO jobs (id, endpoint, model, max_attempts, on_ambiguous, created_at, due_at, expires_at)
            VALUES ('job_%s', '/v1/chat/completions', 'm', 5, 'retry', {at}, {at}, {at})"""
        for number in range(3):
            database.write(lambda conn, number=number: conn.execute(text(job % number)))  # type: ignore[misc]


def revisions(engine: Engine, table: str) -> list[str]:
    """What a version table has."""
    with engine.connect() as conn:
        return [row[0] for row in conn.execute(text(f"SELECT version_num FROM {table} ORDER BY 1"))]


def test_the_first_releases_database_is_taken_along(empty_database_url: str, theirs: Engine) -> None:
    """Its jobs are there, its version has moved, and alembic's default table is free for the application."""
    first_release(empty_database_url)
    with pytest.raises(OtherSchema, match="is older than this version of Stockpot: at 0001"):
        ensure_schema(Settings(database_url=empty_database_url))
    schema.upgrade(empty_database_url)
    ensure_schema(Settings(database_url=empty_database_url))
    assert revisions(theirs, "stockpot_version") == [HEAD]
    assert not inspect(theirs).has_table("alembic_version")
    assert schema.differences(theirs) == []
    with opened(empty_database_url) as database:
        assert len(database.read(lambda conn: listing.jobs(conn, tenant=None))) == 3


def test_a_command_at_an_older_database_names_the_upgrade(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers, so it is not unreachable: it is old, and one command mends it."""
    first_release(empty_database_url)
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", empty_database_url)
    refused = CliRunner().invoke(main, ["list"])
    assert refused.exit_code == 3
    assert f"the database is older than this version of Stockpot: at 0001, needed is {HEAD}" in refused.stderr
    assert "Run `stockpot db upgrade`." in refused.stderr
    assert "unreachable" not in refused.output
    assert CliRunner().invoke(main, ["db", "upgrade"]).exit_code == 0
    assert CliRunner().invoke(main, ["list"]).exit_code == 0


@pytest.mark.parametrize(
    "harm",
    [
        "ALTER TABLE webhook_endpoints RENAME TO elsewhere",
        "ALTER TABLE webhook_endpoints RENAME COLUMN description TO words",
    ],
    ids=["table", "column"],
)
def test_a_table_or_a_column_that_went_missing_is_named(
    database_url: str, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """As after a restore of half a backup: the database answers, so it is not unreachable, and it had its tables."""
    with opened(database_url) as database:
        database.write(lambda conn: conn.execute(text(harm)))
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", database_url)
    refused = CliRunner().invoke(main, ["webhooks", "endpoints"])
    assert refused.exit_code == 3
    assert "the database lacks what this version of Stockpot uses: " in refused.stderr
    assert "`stockpot db check` compares it" in refused.stderr
    assert "unreachable" not in refused.output


def test_what_the_application_has_written_beside_it_stays(empty_database_url: str, theirs: Engine) -> None:
    """Both had used one table: each keeps its own line."""
    first_release(empty_database_url)
    run(theirs, "INSERT INTO alembic_version (version_num) VALUES ('3f2a9c')")
    schema.upgrade(empty_database_url)
    assert revisions(theirs, "alembic_version") == ["3f2a9c"]
    assert revisions(theirs, "stockpot_version") == [HEAD]


@pytest.mark.parametrize("revision", ["3f2a9c", "0001"])
def test_an_applications_own_migrations_are_not_read_as_ours(
    empty_database_url: str, theirs: Engine, revision: str
) -> None:
    """Whatever their revision is called."""
    run(
        theirs,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        f"INSERT INTO alembic_version VALUES ('{revision}')",
        "CREATE TABLE orders (id INTEGER)",
    )
    with pytest.raises(OtherSchema, match="no tables of Stockpot"):
        ensure_schema(Settings(database_url=empty_database_url))
    schema.upgrade(empty_database_url)
    assert revisions(theirs, "alembic_version") == [revision]
    assert revisions(theirs, "stockpot_version") == [HEAD]
    assert schema.differences(theirs) == []  # their table is no difference


@pytest.mark.parametrize(
    ("made", "name"),
    [
        ("CREATE TABLE jobs (id INTEGER, mine TEXT)", "jobs"),
        ("CREATE TABLE leases (id INTEGER)", "leases"),
        ("CREATE VIEW usage_v AS SELECT 1 AS mine", "usage_v"),
        ("CREATE TABLE jobs_v (mine INTEGER)", "jobs_v"),
    ],
)
def test_a_name_that_is_taken_is_refused_and_left_alone(
    empty_database_url: str, theirs: Engine, made: str, name: str
) -> None:
    """Nothing is dropped, nothing is made, and the error says what to do."""
    run(theirs, made, "CREATE TABLE orders (id INTEGER)")
    before = set(inspect(theirs).get_table_names()) | set(inspect(theirs).get_view_names())
    with pytest.raises(SettingsError, match=rf"(?s)has {name} already, and not from Stockpot.*of its own"):
        schema.upgrade(empty_database_url)
    assert set(inspect(theirs).get_table_names()) | set(inspect(theirs).get_view_names()) == before


def test_a_view_that_came_later_is_not_dropped_by_the_next_upgrade(
    empty_database_url: str, theirs: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new release wants a view whose name the application has used meanwhile."""
    schema.upgrade(empty_database_url)
    run(theirs, "CREATE VIEW orders_v AS SELECT 1 AS mine")
    monkeypatch.setattr(views, "definitions", lambda dialect: {"orders_v": "SELECT 2 AS ours"})
    monkeypatch.setattr(schema, "head", lambda: "9999")
    with pytest.raises(SettingsError, match="has orders_v already"):
        schema.upgrade(empty_database_url)
    with theirs.connect() as conn:
        assert conn.execute(text("SELECT mine FROM orders_v")).scalar() == 1


# ── PostgreSQL: schemas, settings, encodings, poolers ────────────────────────────────────────────────────────────────


@pytest.fixture
def empty(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty PostgreSQL database."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


def works(settings: Settings) -> None:
    """A job goes its way, in every letter, and is read again with its times."""
    schema.upgrade(settings)
    ensure_schema(settings)
    database = Database(settings)
    try:
        (job,) = submitted(database)
        (mine,) = claimed(database, job)
        done = settlement(mine, text=ANSWER)
        assert database.write(lambda conn: settle.settle(conn, [done])) == {job}
        found = database.read(lambda conn: lookup.job(conn, job, tenant="default"))
        assert (found.text, found.status) == (ANSWER, "completed")
        assert found.finished_at is not None and found.finished_at >= found.created_at
    finally:
        database.close()


def schemas(url: str) -> dict[str, int]:
    """How many tables each schema has."""
    engine = create_engine(url)
    with engine.connect() as conn:
        rows = conn.execute(
            text("SELECT schemaname, count(*) FROM pg_tables WHERE schemaname NOT LIKE 'pg_%' GROUP BY 1")
        )
        found = {row[0]: row[1] for row in rows if row[0] != "information_schema"}
    engine.dispose()
    return found


def test_two_projects_share_a_database_in_schemas_of_their_own(empty: str) -> None:
    """Beside an application that has tables of those names itself."""
    engine = create_engine(empty)
    run(engine, "CREATE TABLE jobs (id INTEGER)")
    engine.dispose()
    for name in ("stock", "pot"):
        works(Settings(database_url=empty, schema_name=name))
    counts = schemas(empty)
    assert counts.pop("public") == 1
    assert counts["stock"] == counts["pot"] > 10
    with opened(empty, schema_name="pot") as database:
        assert len(database.read(lambda conn: listing.jobs(conn, tenant=None))) == 1


def test_the_search_path_of_the_url_counts(empty: str) -> None:
    """As every other tool has it; not one table lands in `public`."""
    engine = create_engine(empty)
    run(engine, "CREATE SCHEMA stock")
    engine.dispose()
    works(Settings(database_url=f"{empty}?options=-csearch_path%3Dstock,public"))
    assert set(schemas(empty)) == {"stock"}


def test_a_schema_that_does_not_exist_is_named(empty: str) -> None:
    """`db upgrade` makes the schema of the setting, and no other."""
    with pytest.raises(SettingsError, match="no schema of its search_path exists"):
        schema.upgrade(f"{empty}?options=-csearch_path%3Dnowhere")


@pytest.mark.parametrize(
    "default",
    [
        "client_encoding = 'LATIN1'",
        "datestyle = 'SQL, DMY'",
        "datestyle = 'German'",
        "timezone = 'America/St_Johns'",
        "default_transaction_isolation = 'serializable'",
        "statement_timeout = '20s'",
        "search_path = elsewhere, public",
        "bytea_output = 'escape'",
    ],
)
def test_the_settings_of_a_database_do_not_change_ours(
    postgres_server: PostgresServer, empty: str, default: str
) -> None:
    """Each would break answers, times or claims."""
    postgres_server.execute(f"ALTER DATABASE {empty.rsplit('/', 1)[1]} SET {default}")
    works(Settings(database_url=empty))
    with opened(empty) as database:
        shown = database.read(lambda conn: {name: conn.execute(text(f"SHOW {name}")).scalar() for name in OURS})
    assert shown == OURS


@pytest.fixture
def poor(postgres_server: PostgresServer, empty: str) -> Iterator[str]:
    """The URL of a role that may log in, and nothing else, at a database that has our tables."""
    name = empty.rsplit("/", 1)[1]
    schema.upgrade(Settings(database_url=empty))
    postgres_server.execute(f"CREATE ROLE poor_{name} LOGIN")
    yield empty.replace("postgres@", f"poor_{name}@")
    with opened(empty) as database:
        database.write(lambda conn: conn.execute(text(f"DROP OWNED BY poor_{name}")))
    postgres_server.execute(f"DROP ROLE poor_{name}")


@pytest.mark.parametrize("granted", ["", "SELECT", "ALL"])
def test_a_right_that_is_missing_is_one_sentence(
    empty: str, poor: str, granted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a command, in `doctor`, in `db upgrade`, and where a worker waits for its database; `ALL` is read only by default."""
    role = poor.split("://")[1].split("@", maxsplit=1)[0]
    with opened(empty) as database:
        if granted:
            database.write(lambda conn: conn.execute(text(f"GRANT {granted} ON ALL TABLES IN SCHEMA public TO {role}")))
        if granted == "ALL":
            database.write(lambda conn: conn.execute(text(f"ALTER ROLE {role} SET default_transaction_read_only = on")))
    why = "read-only transaction" if granted == "ALL" else "permission denied"
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", poor)
    submitting = CliRunner().invoke(main, ["submit", "-m", "m", "hi"])
    assert (submitting.exit_code, submitting.stderr.count("\n")) == (3, 2), submitting.output
    assert re.match(f"Error: the database refuses: .*{why}", submitting.stderr)
    found = {check.name: check for check in checks.database(Settings(database_url=poor))}
    refused = found["database"]
    assert refused.outcome != "ok" and why in refused.detail and refused.mend
    with pytest.raises(Refused, match=why), opened(poor) as database:
        database.write(identity.ensure)  # as a worker does, which asks again
    if not granted:
        with pytest.raises(Refused, match=why):
            schema.upgrade(Settings(database_url=poor))


def test_the_url_says_who_is_connected(empty: str) -> None:
    """Ours is only the default."""
    for query, name in (("", "stockpot"), ("?application_name=shop", "shop")):
        with opened(empty + query) as database:
            assert database.read(lambda conn: conn.execute(text("SHOW application_name")).scalar()) == name


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_answer_is_refused(postgres_server: PostgresServer, encoding: str) -> None:
    """At the upgrade, and at a start."""
    name = f"t_{encoding.lower()}"
    postgres_server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
    url = postgres_server.url(name)
    for verb in (schema.upgrade, lambda url: ensure_schema(Settings(database_url=url))):
        with pytest.raises(SettingsError, match=f"encoding is {encoding}.*ENCODING 'UTF8'"):
            verb(url)
    postgres_server.drop_database(url)


def test_a_cancelled_statement_is_said_to_be_that(postgres_url: str) -> None:
    """The database is not unreachable: it has ended one statement."""
    with opened(postgres_url) as database:

        def slow(conn: Connection) -> None:
            conn.execute(text("SET LOCAL statement_timeout = 50"))
            conn.execute(text("SELECT pg_sleep(30)"))

        with pytest.raises(StatementTimeout, match="has cancelled the statement.*statement timeout") as cancelled:
            database.read(slow)
        assert "unreachable" not in str(cancelled.value)


@pytest.mark.skipif(pgbouncer.PROGRAM is None, reason="PgBouncer is not installed")
def test_pgbouncer_in_transaction_mode_is_no_difference(
    postgres_server: PostgresServer, empty: str, redis_url: str
) -> None:
    """As installed, without a setting for us: upgrade, work of many threads over few connections, and our timeouts."""
    name = empty.rsplit("/", 1)[1]
    with pgbouncer.pooled(postgres_server) as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/{name}"
        settings = Settings(database_url=url, schema_name="stock", redis_url=redis_url)
        works(settings)
        troubles: list[BaseException] = []

        def submit(pot: Stockpot) -> None:
            try:
                for at in range(20):
                    pot.submit(chat(str(at)), idempotency_key=f"{threading.get_ident()}-{at}")
            except BaseException as error:
                troubles.append(error)

        pots = [Stockpot(settings) for _ in range(8)]
        threads = [threading.Thread(target=submit, args=[pot]) for pot in pots]
        each(threads, threading.Thread.start)
        each(threads, threading.Thread.join)
        each(pots, Stockpot.close)
        assert troubles == []
        with opened(url, schema_name="stock") as database:
            assert len(database.read(lambda conn: listing.jobs(conn, tenant=None, limit=500))) == 161
            shown = database.read(lambda conn: conn.execute(text("SHOW statement_timeout")).scalar())
            assert shown == "30s"
        found = {check.name: check.outcome for check in checks.database(settings)}
        assert found["database pooler"] == "note"
    direct = {check.name for check in checks.database(Settings(database_url=empty, schema_name="stock"))}
    assert "database pooler" not in direct


def each(things: list, verb: Callable) -> None:  # type: ignore[type-arg]
    """Do one thing to all."""
    for thing in things:
        verb(thing)

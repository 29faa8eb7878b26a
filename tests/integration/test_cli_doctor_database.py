"""What `stockpot doctor` says of the database: its safety, and the versions of the workers that use it."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.factories import claimed, opened, request, rows, sql, submitted
from tests.rig.certificates import self_signed
from tests.rig.servers import PostgresServer, ValkeyServer
from tests.rig.tls import TlsFront
from worker.base import urls
from worker.base.settings import Settings, load
from worker.cli.operations import checks, redis_checks, safety_checks
from worker.db.connect import Database
from worker.db.workers import registry


def found(database: Database) -> dict[str, str]:
    """Each check of the database with its detail."""
    settings = Settings(database_url=database.settings.database_url)
    return {check.name: f"{check.outcome}: {check.detail}" for check in checks.database(settings)}


@pytest.mark.parametrize(("theirs", "outcome"), [(version("stockpot"), "ok"), ("0.0.1", "note")])
def test_workers_of_another_version_are_named(database: Database, theirs: str, outcome: str) -> None:
    presence = registry.Presence("w:1:a", "w", 1, theirs, 10.0, 5, 0, 0.0, None)
    database.write(lambda conn: registry.announce(conn, presence))
    said = found(database)["workers"]
    assert said.startswith(f"{outcome}: 1 alive")
    assert theirs in said


def test_a_database_that_may_forget_what_it_confirmed_is_named(database: Database) -> None:
    """The suite's PostgreSQL is fast and not durable; a SQLite file has no such switch."""
    said = found(database)
    if database.is_sqlite:
        assert "database safety" not in said
    else:
        assert said["database safety"].startswith("note: fsync, full_page_writes")


def test_a_missing_table_and_missing_workers_are_named(database: Database) -> None:
    """A version on record is not enough; no worker is no failure, and a word on what then happens."""
    assert found(database)["workers"].startswith("note: none is running")
    assert found(database)["schema"].startswith("ok: of this version, 2")
    sql(database, "DROP TABLE usage_keys")
    assert found(database)["schema"] == "failed: of this version, but without usage_keys"


def test_postgres_says_how_it_is_set_and_whether_the_way_is_encrypted(database: Database) -> None:
    said = found(database)
    if database.is_sqlite:
        assert "database settings" not in said
    else:
        assert said["database encryption"] == "ok: on this machine"
        assert re.fullmatch(r"ok: PostgreSQL \d+, autovacuum on, \d+ connections left", said["database settings"])


def test_what_goes_wrong_quietly_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections in clear, settings without effect, and files that others may read."""
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("STOCKPOT_CONCURRENCY=5\nSTOCKPOT_LEASE_SECONDS=9\n")
    Path(".env").chmod(0o644)
    monkeypatch.setenv("STOCKPOT_CONCURRENCY", "7")
    well = load(home=tmp_path / "home", redis_url="redis://127.0.0.1:1/0")
    poorly = load(
        home=tmp_path / "home",
        redis_url="redis://redis.example:6379/0?socket_timeout=9",
        redis_ca_file=tmp_path / "ca.pem",
        api_key="k" * 20,
        api_key_file=tmp_path / "key",
    )
    assert [check.outcome for check in safety_checks.safety(well)] == ["ok", "note", "note"]
    clear, ignored, files = safety_checks.safety(poorly)
    assert clear.detail.startswith("redis: not encrypted")
    for name in ("STOCKPOT_CONCURRENCY of .env", "STOCKPOT_API_KEY_FILE", "STOCKPOT_REDIS_CA_FILE", "socket_timeout"):
        assert name in ignored.detail
    assert "STOCKPOT_LEASE_SECONDS" not in ignored.detail
    assert files.detail.endswith(".env")
    Path(".env").chmod(0o600)
    assert [check.outcome for check in safety_checks.safety(poorly)][-1] == "ok"


@pytest.mark.parametrize(
    ("broker", "words"),
    [
        ("amqp://user@rabbit.example//", "broker: not encrypted"),
        ("rediss://redis.example/0?ssl_cert_reqs=none", "broker: encrypted, but the certificate is not verified"),
        ("rediss://redis.example/0?ssl_check_hostname=false", "broker: encrypted, but the certificate is not verified"),
        ("amqps://user@rabbit.example//", None),
        ("rediss://redis.example/0", None),
    ],
)
def test_each_connection_is_looked_at_by_itself(broker: str, words: str | None) -> None:
    check, _, _ = safety_checks.safety(Settings(redis_url="redis://127.0.0.1:1/0", broker_url=broker))
    assert check.outcome == ("ok" if words is None else "note")
    assert check.detail == words or words is None or check.detail.startswith(words)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("idle_session_timeout", "'90s'", "idle_session_timeout = 90000 ms"),
        ("transaction_timeout", "'20s'", "transaction_timeout = 20000 ms"),
        ("default_transaction_isolation", "serializable", "default_transaction_isolation = serializable"),
    ],
)
def test_postgres_settings_that_do_harm_quietly_are_named(
    postgres_url: str, setting: str, value: str, words: str
) -> None:
    with opened(postgres_url) as database:
        if not rows(database, f"SELECT 1 FROM pg_settings WHERE name = '{setting}'"):
            pytest.skip(f"this PostgreSQL has no {setting}")
        _default(database, setting, value)
    with opened(postgres_url) as database:
        said = found(database)["database settings"]
    assert said.startswith("note: "), said
    assert words in said


def test_a_postgres_with_timeouts_of_its_own_works_as_any_other(postgres_url: str) -> None:
    """Ours stand in each transaction: a role's tenth of a second ends none of them."""
    with opened(postgres_url) as database:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            _default(database, name, "100")
        _default(database, "client_encoding", "latin1")
        _default(database, "datestyle", "'German'")
    with opened(postgres_url) as database:
        [job] = submitted(database, request("ünï"))
        assert claimed(database, job)[0].body.count("ünï") == 1
        assert rows(database, "SELECT 1 AS one FROM pg_sleep(0.2)")
        said = found(database)
        assert said["database settings"].startswith("ok: ")
        assert said["database writes"].startswith("ok: ")


def test_a_postgres_that_takes_no_writes_is_named(postgres_url: str) -> None:
    with opened(postgres_url) as database:
        _default(database, "default_transaction_read_only", "on")
    with opened(postgres_url) as database:
        checks_of = {check.name: check for check in checks.database(database.settings)}
    assert checks_of["database"].outcome == "unreachable"
    assert "read-only" in checks_of["database"].detail
    assert "takes no writes" in checks_of["database"].mend


def test_a_database_that_cannot_hold_every_text_is_named_as_that(postgres_server: PostgresServer) -> None:
    postgres_server.execute("CREATE DATABASE in_latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    settings = Settings(database_url=postgres_server.url("in_latin"))
    said = {check.name: check for check in checks.database(settings)}
    assert said["database encoding"].outcome == "failed"
    assert "LATIN1" in said["database encoding"].detail
    assert "payload key" not in said


def test_the_way_to_postgres_is_as_its_connection_has_it(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clear, encrypted, verified: the client's end counts, whatever stands between. Only another machine's is noted."""
    certificate = self_signed(tmp_path / "server.pem", "127.0.0.1")
    direct = make_url(postgres_url)
    with TlsFront(certificate, ("127.0.0.1", int(direct.port or 0)), postgres=True) as front:
        over_tls = direct.set(port=front.port).render_as_string(hide_password=False)

        def way(url: str) -> str:
            with opened(url) as database:
                return found(database)["database encryption"]

        verified = f"{over_tls}?sslmode=verify-full&sslrootcert={certificate}"
        assert way(postgres_url) == "ok: on this machine"
        assert way(f"{over_tls}?sslmode=require").startswith("ok: encrypted, but the certificate is not verified")
        monkeypatch.setattr(urls, "is_loopback", lambda host: False)
        assert way(postgres_url).startswith("note: not encrypted")
        assert way(f"{over_tls}?sslmode=require").startswith("note: encrypted, but the certificate is not verified")
        assert way(verified) == "ok: encrypted, the server is verified"
        assert front.forwarded > 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "ok: idle connections are left alone"),
        ({"timeout": "60"}, "note: timeout 60"),
        ({"client-output-buffer-limit": "pubsub 1mb 1mb 10"}, "note: client-output-buffer-limit pubsub 1048576"),
        ({"maxmemory": "1100kb"}, "of maxmemory is taken"),
    ],
)
def test_redis_settings_that_do_harm_quietly_are_named(config: dict[str, str], words: str, tmp_path: Path) -> None:
    with ValkeyServer() as server:
        with server.client() as client:
            for name, value in config.items():
                client.config_set(name, value)
        said = {check.name: check for check in redis_checks.redis(Settings(home=tmp_path, redis_url=server.url), None)}
    assert words in f"{said['redis settings'].outcome}: {said['redis settings'].detail}"


def test_a_redis_that_shows_no_settings_is_not_accused(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    with own_valkey.client() as client:
        client.acl_setuser("default", enabled=True, commands=["-config"])
    said = {check.name: check for check in redis_checks.redis(Settings(home=tmp_path, redis_url=own_valkey.url), None)}
    assert said["redis settings"].outcome == "ok"
    assert "not shown" in said["redis settings"].detail


def _default(database: Database, setting: str, value: str) -> None:
    """What new connections to this database have."""
    [name] = rows(database, "SELECT current_database() AS name")
    sql(database, f'ALTER DATABASE "{name["name"]}" SET {setting} = {value}')

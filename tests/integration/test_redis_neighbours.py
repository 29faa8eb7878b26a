"""Two projects on one Redis, and another application's Celery beside them: nobody takes what is another's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from celery.exceptions import Reject
from click.testing import CliRunner
from redis import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from tests.counted import Counted
from tests.factories import chat, opened, rows
from tests.fakes import Provider
from tests.rig.procs import Process
from tests.rig.servers import ValkeyServer
from tests.rig.waiting import eventually
from worker.base.errors import Unreachable
from worker.base.settings import Settings, settings
from worker.broker import tasks
from worker.cli.app import main
from worker.db import identity
from worker.db.connect import Database
from worker.engine import redis_policy
from worker.engine.neighbours import databases_key

NAMESPACES = ("staging", "production")
#: Faults that need a server started for them.
OWN_CONFIGURATIONS = {"CLUSTER": {"cluster-enabled": "yes"}, "MISCONF": {"enable-protected-configs": "yes"}}


def test_two_projects_and_a_strangers_tasks_do_not_touch(
    valkey: ValkeyServer,
    tmp_path: Path,
    stockpot_env: Callable[..., dict[str, str]],
    start_worker: Callable[..., Process],
) -> None:
    """Each has its namespace: submissions through the broker end in the right database, and no key is without an owner."""
    with Provider(tmp_path) as provider, valkey.client() as redis:
        other = Celery(broker=valkey.url, set_as_current=False)
        for number in range(5):
            other.send_task("shop.invoice", args=[number], queue="bulk")
            other.send_task("shop.invoice", args=[number], queue="interactive")
        databases = {}
        for name in NAMESPACES:
            databases[name] = f"sqlite:///{tmp_path / name / 'jobs.db'}"
            env = stockpot_env(
                redis_url=valkey.url, database_url=databases[name], upstream_url=provider.url, redis_namespace=name
            )
            start_worker(env | {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}, name=name)
        for number in range(8):
            for name in NAMESPACES:
                job = {"idempotency_key": f"{name}-{number}", "body": chat("x")}
                other.send_task("stockpot.submit", kwargs={"job": json.dumps(job)}, queue=f"{name}.interactive")
        for name in NAMESPACES:
            with opened(databases[name]) as database:
                eventually(lambda database=database: _completed(database) == 8, 60, "all of them are answered")  # type: ignore[misc]
                keys = {row["idempotency_key"] for row in rows(database, "SELECT idempotency_key FROM jobs")}
                assert keys == {f"{name}-{number}" for number in range(8)}
        assert (redis.llen("bulk"), redis.llen("interactive")) == (5, 5)
        strangers = ("bulk", "interactive")
        ours = tuple(f"{name}{mark}" for name in NAMESPACES for mark in ".:")
        names = {str(key) for key in redis.scan_iter()}
        unowned = {name for name in names if name not in strangers and not name.startswith((*ours, "_kombu.binding"))}
        assert unowned == set()
        other.close()


def _completed(database: Database) -> int:
    try:
        return len(rows(database, "SELECT id FROM jobs WHERE status = 'completed'"))
    except Unreachable:
        return 0  # its worker has not made the tables yet


def test_a_message_of_another_database_is_not_ours(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    """A doorbell is dropped; a submission, which is the job, is put back for whose it is."""
    monkeypatch.setenv("STOCKPOT_REDIS_URL", redis_url)
    rung: list[object] = []
    monkeypatch.setattr(tasks, "_database", "ours")
    monkeypatch.setattr(tasks, "FOREIGN_SECONDS", 0)

    class Engine:
        closing = False

        def wait_for_room(self, seconds: float) -> bool:
            return True

        def ring(self, ids: object, lane: object = None) -> None:
            rung.append(lane)

    monkeypatch.setattr(tasks, "_engine", Engine())
    heard, refused = Counted("stockpot_doorbells_total"), Counted("stockpot_refused_messages_total")
    tasks.run(lane="bulk", database="theirs")
    assert rung == []
    with pytest.raises(Reject) as rejected:
        tasks.submit(job={"idempotency_key": "k", "body": chat("x")}, database="theirs")
    assert rejected.value.args[1]  # requeue
    tasks.run(lane="bulk", database="ours")
    tasks.run(lane="bulk")
    assert rung == ["bulk", "bulk"]
    assert (heard(), refused()) == (4, 2)


def test_a_database_is_who_it_is_under_every_url(database: Database) -> None:
    """It got its name once; doctor fails where another one's workers use our namespace."""
    assert database.read(identity.read) is None
    name = database.write(identity.ensure)
    assert database.write(identity.ensure) == database.read(identity.read) == name


def test_doctor_shows_neighbours(
    valkey: ValkeyServer, sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another database in our namespace is a fault; another namespace and another Celery application are not."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "HOME": str(tmp_path),
        "DATABASE_URL": sqlite.settings.database_url,
        "REDIS_URL": valkey.url,
        "UPSTREAM_URL": "http://127.0.0.1:1/v1",
    }.items():
        monkeypatch.setenv(f"STOCKPOT_{name}", value)
    ours = sqlite.write(identity.ensure)
    with valkey.client() as redis:
        redis.zadd(databases_key("stockpot"), {ours: 4e9})
        redis.zadd(databases_key("acme"), {"theirs": 4e9})
        assert _neighbours()["outcome"] == "ok"
        assert "Stockpot in acme" in _neighbours()["detail"]
        redis.zadd(databases_key("stockpot"), {"theirs": 4e9})
        found = _neighbours()
    assert found["outcome"] == "failed"
    assert "STOCKPOT_REDIS_NAMESPACE" in found["mend"]


def _neighbours() -> dict[str, str]:
    settings.cache_clear()
    done = CliRunner().invoke(main, ["doctor", "--json"])
    return next(check for check in json.loads(done.stdout)["checks"] if check["name"] == "redis neighbours")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("READONLY", "it is a read-only replica"),
        ("MISCONF", "MISCONF.*unable to persist"),
        ("NOREPLICAS", "NOREPLICAS|Not enough good replicas"),
        ("NOPERM", "(?i)noperm"),
        ("CLUSTER", "it is a node of a Redis Cluster"),
    ],
)
def test_doctor_sees_a_redis_that_takes_no_writes(
    own_valkey: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    """It answers PING all the while. Each fault is the server's own, and a worker's start says the same of its kind."""
    with contextlib.ExitStack() as stack:
        server = own_valkey
        if fault in OWN_CONFIGURATIONS:
            server = stack.enter_context(ValkeyServer(config=OWN_CONFIGURATIONS[fault]))
        redis = stack.enter_context(server.client())
        if fault == "READONLY":
            redis.replicaof("127.0.0.1", "1")
        elif fault == "MISCONF":
            _persisting_fails(redis, tmp_path)
        elif fault == "NOREPLICAS":
            redis.config_set("min-replicas-to-write", 1)
        elif fault == "NOPERM":
            redis.acl_setuser("default", enabled=True, commands=["-@write"])
        else:
            redis.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16_383)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("STOCKPOT_HOME", str(tmp_path))
        monkeypatch.setenv("STOCKPOT_REDIS_URL", server.url)
        monkeypatch.setenv("STOCKPOT_UPSTREAM_URL", "http://127.0.0.1:1/v1")
        done = CliRunner().invoke(main, ["doctor", "--json"])
        found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert found["redis writes"]["outcome"] == "failed", found
        assert re.search(words, found["redis writes"]["detail"]), found["redis writes"]
        if fault in {"READONLY", "CLUSTER"}:
            with capture_logs() as logged:
                asyncio.run(redis_policy.inspect(server.url))
            assert [(entry["event"], entry["reason"]) for entry in logged] == [
                ("redis_unusable", found["redis writes"]["detail"])
            ]


def _persisting_fails(redis: Redis, folder: Path) -> None:
    """A snapshot that cannot be written: its directory has gone. From then on the server refuses writes."""
    gone = folder / "gone"
    gone.mkdir()
    redis.config_set("dir", str(gone))
    redis.config_set("save", "1 1")
    gone.rmdir()
    redis.set("a", "change")
    with contextlib.suppress(RedisError):
        redis.bgsave()
    eventually(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err", what="the snapshot has failed")


def test_settings_of_a_namespace_reach_the_broker() -> None:
    """Queues and what kombu keeps of unacknowledged messages."""
    from worker.broker.app import app_of

    app = app_of(Settings(redis_url="redis://h", redis_namespace="acme"))
    assert [queue.name for queue in app.conf.task_queues] == ["acme.interactive", "acme.bulk"]
    assert app.conf.broker_transport_options["unacked_key"] == "acme.unacked"
    app.close()

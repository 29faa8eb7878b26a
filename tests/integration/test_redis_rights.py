"""The ACL of `docs/redis.md` suffices: a worker, producers, readers, limits, the broker and `doctor` run under it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery

from tests.factories import chat
from tests.fakes import Provider
from tests.rig.procs import Process
from tests.rig.servers import ValkeyServer
from tests.rig.waiting import eventually
from worker.base.settings import Settings
from worker.producer.stockpot import Stockpot

PAGE = Path(__file__).parents[2] / "docs" / "redis.md"
PASSWORD = "only-for-this-test"
CANARY = "canary-of-a-submission-61c0"


@pytest.fixture
def restricted(own_valkey: ValkeyServer) -> Iterator[str]:
    """URL of a server that has the page's user, and whose default user is off for everybody but us."""
    [line] = re.findall(r"^ACL SETUSER .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    with own_valkey.client() as admin:
        admin.execute_command(*line.replace("PASSWORD", PASSWORD).split())
        yield f"redis://stockpot:{PASSWORD}@127.0.0.1:{own_valkey.port}/0"
        refused = admin.acl_log()
    # `doctor` asks how the server is set, and does without the answer: the right to read it is the right to read its password.
    asked = {("command", "config|get")}
    assert {(entry["reason"], entry["object"]) for entry in refused} - asked == set()


def test_the_core_runs_with_the_rights_of_the_page(
    restricted: str,
    own_valkey: ValkeyServer,
    sqlite_url: str,
    home: Path,
    tmp_path: Path,
    stockpot_env: Callable[..., dict[str, str]],
    start_worker: Callable[..., Process],
    launch: Callable[..., Process],
) -> None:
    """Streams, cancels, retries, submissions through the broker, limits, and `doctor`; Redis refuses nothing."""
    with Provider(tmp_path) as provider:
        env = stockpot_env(
            database_url=sqlite_url,
            redis_url=restricted,
            upstream_url=provider.url,
            rpm=6_000,
            key_max_in_flight=50,
            log_level="debug",
        )
        worker = start_worker(env)
        settings = Settings(home=home, database_url=sqlite_url, redis_url=restricted)
        other = Celery(broker=restricted, set_as_current=False)
        with Stockpot(settings) as pot:
            streamed = pot.submit(chat("ok") | {"stream": True})
            assert [event["type"] for event in pot.events(streamed.id)][-1] == "job.completed"
            slow = pot.submit(chat("tokens=300+slow=100") | {"stream": True})
            pot.cancel(slow.id)
            pot.wait(slow.id, timeout=60)
            job = {"idempotency_key": "through-the-broker", "body": chat("ok") | {"user": CANARY}}
            other.send_task("stockpot.submit", kwargs={"job": json.dumps(job)}, queue="stockpot.interactive")
            eventually(lambda: len(pot.list(status="completed")) >= 2, what="the submission was taken")
        other.close()
        assert '"level": "debug"' in worker.output, "it is the loudest level"
        assert CANARY not in worker.output, "and not of what is in it"
        doctor = launch(
            [sys.executable, "-c", "from worker.cli import main; main()", "doctor", "--json"],
            name="doctor",
            env=env,
            cwd=home,
        )
        doctor.wait()
        found = {check["name"]: check["outcome"] for check in json.loads(doctor.stdout.read_text())["checks"]}
        assert {name: found[name] for name in ("redis", "redis writes", "redis neighbours", "broker")} == dict.fromkeys(
            ("redis", "redis writes", "redis neighbours", "broker"), "ok"
        )
    with own_valkey.client() as admin:
        used = {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}
    assert {"publish", "evalsha", "brpop", "xadd"} <= used, "the core was used"

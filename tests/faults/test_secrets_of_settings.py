"""The credentials of every URL, planted as canaries in a system that runs and fails, show in nothing that it leaves."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from sqlalchemy.engine import make_url

from tests.rig import canary
from tests.rig.gateway import gateway_process
from tests.rig.ports import free_port
from tests.rig.postgres import PostgresServer
from tests.rig.stage import SetStage, Stage
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.db import schema

pytestmark = [pytest.mark.fault, pytest.mark.usefixtures("from_nothing")]  # secrets may stand in a command line

#: One for each URL, those that are right and those that are wrong.
TOKENS = {
    kind: f"canary-{kind.replace(' ', '-')}-{number}"
    for number, kind in enumerate(
        ("database", "replica", "redis", "broker", "proxy", "header", "webhook", "database away", "redis refused"), 71
    )
}
#: What is asked of a system, in good days and in bad ones.
COMMANDS = (
    ["doctor"],
    ["status"],
    ["routes"],
    ["workers"],
    ["usage"],
    ["list", "--json"],
    ["webhooks", "events"],
    ["submit", "-m", "m@sim:ok", "hi"],
)
PAGES = ("livez", "readyz", "metrics")


@pytest.mark.long
def test_no_credential_of_a_url_shows_anywhere(stage: SetStage, postgres_url: str, tmp_path: Path) -> None:
    """Logs at the loudest level, pages, Redis, rows and command lines, while hosts are away and passwords are wrong."""
    url = make_url(postgres_url).set(password=TOKENS["database"])
    with ValkeyServer(appendonly=True, password=TOKENS["redis"]) as valkey:
        with redis.Redis.from_url(valkey.url) as client:
            client.execute_command("ACL", "SETUSER", "broker", "on", f">{TOKENS['broker']}", "~*", "&*", "+@all")
        on = stage(
            database_url=url.render_as_string(hide_password=False),
            valkey=valkey,
            workers=0,
            proxies=("redis", "database"),
            log_level="debug",
            dashboard_database_url=url.set(password=TOKENS["replica"]).render_as_string(hide_password=False),
            broker_url=f"redis://broker:{TOKENS['broker']}@127.0.0.1:{valkey.port}/0",
            upstream_headers=f"X-Token={TOKENS['header']}",
        )
        ports = free_port(), free_port()
        on.worker(http_port=ports[0])
        with gateway_process(on, tmp_path, ports[1]) as gateway:
            shown = _live_and_fail(on, ports)
            pids = [*(each.pid for each in on.workers if each.running), gateway.pid, valkey.pid]
            shown += canary.command_lines(pids)
        kept = [*canary.redis_keys(valkey.url), *canary.database_columns(on.database_url)]
        leaks = canary.scan([*shown, *kept, *on.worker_logs(), gateway.stdout, gateway.stderr, valkey.data], TOKENS)
        assert [leak for leak in leaks if leak.where not in {"jobs.webhook", "webhook_events.url"}] == []


@pytest.mark.long
def test_a_password_that_the_database_refuses_shows_nowhere(stage: SetStage, tmp_path: Path) -> None:
    """A server that asks for it (SCRAM): the right one, with marks in it, and a wrong one, in commands, worker and gateway."""
    right, wrong = "canary-right-91@/?#%: '\\", "canary-wrong-92"
    tokens = {"right": "canary-right-91", "wrong": wrong}
    with PostgresServer(durable=False) as server, Witness("the database has refused the password") as witness:
        plain = server.create_database()
        schema.upgrade(plain)
        url = server.guarded(plain, "keeper", right)
        refused = url.replace(quote(right, safe=""), wrong)
        on = stage(database_url=url, workers=1, log_level="debug")
        on.load(4)
        on.quiesce()
        shown = [_run(on, command) for command in COMMANDS]
        if witness.faults_on:
            shown += [_run(on, command, database_url=refused) for command in COMMANDS]
            shown += [_run(on, ["db", "upgrade"], database_url=refused), _run(on, ["serve"], database_url=refused)]
            awaits = on.worker("refused", ready=False, database_url=refused)
            awaits.wait_for_line('"event": "database_awaited"')
            awaits.kill9()
        witness.saw(b"password authentication failed" in b"".join(content for _, content in shown))
        kept = [*canary.redis_keys(on.valkey.url), *canary.database_columns(on.database_url)]
        pids = [each.pid for each in on.workers if each.running]
        assert canary.scan([*shown, *kept, *on.worker_logs(), *canary.command_lines(pids)], tokens) == []


def _live_and_fail(on: Stage, ports: tuple[int, int]) -> list[tuple[str, bytes]]:
    """A system works, loses its servers, and gets them back; what its commands and pages showed meanwhile."""
    hook = on.hooks.url("/500").replace("://", f"://me:{TOKENS['webhook']}@")
    shown = [_run(on, ["submit", "-m", "m@sim:ok", "hi", "--webhook", hook])]
    on.load(10, "503,ok")
    on.quiesce()
    shown += [*_pages(ports), *(_run(on, command) for command in COMMANDS)]
    on.worker("behind-a-proxy", HTTP_PROXY=f"http://me:{TOKENS['proxy']}@127.0.0.1:1")
    wrong = {
        "database_url": f"postgresql://me:{TOKENS['database away']}@127.0.0.1:1/pot",
        "redis_url": f"redis://me:{TOKENS['redis refused']}@127.0.0.1:{on.valkey.port}/0",
        "broker_url": f"redis://me:{TOKENS['redis refused']}@127.0.0.1:{on.valkey.port}/0",
    }
    with Witness("every wrong setting was met by a worker or a command, and the servers were away") as witness:
        on.load(10, "503,ok")
        for name in ("redis", "database") if witness.faults_on else ():
            on.proxies[name].refuse()
            on.proxies[name].reset_all()
        if witness.faults_on:
            eventually(lambda: on.logged("look_delayed"), what="the worker misses the database")
            shown += [*_pages(ports), *(_run(on, command) for command in COMMANDS)]
        for proxy in on.proxies.values():
            proxy.heal()
        for name, value in wrong.items() if witness.faults_on else ():
            shown += [_run(on, command, **{name: value}) for command in (COMMANDS[0], COMMANDS[2], COMMANDS[-1])]
        if witness.faults_on:
            awaits = on.worker("no-database", ready=False, database_url=wrong["database_url"])
            refused = on.worker("no-redis", ready=False, redis_url=wrong["redis_url"], broker_url=wrong["broker_url"])
            awaits.wait_for_line('"event": "database_awaited"')
            eventually(lambda: "WRONGPASS" in refused.output or "invalid username" in refused.output, what="refused")
            eventually(lambda: on.count("outcome = 'not_sent'", "attempts_v"), what="the proxy was tried")
            for worker in (awaits, refused):
                worker.kill9()
        words = b"".join(content for _, content in shown)
        witness.saw(b"unreachable" in words and b"127.0.0.1:1" in words and len(shown) > 30)
    return shown


def _run(on: Stage, command: list[str], **settings: object) -> tuple[str, bytes]:
    """What a command writes, whatever it comes to; not what it was given."""
    stockpot = Path(sys.executable).with_name("stockpot")
    env: Mapping[str, str] = on.env(**settings)
    done = subprocess.run([stockpot, *command], env=env, cwd=on.home, capture_output=True, timeout=120, check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return f"stockpot {' '.join(command[:2])} with {', '.join(settings) or 'all well'}", done.stdout + done.stderr


def _pages(ports: tuple[int, int]) -> list[tuple[str, bytes]]:
    pages = []
    for port in ports:
        for page in PAGES:
            try:
                content = urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=30).read()
            except urllib.error.HTTPError as error:
                content = error.read()
            pages.append((f"{page} of port {port}", content))
    return pages

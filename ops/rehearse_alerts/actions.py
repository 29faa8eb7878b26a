"""What is done to a scene: the faults, and what ends them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable

import sqlalchemy as sa

from ops.rehearse_alerts.scene import MODEL, Scene
from tests.rig.environment import TEST_API_KEY
from tests.rig.simulated import Knobs
from tests.rig.waiting import NeverHappened, eventually


def refuse(scene: Scene) -> None:
    scene.ask("400", 40)


def good(scene: Scene) -> None:
    scene.ask("ok", 400)


def budget(scene: Scene) -> None:
    scene.stockpot("budget", "set", "0.0001", "--tenant", "acme")
    scene.ask("tokens=400", 6, tenant="acme")


def batch(scene: Scene) -> None:
    file = scene.logs / "held.jsonl"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "[[sim: tokens=200]] hello"}], "max_tokens": 300}
    lines = [{"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(40)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scene.stockpot("batch", "submit", str(file), "--max-cost", "0.0001")


def resume_batches(scene: Scene) -> None:
    for row in scene.on.rows("SELECT id FROM batches_v WHERE status = 'in_progress'"):
        scene.stockpot("batch", "resume", row["id"], "--max-cost", "5")


def hooks(path: str) -> Callable[[Scene], None]:
    def hook(scene: Scene) -> None:
        scene.ask("ok", 3, webhook=scene.on.hooks.url(path))

    return hook


def end_hooks(scene: Scene) -> None:
    """The receiver works again: what its owner would do, seen from here."""
    with sa.create_engine(scene.on.database_url).begin() as conn:
        conn.execute(
            sa.text("UPDATE webhook_events SET url = :url, due_at = now() WHERE status = 'pending'"),
            {"url": scene.on.hooks.url("/ok")},
        )


def revoke(scene: Scene) -> None:
    Knobs(scene.on.simulator).key(TEST_API_KEY, status="revoked")
    scene.ask("ok", 3)


def pay(scene: Scene) -> None:
    Knobs(scene.on.simulator).key(TEST_API_KEY)
    scene.stockpot("routes", "resume", MODEL)


def hang(scene: Scene) -> None:
    scene.held = scene.ask("hold", 8) + scene.ask("ok", 3)


def release(scene: Scene) -> None:
    Knobs(scene.on.simulator).release()


def lock(scene: Scene) -> None:
    connection = sa.create_engine(scene.on.database_url, poolclass=sa.NullPool).connect()
    connection.execute(sa.text("SELECT * FROM leases FOR UPDATE"))
    scene.held = [connection]


def unlock(scene: Scene) -> None:
    for connection in scene.held:
        connection.close()


def stutter(scene: Scene) -> None:
    worker = next(worker for worker in scene.on.workers if worker.running)
    worker.stop()
    time.sleep(2.5)
    worker.cont()
    time.sleep(0.5)


def die(scene: Scene) -> None:
    scene.ask("slow=50", 8)
    with contextlib.suppress(NeverHappened):
        eventually(scene.on.running_calls, 20, "calls run")
    next(worker for worker in reversed(scene.on.workers) if worker.running).kill9()
    scene.workers()


def few(scene: Scene, script: str) -> None:
    """The fault goes on, a job or two a second."""
    scene.ask(script)


def pause_late(scene: Scene) -> None:
    scene.stockpot("routes", "pause", MODEL)
    scene.ask("ok", 40, ttl_seconds=5)


def late(scene: Scene) -> None:
    scene.ask("ok", ttl_seconds=5)


def resume_good(scene: Scene) -> None:
    scene.stockpot("routes", "resume", MODEL)
    good(scene)


def break_route(scene: Scene) -> None:
    Knobs(scene.on.simulator).configure(maintenance=[MODEL])
    scene.ask("ok", 12)


def mend(scene: Scene) -> None:
    Knobs(scene.on.simulator).configure(maintenance=[])
    scene.stockpot("routes", "resume", MODEL)


def mute(scene: Scene) -> None:
    scene.ask("slow=300", 4)
    with contextlib.suppress(NeverHappened):
        eventually(scene.on.running_calls, 20, "calls run")
    scene.on.valkey.stop()


def end_all(scene: Scene) -> None:
    scene.ask("ok", 10)
    scene.kill()


def raise_budget(scene: Scene) -> None:
    scene.stockpot("budget", "set", "5", "--tenant", "acme")


def replay(scene: Scene) -> None:
    scene.stockpot("webhooks", "replay", "--all-dead")


def nothing(_scene: Scene) -> None:
    """Time does it, or nothing needs to be done."""


def stream(scene: Scene) -> None:
    """Two megabytes of events, which a worker holds for a Redis that is away, up to 32 MB in all."""
    scene.ask("bigline=2000000+tokens=50", 2)


def pause_bulk(scene: Scene) -> None:
    scene.stockpot("routes", "pause", MODEL)
    scene.ask("ok", 40, lane="bulk")


def pause_two(scene: Scene) -> None:
    scene.stockpot("routes", "pause", MODEL)
    scene.ask("ok", 2)


def resume(scene: Scene) -> None:
    scene.stockpot("routes", "resume", MODEL)


def crowd(scene: Scene) -> None:
    scene.ask("slow=200", 12)


def more_workers(scene: Scene) -> None:
    scene.on.worker(f"more-{len(scene.on.workers)}", http_port=scene.ports[2], concurrency=200)
    with contextlib.suppress(NeverHappened):
        eventually(lambda: scene.on.count("status = 'queued'") == 0, 120, "the crowd is through")


def calm(scene: Scene) -> None:
    scene.ask("ok", 2)


def late_tokens(scene: Scene) -> None:
    Knobs(scene.on.simulator).configure(first_token_delay=4_000)


def quick_tokens(scene: Scene) -> None:
    Knobs(scene.on.simulator).configure(first_token_delay=20)


def nearly(scene: Scene) -> None:
    scene.stockpot("budget", "set", "5", "--tenant", "low")
    jobs = scene.ask("tokens=400", 6, tenant="low")
    pot = scene.on.pot.for_tenant("low")
    spent = sum(pot.wait(job, timeout=60).cost_usd or 0 for job in jobs)
    scene.stockpot("budget", "set", f"{float(spent) / 0.95:.8f}", "--tenant", "low")


def enough(scene: Scene) -> None:
    scene.stockpot("budget", "set", "5", "--tenant", "low")


def burn(scene: Scene) -> None:
    nearly(scene)
    spent = scene.on.rows("SELECT SUM(spent_picousd) AS spent FROM budgets WHERE tenant = 'low'")[0]["spent"]
    scene.stockpot("budget", "set", f"{float(spent) / 1e12 * 6:.8f}", "--tenant", "low")


def burn_on(scene: Scene) -> None:
    left = scene.on.count("status = 'queued' AND tenant = 'low'")
    scene.ask("tokens=40", 1 if left < 4 else 0, tenant="low")


def disable(scene: Scene) -> None:
    scene.stockpot("webhooks", "add", scene.on.hooks.url("/410"))
    scene.ask("ok")


def delete_endpoints(scene: Scene) -> None:
    for row in scene.on.rows("SELECT id FROM webhook_endpoints WHERE deleted_at IS NULL"):
        scene.stockpot("webhooks", "delete", row["id"])


def cut(scene: Scene) -> None:
    with sa.create_engine(scene.on.database_url).begin() as conn:
        conn.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = user AND pid <> pg_backend_pid()"
            )
        )
    scene.ask("ok")


def dead_hooks(scene: Scene) -> None:
    for path in ("/ok", "/410"):
        scene.ask("ok", webhook=scene.on.hooks.url(path))


def good_hooks(scene: Scene) -> None:
    scene.ask("ok", 60, webhook=scene.on.hooks.url("/ok"))

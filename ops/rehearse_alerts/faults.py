"""Each fault, the alerts that it must fire, and the remedy of their runbook."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from ops.rehearse_alerts.scene import MODEL, Scene
from tests.rig.environment import TEST_API_KEY
from tests.rig.simulated import Knobs
from tests.rig.waiting import NeverHappened, eventually


@dataclass(frozen=True)
class Fault:
    """A fault with the alerts that it must fire, and the remedy of their runbook."""

    alerts: tuple[str, ...]
    what: str
    remedy: str
    do: Callable[[Scene], None]
    undo: Callable[[Scene], None]
    during: Callable[[Scene], None] = lambda scene: None  # again and again while the alert is waited for
    after: Callable[[Scene], None] = lambda scene: None  # ordinary work while its end is waited for


def _refuse(scene: Scene) -> None:
    scene.ask("400", 40)


def _good(scene: Scene) -> None:
    scene.ask("ok", 400)


def _budget(scene: Scene) -> None:
    scene.stockpot("budget", "set", "0.0001", "--tenant", "acme")
    scene.ask("tokens=400", 6, tenant="acme")


def _batch(scene: Scene) -> None:
    file = scene.logs / "held.jsonl"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "[[sim: tokens=200]] hello"}], "max_tokens": 300}
    lines = [{"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(40)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scene.stockpot("batch", "submit", str(file), "--max-cost", "0.0001")


def _resume_batches(scene: Scene) -> None:
    for row in scene.on.rows("SELECT id FROM batches_v WHERE status = 'in_progress'"):
        scene.stockpot("batch", "resume", row["id"], "--max-cost", "5")


def _hooks(path: str) -> Callable[[Scene], None]:
    def hook(scene: Scene) -> None:
        scene.ask("ok", 3, webhook=scene.on.hooks.url(path))

    return hook


def _end_hooks(scene: Scene) -> None:
    """The receiver works again: what its owner would do, seen from here."""
    with sa.create_engine(scene.on.database_url).begin() as conn:
        conn.execute(
            sa.text("UPDATE webhook_events SET url = :url, due_at = now() WHERE status = 'pending'"),
            {"url": scene.on.hooks.url("/ok")},
        )


def _revoke(scene: Scene) -> None:
    Knobs(scene.on.simulator).key(TEST_API_KEY, status="revoked")
    scene.ask("ok", 3)


def _pay(scene: Scene) -> None:
    Knobs(scene.on.simulator).key(TEST_API_KEY)
    scene.stockpot("routes", "resume", MODEL)


def _hang(scene: Scene) -> None:
    scene.held = scene.ask("hold", 8) + scene.ask("ok", 3)


def _release(scene: Scene) -> None:
    Knobs(scene.on.simulator).release()


def _lock(scene: Scene) -> None:
    connection = sa.create_engine(scene.on.database_url, poolclass=sa.NullPool).connect()
    connection.execute(sa.text("SELECT * FROM leases FOR UPDATE"))
    scene.held = [connection]


def _unlock(scene: Scene) -> None:
    for connection in scene.held:
        connection.close()


def _stutter(scene: Scene) -> None:
    worker = next(worker for worker in scene.on.workers if worker.running)
    worker.stop()
    time.sleep(2.5)
    worker.cont()
    time.sleep(0.5)


def _die(scene: Scene) -> None:
    scene.ask("slow=50", 8)
    with contextlib.suppress(NeverHappened):
        eventually(scene.on.running_calls, 20, "calls run")
    next(worker for worker in reversed(scene.on.workers) if worker.running).kill9()
    scene.workers()


def _few(scene: Scene, script: str) -> None:
    """The fault goes on, a job or two a second."""
    scene.ask(script)


def _break(scene: Scene) -> None:
    Knobs(scene.on.simulator).configure(maintenance=[MODEL])
    scene.ask("ok", 12)


def _mend(scene: Scene) -> None:
    Knobs(scene.on.simulator).configure(maintenance=[])
    scene.stockpot("routes", "resume", MODEL)


def _mute(scene: Scene) -> None:
    scene.ask("slow=300", 4)
    with contextlib.suppress(NeverHappened):
        eventually(scene.on.running_calls, 20, "calls run")
    scene.on.valkey.stop()


def _end_all(scene: Scene) -> None:
    scene.ask("ok", 10)
    scene.kill()


def _raise_budget(scene: Scene) -> None:
    scene.stockpot("budget", "set", "5", "--tenant", "acme")


def _replay(scene: Scene) -> None:
    scene.stockpot("webhooks", "replay", "--all-dead")


def _nothing(_scene: Scene) -> None:
    """Time does it, or nothing needs to be done."""


def _stream(scene: Scene) -> None:
    scene.ask("tokens=20000")


def _pause_bulk(scene: Scene) -> None:
    scene.stockpot("routes", "pause", MODEL)
    scene.ask("ok", 5, lane="bulk")


def _resume(scene: Scene) -> None:
    scene.stockpot("routes", "resume", MODEL)


def _crowd(scene: Scene) -> None:
    scene.ask("slow=200", 12)


def _more_workers(scene: Scene) -> None:
    scene.on.worker(f"more-{len(scene.on.workers)}", concurrency=200)
    with contextlib.suppress(NeverHappened):
        eventually(lambda: scene.on.count("status = 'queued'") == 0, 120, "the crowd is through")


def _calm(scene: Scene) -> None:
    scene.ask("ok", 2)


def _late_tokens(scene: Scene) -> None:
    Knobs(scene.on.simulator).configure(first_token_delay=4_000)


def _quick_tokens(scene: Scene) -> None:
    Knobs(scene.on.simulator).configure(first_token_delay=20)


def _nearly(scene: Scene) -> None:
    scene.stockpot("budget", "set", "5", "--tenant", "low")
    jobs = scene.ask("tokens=400", 6, tenant="low")
    pot = scene.on.pot.for_tenant("low")
    spent = sum(pot.wait(job, timeout=60).cost_usd or 0 for job in jobs)
    scene.stockpot("budget", "set", f"{float(spent) / 0.95:.8f}", "--tenant", "low")


def _enough(scene: Scene) -> None:
    scene.stockpot("budget", "set", "5", "--tenant", "low")


def _burn(scene: Scene) -> None:
    _nearly(scene)
    spent = scene.on.rows("SELECT SUM(spent_picousd) AS spent FROM budgets WHERE tenant = 'low'")[0]["spent"]
    scene.stockpot("budget", "set", f"{float(spent) / 1e12 * 6:.8f}", "--tenant", "low")


def _burn_on(scene: Scene) -> None:
    left = scene.on.count("status = 'queued' AND tenant = 'low'")
    scene.ask("tokens=40", 1 if left < 4 else 0, tenant="low")


def _disable(scene: Scene) -> None:
    scene.stockpot("webhooks", "add", scene.on.hooks.url("/410"))
    scene.ask("ok")


def _delete_endpoints(scene: Scene) -> None:
    for row in scene.on.rows("SELECT id FROM webhook_endpoints WHERE deleted_at IS NULL"):
        scene.stockpot("webhooks", "delete", row["id"])


def _cut(scene: Scene) -> None:
    with sa.create_engine(scene.on.database_url).begin() as conn:
        conn.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = user AND pid <> pg_backend_pid()"
            )
        )
    scene.ask("ok")


def _dead_hooks(scene: Scene) -> None:
    for path in ("/ok", "/410"):
        scene.ask("ok", webhook=scene.on.hooks.url(path))


def _good_hooks(scene: Scene) -> None:
    scene.ask("ok", 60, webhook=scene.on.hooks.url("/ok"))


FAULTS = (
    Fault(
        ("StockpotFailuresBurnFast", "StockpotFailuresBurnSlowly"),
        "a producer sends what the provider refuses (400)",
        "the producer is mended: good jobs only",
        _refuse,
        _good,
        lambda scene: _few(scene, "400"),
    ),
    Fault(
        ("StockpotRoutePaused",),
        "the provider answers 500 to one model",
        "it answers again; `stockpot routes resume MODEL`",
        _break,
        _mend,
    ),
    Fault(
        ("StockpotBudgetUsed",),
        "a budget of a hundredth of a cent, and a load that costs more",
        "`stockpot budget set 5 --tenant acme`",
        _budget,
        _raise_budget,
    ),
    Fault(
        ("StockpotBatchHeld",),
        "a batch with a cap below its cost",
        "`stockpot batch resume ID --max-cost 5`",
        _batch,
        _resume_batches,
    ),
    Fault(
        ("StockpotWebhooksLate",),
        "a receiver that answers 500",
        "the receiver answers 200",
        _hooks("/fail?status=500"),
        _end_hooks,
    ),
    Fault(
        ("StockpotWebhooksDead",),
        "a receiver that answers 410",
        "`stockpot webhooks replay --all-dead`, and no new ones",
        _hooks("/410"),
        _replay,
    ),
    Fault(
        ("StockpotAccountPaused",),
        "the provider refuses the key",
        "the key is good again; `stockpot routes resume MODEL`",
        _revoke,
        _pay,
    ),
    Fault(("StockpotInteractiveWaits",), "calls that hang take every place", "the calls end", _hang, _release),
    Fault(
        ("StockpotNobodySweeps",),
        "a transaction holds the row of the election",
        "the transaction is ended (`pg_stat_activity` shows it)",
        _lock,
        _unlock,
    ),
    Fault(
        ("StockpotLoopLags",),
        "SIGSTOP and SIGCONT of a worker, again and again",
        "it is left alone",
        _nothing,
        _nothing,
        _stutter,
    ),
    Fault(
        ("StockpotLiveEventsDropped",),
        "Valkey stopped while jobs stream",
        "Valkey is started",
        _mute,
        lambda scene: scene.on.valkey.start(),
        _stream,
    ),
    Fault(
        ("StockpotBulkStands",),
        "`stockpot routes pause MODEL` while bulk jobs are due",
        "`stockpot routes resume MODEL`",
        _pause_bulk,
        _resume,
    ),
    Fault(
        ("StockpotInteractiveLate",),
        "more interactive jobs than the workers have places",
        "one more worker, with 200 places",
        _crowd,
        _more_workers,
        _crowd,
        _calm,
    ),
    Fault(
        ("StockpotFirstTokenSlow",),
        "the provider's first tokens take four seconds",
        "it is quick again",
        _late_tokens,
        _quick_tokens,
        _calm,
        _calm,
    ),
    Fault(
        ("StockpotBudgetNearlyUsed",),
        "95 % of a budget is spent",
        "`stockpot budget set 5 --tenant low`",
        _nearly,
        _enough,
    ),
    Fault(
        ("StockpotBudgetBurnsFast",),
        "a load that uses up a budget within minutes",
        "`stockpot budget set 5 --tenant low`, and the load ends",
        _burn,
        _enough,
        _burn_on,
    ),
    Fault(
        ("StockpotEndpointDisabled",),
        "an endpoint that answers 410",
        "`stockpot webhooks delete ENDPOINT`: its receiver is gone for good",
        _disable,
        _delete_endpoints,
    ),
    Fault(
        ("StockpotDatabaseErrors",),
        "every connection to PostgreSQL is ended, again and again (`pg_terminate_backend`)",
        "it is left alone",
        _nothing,
        _nothing,
        _cut,
    ),
    Fault(
        ("StockpotWebhooksBurnFast", "StockpotWebhooksBurnSlowly"),
        "every second webhook goes to a receiver that is gone (410)",
        "its producer names another URL",
        _nothing,
        _good_hooks,
        _dead_hooks,
        _good_hooks,
    ),
    Fault(
        ("StockpotFleetNotRead",),
        "PostgreSQL stands still (SIGSTOP)",
        "it goes on (SIGCONT)",
        lambda scene: scene.server.freeze(),
        lambda scene: scene.server.thaw(),
    ),
    Fault(
        ("StockpotJobsReclaimed",),
        "kill -9 of a worker every few seconds",
        "they are left alive",
        _nothing,
        _nothing,
        _die,
    ),
    Fault(
        ("StockpotNoWorkers",),
        "kill -9 of all workers under load",
        "workers are started",
        _end_all,
        lambda scene: scene.workers(),
    ),
)

"""Each fault, the alerts that it must fire, and the remedy of their runbook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ops.rehearse_alerts import actions
from ops.rehearse_alerts.scene import Scene


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


FAULTS = (
    Fault(
        ("StockpotFailuresBurnFast", "StockpotFailuresBurnSlowly"),
        "a producer sends what the provider refuses (400)",
        "the producer is mended: good jobs only",
        actions.refuse,
        actions.good,
        lambda scene: actions.few(scene, "400"),
    ),
    Fault(
        ("StockpotFailuresBurnFast", "StockpotFailuresBurnSlowly"),
        "jobs end in the queue: their time is up behind a model that was paused by hand",
        "`stockpot routes resume MODEL`, and good jobs only",
        actions.pause_late,
        actions.resume_good,
        actions.late,
    ),
    Fault(
        ("StockpotRoutePaused",),
        "the provider answers 500 to one model",
        "it answers again; `stockpot routes resume MODEL`",
        actions.break_route,
        actions.mend,
    ),
    Fault(
        ("StockpotBudgetUsed",),
        "a budget of a hundredth of a cent, and a load that costs more",
        "`stockpot budget set 5 --tenant acme`",
        actions.budget,
        actions.raise_budget,
    ),
    Fault(
        ("StockpotBatchHeld",),
        "a batch with a cap below its cost",
        "`stockpot batch resume ID --max-cost 5`",
        actions.batch,
        actions.resume_batches,
    ),
    Fault(
        ("StockpotWebhooksLate",),
        "a receiver that answers 500",
        "the receiver answers 200",
        actions.hooks("/fail?status=500"),
        actions.end_hooks,
    ),
    Fault(
        ("StockpotWebhooksDead",),
        "a receiver that answers 410",
        "`stockpot webhooks replay --all-dead`, and no new ones",
        actions.hooks("/410"),
        actions.replay,
    ),
    Fault(
        ("StockpotAccountPaused",),
        "the provider refuses the key",
        "the key is good again; `stockpot routes resume MODEL`",
        actions.revoke,
        actions.pay,
    ),
    Fault(
        ("StockpotInteractiveWaits",),
        "calls that hang take every place",
        "the calls end",
        actions.hang,
        actions.release,
    ),
    Fault(
        ("StockpotNobodySweeps",),
        "a transaction holds the row of the election",
        "the transaction is ended (`pg_stat_activity` shows it)",
        actions.lock,
        actions.unlock,
    ),
    Fault(
        ("StockpotLoopLags",),
        "SIGSTOP and SIGCONT of a worker, again and again",
        "it is left alone",
        actions.nothing,
        actions.nothing,
        actions.stutter,
    ),
    Fault(
        ("StockpotLiveEventsDropped",),
        "Valkey stopped while jobs stream",
        "Valkey is started",
        actions.mute,
        lambda scene: scene.on.valkey.start(),
        actions.stream,
    ),
    Fault(
        ("StockpotBulkStands",),
        "`stockpot routes pause MODEL` while bulk jobs are due",
        "`stockpot routes resume MODEL`",
        actions.pause_bulk,
        actions.resume,
    ),
    Fault(
        ("StockpotPausedByHand",),
        "`stockpot routes pause MODEL` while two interactive jobs are due",
        "`stockpot routes resume MODEL`",
        actions.pause_two,
        actions.resume,
    ),
    Fault(
        ("StockpotInteractiveLate",),
        "more interactive jobs than the workers have places",
        "one more worker, with 200 places",
        actions.crowd,
        actions.more_workers,
        actions.crowd,
        actions.calm,
    ),
    Fault(
        ("StockpotFirstTokenSlow",),
        "the provider's first tokens take four seconds",
        "it is quick again",
        actions.late_tokens,
        actions.quick_tokens,
        actions.calm,
        actions.calm,
    ),
    Fault(
        ("StockpotBudgetNearlyUsed",),
        "95 % of a budget is spent",
        "`stockpot budget set 5 --tenant low`",
        actions.nearly,
        actions.enough,
    ),
    Fault(
        ("StockpotBudgetBurnsFast",),
        "a load that uses up a budget within minutes",
        "`stockpot budget set 5 --tenant low`, and the load ends",
        actions.burn,
        actions.enough,
        actions.burn_on,
    ),
    Fault(
        ("StockpotEndpointDisabled",),
        "an endpoint that answers 410",
        "`stockpot webhooks delete ENDPOINT`: its receiver is gone for good",
        actions.disable,
        actions.delete_endpoints,
    ),
    Fault(
        ("StockpotDatabaseErrors",),
        "every connection to PostgreSQL is ended, again and again (`pg_terminate_backend`)",
        "it is left alone",
        actions.nothing,
        actions.nothing,
        actions.cut,
    ),
    Fault(
        ("StockpotWebhooksBurnFast", "StockpotWebhooksBurnSlowly"),
        "every second webhook goes to a receiver that is gone (410)",
        "its producer names another URL",
        actions.nothing,
        actions.good_hooks,
        actions.dead_hooks,
        actions.good_hooks,
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
        actions.nothing,
        actions.nothing,
        actions.die,
    ),
    Fault(
        ("StockpotNoWorkers",),
        "kill -9 of all workers under load",
        "workers are started",
        actions.end_all,
        lambda scene: scene.workers(),
    ),
)

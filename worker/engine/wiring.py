"""Wiring: the parts of one worker, built once and connected. Nothing runs yet; `Engine.run` starts them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from api_schemas.jobs import LANES
from worker import embedded
from worker.base import genai
from worker.base.errors import SettingsError, Unreachable
from worker.base.payloads import Payloads
from worker.base.settings import Settings
from worker.db.threads import DatabaseThreads
from worker.engine.feeder import Feeder, ask
from worker.engine.file_keeper import FileKeeper
from worker.engine.fleet_gauges import FleetGauges
from worker.engine.heartbeat import Heartbeat
from worker.engine.looks import Looks, Question
from worker.engine.presence import Presence
from worker.engine.rates import Rates
from worker.engine.retention import Retention
from worker.engine.route_news import RouteNews
from worker.engine.sweeper import Sweeper
from worker.job.announce import announce_over
from worker.job.budget_hold import BudgetHold
from worker.job.consequences import Consequences
from worker.job.context import JobContext
from worker.job.lookups import Lookups
from worker.job.probing import Probing
from worker.job.retry import longest_wait
from worker.job.settlements import SettlementWriter
from worker.job.slots import Slots
from worker.limits.admission import Admission
from worker.limits.estimate import Estimator
from worker.limits.refusals import Refusals
from worker.limits.route import Limits
from worker.live.control import Control
from worker.live.publish import Publisher
from worker.provider.prices import Prices
from worker.provider.provider import Provider
from worker.upstream.client import UpstreamClient


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that one worker's loop runs."""

    redis_url: str
    database: DatabaseThreads
    upstream: UpstreamClient
    publisher: Publisher
    admission: Admission
    consequences: Consequences
    feeder: Feeder
    heartbeat: Heartbeat
    presence: Presence
    gauges: FleetGauges
    rates: Rates
    sweeper: Sweeper
    files: FileKeeper
    lookups: Lookups
    looks: Looks
    control: Control
    news: RouteNews
    context: JobContext


def build(
    settings: Settings,
    *,
    owner: str,
    slots: Slots,
    on_drain: Callable[[], object],
    lanes: frozenset[str] = frozenset(LANES),
    listens: Callable[[], bool] = lambda: False,
) -> Parts:
    """The parts of a worker called `owner`. Call it on the loop that will run them.

    `on_drain` is called when this worker is asked to finish and end. `listens`: whether doorbells arrive now.
    """
    redis_url = embedded.redis_url(settings)
    database = DatabaseThreads(settings)
    upstream = UpstreamClient.of(settings)
    provider = Provider(upstream, _key(settings))
    publisher = _publisher(settings, redis_url)
    consequences = Consequences.of(settings, database, owner=owner)
    feeder = Feeder(
        database,
        slots,
        owner=owner,
        lease=settings.lease_seconds,
        weights=settings.weights,
        lanes=lanes,
    )
    news = RouteNews(settings, provider, database, consequences=consequences, on_resumed=feeder.reopen)
    admission = Admission(
        redis_url,
        Limits(settings.max_in_flight, settings.rpm, settings.tpm),
        permit_ttl=settings.lease_seconds,
        worker=owner,
        balance=news.balance,
        on_change=news.changed,
    )
    prices = Prices(settings.own_prices)
    lookups = Lookups(
        database,
        provider.log(),
        on_due=feeder.due,
        total_timeout=settings.total_timeout,
        on_billed=prices.learn_billed,
    )
    context = JobContext(
        settings=settings,
        provider_name=genai.provider(settings.upstream_url),
        upstream=upstream,
        admission=admission,
        estimator=Estimator(),
        publisher=publisher,
        settlements=SettlementWriter(database, consequences),
        prices=prices,
        budget_hold=BudgetHold(database, prices),
        refusals=Refusals(),
        probing=Probing(database, lanes),
        rng=random.Random(),
        recall=feeder.recall,
        lookups=lookups,
        key_limits=Limits(settings.key_max_in_flight, settings.key_rpm, settings.key_tpm),
        tenant_limits=Limits(settings.tenant_max_in_flight, settings.tenant_rpm, settings.tenant_tpm),
    )
    sweeper = Sweeper(
        database,
        consequences,
        Retention(settings, database),
        owner=owner,
        lease=settings.lease_seconds,
        every=settings.sweep_seconds,
        on_over=lambda ended: announce_over(publisher, ended),
        on_due=_reclaimed(lookups, feeder),
        hold=lambda: lookups.hold_seconds,
        longest_wait=longest_wait(settings.retry_max_seconds),
        usage_keys=settings.kept_usage_keys,
    )
    presence = Presence(
        database,
        slots,
        owner=owner,
        concurrency=settings.concurrency,
        every=settings.heartbeat_seconds,
        on_drain=on_drain,
    )
    files = FileKeeper(settings, consequences, owner=owner)
    control = Control(redis_url)
    looks = Looks(
        database,
        [
            Question(ask, feeder.look),
            Question(consequences.ask, consequences.take),
            Question(files.ask, files.take),
            Question(sweeper.ask, sweeper.take),
            Question(presence.announce, presence.announced, writes=presence.is_due),
        ],
        every=settings.sweep_seconds,
        listens=lambda: listens() and control.listens,
        on_unknown=feeder.look,
        on_work=sweeper.wake,
        on_idle=(database.rest, files.rest),
    )
    return Parts(
        redis_url=redis_url,
        database=database,
        upstream=upstream,
        publisher=publisher,
        admission=admission,
        consequences=consequences,
        feeder=feeder,
        heartbeat=Heartbeat(
            database, slots, owner=owner, lease=settings.lease_seconds, every=settings.heartbeat_seconds
        ),
        presence=presence,
        gauges=FleetGauges(database, admission.snapshot),
        rates=Rates(database, admission.used),
        sweeper=sweeper,
        files=files,
        lookups=lookups,
        looks=looks,
        control=control,
        news=news,
        context=context,
    )


def _key(settings: Settings) -> Callable[[], str | None]:
    """Reads the API key at each request; a file that cannot be read just now counts as an upstream out of reach."""

    def key() -> str | None:
        try:
            return settings.key
        except SettingsError as error:
            raise Unreachable("upstream", str(error)) from error

    return key


def _publisher(settings: Settings, redis_url: str) -> Publisher:
    return Publisher(
        redis_url,
        window_seconds=settings.live_window_seconds,
        log_entries=settings.live_log_entries,
        ttl_seconds=settings.live_ttl_seconds,
        max_ttl_seconds=settings.job_ttl_seconds,
        payloads=Payloads.of(settings),
    )


def _reclaimed(lookups: Lookups, feeder: Feeder) -> Callable[[str, str], None]:
    """What is done with a job whose lease ran out: the call that was lost with it may have been billed."""

    def reclaimed(lane: str, job_id: str) -> None:
        lookups.add(job_id)
        feeder.due(lane, job_id)

    return reclaimed

"""The Celery app: `celery -A worker worker` starts a production worker with the right pool and settings by default.

Messages are acknowledged on receipt, nothing waits for a result, nothing is scheduled in the broker: recovery belongs
to the leases in the database. The threads pool only carries doorbells to the engine; how many calls a process has in
flight is `STOCKPOT_CONCURRENCY`, not Celery's `--concurrency`.
"""

from __future__ import annotations

import signal
from functools import partial
from typing import Any

import click
from celery import Celery, bootsteps, signals
from celery.apps.worker import Worker
from celery.platforms import EX_FAILURE, EX_OK
from celery.worker import state
from click.core import ParameterSource
from kombu import Exchange, Queue
from kombu.transport.redis import MultiChannelPoller
from kombu.utils.objects import cached_property

from worker import embedded
from worker.base import redis_urls, telemetry
from worker.base.errors import SettingsError
from worker.base.settings import Settings, settings
from worker.broker.control import refuse_purge
from worker.broker.messages import DoorbellTask
from worker.broker.options import check, queues_of
from worker.broker.queues import queue_of, queues, unacknowledged

#: Threads that carry doorbells. Each only hands ids over, or waits for a free slot while the messages stay in Redis
#: for a worker that has one.
CARRIERS = 2
#: How often the consumer's loop reports that it is alive.
PULSE_SECONDS = 1.0
#: A message that a killed worker had taken comes back after this long. Only `stockpot.submit` needs it.
VISIBILITY_SECONDS = 300
#: Celery's usual one, whatever `CELERY_LOADER` of the environment is, which is another application's.
LOADER = "celery.loaders.app:AppLoader"
#: What asks a worker to stop: systemd and Kubernetes, a terminal, and an impatient user.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class StockpotWorker(Worker):
    """Celery's worker without the parts that talk to other workers through Redis (RELIABILITY T14, T15)."""

    _isatty: bool

    def on_before_init(self, **options: Any) -> None:  # type: ignore[override]  # all pass through by name
        """Refuse options that mean nothing here, before anything else is printed; from here on logs are ours.

        In no other program: producers import this module, too. They may be workers of another application, and where this
        signal has a receiver Celery sets up no logging.
        """
        check()
        signals.setup_logging.connect(_configure_logging)
        super().on_before_init(**options)

    def setup_instance(  # type: ignore[override]  # all of its arguments pass through by name
        self, **options: Any
    ) -> None:
        """Turn gossip, mingle and heartbeats off; refuse pools that cannot share one event loop."""
        options |= {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        pool = getattr(self, "pool_cls", None) or self.app.conf.worker_pool
        if "thread" not in str(pool) and "solo" not in str(pool):
            raise SystemExit(
                f"stockpot: the pool {pool!r} cannot be used: all calls of a worker run in one event loop, and the"
                " threads pool (the default) carries the messages to it. Start one worker per core instead."
            )
        super().setup_instance(**options)

    def setup_queues(self, include: Any, exclude: Any = None) -> None:
        """`-Q` and `-X` name lanes, or their queues: the engine claims those and no other."""
        namespace = settings().redis_namespace
        super().setup_queues(queues_of(include, namespace), queues_of(exclude, namespace))

    def install_platform_tweaks(self, worker: Any) -> None:
        """Celery's signal handlers, but for those that stop it.

        Its second SIGINT and its SIGQUIT abandon threads that cannot be abandoned, from inside the handler, and may
        end the process before the engine has given its jobs back.
        """
        super().install_platform_tweaks(worker)
        for number in STOP_SIGNALS:
            signal.signal(number, partial(_stop, worker))
        if self._isatty and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, partial(_stop, worker))  # the terminal is closed; `nohup` ignores that


def _stop(worker: Any, number: int, _frame: Any) -> None:
    """Stop claiming and let calls finish; at a second signal, or SIGQUIT, give back at once what runs."""
    from worker.broker import tasks

    again = number == signal.SIGQUIT or state.should_stop is not None
    code = EX_FAILURE if number == signal.SIGINT else EX_OK
    try:
        tasks.stop_claiming()
        if again:
            tasks.hurry()
        name = signal.Signals(number).name
        signals.worker_shutting_down.send(sender=worker.hostname, sig=name, how="Warm", exitcode=code)
    finally:
        if state.should_stop is None:
            state.should_stop = code  # type: ignore[assignment]  # None until a stop is requested


class StockpotCelery(Celery):
    """A Celery app whose worker is `StockpotWorker` and whose broker is that of our settings.

    Celery lets `CELERY_BROKER_URL` and `CELERY_RESULT_BACKEND` of the environment win, which are another application's.
    """

    def connection(  # type: ignore[override]  # all other arguments pass through by name
        self, hostname: str | None = None, **options: Any
    ) -> Any:
        """A connection."""
        return self.connection_for_write(hostname or self._broker_url, **options)

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        """A connection to consume from."""
        return super().connection_for_read(url or self._broker_url, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """A connection to publish to."""
        refuse_purge()
        return super().connection_for_write(url or self._broker_url, **options)

    control_cls = "worker.broker.control:StockpotControl"

    @property
    def _broker_url(self) -> str:
        return str(self.conf["broker_url"])

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 -- Celery's own name for the hook
        """What `celery -A worker worker` starts."""
        return self.subclass_with_self(StockpotWorker)


def _configuration(given: Settings | None = None) -> dict[str, Any]:
    """Celery's settings, read when they are first needed; the process's own unless others are given."""
    ours = given or settings()
    names, url = ours.redis_namespace, embedded.broker_url(ours)
    transport = {
        **unacknowledged(names),
        "visibility_timeout": VISIBILITY_SECONDS,
        "socket_timeout": 5,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 5,
    }
    return {
        "broker_url": url,
        "broker_use_ssl": redis_urls.amqp_tls(url, None if ours.redis_ca_file is None else str(ours.redis_ca_file)),
        "broker_transport_options": transport,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_backend": None,
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_publish_retry": False,
        "task_create_missing_queues": False,
        "task_default_queue": queue_of("interactive", names),
        "task_queues": [Queue(name, Exchange(""), routing_key=name) for name in queues(names)],
        "worker_prefetch_multiplier": 1,
        "worker_pool": "threads",
        "worker_consumer": "worker.broker.consumer:StockpotConsumer",
        "worker_concurrency": CARRIERS,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "worker_hijack_root_logger": False,
        "worker_soft_shutdown_timeout": 0,
        "imports": ["worker.broker.tasks"],
    }


def _configuration_of_the_process() -> dict[str, Any]:
    """As `_configuration`. On Celery's command line a wrong setting is one line, not a traceback."""
    try:
        return _configuration()
    except SettingsError as error:
        if click.get_current_context(silent=True) is None:
            raise
        raise SystemExit(f"stockpot: {error}") from None


class EngineStep(bootsteps.StartStopStep):
    """Starts the engine with the worker and drains it when the worker stops."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Make the engine and wait until it claims."""
        from worker.broker import tasks

        tasks.start_engine(parent)

    def stop(self, parent: Any) -> None:
        """Drain."""
        from worker.broker import tasks

        tasks.stop_engine(parent)

    terminate = stop


def _with_one_try(configuration: dict[str, Any]) -> dict[str, Any]:
    """For a doorbell, which leaves a broker that refuses alone for a moment: kombu would try for some seconds."""
    configuration["broker_transport_options"]["max_retries"] = 0
    return configuration


def app_of(given: Settings) -> StockpotCelery:
    """An app for a producer: the broker of its own settings, which need not be the process's."""
    theirs = StockpotCelery("stockpot", set_as_current=False, backend="disabled", loader=LOADER)
    theirs.add_defaults(lambda: _with_one_try(_configuration(given)))
    return theirs


def forget_others(transport: Any, hub: Any) -> None:
    """Take the transports of lost connections to the broker out of the consumer's event loop.

    kombu's transport for Redis has itself called in each turn of the loop, and leaves that behind when its connection is
    closed. The next connection has a new transport: the old ones would be called, and kept alive, for good.
    """
    for tick in tuple(hub.on_tick) if hub is not None else ():
        held = [cell.cell_contents for cell in getattr(tick, "__closure__", None) or ()]
        if any(isinstance(one, MultiChannelPoller) and one is not transport.cycle for one in held):
            hub.on_tick.discard(tick)


class HeartbeatStep(bootsteps.StartStopStep):
    """Reports to the engine that Celery's consumer loop is alive: liveness wants both loops."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    _timer: Any = None

    def start(self, parent: Any) -> None:
        """The consumer is connected: beat with its own timer."""
        from worker.broker import tasks

        tasks.consumer_beats()
        self._timer = parent.timer.call_repeatedly(PULSE_SECONDS, tasks.consumer_beats)
        forget_others(parent.connection.transport, parent.hub)

    def stop(self, parent: Any) -> None:
        """The connection is lost, maybe before `start` was reached, or the worker ends."""
        from worker.broker import tasks

        if self._timer is not None:
            self._timer.cancel()
        tasks.consumer_lost()

    shutdown = stop


app = StockpotCelery("stockpot", backend="disabled", loader=LOADER, task_cls=DoorbellTask)
app.add_defaults(_configuration_of_the_process)
app.steps["worker"].add(EngineStep)
app.steps["consumer"].add(HeartbeatStep)


def _configure_logging(loglevel: int | None = None, logfile: str | None = None, **_: Any) -> None:
    """Celery's own words count where they are given: `-l`, `--logfile`, and so `--detach` and `celery multi`."""
    given = _is_given("loglevel") and isinstance(loglevel, int)
    telemetry.configure(settings(), level=loglevel if given else None, file=logfile or None)


def _is_given(option: str) -> bool:
    """Whether an option was given on Celery's command line; it has a default of its own."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(option) is ParameterSource.COMMANDLINE

"""A producer that needs the broker and nothing else: pydantic and orjson to check a request, Celery to send it.

    from stockpot.light import BrokerProducer

    pot = BrokerProducer("redis://redis.internal/0")
    job_id = pot.submit({"model": "openai/gpt-5-1-chat-latest", "messages": [{"role": "user", "content": "…"}]})

The message is the job until a worker has inserted it, so it names its job: by the id that `submit` makes and returns, or by
an idempotency key of the caller's. Where it goes is checked as a worker checks it: TLS is verified, and no wait is longer than `SECONDS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, Unpack

from celery import Celery
from kombu.exceptions import OperationalError

from api_schemas.broker import broker_message
from api_schemas.ids import job_id
from api_schemas.jobs import JobOptions, Request, parse_job
from worker.base import forks, redis_urls
from worker.base.errors import SettingsError, Unreachable

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["BrokerProducer"]

#: How long a broker is waited for: to connect, and for each answer.
SECONDS = 5


class BrokerProducer:
    """Submits jobs over the broker; a worker inserts them. Safe to share between threads.

    Args:
        broker: the broker's URL, as `STOCKPOT_BROKER_URL` has it.
        namespace: `STOCKPOT_REDIS_NAMESPACE` of the workers.
        database: who their database is (`stockpot doctor` shows it); workers of another one put the message back.
        ca_file: the certificate authorities to trust; None: the system's.
    """

    def __init__(
        self, broker: str, *, namespace: str = "stockpot", database: str | None = None, ca_file: str | None = None
    ) -> None:
        try:
            url = redis_urls.check_broker(broker)
        except ValueError as error:
            raise SettingsError(f"broker: {error}") from None
        if redis_urls.is_redis(url):
            url = redis_urls.for_kombu(redis_urls.in_force(url, ca_file=ca_file))
        self._url, self._namespace, self._database = url, namespace, database
        # The usual loader: `CELERY_LOADER` of the environment is another application's.
        self._app = Celery(broker=url, set_as_current=False, loader="celery.loaders.app:AppLoader")
        waits = {"socket_timeout": SECONDS, "socket_connect_timeout": SECONDS, "max_retries": 0}
        self._app.conf.update(
            broker_url=url,
            broker_use_ssl=redis_urls.amqp_tls(url, ca_file),
            broker_transport_options=waits,
            task_publish_retry=False,
            task_ignore_result=True,
            result_backend=None,
        )

    def submit(self, request: Request, **options: Unpack[JobOptions]) -> str:
        """Send a job to the workers; its id. Sent again with that `id`, or with its `idempotency_key`, it is the same job.

        Where an idempotency key was used before, the job has the id of that first time.

        Raises:
            InvalidRequest: every problem of the request, by field.
            Unreachable: the broker does not take it. Whether a message was lost or came through is unknown then.
        """
        job = parse_job(request, **options)
        if job.id is None:
            job = job.model_copy(update={"id": job_id()})
        message: dict[str, str] = broker_message(job)
        if self._database is not None:
            message["database"] = self._database
        try:
            # By its URL: not CELERY_BROKER_URL
            with forks.sending(), self._app.connection_for_write(self._url) as connection:
                self._app.send_task(
                    "stockpot.submit",
                    kwargs=message,
                    queue=f"{self._namespace}.{job.lane}",
                    connection=connection,
                    argsrepr="",  # Celery would write a text of the arguments into the message's header
                    kwargsrepr="",
                    retry=False,
                    ignore_result=True,
                )
        except (OperationalError, OSError) as error:
            raise Unreachable("the broker", f"{type(error).__name__}: {error}", "Is it running?") from error
        return str(job.id)

    def close(self) -> None:
        """Close what is open."""
        self._app.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

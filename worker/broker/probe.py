"""Whether the broker does what a doorbell and a worker need of it: `stockpot doctor` asks."""

from __future__ import annotations

from typing import Any

from worker.base.settings import Settings
from worker.broker.app import app_of

#: A queue that no worker reads; it is emptied at once.
_QUEUE = "doctor"


class BrokerFailure(Exception):
    """The broker did not do it; the message has the reason, without any credential."""


def probe(settings: Settings) -> None:
    """Publish a message through Celery's own connection, count it, and remove it.

    Raises:
        BrokerFailure: with the error of the broker or the connection.
    """
    app = app_of(settings)
    name = f"{settings.redis_namespace}.{_QUEUE}"
    try:
        with app.connection_for_write() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, timeout=5)
            channel: Any = broker.default_channel
            producer = broker.Producer(serializer="json")
            channel.queue_declare(name)
            producer.publish({}, routing_key=name, retry=False)
            channel.queue_delete(name)
    except Exception as error:  # noqa: BLE001 -- kombu's transports raise whatever their libraries do
        cause = error.__cause__ or error
        raise BrokerFailure(f"{type(cause).__name__}: {cause}") from None
    finally:
        app.close()

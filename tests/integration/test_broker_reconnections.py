"""Connections to the broker that are lost leave nothing behind in the consumer's event loop."""

from __future__ import annotations

from typing import Any

from kombu import Connection
from kombu.asynchronous import Hub

from worker.broker.app import forget_others


def test_of_many_connections_only_the_last_one_stays_in_the_loop(redis_url: str) -> None:
    """Each reconnection is a new transport; kombu leaves the old ones where each turn of the loop calls them."""
    hub = Hub()
    try:
        for _ in range(3):
            with Connection(redis_url) as connection:
                connection.connect()
                connection.transport.register_with_event_loop(connection.connection, hub)
                last: Any = connection.transport
        assert len(hub.on_tick) == 3  # the witness: three are called in each turn, of which two are lost
        forget_others(last, hub)
        [tick] = hub.on_tick
        assert last.cycle in [cell.cell_contents for cell in tick.__closure__ or ()]
    finally:
        hub.close()

"""A connection to the broker that is lost leaves no repeated call behind in the consumer's event loop."""

from __future__ import annotations

from kombu import Connection
from kombu.asynchronous import Hub

from worker.broker.app import forget


def test_a_lost_connections_timers_are_cancelled(redis_url: str) -> None:
    """Each reconnection is a new transport with entries of its own; those of the old one do not stay."""
    hub = Hub()
    try:
        lasting: list[int] = []
        for _ in range(3):
            with Connection(redis_url) as connection:
                connection.connect()
                connection.transport.register_with_event_loop(connection.connection, hub)
                entries = [one.entry for one in hub.timer.queue]
                assert (
                    sum(not entry.canceled for entry in entries) >= 4 and hub.on_tick
                )  # the witness: some are registered
                forget(connection.transport, hub)
            lasting.append(sum(not one.entry.canceled for one in hub.timer.queue) + len(hub.on_tick))
        assert lasting == [0, 0, 0]
    finally:
        hub.close()

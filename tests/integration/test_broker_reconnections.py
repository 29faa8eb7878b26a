"""Connections to the broker that are lost leave nothing behind, and a broker that comes back is found soon."""

from __future__ import annotations

import re
from typing import Any

import pytest
from kombu import Connection
from kombu.asynchronous import Hub
from kombu.utils import functional

from tests.rig.servers import ValkeyServer
from worker.base.settings import Settings
from worker.broker.app import app_of, forget_others
from worker.broker.consumer import AWAY_PAUSES, StockpotConsumer


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


def test_after_a_long_outage_the_next_try_is_soon(
    own_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """kombu's own pauses grow to 30 s. Here the pauses pass at once, and the server comes back after two minutes of them."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if sum(slept) >= 120 and not own_valkey.process.running:
            own_valkey.start()

    monkeypatch.setattr(functional, "sleep", sleep)
    own_valkey.kill9()
    app = app_of(Settings(redis_url=own_valkey.url))
    app.conf.broker_transport_options |= {"max_retries": None}
    consumer = object.__new__(StockpotConsumer)
    consumer.app = app
    consumer.first_connection_attempt = True
    consumer.broker_connection_retry_attempt = 0
    with consumer.ensure_connected(app.connection_for_read()) as connection:
        assert connection.connected
        assert "ensure_connection" not in vars(connection)
    app.close()
    told = [float(found[1]) for found in map(re.compile(r"in ([\d.]+) second").search, caplog.messages) if found]
    assert len(told) > 30
    assert max(told) == AWAY_PAUSES["interval_max"] == 3

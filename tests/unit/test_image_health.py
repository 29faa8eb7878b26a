"""The image's health check: a port that is set is the one that is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from worker.base import healthy


class Lives(BaseHTTPRequestHandler):
    """Answers 200 at /livez alone."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """Where something lives."""
    with HTTPServer(("127.0.0.1", 0), Lives) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def nothing_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers where nothing is set: port 9 is nobody's."""
    monkeypatch.setattr(healthy, "PORTS", dict.fromkeys(healthy.PORTS, 9))


@pytest.mark.parametrize("name", ["STOCKPOT_HTTP_PORT", "STOCKPOT_GATEWAY_PORT"])
def test_the_port_that_is_set_is_asked(name: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert healthy.main([]) == 1
    monkeypatch.setenv(name, str(port))
    assert healthy.main([]) == 0


def test_an_address_of_kubernetes_is_no_port(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names a Service `stockpot-gateway` so in every pod beside it."""
    monkeypatch.setenv("STOCKPOT_GATEWAY_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("STOCKPOT_HTTP_PORT", str(port))
    assert healthy.main([]) == 0
    assert healthy.main([str(port)]) == 0
    assert healthy.main(["9"]) == 1

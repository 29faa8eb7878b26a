"""The rig's ports: a server that is down keeps its own."""

from __future__ import annotations

import socket

import pytest

from tests.rig import ports
from tests.rig.faultproxy import FaultProxy


def test_a_port_is_given_once_and_is_none_of_the_kernels() -> None:
    """Those that it gives to who binds port 0 may be anybody's as soon as their server is down."""
    given = [ports.free_port() for _ in range(200)]
    assert len(set(given)) == len(given)
    assert ports.FIRST_PORT <= min(given) <= max(given) < ports._first_ephemeral()


def test_processes_of_a_run_have_no_port_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for worker in ("gw0", "gw1", "gw2"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        shares.append({ports.free_port() for _ in range(100)})
    one, two, three = shares
    assert not (one & two or two & three or one & three)


def test_a_port_that_somebody_listens_on_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = ports.free_port()
    with socket.create_server(("127.0.0.1", taken)):
        monkeypatch.setattr(ports, "_tried", iter([*range(taken - 1, taken + 30_000)]))
        assert taken not in {ports.free_port() for _ in range(3_000)}


def test_a_proxy_that_refuses_keeps_its_port() -> None:
    """A hundred servers that are given ports by the kernel meanwhile do not get it."""
    with socket.create_server(("127.0.0.1", 0)) as target, FaultProxy("127.0.0.1", target.getsockname()[1]) as proxy:
        proxy.refuse()
        others = [socket.create_server(("127.0.0.1", 0)) for _ in range(100)]
        assert proxy.port not in {other.getsockname()[1] for other in others}
        for other in others:
            other.close()
        proxy.heal()
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10):
            pass

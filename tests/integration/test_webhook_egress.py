"""The SSRF guard, against a live canary on both loopback addresses: whatever the URL or the resolver says, no hit."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.rig.certificates import self_signed, serving
from worker.webhooks.addresses import PRIVATE, Policy
from worker.webhooks.egress import Blocked, Egress, Unanswered

OPEN = Policy(PRIVATE)
PUBLIC = "93.184.215.14"

#: Spellings of loopback, private, metadata and other forbidden places. {p} is the canary's port.
SPELLINGS = [
    "http://127.0.0.1:{p}/",
    "http://127.0.0.2:{p}/",
    "http://127.255.255.254:{p}/",
    "http://127.1:{p}/",
    "http://127.0.1:{p}/",
    "http://127.0.0.1.:{p}/",
    "http://2130706433:{p}/",
    "http://02130706433:{p}/",
    "http://017700000001:{p}/",
    "http://0177.0.0.1:{p}/",
    "http://0177.0.0.01:{p}/",
    "http://0x7f000001:{p}/",
    "http://0x7f.0.0.1:{p}/",
    "http://0x7f.1:{p}/",
    "http://0X7F.0X0.0X0.0X1:{p}/",
    "http://127.0.0.0x1:{p}/",
    "http://127.0.0.001:{p}/",
    "http://4294967297:{p}/",
    "http://0:{p}/",
    "http://0.0.0.0:{p}/",
    "http://0x:{p}/",
    "http://①②⑦.⓪.⓪.①:{p}/",
    "http://１２７.0.0.1:{p}/",
    "http://127。0。0。1:{p}/",
    "http://%31%32%37.0.0.1:{p}/",
    "http://127%2e0%2e0%2e1:{p}/",
    "http://localhost:{p}/",
    "http://LOCALHOST:{p}/",
    "http://localhost.:{p}/",
    "http://lo\u00adcalhost:{p}/",
    "http://[::1]:{p}/",
    "http://[0:0:0:0:0:0:0:1]:{p}/",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]:{p}/",
    "http://[::]:{p}/",
    "http://[::1%25lo]:{p}/",
    "http://[::1%lo]:{p}/",
    "http://[fe80::1%25eth0]:{p}/",
    "http://[::ffff:127.0.0.1]:{p}/",
    "http://[::ffff:7f00:1]:{p}/",
    "http://[0:0:0:0:0:ffff:127.0.0.1]:{p}/",
    "http://[::127.0.0.1]:{p}/",
    "http://[64:ff9b::127.0.0.1]:{p}/",
    "http://[64:ff9b:1::7f00:1]:{p}/",
    "http://[2002:7f00:1::]:{p}/",
    "http://[2001:0:7f00:1::1]:{p}/",
    "http://user@127.0.0.1:{p}/",
    "http://user:pass@127.0.0.1:{p}/",
    "http://example.com@127.0.0.1:{p}/",
    "http://example.com:80@127.0.0.1:{p}/",
    "http://127.0.0.1:{p}@example.com/",
    "http://example.com\\@127.0.0.1:{p}/",
    "http://127.0.0.1:{p}\\@example.com/",
    "http:\\\\127.0.0.1:{p}/",
    "http:127.0.0.1:{p}/",
    "http:///127.0.0.1:{p}/",
    "//127.0.0.1:{p}/",
    "http://127.0.0.1:{p}#@example.com/",
    "http://127.0.0.1:{p}/\r\nHost: example.com",
    "http://127.0.0.1:{p}/ HTTP/1.1\r\nX: y",
    "http://127.0.0.1\t:{p}/",
    "http://\n127.0.0.1:{p}/",
    " http://127.0.0.1:{p}/",
    "http://127.0.0.1:0{p}x/",
    "https://127.0.0.1:{p}/",
    "https://[::1]:{p}/",
    "ftp://127.0.0.1:{p}/",
    "gopher://127.0.0.1:{p}/_x",
    "file:///etc/passwd",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://2852039166/",
    "http://[fd00:ec2::254]/",
    "http://[fc00::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[100::1]/",
    "http://[5f00::1]/",
    "http://[3fff::1]/",
    "http://[2001:db8::1]/",
    "http://168.63.129.16/",
    "http://100.100.100.200/",
    "http://192.0.0.192/",
    "http://192.88.99.1/",
    "http://198.18.0.1/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
]


class Canary:
    """An HTTP server on 127.0.0.1 and ::1 of one port that counts connections, whole requests or not."""

    def __init__(self) -> None:
        self.hits = 0
        self.port = 0

    async def start(self) -> None:
        """Listen on a port that is free on both addresses."""
        self._servers = [await asyncio.start_server(self._hit, "127.0.0.1", 0)]
        self.port = self._servers[0].sockets[0].getsockname()[1]
        if socket.has_ipv6:
            self._servers.append(await asyncio.start_server(self._hit, "::1", self.port))

    async def _hit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.hits += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async def stop(self) -> None:
        """Close both."""
        for server in self._servers:
            server.close()
            await server.wait_closed()


@pytest.fixture
async def canary(anyio_backend: str) -> AsyncIterator[Canary]:
    """A canary that must stay alone."""
    canary = Canary()
    await canary.start()
    yield canary
    await canary.stop()


async def outcome(egress: Egress, url: str) -> str:
    """What a post to the URL comes to, in a word."""
    try:
        return str((await egress.post(url, b"{}", {"webhook-id": "evt_1"})).status)
    except Blocked:
        return "blocked"
    except Unanswered:
        return "unanswered"
    finally:
        await egress.close()


class Names:
    """A resolver that gives its answers in order, and remembers how often it was asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The next answer; the last one again and again."""
        self.asked += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@pytest.mark.anyio
async def test_the_canary_sings_when_it_may_be_reached(canary: Canary) -> None:
    """The witness: with private addresses allowed the same egress does reach both canaries."""
    for host in ("127.0.0.1", "localhost") + (("[::1]",) if socket.has_ipv6 else ()):
        assert await outcome(Egress(OPEN), f"http://{host}:{canary.port}/") == "200"
    assert canary.hits >= 2


@pytest.mark.anyio
@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_no_spelling_reaches_a_forbidden_place(canary: Canary, spelling: str) -> None:
    """Blocked for good, not merely unanswered, and no connection was made."""
    assert await outcome(Egress(Policy()), spelling.format(p=canary.port)) == "blocked"
    assert canary.hits == 0


def test_the_table_is_long_enough() -> None:
    """RELIABILITY S1 asks for at least sixty."""
    assert len(set(SPELLINGS)) >= 60


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/",
        "http://169.254.170.2/",
        "http://[fd00:ec2::254]/",
        "http://168.63.129.16/",
        "http://100.100.100.200/",
        "http://192.0.0.192/",
        "http://0.0.0.0/",
        "http://[fe80::1]/",
        "http://224.0.0.1/",
    ],
)
@pytest.mark.parametrize("setting", ["true", "0.0.0.0/0, ::/0"])
async def test_metadata_stays_closed_whatever_is_allowed(url: str, setting: str) -> None:
    """Even a setting that opens everything."""
    assert await outcome(Egress(Policy.parse(setting)), url) == "blocked"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        ["::1"],
        [PUBLIC, "127.0.0.1"],
        ["127.0.0.1", PUBLIC],
        [PUBLIC, "::1"],
        [PUBLIC, "::ffff:127.0.0.1"],
        [PUBLIC, "fe80::1%lo"],
        ["64:ff9b::7f00:1"],
        ["not an address"],
    ],
)
async def test_one_forbidden_answer_refuses_the_whole_name(canary: Canary, answers: list[str]) -> None:
    """Mixed answers are how a check of the first one is passed."""
    names = Names(answers)
    url = f"https://rebind.example:{canary.port}/"
    assert await outcome(Egress(Policy(), resolve=names), url) == "blocked"
    assert names.asked == 1
    assert canary.hits == 0


@pytest.mark.anyio
async def test_a_name_that_turns_to_loopback_after_the_check_gains_nothing(
    canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rebinding: the address that was checked is the one that is connected to; the name is not resolved again."""
    asked: list[Any] = []

    def rebinding(host: str | bytes, *rest: Any, **named: Any) -> list[Any]:
        asked.append(host)
        address = PUBLIC if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 8443))]

    connected: list[str] = []

    async def refuse(sock: socket.socket, address: tuple[str, int]) -> None:
        connected.append(address[0])
        raise ConnectionRefusedError(111, "refused by the test: the public internet is not part of it")

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", refuse)
    egress = Egress(Policy())
    with pytest.raises(Unanswered):
        await egress.post("https://rebind.example:8443/", b"{}", {})
    assert asked == ["rebind.example"]
    assert connected == [PUBLIC]
    with pytest.raises(Blocked):
        await egress.post("https://rebind.example:8443/", b"{}", {})
    assert connected == [PUBLIC]
    assert canary.hits == 0
    await egress.close()


@pytest.mark.anyio
async def test_the_socket_itself_is_the_last_gate(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the checks before it ever be passed, no socket to a forbidden address is made."""
    egress = Egress(Policy())
    monkeypatch.setattr(egress, "_check", lambda *ignored: None)
    assert await outcome(egress, f"http://127.0.0.1:{canary.port}/") == "unanswered"
    assert canary.hits == 0


@pytest.mark.anyio
async def test_redirects_are_an_answer_and_not_a_way(canary: Canary) -> None:
    """The receiver's 307 is reported; nobody goes there, not even when the place is allowed."""

    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"http://127.0.0.1:{canary.port}/"})

    app = web.Application()
    app.router.add_post("/", redirect)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert await outcome(Egress(OPEN), f"http://127.0.0.1:{runner.addresses[0][1]}/") == "307"
    assert canary.hits == 0
    await runner.cleanup()


@pytest.mark.anyio
async def test_a_proxy_in_the_environment_is_not_used(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve and connect for us, past every check."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for spelled in (name, name.upper()):
            monkeypatch.setenv(spelled, f"http://127.0.0.1:{canary.port}")
    assert await outcome(Egress(Policy(), resolve=Names(["10.0.0.1"])), "https://a.example/") == "blocked"
    assert canary.hits == 0


@pytest.mark.anyio
@pytest.mark.parametrize("port", [22, 25, 80, 6379, 9200])
async def test_public_addresses_are_reached_on_web_ports_only(port: int) -> None:
    """Also port 80: a job's answer is not sent in clear."""
    assert await outcome(Egress(Policy(), resolve=Names([PUBLIC])), f"https://a.example:{port}/") == "blocked"
    assert await outcome(Egress(Policy(), resolve=Names([PUBLIC])), f"http://a.example:{port}/") == "blocked"


@pytest.mark.anyio
async def test_a_resolver_that_hangs_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt fails and is repeated later; it is not blocked."""
    monkeypatch.setattr("worker.webhooks.egress.RESOLVE_SECONDS", 0.05)

    async def hang(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    assert await outcome(Egress(Policy(), resolve=hang), "https://a.example/") == "unanswered"


@pytest.mark.anyio
async def test_tls_checks_the_name_and_host_carries_it(tmp_path: Path) -> None:
    """Connected to an address, yet SNI, the certificate and Host are the name's; another name's certificate fails."""
    seen: list[str | None] = []
    certificate = self_signed(tmp_path / "hooks.pem", "hooks.example")
    server = serving(certificate)
    server.sni_callback = lambda sock, name, context: seen.append(name)

    async def ok(request: web.Request) -> web.Response:
        seen.append(request.headers["Host"])
        return web.Response()

    app = web.Application()
    app.router.add_post("/", ok)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server).start()
    port = runner.addresses[0][1]
    trusting = ssl.create_default_context(cafile=certificate)
    loopback = Names(["127.0.0.1"])
    url = f"https://hooks.example:{port}/"
    assert await outcome(Egress(OPEN, resolve=loopback, tls=trusting), url) == "200"
    assert seen == ["hooks.example", f"hooks.example:{port}"]
    other = url.replace("hooks.", "other.")
    assert await outcome(Egress(OPEN, resolve=loopback, tls=trusting), other) == "unanswered"
    assert await outcome(Egress(OPEN, resolve=loopback), url) == "unanswered", "an unknown issuer is not trusted"
    await runner.cleanup()

"""`rediss://`: every client verifies the server, with the certificate authority of the settings, and `doctor` says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis.exceptions import ConnectionError as RedisConnectionError

from stockpot.light import BrokerProducer
from tests.factories import chat
from tests.rig.badtls import SelfSigned
from tests.rig.certificates import self_signed
from tests.rig.servers import ValkeyServer
from tests.rig.tls import TlsFront
from worker import embedded
from worker.base.errors import Unreachable
from worker.base.redis import asynchronous, blocking, pooled
from worker.base.settings import Settings
from worker.broker.probe import BrokerFailure, probe
from worker.cli.app import main

PASSWORD = "canary-password-77"


def settings_of(home: Path, port: int, ca_file: Path | None = None, host: str = "127.0.0.1") -> Settings:
    """A Redis over TLS."""
    return Settings(home=home, redis_url=f"rediss://:{PASSWORD}@{host}:{port}/0", redis_ca_file=ca_file)


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[SelfSigned]:
    """Who answers at our Redis's address, with a certificate that nobody vouches for."""
    with SelfSigned(tmp_path) as stranger:
        yield stranger


@pytest.mark.anyio
async def test_no_client_says_anything_to_an_unverified_server(stranger: SelfSigned, tmp_path: Path) -> None:
    """Neither the password nor a message: live, limits and broker alike."""
    settings = settings_of(tmp_path, stranger.port)
    url = embedded.redis_url(settings)
    with pytest.raises(RedisConnectionError, match="CERTIFICATE"), blocking(url, seconds=5) as client:
        client.ping()
    for one in (asynchronous(url, seconds=5), pooled(url, seconds=5, connections=2)):
        with pytest.raises(RedisConnectionError, match="CERTIFICATE"):
            await one.ping()
        await one.aclose()
    with pytest.raises(BrokerFailure, match="CERTIFICATE") as refused:
        probe(settings)
    assert PASSWORD not in str(refused.value)
    assert (stranger.refusals >= 4, stranger.told) == (True, 0)


@pytest.mark.anyio
async def test_a_private_authority_is_trusted_by_every_client(valkey: ValkeyServer, tmp_path: Path) -> None:
    """One setting for all of them. A certificate for another host is still refused."""
    certificate = self_signed(tmp_path / "ca.pem", "127.0.0.1")
    with TlsFront(certificate, ("127.0.0.1", valkey.port)) as front:
        settings = Settings(home=tmp_path, redis_url=f"rediss://127.0.0.1:{front.port}/0", redis_ca_file=certificate)
        url = embedded.redis_url(settings)
        with blocking(url, seconds=5) as client:
            assert client.ping()
        for one in (asynchronous(url, seconds=5), pooled(url, seconds=5, connections=2)):
            assert await one.ping()
            await one.aclose()
        before = front.forwarded
        probe(settings)
        assert front.forwarded > before
        other = Settings(home=tmp_path, redis_url=f"rediss://localhost:{front.port}/0", redis_ca_file=certificate)
        with pytest.raises(BrokerFailure, match="CERTIFICATE"):
            probe(other)
        with (
            pytest.raises(RedisConnectionError, match="CERTIFICATE"),
            blocking(embedded.redis_url(other), seconds=5) as c,
        ):
            c.ping()


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
@pytest.mark.parametrize("trusted", [True, False], ids=["for another host", "of nobody"])
def test_a_broker_is_told_nothing_before_its_certificate_is_ours(tmp_path: Path, scheme: str, *, trusted: bool) -> None:
    """Whatever it speaks, from a worker's connection and from the light producer's: the authority, and the host's name."""
    host = "localhost" if trusted else "127.0.0.1"
    with SelfSigned(tmp_path) as stranger:
        ca_file = tmp_path / "self-signed.pem" if trusted else None
        url = f"{scheme}://me:{PASSWORD}@{host}:{stranger.port}/0"
        settings = Settings(home=tmp_path, redis_url="redis://127.0.0.1:1/0", broker_url=url, redis_ca_file=ca_file)
        with pytest.raises(BrokerFailure, match="CERTIFICATE"):
            probe(settings)
        with (
            BrokerProducer(url, ca_file=None if ca_file is None else str(ca_file)) as light,
            pytest.raises(Unreachable) as refused,
        ):
            light.submit(chat("x"))
        assert PASSWORD not in str(refused.value)
        assert stranger.refusals >= 2
        assert stranger.told == 0


#: What a certificate may be that is none of ours: of nobody, of another authority, for another host.
WRONG = {
    "of nobody": (None, "127.0.0.1"),
    "of another": ("other.pem", "127.0.0.1"),
    "for another": ("ca.pem", "localhost"),
}


@pytest.mark.parametrize("setting", ["REDIS", "BROKER"])
@pytest.mark.parametrize("wrong", [None, *WRONG])
def test_doctor_says_of_each_whether_its_certificate_is_ours(
    valkey: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, wrong: str | None
) -> None:
    """The same server with the same certificate, which is right (None) or not as the settings have it."""
    certificate = self_signed(tmp_path / "ca.pem", "127.0.0.1")
    self_signed(tmp_path / "other.pem", "127.0.0.1")
    ca_file, host = ("ca.pem", "127.0.0.1") if wrong is None else WRONG[wrong]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKPOT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STOCKPOT_UPSTREAM_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("STOCKPOT_REDIS_URL", valkey.url)
    if ca_file is not None:
        monkeypatch.setenv("STOCKPOT_REDIS_CA_FILE", str(tmp_path / ca_file))
    with TlsFront(certificate, ("127.0.0.1", valkey.port)) as front:
        monkeypatch.setenv(f"STOCKPOT_{setting}_URL", f"rediss://{host}:{front.port}/0")
        done = CliRunner().invoke(main, ["doctor", "--json"])
        found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert found[setting.lower()]["outcome"] == ("ok" if wrong is None else "unreachable")
        assert (front.forwarded > 0) == (wrong is None)


@pytest.mark.parametrize("setting", ["REDIS", "BROKER"])
def test_doctor_fails_where_any_of_them_fails_and_shows_no_password(
    stranger: SelfSigned, valkey: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """The broker may be another server than Redis."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKPOT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STOCKPOT_REDIS_URL", valkey.url)
    monkeypatch.setenv(f"STOCKPOT_{setting}_URL", f"rediss://:{PASSWORD}@127.0.0.1:{stranger.port}/0")
    monkeypatch.setenv("STOCKPOT_UPSTREAM_URL", "http://127.0.0.1:1/v1")
    done = CliRunner().invoke(main, ["doctor", "--json"])
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    failed = found[setting.lower()]
    assert failed["outcome"] == "unreachable"
    assert "STOCKPOT_REDIS_CA_FILE" in failed["mend"]
    assert PASSWORD not in done.output
    assert done.exit_code == 3

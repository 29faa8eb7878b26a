"""Redis URLs as people write them, and what our clients and kombu make of them."""

from __future__ import annotations

import pytest
from kombu import Connection

from worker.base.errors import SettingsError
from worker.base.redis import blocking
from worker.base.redis_urls import for_kombu, in_force, namespace_of
from worker.base.settings import load

CA = "/etc/ca.pem"


@pytest.mark.parametrize(
    ("url", "host", "database", "password"),
    [
        ("redis://h", "h", 0, None),
        ("redis://:pw@h:1/3", "h", 3, "pw"),
        ("redis://h/4?db=6", "h", 6, None),
        ("redis://h/1?health_check_interval=3&socket_timeout=9&max_connections=2", "h", 1, None),
        ("redis://user:p%40%2F@[::1]:1/2", "::1", 2, "p@/"),
        ("valkey://:pw@h/5", "h", 5, "pw"),
        ("rediss://h/1", "h", 1, None),
        ("valkeys://h?ssl_ca_certs=/mine.pem", "h", 0, None),
        ("unix:///run/r.sock", None, 0, None),
        ("unix:///run/r.sock?db=2&password=p%40w", None, 2, "p@w"),
        ("unix://user:pw@/run/r.sock", None, 0, "pw"),
    ],
)
def test_redis_py_and_kombu_are_led_to_the_same_place(
    url: str, host: str | None, database: int, password: str | None
) -> None:
    """The same server, database, password and TLS, by whatever spelling; and the form in force stays as it is."""
    forced = in_force(url, ca_file=CA, namespace="acme")
    assert in_force(forced, namespace="acme") == forced
    assert namespace_of(forced) == "acme"
    options = blocking(forced, seconds=1).connection_pool.connection_kwargs
    broker = Connection(for_kombu(forced))
    assert (options.get("host"), int(options.get("db", 0)), options.get("password")) == (host, database, password)
    assert options["socket_timeout"] == 1, "our own bound stands"
    assert "namespace" not in options
    if host is None:
        assert options["path"] == "/run/r.sock"
        assert for_kombu(forced).endswith(f"/run/r.sock?virtual_host={database}")
    else:
        assert (broker.hostname, int(broker.virtual_host or 0), broker.password) == (host, database, password)
    if url.startswith(("rediss", "valkeys")):
        authority = "/mine.pem" if "mine" in url else CA
        assert (options["ssl_cert_reqs"], options["ssl_ca_certs"]) == ("required", authority)
        assert isinstance(broker.ssl, dict)
        assert (int(broker.ssl["ssl_cert_reqs"]), broker.ssl["ssl_ca_certs"]) == (2, authority)
        assert broker.ssl["ssl_check_hostname"]
    if password:
        assert password not in broker.as_uri()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sentinel://h:1/0", "Sentinel"),
        ("redis+sentinel://h:1/mymaster/0", "Sentinel"),
        ("redis+cluster://h:1", "Cluster"),
        ("h:6379", "redis://"),
        ("http://h", "redis://"),
        ("redis://", "host"),
        ("redis://h/name", "number"),
        ("redis://h?decode_responses=true", "decode_responses"),
        ("redis://h?ssl_ca_certs=/x", "ssl_ca_certs"),
        ("unix://relative", "unix://"),
    ],
)
@pytest.mark.parametrize("setting", ["redis_url", "broker_url"])
def test_what_cannot_work_is_refused_at_start_in_one_sentence(setting: str, url: str, sentence: str) -> None:
    """By the setting's name, for producers as for workers."""
    if setting == "broker_url" and url.startswith(("http", "h:")):
        url, sentence = "nonsense", "://"
    with pytest.raises(SettingsError, match=sentence) as refused:
        load(**{setting: url})
    assert str(refused.value).startswith(f"STOCKPOT_{setting.upper()}: ")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a.b", "é", "x" * 41])
def test_a_namespace_is_a_short_word(name: str) -> None:
    """It stands in the middle of names, so it may not hold what divides them."""
    with pytest.raises(SettingsError, match="STOCKPOT_REDIS_NAMESPACE"):
        load(redis_namespace=name)

"""Base URLs as people write them, and what goes along with each request to them."""

from __future__ import annotations

import pytest

from worker.base.base_url import BaseUrl
from worker.base.errors import SettingsError
from worker.base.proxies import proxy_for
from worker.base.settings import load

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("base", "chat", "billing"),
    [
        ("https://h/v1", "https://h/v1/chat/completions", "https://h/v2/billing"),
        ("https://h", "https://h/v1/chat/completions", "https://h/v2/billing"),
        ("https://h/", "https://h/v1/chat/completions", "https://h/v2/billing"),
        ("https://h/api/v1/", "https://h/api/v1/chat/completions", "https://h/api/v2/billing"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions", "https://h/v2/billing"),
        ("https://h/v1/responses/", "https://h/v1/chat/completions", "https://h/v2/billing"),
        ("https://h/chat/completions", "https://h/chat/completions", "https://h/v2/billing"),
        ("https://h/responses/?a=b", "https://h/chat/completions?a=b", "https://h/v2/billing?a=b"),
        ("https://h/v1?a=b", "https://h/v1/chat/completions?a=b", "https://h/v2/billing?a=b"),
        (
            "https://h/openai/deployments/d/chat/completions?api-version=2024-06-01",
            "https://h/openai/deployments/d/chat/completions?api-version=2024-06-01",
            "https://h/openai/deployments/d/v2/billing?api-version=2024-06-01",
        ),
        ("http://[::1]:3/v1", "http://[::1]:3/v1/chat/completions", "http://[::1]:3/v2/billing"),
        ("https://h/a%2Fb/v1", "https://h/a%2Fb/v1/chat/completions", "https://h/a%2Fb/v2/billing"),
    ],
)
def test_an_endpoint_joins_its_base(base: str, chat: str, billing: str) -> None:
    """The query stays behind the path; and the setting's own text means the same as what was written."""
    for url in (BaseUrl.parse(base), BaseUrl.parse(load(upstream_url=base).upstream_url)):
        assert (url.of(CHAT), url.of("/v2/billing")) == (chat, billing)


@pytest.mark.parametrize(
    ("given", "headers"),
    [
        ("HTTP-Referer=https://x/?a=b, X-Title = My App", {"HTTP-Referer": "https://x/?a=b", "X-Title": "My App"}),
        ('{"api-key": "a,b"}', {"api-key": "a,b"}),
        ({"X-A": "1"}, {"X-A": "1"}),
    ],
)
def test_headers_are_given_in_three_forms(given: object, headers: dict[str, str]) -> None:
    """And are kept like keys."""
    settings = load(upstream_headers=given)
    assert settings.upstream_headers is not None
    assert {name: value.get_secret_value() for name, value in settings.upstream_headers.items()} == headers
    assert not any(value in repr(settings) for value in headers.values() if len(value) > 1)


@pytest.mark.parametrize(
    "given", ["X", "{", "[]", "Host=x", "content-type=x", "a b=c", "X=\u00e9", '{"X": 1}', "X=a\nb"]
)
def test_headers_that_cannot_be_sent_are_refused(given: str) -> None:
    """At start, by the setting's name."""
    with pytest.raises(SettingsError, match="STOCKPOT_UPSTREAM_HEADERS"):
        load(upstream_headers=given)


def test_the_proxy_is_the_one_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the providers' SDKs read it."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_for("https://h/v1") is None
    monkeypatch.setenv("ALL_PROXY", "p:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://q:2")
    monkeypatch.setenv("NO_PROXY", "localhost,.inner,ten:8000")
    assert proxy_for("https://h/v1") == "http://q:2"
    assert proxy_for("http://h/v1") == "http://p:1"
    for url in ("http://localhost:9/v1", "https://a.inner/v1", "http://ten:8000/v1"):
        assert proxy_for(url) is None
    assert proxy_for("http://ten:8001/v1") == "http://p:1"
    monkeypatch.setenv("HTTPS_PROXY", "socks5://p:1")
    with pytest.raises(SettingsError, match="socks5"):
        proxy_for("https://h/v1")


@pytest.mark.parametrize(
    ("exceptions", "url", "direct"),
    [
        ("*", "https://anywhere/v1", True),
        ("a.test, b.test", "https://b.test/v1", True),
        ("b.test", "https://deep.b.test/v1", True),
        ("b.test", "https://notb.test/v1", False),
        ("*.b.test", "https://deep.B.test/v1", True),
        ("b.test:8000", "https://b.test:8000/v1", True),
        ("b.test:8000", "https://b.test/v1", False),
        ("b.test:443", "https://b.test/v1", True),
        ("10.0.0.0/8", "http://10.1.2.3/v1", True),
        ("10.0.0.0/8", "http://11.1.2.3/v1", False),
        ("10.1.2.3", "http://10.1.2.3:8000/v1", True),
        ("10.0.0.0/8", "http://10.1.2.3.test/v1", False),
        ("[::1]", "http://[::1]:8000/v1", True),
        ("[::1]:8000", "http://[::1]:8001/v1", False),
        ("fd00::/8", "http://[fd00::5]/v1", True),
        (",, ", "https://b.test/v1", False),
    ],
)
def test_exceptions_are_names_addresses_and_networks(
    exceptions: str, url: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As curl and requests read `NO_PROXY`."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", exceptions)
    assert (proxy_for(url) is None) is direct


@pytest.mark.parametrize(
    ("given", "proxy"),
    [
        ("P:1", "http://P:1"),
        ("HTTP://p:1", "http://p:1"),
        ("http://u%40:p%3A@p:1/", "http://u%40:p%3A@p:1/"),
        ("https://p", "https://p"),
        (" ", None),
    ],
)
def test_a_proxy_is_named_in_several_forms(given: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a scheme it is an HTTP one; of no length it is none."""
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", given)
    assert proxy_for("https://h/v1") == proxy


@pytest.mark.parametrize(
    "given",
    ["http://", "http://h:port", "::::", "http://u:secret/w@p:1", "http://u:se@cret@p:1", "socks5://u:secret@p:1"],
)
def test_a_proxy_that_cannot_be_used_is_refused_at_start(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not passed by, and not tried with each call; its password is not repeated."""
    for name in ("https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", given)
    with pytest.raises(SettingsError, match="prox") as refused:
        proxy_for("https://h/v1")
    assert "cret" not in str(refused.value)

"""Which URLs and addresses a webhook may have."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from api_schemas.webhook_urls import check_url, read_target
from worker.base.errors import InvalidRequest, SettingsError
from worker.webhooks.addresses import Policy


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://example.com/hooks", "https://example.com:443"),
        ("https://example.com", "https://example.com:443"),
        ("https://Example.COM:8443/a?token=%20x&y=1", "https://example.com:8443"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example:443"),
        ("https://a_b.example/", "https://a_b.example:443"),
        ("https://93.184.215.14/x", "https://93.184.215.14:443"),
        (
            "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:8443/",
            "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:8443",
        ),
        ("http://localhost:9000/x", "http://localhost:9000"),
        ("https://127.0.0.1.nip.io/", "https://127.0.0.1.nip.io:443"),
        ("https://3com.com/", "https://3com.com:443"),
        ("https://example.com/a@b", "https://example.com:443"),
    ],
)
def test_ordinary_urls_are_accepted(url: str, origin: str) -> None:
    """Where they lead is judged when the connection is made."""
    assert read_target(url).origin == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "javascript:alert(1)",
        "https://",
        "https:///path",
        "https://example.com/\r\nX-Injected: yes",
        "https://example.com/\nHost: evil",
        "https://example.com\r/",
        "https://example.com/a b",
        "https://example.com/\x00",
        "https://example.com/\x7f",
        "https://user@example.com/",
        "https://user:pass@example.com/",
        "https://:@example.com/",
        "https://example.com\\@evil.example/",
        "https://exa mple.com/",
        "https://bücher.example/",
        "https://example.com/ü",
        "https://example.com/#fragment",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:/",
        "https://example.com:80:80/",
        "https://example..com/",
        "https://-example.com/",
        "https://example.com./",
        "https://[::1/",
        "https://[v1.x]/",
        "https://[127.0.0.1]/",
        "https://" + "a" * 64 + ".com/",
        "https://" + "a." * 130 + "com/",
        "https://example.com/" + "x" * 2_048,
    ],
)
def test_injection_and_odd_spellings_are_refused_at_submit(url: str) -> None:
    """F69; and the message does not repeat the URL, which may hold a token."""
    with pytest.raises(InvalidRequest) as caught:
        check_url(url)
    assert len(url) < 12 or url not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("htps:/@#?[]\\.%0123456789abcdefx \r\n\t"), min_size=1).map("http://".__add__))
def test_what_is_accepted_is_read_alike_by_the_http_client(url: str) -> None:
    """No two opinions on host and port: that is what parser confusion lives from."""
    try:
        target = read_target(url)
    except InvalidRequest:
        return
    seen = URL(url, encoded=True)
    assert (seen.scheme, seen.port) == (target.scheme, target.port)
    assert seen.user is None
    if target.address is None:
        assert (seen.host or "").lower() == target.host
    else:
        assert ip_address(seen.host or "") == target.address


@settings(max_examples=200, deadline=None)
@given(st.ip_addresses(v=4))
def test_what_python_calls_private_is_denied(address: object) -> None:
    """Our lists are at least as strict as the standard library's."""
    parsed = ip_address(str(address))
    if not parsed.is_global:
        assert Policy().refusal(parsed) is not None


@settings(max_examples=200, deadline=None)
@given(st.ip_addresses(v=6))
def test_an_ipv6_address_outside_global_unicast_is_denied(address: object) -> None:
    """Whatever is not handed out to the public."""
    parsed = ip_address(str(address))
    if int(parsed) >> 125 != 1 or not parsed.is_global:
        assert Policy().refusal(parsed) is not None


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700::1111", "2a00:1450::1"])
def test_public_addresses_are_allowed(address: str) -> None:
    """The guard lets ordinary receivers through."""
    assert Policy().refusal(ip_address(address)) is None


def test_a_list_of_networks_opens_just_those() -> None:
    """Also a NAT64 prefix, behind which the embedded address counts."""
    policy = Policy.parse("10.1.0.0/16, 64:ff9b::/96")
    assert policy.refusal(ip_address("10.1.2.3")) is None
    assert policy.refusal(ip_address("64:ff9b::8.8.8.8")) is None
    for denied in ("10.2.0.1", "127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::192.168.0.1"):
        assert policy.refusal(ip_address(denied)) is not None


@pytest.mark.parametrize("setting", ["10.0.0.0/33", "maybe", "10.0.0.1/8"])
def test_a_setting_that_is_no_network_is_refused_by_name(setting: str) -> None:
    """The message names the key."""
    with pytest.raises(SettingsError, match="STOCKPOT_WEBHOOK_ALLOW_PRIVATE"):
        Policy.parse(setting)

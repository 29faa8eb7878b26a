"""Signatures are those of Standard Webhooks 1.0.0: its vector, its reference package and the OpenAI SDK agree."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime

import openai
import pytest
import time_machine
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from api_schemas.webhooks import SignatureError, verify
from worker.base.errors import InvalidRequest
from worker.webhooks.signing import key_of, new_secret, signed_headers, spell

BODY = '{"id":"evt_1","object":"event","created_at":1,"type":"batch.completed","data":{"id":"batch_1"}}'


def accepts(secret: str, headers: dict[str, str], body: str) -> bool:
    """Whether the reference package, the OpenAI SDK and our own helper accept it; they must agree."""
    verdicts = set()
    for ask in (
        lambda: Webhook(secret).verify(body, headers),
        lambda: openai.OpenAI(api_key="none").webhooks.unwrap(body, headers, secret=secret),
        lambda: verify(body.encode(), headers, secret),
    ):
        try:
            ask()
            verdicts.add(True)
        except (WebhookVerificationError, openai.InvalidWebhookSignatureError, SignatureError):
            verdicts.add(False)
    assert len(verdicts) == 1, "the three verifiers disagree"
    return verdicts.pop()


def test_the_vector_of_the_specification() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks, as its libraries test it."""
    headers = signed_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        '{"test": 2432232314}',
        [key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_three_verifiers_accept_either_secret_of_a_rotation_and_no_other() -> None:
    """Signed with two secrets, each of them verifies; a third does not."""
    old, new, other = new_secret(), new_secret(), new_secret()
    headers = signed_headers("evt_1", int(time.time()), BODY, [key_of(new), key_of(old)])
    assert len(headers["webhook-signature"].split(" ")) == 2
    assert [accepts(secret, headers, BODY) for secret in (old, new, other)] == [True, True, False]


def test_one_changed_byte_anywhere_is_noticed() -> None:
    """In the body, the id, the timestamp or the signature."""
    secret = new_secret()
    headers = signed_headers("evt_1", int(time.time()), BODY, [key_of(secret)])
    assert accepts(secret, headers, BODY)
    assert not accepts(secret, headers, BODY.replace("batch_1", "batch_2"))
    assert not accepts(secret, headers | {"webhook-id": "evt_2"}, BODY)
    assert not accepts(secret, headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)}, BODY)
    first = headers["webhook-signature"][3]
    forged = headers["webhook-signature"].replace(first, "B" if first != "B" else "C", 1)
    assert not accepts(secret, headers | {"webhook-signature": forged}, BODY)


@pytest.mark.parametrize(("age", "accepted"), [(0, True), (299, True), (-299, True), (301, False), (-301, False)])
def test_a_delivery_is_good_for_five_minutes_both_ways(age: int, accepted: bool) -> None:
    """The tolerance of the reference libraries."""
    secret = new_secret()
    now = 1_800_000_000
    headers = signed_headers("evt_1", now, BODY, [key_of(secret)])
    with time_machine.travel(datetime.fromtimestamp(now + age, tz=UTC), tick=False):
        assert accepts(secret, headers, BODY) is accepted


@settings(max_examples=50, deadline=None)
@given(body=st.text(st.characters(exclude_categories=["Cs"])), key=st.binary(min_size=24, max_size=64))
def test_any_text_verifies_byte_for_byte(body: str, key: bytes) -> None:
    """Signed is exactly what is sent."""
    headers = signed_headers("evt_1", int(time.time()), body, [key])
    Webhook(key).verify(body.encode(), headers, json_parse=False)


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/Los_Angeles"])
def test_the_machines_time_zone_changes_nothing(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package would sign another time for a local datetime."""
    utc = signed_headers("evt_1", 1_800_000_000, BODY, [b"k" * 32])
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert signed_headers("evt_1", 1_800_000_000, BODY, [b"k" * 32]) == utc
    finally:
        monkeypatch.undo()
        time.tzset()


def test_an_ambiguous_id_and_no_key_are_refused() -> None:
    """A dot in the id could move bytes from the id to the timestamp."""
    with pytest.raises(ValueError, match="dot"):
        signed_headers("evt.1", 1, BODY, [b"k" * 32])
    with pytest.raises(ValueError, match="key"):
        signed_headers("evt_1", 1, BODY, [])


def test_secrets_are_spelled_as_the_specification_says() -> None:
    """`whsec_` and base64 of 24 to 64 bytes; new ones differ."""
    assert key_of(spell(b"k" * 24)) == b"k" * 24
    assert len({new_secret() for _ in range(100)}) == 100
    assert len(key_of(new_secret())) == 32


@pytest.mark.parametrize(
    "wrong",
    ["", "whsec_", "whsec_!!!", spell(b"k" * 23), spell(b"k" * 65), base64.b64encode(b"k" * 32).decode(), "whsk_AAAA"],
)
def test_what_is_no_secret_is_refused_without_repeating_it(wrong: str) -> None:
    """The message may end in a log."""
    with pytest.raises(InvalidRequest) as caught:
        key_of(wrong)
    assert not wrong or wrong == "whsec_" or wrong not in str(caught.value)

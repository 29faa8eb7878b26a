"""The gateway's frame: models, error bodies, request ids, and who is served without a key."""

from __future__ import annotations

import openai
import pytest

from tests.rig.gateway import Gateway


def test_models_are_the_upstreams_with_their_prices(gateway: Gateway) -> None:
    """Read by the unmodified SDK."""
    with gateway.sdk() as sdk:
        listed = {model.id: model for model in sdk.models.list()}
        one = sdk.models.retrieve("openai/gpt-4o-mini")
    assert one.id in listed and one.object == "model"
    assert one.model_extra is not None and one.model_extra["price"]["output"] == pytest.approx(0.78)


@pytest.mark.parametrize("path", ["/v1/models/openai%2Fgpt-4o-mini", "/models/openai/gpt-4o-mini"])
def test_a_model_is_found_with_and_without_v1_and_with_its_slash_quoted(gateway: Gateway, path: str) -> None:
    with gateway.http() as http:
        answer = http.get(path)
    assert answer.status_code == 200 and answer.json()["id"] == "openai/gpt-4o-mini"


def test_an_unknown_model_is_not_found(gateway: Gateway) -> None:
    with gateway.sdk() as sdk, pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("nobody/knows")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/conversations/conv_1", 404), ("POST", "/v1/models", 405), ("GET", "/nowhere", 404)],
)
def test_what_is_not_served_gets_the_error_body(gateway: Gateway, method: str, path: str, status: int) -> None:
    """All four keys, and OpenAI's headers."""
    with gateway.http() as http:
        answer = http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_") and answer.headers["openai-version"] == "2020-10-01"


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {"x-forwarded-for": "203.0.113.9"}, {"forwarded": "for=203.0.113.9"}]
)
def test_without_a_key_whoever_may_not_be_on_this_machine_is_refused(gateway: Gateway, headers: dict[str, str]) -> None:
    """A page that was rebound to loopback, and whatever a proxy on this machine hands on."""
    with gateway.http() as http:
        answer = http.get("/v1/models", headers=headers)
    assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"


def test_health_and_metrics_need_no_key(gateway: Gateway) -> None:
    with gateway.http() as http:
        assert http.get("/livez").text == "ok\n"
        assert http.get("/readyz").text == "ok\n"
        assert 'stockpot_requests_total{route="/livez",status="200"}' in http.get("/metrics").text

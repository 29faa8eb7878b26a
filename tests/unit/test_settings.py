"""Settings: where they come from, what is refused, and how it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worker.base import settings as module
from worker.base.errors import SettingsError
from worker.base.settings import load


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without `.env` and `stockpot.toml`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_has_a_default(nowhere: Path) -> None:
    """As the contract says."""
    given = load()
    assert given.home == nowhere / "var"
    assert given.database_url == ""
    assert (given.redis_url, given.upstream_url, given.key) == (None, "https://api.aimlapi.com/v1", None)
    assert (given.concurrency, given.lease_seconds, given.sweep_seconds, given.drain_seconds) == (200, 30, 1, 30)
    assert (given.max_attempts, given.job_ttl_seconds, given.on_ambiguous) == (5, 86_400, "reconcile")
    assert (given.first_event_timeout, given.idle_timeout, given.total_timeout) == (60, 45, 600)
    assert given.heartbeat_seconds == 10


def test_arguments_go_before_the_environment_before_dotenv_before_toml(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nowhere / "stockpot.toml").write_text("concurrency = 1\nmax_attempts = 1\nlease_seconds = 11\nrpm = 1\n")
    (nowhere / ".env").write_text("STOCKPOT_CONCURRENCY=2\nSTOCKPOT_MAX_ATTEMPTS=2\nSTOCKPOT_LEASE_SECONDS=12\n")
    monkeypatch.setenv("STOCKPOT_CONCURRENCY", "3")
    monkeypatch.setenv("STOCKPOT_MAX_ATTEMPTS", "3")
    given = load(concurrency=4)
    assert (given.concurrency, given.max_attempts, given.lease_seconds, given.rpm) == (4, 3, 12, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STOCKPOT_CONCURRENCY", "0"),
        ("STOCKPOT_CONCURRENCY", "many"),
        ("STOCKPOT_LEASE_SECONDS", "-1"),
        ("STOCKPOT_LEASE_SECONDS", "nan"),
        ("STOCKPOT_LEASE_SECONDS", "inf"),
        ("STOCKPOT_MAX_ATTEMPTS", "0"),
        ("STOCKPOT_ON_AMBIGUOUS", "guess"),
        ("STOCKPOT_UPSTREAM_URL", "ftp://example.com"),
        ("STOCKPOT_LOG_LEVEL", "loud"),
        ("STOCKPOT_HTTP_PORT", "70000"),
        ("STOCKPOT_WEBHOOK_ALLOW_PRIVATE", "10.0.0.0/33"),
        ("STOCKPOT_WEBHOOK_ALLOW_PRIVATE", "maybe"),
        ("STOCKPOT_WEBHOOK_SECRET", "whsec_short"),
        ("STOCKPOT_WEBHOOK_SECRET", "c2VjcmV0"),
        ("STOCKPOT_WEBHOOK_RETRY_SCALE", "2"),
        ("STOCKPOT_ANSWER_MEMORY_BYTES", "1000"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_the_keys_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load()


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKPOT_CONCURRENCY", "0")
    monkeypatch.setenv("STOCKPOT_MAX_ATTEMPTS", "0")
    with pytest.raises(SettingsError) as refused:
        load()
    assert "STOCKPOT_CONCURRENCY" in str(refused.value)
    assert "STOCKPOT_MAX_ATTEMPTS" in str(refused.value)


@pytest.mark.parametrize("where", ["environment", "dotenv", "toml"])
def test_an_unknown_key_is_refused_by_name(nowhere: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """A setting with a typing error would silently be its default."""
    if where == "environment":
        monkeypatch.setenv("STOCKPOT_CONCURENCY", "5")
    elif where == "dotenv":
        (nowhere / ".env").write_text("STOCKPOT_CONCURENCY=5\n")
    else:
        (nowhere / "stockpot.toml").write_text("concurency = 5\n")
    with pytest.raises(SettingsError, match="(?i)concurency"):
        load()


def test_a_dotenv_shared_with_the_application_is_no_trouble(nowhere: Path) -> None:
    """Other programs' keys stand in it too."""
    (nowhere / ".env").write_text("DATABASE_URL=x\nSECRET=y\nSTOCKPOT_RPM=7\nAIMLAPI_API_KEY=k\n")
    given = load()
    assert (given.rpm, given.key) == (7, "k")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"idle_timeout": 10, "total_timeout": 5, "first_event_timeout": 1}, "STOCKPOT_IDLE_TIMEOUT"),
        ({"first_event_timeout": 10, "total_timeout": 5, "idle_timeout": 1}, "STOCKPOT_FIRST_EVENT_TIMEOUT"),
        ({"sweep_seconds": 5, "lease_seconds": 1}, "STOCKPOT_SWEEP_SECONDS"),
        ({"api_key": "  "}, "STOCKPOT_API_KEY"),
    ],
)
def test_half_answers_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load(**given)


@pytest.mark.parametrize("name", ["AIMLAPI_API_KEY", "STOCKPOT_API_KEY"])
def test_the_key_is_read_and_never_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "sk-secret\n")
    given = load()
    assert given.key == "sk-secret"
    assert "sk-secret" not in repr(given) + str(given.model_dump()) + given.key_id
    assert len(given.key_id) == 12


def test_a_key_file_that_was_rotated_counts_at_once(nowhere: Path) -> None:
    file = nowhere / "key"
    file.write_text("first\n")
    given = load(api_key_file=file)
    assert given.key == "first"
    file.write_text("second\n")
    assert given.key == "second"
    file.unlink()
    with pytest.raises(SettingsError, match="STOCKPOT_API_KEY_FILE"):
        _ = given.key


def test_a_refused_value_of_a_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages go to logs."""
    monkeypatch.setenv("STOCKPOT_API_KEY", "sk-secret")
    monkeypatch.setenv("STOCKPOT_CONCURRENCY", "0")
    with pytest.raises(SettingsError) as refused:
        load()
    assert "sk-secret" not in str(refused.value)


def test_settings_are_read_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    module.settings.cache_clear()
    monkeypatch.setenv("STOCKPOT_RPM", "1")
    first = module.settings()
    monkeypatch.setenv("STOCKPOT_RPM", "2")
    assert module.settings() is first


def test_tenants_have_weights_and_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`acme=3,beta=1`; nothing else, and no weight that would leave the others nothing."""
    assert load().weights == {}
    monkeypatch.setenv("STOCKPOT_TENANT_WEIGHTS", "acme=3, beta=1")
    assert load().weights == {"acme": 3, "beta": 1}
    for wrong in ("acme", "acme=", "=3", "acme=0", "acme=1.5", "acme=99999", "acme=3,,beta=1"):
        monkeypatch.setenv("STOCKPOT_TENANT_WEIGHTS", wrong)
        with pytest.raises(SettingsError, match="STOCKPOT_TENANT_WEIGHTS"):
            load()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a" * 20 + ",", "part 2 of 2 is empty"),
        (",", "part 1 of 2 is empty"),
        ("a" * 20 + ", ," + "b" * 20, "part 2 of 3 is empty"),
        ("Xq9" + "a" * 20 + ",b7{", "part 2 of 2 has fewer than 16 characters"),
        ("a" * 20 + ",short," + "b" * 20, "part 2 of 3 has fewer than 16 characters"),
        ("a" * 20 + "," + "b" * 20 + "," + "a" * 20, "part 3 of 3 is the same as part 1"),
        ("short", "it has fewer than 16 characters"),
    ],
)
@pytest.mark.parametrize("name", ["STOCKPOT_SECRET_KEY", "STOCKPOT_PAYLOAD_KEY"])
def test_a_key_with_a_comma_is_no_two_keys_without_a_word(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    """A list is refused by the place of the part that can be no key, and no part is shown."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load()
    assert str(refused.value).startswith(f"{name}: ") and why in str(refused.value)
    assert ("a comma separates keys" in str(refused.value)) == ("," in value)
    assert not any(part.strip() and part.strip() in str(refused.value) for part in value.split(",") if part != "short")


def test_a_list_of_webhook_secrets_is_refused_by_the_place_of_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """As any list of keys."""
    monkeypatch.setenv("STOCKPOT_WEBHOOK_SECRET", "whsec_" + "A" * 32 + ",whsec_zzz")
    with pytest.raises(SettingsError, match="part 2 of 2 is none: a webhook secret is whsec_"):
        load()

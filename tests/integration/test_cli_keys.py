"""`stockpot keys` as people and programs see it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from tests.factories import opened
from worker.cli.app import main
from worker.producer.keys import Keys


def run(*options: str, code: int = 0) -> str:
    """What the command prints."""
    done = CliRunner().invoke(main, ["keys", *options])
    assert done.exit_code == code, done.output
    return done.stdout


@pytest.fixture(autouse=True)
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", database_url)
    return database_url


def test_a_key_is_printed_once_and_listed_without_its_secret(database: str) -> None:
    options = ["--tenant", "acme", "--models", "a,b", "--rpm", "5", "--budget", "2.5", "--expires", "90d"]
    made: dict[str, Any] = json.loads(run("create", *options, "--json"))
    assert made["key"].startswith("sk-sp-") and made["models"] == ["a", "b"] and made["budget_usd"] == 2.5
    assert made["key"] not in run("list") and made["key"] not in run("list", "--json")
    assert made["id"] in run("list", "--tenant", "acme") and made["id"] not in run("list", "--tenant", "other")
    rotated = run("rotate", made["id"], "--grace", "1h").strip()
    with opened(database) as opened_database:
        keys = Keys(opened_database)
        assert keys.find(made["key"]) == keys.find(rotated) is not None
        run("revoke", made["id"])
        assert keys.find(rotated) is None


def test_a_tenants_limits_are_set_listed_and_removed() -> None:
    made = json.loads(run("limit", "--tenant", "acme", "--rpm", "600", "--max-in-flight", "5", "--json"))
    assert made == {"tenant": "acme", "rpm": 600, "tpm": None, "max_in_flight": 5}
    run("limit", "--tenant", "acme", "--tpm", "1000")
    assert json.loads(run("limit", "--json")) == {"tenant": "acme", "rpm": None, "tpm": 1000, "max_in_flight": None}
    assert "1,000" in run("limit")
    run("limit", "--tenant", "acme", "--remove")
    assert run("limit", "--json") == ""


@pytest.mark.parametrize(
    "options",
    [
        ("limit", "--rpm", "5"),
        ("limit", "--tenant", "acme"),
        ("limit", "--tenant", "acme", "--remove"),
        ("limit", "--remove"),
        ("create", "--rpm", "0"),
        ("create", "--budget", "-1"),
        ("create", "--expires", "soon"),
        ("create", "--admin", "--read-only"),
        ("create", "--tenant", "a b"),
        ("revoke", "key_nobody"),
    ],
)
def test_what_no_key_can_have_is_a_usage_error(options: tuple[str, ...]) -> None:
    run(*options, code=2)
    assert run("list", "--json") == ""

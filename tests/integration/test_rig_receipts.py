"""A receiver's journal is verified once more from what was sent: whoever tampers with it is found."""

from __future__ import annotations

import dataclasses
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.rig import checker
from tests.rig.hookd import HookReceiver, read_journal
from tests.rig.receipts import unverified
from worker.base.settings import load
from worker.db.connect import Database
from worker.webhooks.envelope import Settled, event_body
from worker.webhooks.signing import key_of, new_secret, signed_headers

SECRET = new_secret()
Line = dict[str, Any]
BODY = event_body("evt_1", Settled(kind="job", id="job_1", tenant="default", status="completed", settled_at=1))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The journal of a receiver that got one good delivery."""
    path = tmp_path / "hooks.jsonl"
    with HookReceiver([SECRET], journal=path) as hooks:
        signed = signed_headers("evt_1", int(time.time()), BODY, [key_of(SECRET)])
        urllib.request.urlopen(urllib.request.Request(hooks.url(), BODY.encode(), signed)).close()
    return path


def rewrite(journal: Path, change: Callable[[Line], object]) -> None:
    """Tamper with the journal's only line."""
    line = json.loads(journal.read_text())
    change(line)
    journal.write_text(json.dumps(line) + "\n")


def test_what_arrived_verifies_again_also_a_year_later(journal: Path) -> None:
    """The age that counts is that at arrival, and two secrets may be in use."""
    (delivery,) = read_journal(journal)
    assert list(unverified([delivery], [SECRET])) == list(unverified([delivery], [new_secret(), SECRET])) == []
    year = 365 * 86_400
    old = dataclasses.replace(delivery, at=delivery.at - year)
    (found,) = unverified([old], [SECRET])
    assert "timestamp" in found.what, "a delivery that arrived a year before it was signed"


@pytest.mark.parametrize(
    "tamper",
    [
        lambda line: line.update(body=line["body"].replace("completed", "cancelled")),
        lambda line: line.update(body=line["body"] + " "),
        lambda line: line["headers"].update({"webhook-id": "evt_2"}),
        lambda line: line["headers"].update({"webhook-timestamp": str(int(line["headers"]["webhook-timestamp"]) + 1)}),
        lambda line: line["headers"].update({"webhook-signature": "v1," + "A" * 43 + "="}),
        lambda line: line["headers"].update({"webhook-signature": "nonsense"}),
        lambda line: line["headers"].pop("webhook-signature"),
        lambda line: line.update(at=line["at"] + 301),
    ],
    ids=["body", "a blank", "id", "timestamp", "signature", "no comma", "no signature", "age"],
)
def test_a_tampered_journal_is_found_although_its_verdict_says_verified(
    journal: Path, sqlite_url: str, tamper: Callable[[Line], object]
) -> None:
    """By itself, and by the checker that ends every fault test."""
    rewrite(journal, tamper)
    (delivery,) = read_journal(journal)
    assert delivery.verified, "the receiver's own verdict still stands in the journal"
    assert len(list(unverified([delivery], [SECRET]))) == 1
    found = checker.check(sqlite_url, hooks=journal, hook_secrets=[SECRET])
    assert any("does not verify again" in violation.what for violation in found)


def test_an_honest_journal_passes_the_checker(journal: Path, database_url: str) -> None:
    """With the event that it tells of in the database."""
    database = Database(load(database_url=database_url))
    database.write(lambda conn: conn.execute(sa.text(_DELIVERED)))
    database.close()
    assert checker.check(database_url, hooks=journal, hook_secrets=[SECRET]) == []
    assert checker.check(database_url, hooks=journal, hook_secrets=[new_secret()]) != []


_DELIVERED = (
    "INSERT INTO webhook_events (id, tenant, type, url, destination, body, status, due_at, created_at, delivered_at)"
    " VALUES ('evt_1', 'default', 'job.completed', 'http://127.0.0.1/ok', 'd', '{}', 'delivered',"
    " '2026-01-01 00:00:00.000', '2026-01-01 00:00:00.000', '2026-01-01 00:00:00.000')"
)

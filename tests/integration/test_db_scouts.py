"""Which job finds out whether a paused account takes calls again, on both databases."""

from __future__ import annotations

import pytest

from tests.factories import claimed, due_now, request, sql, submitted
from worker.db.connect import Database
from worker.db.jobs import scouts

LANES = ("interactive", "bulk")


def next_of(database: Database, model: str, lanes: tuple[str, ...] = LANES) -> str | None:
    return database.read(lambda conn: scouts.next_of(conn, model, lanes))


def others_wait(database: Database, job: str, lanes: tuple[str, ...] = LANES) -> bool:
    return database.read(lambda conn: scouts.others_wait(conn, job, lanes))


def refused(database: Database, job: str, error: str = "account") -> None:
    """It was refused for the account before, and is due for longer than any other."""
    sql(database, "UPDATE jobs SET error_class = :error, waiting_on = 'paused' WHERE id = :id", error=error, id=job)
    due_now(database, job)


@pytest.mark.parametrize("error", ["account", "authentication"])
def test_a_job_that_was_refused_itself_goes_behind_all_others(database: Database, error: str) -> None:
    """Whatever tenant, lane and model they have; alone it may go."""
    [own] = submitted(database, request("own", model="m"))
    refused(database, own, error)
    assert next_of(database, "m") == own
    assert next_of(database, "another model") is None
    assert not others_wait(database, own)
    [other] = submitted(database, request("other", model="m", tenant="acme", lane="bulk"))
    assert next_of(database, "m") == other
    assert next_of(database, "m", ("interactive",)) == own, "no worker claims the other's lane"
    assert others_wait(database, own)
    assert not others_wait(database, own, ("interactive",))
    assert claimed(database, other) == [] or others_wait(database, own), "it is in a worker's hands"
    refused(database, own)
    assert others_wait(database, own)


def test_a_job_in_a_workers_hands_waits_too_and_one_without_money_does_not(database: Database) -> None:
    own, other = submitted(database, request("own", model="m"), request("other", model="m"))
    refused(database, own)
    claimed(database, other)
    assert next_of(database, "m") == own
    assert others_wait(database, own)
    [poor] = submitted(database, request("poor", model="m"))
    sql(database, "UPDATE jobs SET status = 'queued', lease_owner = NULL, lease_until = NULL WHERE id = :id", id=other)
    for stuck in (poor, other):
        sql(database, "UPDATE jobs SET waiting_on = 'budget' WHERE id = :id", id=stuck)
    assert next_of(database, "m") == own
    assert not others_wait(database, own)


def test_of_several_that_were_refused_the_one_that_waits_longest_goes(database: Database) -> None:
    """So that the probe is another one each time."""
    first, second = submitted(database, request("first", model="m"), request("second", model="m"))
    refused(database, second)
    refused(database, first)
    sql(database, "UPDATE jobs SET due_at = (SELECT max(created_at) FROM jobs) WHERE id = :id", id=first)
    assert next_of(database, "m") == second
    assert not others_wait(database, first)

"""Whose refusal it is: the script that weighs an upstream's words about an account, in a real Valkey."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis

from tests.integration.test_limits_script import DAWN, KEYS, ROUTE, Fleet
from tests.rig.servers import ValkeyServer
from worker.limits import lua
from worker.limits.limiter import REMEMBERED, STRIKES
from worker.limits.route import Route


@pytest.fixture
def client(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    """A client of the emptied server."""
    with valkey.client() as connected:
        yield connected


def _believed(client: redis.Redis, route: Route, job: str, epoch: int, *, probed: bool = False) -> bool:
    body = json.dumps(
        {"job": job, "epoch": epoch, "probed": probed, "strikes": STRIKES, "most": REMEMBERED, "ttl": 10**9}
    )
    return bool(client.eval(lua.REFUSED, 2, KEYS.account(route.key_id), KEYS.state(route), body))


def _pause(client: redis.Redis) -> None:
    client.hset(KEYS.account("k"), mapping={"paused": "credits", "until": DAWN + 1_000})


def _resumed(client: redis.Redis) -> int:
    """The account's epoch after one more pause and resume."""
    _pause(client)
    client.eval(lua.RESUME, 1, KEYS.account("k"), "0")
    return int(client.hget(KEYS.account("k"), "epoch") or 0)


def test_words_about_the_account_are_believed_while_nothing_of_it_is_answered(client: redis.Redis) -> None:
    """However often the same jobs find out, and however late answers of before come in."""
    fleet = Fleet(client, limits={})
    assert _believed(client, ROUTE, "first", 0)
    fleet.ask("a", 0, 0, seen={"answered": 3})
    for _ in range(4):
        _pause(client)
        fleet.ask("a", 0, 0, seen={"answered": 3})
        epoch = _resumed(client)
        assert all(_believed(client, ROUTE, job, epoch) for job in ("first", "second"))


def test_a_job_that_is_refused_again_after_others_passed_has_itself_to_blame_whoever_saw_it(
    client: redis.Redis,
) -> None:
    """Twice: once may be chance, an account that was filled and is empty again. Three workers see one thing each."""
    fleet = Fleet(client, limits={})
    for times in range(STRIKES):
        assert _believed(client, ROUTE, "own", times)
        assert _resumed(client) == times + 1
        fleet.ask("abc"[times], 0, 0, seen={"answered": 1})
        assert _believed(client, ROUTE, f"fresh{times}", times + 1), "another job's first refusal is the account's"
    assert not _believed(client, ROUTE, "own", STRIKES)


def test_a_job_that_is_refused_as_the_only_probe_has_itself_to_blame_too(client: redis.Redis) -> None:
    """No other is left to resume the account in between; as long as none was answered, the account may be empty."""
    fleet = Fleet(client, limits={})
    assert all(_believed(client, ROUTE, "own", 0, probed=True) for _ in range(2 * STRIKES))
    epoch = _resumed(client)
    fleet.ask("a", 0, 0, seen={"answered": 1})
    assert _believed(client, ROUTE, "own", epoch)
    assert not _believed(client, ROUTE, "own", epoch, probed=True)


def test_a_model_is_to_blame_until_it_is_answered_itself(client: redis.Redis) -> None:
    """What its jobs are refused costs the others nothing; once it works, its refusals are the account's again."""
    fleet, other = Fleet(client, limits={}), Route(ROUTE.upstream_url, "k", "another model")
    for times in range(STRIKES + 1):
        assert _believed(client, ROUTE, "own", times) is (times < STRIKES)
        assert _resumed(client) == times + 1
        Fleet(client, limits={}, route=other).ask("b", 0, 0, seen={"answered": 1})
    assert not _believed(client, ROUTE, "next", STRIKES + 1), "others were answered meanwhile"
    assert _believed(client, ROUTE, "one more", STRIKES + 1), "nothing was answered since"
    assert _believed(client, other, "elsewhere", STRIKES + 1)
    fleet.ask("a", 0, 0, seen={"answered": 1})
    assert _believed(client, ROUTE, "again", STRIKES + 1)


def test_refused_jobs_are_remembered_up_to_a_bound(client: redis.Redis) -> None:
    for number in range(20):
        body = json.dumps({"job": f"j{number}", "epoch": 0, "strikes": STRIKES, "most": 10, "ttl": 10**9})
        client.eval(lua.REFUSED, 2, KEYS.account("k"), KEYS.state(ROUTE), body)
    assert client.hlen(KEYS.account("k")) <= 12

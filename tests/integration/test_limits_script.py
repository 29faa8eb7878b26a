"""The script in a real Valkey, on a clock of the test's own: permits, minutes, lost replies."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rig.servers import ValkeyServer
from worker.limits import lua
from worker.limits.keys import Keys
from worker.limits.minute import Minute
from worker.limits.route import Route, Scope

#: A virtual day, far from the server's own clock.
DAWN = 1_700_000_000_000
SEED = {"limit": 16, "learned": "{}", "length": 1_000}
ROUTE = Route("http://upstream/v1", "k", "m")
KEYS = Keys()


class Fleet:
    """Holders that ask the script as turnstiles do, one virtual clock for all."""

    def __init__(
        self, client: redis.Redis, *, limits: dict[str, int], learned: int = 10**6, route: Route = ROUTE
    ) -> None:
        self.client, self.limits, self.now = client, limits, float(DAWN)
        self.route, self.seed = route, SEED | {"limit": learned}
        self.sync = client.register_script(lua.SYNC)
        self.numbers: dict[str, int] = {}

    def ask(self, holder: str, use: int, want: int, **more: Any) -> dict[str, Any]:
        """One request; `ack` is the number before unless given."""
        number = self.numbers[holder] = self.numbers.get(holder, 0) + 1
        body = {
            "h": holder, "q": number, "ack": number - 1, "use": use, "want": want, "costs": [], "back": [], "seen": {},
            "scopes": [self.limits], "seed": self.seed, "calls": True, "ttl": 30_000, "state_ttl": 10**9,
            "probe_ttl": 60_000, "at": self.now,
        } | more  # fmt: skip
        named = [
            KEYS.account(self.route.key_id),
            KEYS.state(self.route),
            KEYS.holders(self.route),
            KEYS.rates(self.route),
        ]
        for extra in more.get("named", ()):
            named += [KEYS.holders(extra), KEYS.rates(extra)]
        body.pop("named", None)
        reply: dict[str, Any] = json.loads(self.sync(keys=named, args=[json.dumps(body)]))
        return reply


@pytest.fixture
def client(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    """A client of the emptied server."""
    with valkey.client() as connected:
        yield connected


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    limit=st.integers(1, 12),
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 8), st.floats(0, 1), st.integers(0, 2_000)), min_size=5, max_size=60
    ),
)
def test_no_more_permits_are_out_than_the_limit(
    client: redis.Redis, limit: int, steps: list[tuple[int, int, float, int]]
) -> None:
    """Four workers that take, use and return permits at will never use more than the limit together; none gets stuck."""
    client.flushall()
    fleet = Fleet(client, limits={"c": limit})
    used, held = dict.fromkeys("abcd", 0), dict.fromkeys("abcd", 0)
    for who, more, kept, pause in steps:
        name = "abcd"[who]
        fleet.now += pause
        used[name] = round(used[name] * kept)
        held[name] = fleet.ask(name, used[name], used[name] + more)["hold"]
        used[name] = max(used[name], min(held[name], used[name] + more))
        assert sum(used.values()) <= limit
    for name in "abcd":
        fleet.ask(name, 0, 0)
    assert fleet.ask("e", 0, 100)["hold"] == limit


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    rpm=st.one_of(st.none(), st.integers(1, 40)),
    tpm=st.integers(50, 500),
    steps=st.lists(
        st.tuples(
            st.integers(0, 9_000),
            st.lists(st.integers(0, 600), min_size=1, max_size=6),
            st.floats(-1, 0.5),
            st.booleans(),
        ),
        max_size=40,
    ),
)
def test_the_script_lets_through_what_the_reference_model_lets_through(
    client: redis.Redis, rpm: int | None, tpm: int, steps: list[tuple[int, list[int], float, bool]]
) -> None:
    """Requests and tokens per minute, true-ups included: call for call the same as `Minute`, and the same waits."""
    client.flushall()
    fleet = Fleet(client, limits={"t": tpm} | ({"r": rpm} if rpm else {}))
    models = [("tpm", Minute(tpm))] + ([("rpm", Minute(rpm))] if rpm else [])
    back: list[list[int]] = []
    for pause, costs, amended, other in steps:
        fleet.now += pause
        capped = [min(cost, tpm) for cost in costs]
        reply = fleet.ask("ab"[other], 0, len(capped), costs=capped, back=back)
        for bucket, _, tokens in back:
            models[0][1].amend(bucket, tokens, fleet.now)
        expected, late, back = 0, 0.0, []
        for cost in capped:
            late = max(minute.wait(1 if name == "rpm" else cost, fleet.now) for name, minute in models)
            if late:
                break
            for name, minute in models:
                minute.take(1 if name == "rpm" else cost, fleet.now)
            expected += 1
        assert reply["n"] == expected
        assert reply["wait"] == pytest.approx(late, abs=0.01)
        if expected:
            back = [[reply["bucket"], 0, int(capped[0] * amended)]]


def test_a_refund_gives_back_exactly_what_was_taken(client: redis.Redis) -> None:
    """Request and tokens return to the minute they were booked in, and the next call fits."""
    fleet = Fleet(client, limits={"r": 1, "t": 100})
    first = fleet.ask("a", 0, 1, costs=[100])
    assert first["n"] == 1
    fleet.now += 5_000
    assert fleet.ask("a", 1, 2, costs=[1])["why"] in {"rpm", "tpm"}
    again = fleet.ask("a", 0, 1, costs=[100], back=[[first["bucket"], -1, -100]])
    assert again["n"] == 1


def test_a_grant_whose_reply_was_lost_is_taken_back(client: redis.Redis) -> None:
    """The next request says which reply was the last to arrive; what a lost one granted was never used."""
    fleet = Fleet(client, limits={"r": 1})
    assert fleet.ask("a", 0, 1, costs=[1])["n"] == 1
    fleet.now += 2_000
    assert fleet.ask("a", 0, 1, costs=[1], ack=0)["n"] == 1


def test_a_request_that_comes_twice_or_late_does_nothing(client: redis.Redis) -> None:
    """An old report, delivered after a newer one, must not undo it."""
    fleet = Fleet(client, limits={"c": 5})
    fleet.ask("a", 0, 5)
    fleet.numbers["a"] = 0
    assert fleet.ask("a", 0, 0) == {"stale": True}
    assert fleet.ask("b", 0, 5)["hold"] == 0


def test_a_dead_workers_permits_come_back_after_its_lease(client: redis.Redis) -> None:
    """Not before, and all of them."""
    fleet = Fleet(client, limits={"c": 7})
    assert fleet.ask("dead", 0, 7)["hold"] == 7
    fleet.now += 29_000
    assert fleet.ask("alive", 0, 7)["hold"] == 0
    fleet.now += 1_100
    assert fleet.ask("alive", 0, 7)["hold"] == 7


def test_workers_that_want_more_than_there_is_get_equal_shares(client: redis.Redis) -> None:
    """The first to come does not keep all: as its calls end, the others reach their share."""
    fleet = Fleet(client, limits={"c": 12})
    used = {"a": fleet.ask("a", 0, 50)["hold"], "b": 0, "c": 0}
    assert used["a"] == 12
    for _ in range(15):
        for name, amount in list(used.items()):
            fleet.now += 50
            left = max(0, amount - 1)
            used[name] = max(left, fleet.ask(name, left, 50)["hold"])
    assert all(amount == 4 for amount in used.values())


def test_a_single_permit_goes_round_among_the_workers(client: redis.Redis) -> None:
    """With fewer permits than workers each one has its turn; nobody starves."""
    fleet = Fleet(client, limits={"c": 1})
    turns = dict.fromkeys("abcd", 0)
    for _ in range(300):
        for name in turns:
            fleet.now += 50
            turns[name] += fleet.ask(name, 0, 5)["hold"]
    assert min(turns.values()) >= 0.6 * max(turns.values())


def test_every_scope_must_have_room_and_none_is_charged_alone(client: redis.Redis) -> None:
    """Route and tenant are checked together: what one refuses, the other has not paid for."""
    fleet = Fleet(client, limits={"r": 100})
    tenant = Scope("tenant:acme", limits=None)  # type: ignore[arg-type]
    scopes = [{"r": 100}, {"r": 2, "c": 5}]
    assert fleet.ask("a", 0, 4, costs=[1] * 4, scopes=scopes, named=[tenant])["n"] == 1
    fleet.now += 31_000
    assert fleet.ask("a", 0, 4, costs=[1] * 4, scopes=scopes, named=[tenant])["n"] == 1
    fleet.now += 100
    held = fleet.ask("a", 0, 4, costs=[1] * 4, scopes=scopes, named=[tenant])
    assert (held["n"], held["why"]) == (0, "rpm")
    assert client.hget(KEYS.rates(ROUTE), "requests") == "2"


def test_a_paused_route_lets_one_probe_through_for_all_workers(client: redis.Redis) -> None:
    """Before its time nobody, then one, and no second one until that one is back or lost."""
    fleet = Fleet(client, limits={"c": 10})
    fleet.ask("a", 0, 1)
    body = {"why": "failures", "detail": "", "wait": 2_000, "trips": 1, "ttl": 10**9}
    client.eval(lua.PAUSE, 1, KEYS.state(ROUTE), json.dumps(body))
    fleet.now = float(client.hget(KEYS.state(ROUTE), "until")) - 500  # type: ignore[arg-type]
    early = fleet.ask("a", 0, 3)
    assert (early["hold"], early.get("probe"), early["wait"]) == (0, None, 500)
    fleet.now += 600
    replies = [fleet.ask(name, 0, 3) for name in "abab"]
    assert [reply.get("probe") for reply in replies] == ["route", None, None, None]
    fleet.now += 61_000
    assert fleet.ask("b", 0, 3)["probe"] == "route"


@pytest.mark.parametrize("hash_of", [KEYS.state(ROUTE), KEYS.account("k")], ids=["route", "account"])
@pytest.mark.parametrize("noted", ["until", "probing"])
def test_a_clock_that_was_set_back_prolongs_no_pause(client: redis.Redis, hash_of: str, noted: str) -> None:
    """Its time, or the probe that went out, lies an hour ahead: the next call that waits is the probe."""
    fleet = Fleet(client, limits={"c": 10})
    client.hset(hash_of, mapping={"paused": "failures", "until": DAWN, noted: DAWN + 120_000, "trips": 3})
    assert fleet.ask("a", 0, 1).get("probe") is None, "two minutes are a pause as any"
    fleet.now -= 3_600_000
    assert fleet.ask("a", 0, 1)["probe"] == ("route" if hash_of == KEYS.state(ROUTE) else "account")


def test_a_clock_that_was_set_back_prolongs_no_election_and_keeps_no_dead_worker(client: redis.Redis) -> None:
    """Both as of the server's own clock."""
    ahead = 1_000 * int(time.time()) + 3_600_000
    client.hset(KEYS.account("k"), mapping={"paused": "credits", "until": ahead, "probing": ahead, "trips": 3})
    assert client.eval(lua.ELECT, 1, KEYS.account("k"), 30_000) == 3
    assert client.eval(lua.ELECT, 1, KEYS.account("k"), 30_000) == -1
    client.zadd(KEYS.workers, {"dead": ahead})
    assert client.eval(lua.BEAT, 1, KEYS.workers, "alive", 30_000) == 1


def test_a_clock_that_was_set_back_holds_up_no_call_for_longer_than_a_lease(client: redis.Redis) -> None:
    """What was noted by the clock as it was: a wait, a full minute and its pace, a window, a dead worker's permits."""
    fleet = Fleet(client, limits={"c": 4, "r": 60})
    fleet.ask("dead", 0, 4, costs=[1] * 4, seen={"ok": 1, "after": 120_000})
    assert fleet.ask("a", 0, 1, costs=[1])["why"] == "retry_after"
    client.hset(KEYS.state(ROUTE), "closing", fleet.now + 250)
    fleet.now -= 3_600_000
    first = fleet.ask("a", 0, 4, costs=[1] * 4)
    assert (first["n"], first["due"]["ok"]) == (1, 1), "the pace of a new minute, and the window is over"
    fleet.now += 31_000
    assert fleet.ask("b", 0, 4, costs=[1] * 4)["hold"] == 4, "the permits of the dead are free"


def test_a_single_permit_goes_round_after_the_clock_was_set_back(client: redis.Redis) -> None:
    """Whose turn it is goes by when each had its last one, which lies ahead."""
    fleet = Fleet(client, limits={"c": 1})
    turns = dict.fromkeys("abcd", 0)
    for at in range(300):
        if at == 100:
            fleet.now -= 3_600_000
            turns = dict.fromkeys(turns, 0)
        for name in turns:
            fleet.now += 50
            turns[name] += fleet.ask(name, 0, 5)["hold"]
    assert min(turns.values()) >= 0.6 * max(turns.values())


def test_every_key_has_a_ttl_and_a_documented_name(client: redis.Redis) -> None:
    """Nothing of the limits stays in Redis for ever."""
    fleet = Fleet(client, limits={"c": 3, "r": 10, "t": 100})
    fleet.ask("a", 0, 1, costs=[5], seen={"ok": 1, "ms": 20})
    names = list(client.scan_iter())
    assert len(names) == 3
    for name in names:
        assert client.ttl(name) > 0
        assert name.startswith(f"stockpot:route:{ROUTE.digest}:")


def test_only_one_worker_decides_on_a_window(client: redis.Redis) -> None:
    """The window is handed to one; a second decision on the same window changes nothing."""
    fleet = Fleet(client, limits={}, learned=16)
    fleet.ask("a", 0, 1, seen={"ok": 5, "ms": 50})
    fleet.now += 1_500
    replies = [fleet.ask(name, 1, 1) for name in "ab"]
    due = [reply["due"] for reply in replies if "due" in reply]
    assert len(due) == 1
    assert due[0]["ok"] == 5
    decision = {"win": due[0]["win"], "limit": 20, "learned": "{}", "breaker": "{}", "length": 1_000, "trial": 0}
    answers = [client.eval(lua.LEARN, 1, KEYS.state(ROUTE), json.dumps(decision | {"limit": n})) for n in (20, 99)]
    assert answers == [1, 0]
    assert fleet.ask("b", 0, 1000)["limit"] == 20


def test_the_first_overload_ends_a_trial_and_those_of_a_limit_that_is_no_more_count_for_nothing(
    client: redis.Redis,
) -> None:
    """A window of a raised limit is over at once; afterwards another worker tells of what it met under that limit."""
    fleet = Fleet(client, limits={}, learned=16)
    fleet.ask("a", 0, 1, seen={"ok": 5})
    raised = {"win": 1, "limit": 20, "learned": "{}", "breaker": "{}", "length": 1_000, "trial": 1}
    assert client.eval(lua.LEARN, 1, KEYS.state(ROUTE), json.dumps(raised)) == 1
    opened = client.hget(KEYS.state(ROUTE), "opened")
    assert opened is not None
    fleet.now = float(opened) + 10
    assert "due" not in fleet.ask("a", 1, 1, seen={"ok": 1}, known=20)
    reply = fleet.ask("b", 1, 1, seen={"overloaded": 1}, known=20)
    assert reply["trial"]
    assert (reply["due"]["ok"], reply["due"]["overloaded"]) == (1, 1)
    lowered = raised | {"win": 2, "limit": 16, "trial": 0}
    assert client.eval(lua.LEARN, 1, KEYS.state(ROUTE), json.dumps(lowered)) == 1
    fleet.ask("c", 1, 1, seen={"overloaded": 3}, known=20)
    fleet.ask("c", 1, 1, seen={"overloaded": 1}, known=16)
    assert client.hget(KEYS.state(ROUTE), "overloaded") in {b"1", "1"}


def test_random_workers_never_exceed_a_limit_that_falls(client: redis.Redis) -> None:
    """When the learned limit drops, nobody starts a call until what is out has come down below it."""
    rng = random.Random(7)
    fleet = Fleet(client, limits={}, learned=20)
    used = dict.fromkeys("abc", 0)
    limit = 20
    for turn in range(200):
        if turn == 100:
            limit = 5
            client.hset(KEYS.state(ROUTE), "limit", limit)
        name = rng.choice("abc")
        fleet.now += 20
        used[name] -= rng.randint(0, used[name])
        before = sum(used.values())
        hold = fleet.ask(name, used[name], used[name] + rng.randint(0, 30))["hold"]
        used[name] = max(used[name], hold)
        assert sum(used.values()) <= max(limit, before)

"""Turns: every tenant gets its part of every claim, whatever the others have waiting."""

from __future__ import annotations

from collections import Counter, deque

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.db.jobs.tenant_fairness import TenantFairness

Queue = dict[tuple[str, str], int]

TENANTS = [f"t{number}" for number in range(12)]
QUEUES = st.dictionaries(
    st.tuples(st.sampled_from(TENANTS), st.sampled_from(["m", "n", "o"])), st.integers(1, 200), min_size=1
)


def claim(turns: TenantFairness, queue: Queue, limit: int, held: tuple[str, ...] = ()) -> Counter[tuple[str, str]]:
    """One claim from a queue in memory, as `worker.db.jobs.claim` makes it."""
    taken: Counter[tuple[str, str]] = Counter()
    listed = False
    while taken.total() < limit:
        dealt = turns.deal(limit - taken.total(), held)
        if not dealt:
            if listed:
                break
            listed = True
            turns.learn(sorted(group for group, left in queue.items() if left))
            continue
        assert sum(turn.quota for turn in dealt) <= limit - taken.total()
        for turn in dealt:
            group = (turn.tenant, turn.model)
            got = min(turn.quota, queue[group])
            queue[group] -= got
            taken[group] += got
            if got < turn.quota:
                turns.dry(turn)
    return taken


@settings(max_examples=150, deadline=None)
@given(queue=QUEUES, limit=st.integers(1, 64))
def test_no_slot_stays_empty_while_anybody_has_work(queue: Queue, limit: int) -> None:
    """And everything is claimed in the end, once."""
    turns, left = TenantFairness(), sum(queue.values())
    while left:
        taken = claim(turns, queue, limit).total()
        assert taken == min(limit, left)
        left -= taken
    assert set(queue.values()) == {0}


@settings(max_examples=150, deadline=None)
@given(many=st.integers(1, 40), limit=st.integers(1, 64), claims=st.integers(1, 10))
def test_each_tenant_has_its_part_of_every_claim(many: int, limit: int, claims: int) -> None:
    """⌊n / T⌋ of a claim; with more tenants than jobs in a claim, one in every ⌈T / n⌉ claims. One has a million."""
    queue = {(f"t{number:02}", "m"): 1_000 for number in range(many)}
    queue["t00", "m"] = 1_000_000
    turns = TenantFairness()
    history = [claim(turns, queue, limit) for _ in range(claims)]
    wait = -(-many // limit)
    for tenant in {tenant for tenant, _ in queue}:
        parts = [sum(count for (who, _), count in taken.items() if who == tenant) for taken in history]
        assert all(part >= limit // many for part in parts)
        assert all(sum(parts[at : at + wait]) >= 1 for at in range(len(parts) - wait + 1))


@settings(max_examples=100, deadline=None)
@given(queue=QUEUES, limit=st.integers(1, 64))
def test_a_held_model_is_left_out_and_takes_nobodys_part(queue: Queue, limit: int) -> None:
    """Its jobs stay; the others are served as if it were not there."""
    waiting = sum(count for (_, model), count in queue.items() if model == "m")
    others = sum(queue.values()) - waiting
    taken = claim(TenantFairness(), queue, limit, held=("m",))
    assert taken.total() == min(limit, others)
    assert all(model != "m" for _, model in taken)


def test_a_tenants_models_take_turns_within_its_part() -> None:
    """Also when its part is a single job."""
    queue = {("a", "m"): 100, ("a", "n"): 100, ("b", "m"): 100}
    turns = TenantFairness()
    served = deque(claim(turns, queue, 2) for _ in range(4))
    assert sum(served, Counter()) == {("a", "m"): 2, ("a", "n"): 2, ("b", "m"): 4}


@settings(max_examples=100, deadline=None)
@given(
    weights=st.dictionaries(st.sampled_from(TENANTS), st.integers(1, 9), min_size=1),
    limits=st.lists(st.integers(1, 20), min_size=1, max_size=60),
)
def test_a_tenant_has_its_weight_of_all_that_was_claimed(weights: dict[str, int], limits: list[int]) -> None:
    """Less two jobs at most, at any time, also when each claim is of a single job."""
    queue = {(tenant, "m"): 10_000 for tenant in TENANTS}
    turns, taken, claimed = TenantFairness(weights=weights), Counter[str](), 0
    whole = sum(weights.get(tenant, 1) for tenant in TENANTS)
    for limit in limits:
        for (tenant, _), count in claim(turns, queue, limit).items():
            taken[tenant] += count
        claimed += limit
        for tenant in TENANTS:
            assert taken[tenant] >= claimed * weights.get(tenant, 1) / whole - 2


def test_a_new_listing_goes_on_behind_the_tenant_that_was_served_last() -> None:
    """Else the first in the alphabet would be first after every listing."""
    turns = TenantFairness()
    groups = [(tenant, "m") for tenant in "abcd"]
    seen = []
    for _ in range(8):
        turns.learn(groups)
        seen += [turn.tenant for turn in turns.deal(1)]
    assert seen == list("abcdabcd")

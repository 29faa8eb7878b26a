"""Rounds: tenants by weight, their batches one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from worker.db.batches.claims import OpenBatch
from worker.engine.batch_fairness import BatchFairness

SLICE = 64


def batch(tenant: str, number: int, model: str | None = None) -> OpenBatch:
    """The ids of a tenant's batches rise."""
    return OpenBatch(f"batch_{number:03}_{tenant}", tenant, bound=False, model=model)


def go_round(rounds: BatchFairness, turns: int) -> list[OpenBatch]:
    """So many turns of batches that never run dry."""
    had = []
    for _ in range(turns):
        taken = rounds.take(held=())
        assert taken is not None
        rounds.claimed(taken, SLICE, dry=False)
        rounds.again([taken])
        had.append(taken)
    return had


def lines(had: Sequence[OpenBatch]) -> Counter[str]:
    """Lines claimed for each tenant."""
    return Counter({tenant: SLICE * turns for tenant, turns in Counter(one.tenant for one in had).items()})


@given(
    weights=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 20)),
    batches=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 7), min_size=1),
    turns=st.integers(1, 200),
    listings=st.integers(1, 40),
)
def test_the_bound(weights: Mapping[str, int], batches: Mapping[str, int], turns: int, listings: int) -> None:
    """By weight, a slice apart at most, however many batches each has and however often they are listed again."""
    rounds = BatchFairness(weights)
    listed = sorted((batch(tenant, n) for tenant, many in batches.items() for n in range(many)), key=lambda one: one.id)
    had: list[OpenBatch] = []
    while len(had) < turns:
        rounds.learn(listed)
        had += go_round(rounds, min(listings, turns - len(had)))
        by_weight = {tenant: lines(had)[tenant] / weights.get(tenant, 1) for tenant in batches}
        for one, lines_of_one in by_weight.items():
            for lines_of_other in by_weight.values():
                assert lines_of_one - lines_of_other <= SLICE / weights.get(one, 1) + 1e-6
    for tenant, many in batches.items():
        own = Counter(one.id for one in had if one.tenant == tenant)
        assert max(own.values(), default=0) - min((own[batch(tenant, n).id] for n in range(many)), default=0) <= 1


def level(had: Sequence[OpenBatch]) -> bool:
    """Whether two tenants have had the same, to a slice at each end."""
    one, other = lines(had).values()
    return abs(one - other) <= 2 * SLICE


def test_who_comes_later_begins_level() -> None:
    """A tenant that was away for a thousand slices gets its share from now on, and nothing for the time before."""
    rounds = BatchFairness()
    rounds.learn([batch("a", 0)])
    go_round(rounds, 1_000)
    rounds.learn([batch("a", 0), batch("b", 1)])
    assert level(go_round(rounds, 100))
    rounds.learn([batch("b", 1)])
    go_round(rounds, 500)
    rounds.learn([batch("a", 0), batch("b", 1)])
    assert level(go_round(rounds, 100))


@given(bounded=st.integers(0, SLICE - 1))
def test_a_turn_that_was_not_used_up_is_not_kept_for_later(bounded: int) -> None:
    """Two tenants' batches are bounded for a thousand turns of a third one; with their bounds gone all three have the same."""
    rounds, listed = BatchFairness(), [batch("a", 0), batch("b", 1), batch("c", 2)]
    for _ in range(1_000):
        rounds.learn(listed)
        while (taken := rounds.take(())) is not None:
            dry = taken.tenant != "b"
            rounds.claimed(taken, bounded if dry else SLICE, dry=dry)
    rounds.learn(listed)
    had = lines(go_round(rounds, 150))
    assert max(had.values()) - min(had.values()) <= 2 * SLICE


def test_small_slices_do_not_cost_a_turn() -> None:
    """Who could claim only one line in its turn is next before who claimed sixty-four."""
    rounds = BatchFairness()
    one, other = batch("a", 0), batch("b", 1)
    rounds.learn([one, other])
    assert rounds.take(()) == one
    rounds.claimed(one, 1, dry=False)
    rounds.again([one])
    assert rounds.take(()) == other
    rounds.claimed(other, SLICE, dry=False)
    rounds.again([other])
    for _ in range(SLICE - 1):
        assert rounds.take(()) == one
        rounds.claimed(one, 1, dry=False)
        rounds.again([one])


def test_batches_of_a_held_model_have_no_turn() -> None:
    """They are asked again when the batches are listed again."""
    rounds = BatchFairness()
    shut, free = batch("a", 0, "m/shut"), batch("a", 1, "m/free")
    rounds.learn([shut, free])
    assert rounds.take(held=["m/shut"]) == free
    assert rounds.take(held=["m/shut"]) is None
    assert not rounds
    rounds.learn([shut, free])
    assert [rounds.take(held=()), rounds.take(held=())] == [shut, free]


def test_what_came_to_its_end_between_two_listings_is_forgotten() -> None:
    """A claim was under way while the list was made."""
    rounds = BatchFairness()
    gone = batch("a", 0)
    rounds.learn([gone])
    assert rounds.take(()) == gone
    rounds.learn([])
    rounds.claimed(gone, 5, dry=True)
    rounds.again([gone])
    assert not rounds
    assert rounds.take(()) is None

"""Models whose route is shut: held, with one job at a time sent ahead."""

from __future__ import annotations

from worker.engine.paused_models import DUE_SECONDS, FIRST_SECONDS, MOST_SECONDS, OUT_SECONDS, PausedModels


def test_the_first_job_that_comes_back_is_the_scout_and_the_others_are_not() -> None:
    """However many come back."""
    holds = PausedModels()
    for job in ("a", "b", "c"):
        holds.turned_away("m", job, 0.0, 0.0)
    assert holds.models == {"m"}
    assert holds.scouts(FIRST_SECONDS - 0.01) == []
    assert holds.scouts(FIRST_SECONDS) == ["a"]
    assert holds.scouts(FIRST_SECONDS) == []


def test_a_scout_that_comes_back_too_goes_again_later() -> None:
    """And its model stays held meanwhile."""
    holds = PausedModels()
    holds.turned_away("m", "a", 0.0, 0.0)
    holds.scouts(1.0)
    holds.turned_away("m", "a", 0.0, 2.0)
    assert not holds.ended("m", "a")
    assert holds.models == {"m"}
    assert holds.scouts(2.0 + MOST_SECONDS - 0.01) == []
    assert holds.scouts(2.0 + MOST_SECONDS) == ["a"]


def test_a_scout_that_gets_through_opens_its_model_and_no_other() -> None:
    """Other models have scouts of their own."""
    holds = PausedModels()
    holds.turned_away("m", "a", 0.0, 0.0)
    holds.turned_away("n", "b", 0.0, 0.0)
    assert sorted(holds.scouts(1.0)) == ["a", "b"]
    assert not holds.ended("m", "x")
    assert holds.ended("m", "a")
    assert holds.models == {"n"}


def test_a_scout_that_is_not_to_be_had_opens_its_model() -> None:
    """Another worker has it, or it is over: nobody would ever come back to say so."""
    holds = PausedModels()
    holds.turned_away("m", "a", 0.0, 0.0)
    holds.scouts(1.0)
    holds.missed("a")
    assert holds.models == frozenset()
    holds.turned_away("m", "b", 0.0, 2.0)
    holds.scouts(3.0)
    assert holds.scouts(3.0 + OUT_SECONDS) == []
    assert holds.models == frozenset()


def test_a_resumption_opens_everything() -> None:
    """The scouts of the pause are forgotten, too."""
    holds = PausedModels()
    holds.turned_away("m", "a", 0.0, 0.0)
    holds.clear()
    assert holds.models == frozenset()
    assert holds.scouts(100.0) == []
    assert not holds.ended("m", "a")


def test_a_scout_that_is_due_later_goes_later() -> None:
    """The provider asked for patience; before that the job cannot be claimed."""
    holds = PausedModels()
    holds.turned_away("m", "a", 30.0, 0.0)
    assert holds.scouts(30.0) == []
    assert holds.scouts(30.0 + DUE_SECONDS) == ["a"]


def test_a_job_that_was_refused_itself_is_no_scout_and_one_is_looked_for() -> None:
    """Soon, and not when the refused one is due; another that comes back meanwhile is the scout."""
    holds = PausedModels()
    holds.turned_away("m", "refused", 17.0, 0.0, refused=True)
    assert holds.models == {"m"}
    assert holds.without_scout(FIRST_SECONDS - 0.01) == []
    assert holds.without_scout(FIRST_SECONDS) == ["m"]
    holds.found("m", "due")
    assert holds.scouts(FIRST_SECONDS) == ["due"]
    other = PausedModels()
    other.turned_away("m", "refused", 17.0, 0.0, refused=True)
    other.turned_away("m", "back", 0.0, 0.1)
    other.turned_away("m", "refused-too", 17.0, 0.1, refused=True)
    assert other.without_scout(FIRST_SECONDS) == []
    assert other.scouts(FIRST_SECONDS) == ["back"]


def test_a_scout_that_was_refused_gives_way_to_another_or_to_one_that_is_looked_for() -> None:
    """Its refusal may be its own; where nothing is due, the model opens."""
    holds = PausedModels()
    for job in ("a", "b"):
        holds.turned_away("m", job, 0.0, 0.0)
    assert holds.scouts(1.0) == ["a"]
    holds.turned_away("m", "a", 17.0, 1.0, refused=True)
    assert holds.scouts(1.0 + MOST_SECONDS) == ["b"]
    holds.turned_away("m", "b", 17.0, 6.0, refused=True)
    assert holds.scouts(6.0 + MOST_SECONDS) == []
    assert holds.without_scout(6.0 + MOST_SECONDS) == ["m"]
    assert holds.models == {"m"}
    holds.found("m", None)
    assert holds.models == frozenset()

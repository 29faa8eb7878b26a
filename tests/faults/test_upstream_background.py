"""Refusals that have nothing to do with load: a real worker keeps its limit."""

from __future__ import annotations

import pytest

from ops.bench import limits_background as background
from tests.rig.stage import SetStage
from tests.rig.witness import Witness

pytestmark = [pytest.mark.fault, pytest.mark.long]


@pytest.mark.parametrize("share", background.SHARES)
def test_a_steady_share_of_refusals_costs_a_worker_no_throughput(stage: SetStage, share: float) -> None:
    """Judged by the limit, over the answers: how much of it a machine can use is the machine's affair."""
    on = stage("postgres", workers=1, simulator=background.SIMULATOR, **background.SETTINGS)
    with Witness("a steady share of the calls was refused") as witness:
        found = background.play(on, share)
        witness.saw(0.5 * share <= found["refused"] <= 1.5 * share)
    assert found["limit"] >= 0.8 * background.CAP, found
    on.quiesce(300)
    on.check()
    assert on.count("status <> 'completed'") == 0
    assert on.count("attempts > 1") == 0, "being refused has cost an attempt"

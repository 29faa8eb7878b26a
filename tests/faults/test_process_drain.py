"""A worker that is asked through the database to drain ends as on SIGTERM, and loses nothing."""

from __future__ import annotations

import pytest

from tests.rig.stage import SetStage
from tests.rig.waiting import eventually
from tests.rig.witness import Witness
from worker.db.connect import Database
from worker.db.workers import registry

pytestmark = pytest.mark.fault


def test_a_busy_worker_that_is_asked_to_drain_finishes_what_it_has_and_ends(stage: SetStage) -> None:
    on = stage("postgres", lease_seconds=3, drain_seconds=90)
    worker, other = on.workers
    database = Database(on.settings(), pool_size=1)
    on.load(20, "slow=25")
    with Witness("a busy worker drained because its row asked for it") as witness:
        held = eventually(lambda: on.held_by(worker), what="it is busy")
        [row] = [row for row in database.read(registry.listed) if row.pid == worker.pid]
        assert row.alive
        witness.inject(lambda: database.write(lambda conn: registry.ask_to_drain(conn, row.owner)))
        witness.saw(held and worker.wait_for_line("drain_requested"))
        assert worker.wait(120) == 0
    on.quiesce()
    on.check(gone=[worker])
    assert on.extra_calls() == 0
    assert [row.pid for row in database.read(registry.listed)] == [other.pid]  # who ends in order takes its row away
    database.close()

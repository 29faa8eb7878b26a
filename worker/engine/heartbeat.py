"""The heartbeat: renews the leases of all jobs in hand in one statement, and reads the answer.

What is missing in the answer is lost: its call is stopped, since another worker may be making it already. Only a claim
that was taken back and not claimed again goes on. What was asked to be cancelled is stopped too, should the
control channel have lost the message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from sqlalchemy import Connection

from worker.base.backoff import Backoff
from worker.base.log import get_logger
from worker.db.jobs import leases
from worker.db.jobs.leases import Renewed
from worker.db.refusals import Apart, Part
from worker.db.threads import DatabaseThreads
from worker.job.slots import Slots, Stop

log = get_logger(__name__)

#: The pause after a failed renewal begins with so many seconds.
FIRST_PAUSE = 0.5


class Heartbeat:
    """Beats until cancelled."""

    def __init__(self, database: DatabaseThreads, slots: Slots, *, owner: str, lease: float, every: float) -> None:
        self._database = database
        self._slots = slots
        self._owner = owner
        self._lease = lease
        self._every = every
        self._jobs = Apart("job")

    async def run(self) -> None:
        """Renew every `every` seconds, for ever; sooner after a try that failed, so that an outage costs no lease."""
        pauses = Backoff(FIRST_PAUSE, self._every)
        while True:
            await asyncio.sleep(self._every)
            pauses.reset()
            while len(self._slots) and not await self.beat():
                await asyncio.sleep(pauses.next())

    async def beat(self) -> bool:
        """Renew once. False when the database is away, which changes nothing: the fence decides when it is back."""
        held = self._slots.held()

        def renew(conn: Connection, part: Part) -> list[Renewed]:
            return leases.renew(conn, self._owner, [job for job in held if job in part], lease=self._lease)

        done = await self._jobs.run_apart(self._database, renew, lambda _conn, _beyond: list(held), "renew_delayed")
        if self._jobs.away:
            return False
        kept = {one.job_id: one for renewed in done for one in renewed}
        missing: dict[str, int] = {}
        for job_id, fence in held.items():
            if job_id in self._jobs.rows:
                continue  # the database refuses to change it: no other worker has it for that
            one = kept.get(job_id)
            if one is None or one.fence != fence:
                missing[job_id] = fence
            elif one.cancel:
                self._slots.stop(job_id, Stop.CANCELLED)
        return await self._stop_lost(missing) if missing else True

    async def _stop_lost(self, claims: Mapping[str, int]) -> bool:
        """Stop the calls whose job another worker may be calling for by now."""
        none: set[str] | None = None
        unclaimed = await self._database.try_read(lambda conn: leases.unclaimed(conn, claims), none, "renew_delayed")
        if unclaimed is None:
            return False
        for job_id, fence in claims.items():
            if job_id in unclaimed:
                continue  # taken back, and no worker makes this call again yet: its answer will be accepted
            if self._slots.fence(job_id) == fence and self._slots.stop(job_id, Stop.LOST):
                log.warning("lease_lost", job=job_id, fence=fence)
        return True

"""The heartbeat: renews the leases of all jobs in hand in one statement, and reads the answer.

What is missing in the answer is lost: its call is stopped, since another worker may be making it already. What was
asked to be cancelled is stopped too, should the control channel have lost the word.
"""

from __future__ import annotations

import asyncio

import structlog

from worker.db.jobs import leases
from worker.db.threads import DatabaseThreads
from worker.job.slots import Slots, Stop

log = structlog.get_logger(__name__)


class Heartbeat:
    """Beats until cancelled."""

    def __init__(self, database: DatabaseThreads, slots: Slots, *, owner: str, lease: float, every: float) -> None:
        self._database = database
        self._slots = slots
        self._owner = owner
        self._lease = lease
        self._every = every

    async def run(self) -> None:
        """Renew every `every` seconds, for ever."""
        while True:
            await asyncio.sleep(self._every)
            if len(self._slots):
                await self.beat()

    async def beat(self) -> None:
        """Renew once. A database that is away changes nothing: the fence decides when it is back."""
        held = self._slots.held()
        renewed = await self._database.try_write(
            lambda conn: leases.renew(conn, self._owner, list(held), lease=self._lease), None, "renew_delayed"
        )
        if renewed is None:
            return
        kept = {one.job_id: one for one in renewed}
        for job_id, fence in held.items():
            one = kept.get(job_id)
            if one is not None and one.fence == fence:
                if one.cancel:
                    self._slots.stop(job_id, Stop.CANCELLED)
            elif self._slots.fence(job_id) == fence and self._slots.stop(job_id, Stop.LOST):
                log.warning("lease_lost", job=job_id, fence=fence)

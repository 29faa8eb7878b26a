"""Who may be the call that finds out whether a paused account takes calls again."""

from __future__ import annotations

from worker.db.jobs import scouts
from worker.db.jobs.claim import ClaimedJob
from worker.db.threads import DatabaseThreads


class Probing:
    """Asks the database about a job that was refused for the account: whether others wait that were not.

    Its refusal may be its own, so it finds nothing out as long as there is another. No other job is asked about.
    """

    def __init__(self, database: DatabaseThreads, lanes: frozenset[str]) -> None:
        """`lanes` are those that this worker claims: a job that no worker claims is none that waits."""
        self._database = database
        self._lanes = lanes

    async def may_probe(self, job: ClaimedJob) -> bool:
        """Whether this job's call may be the probe; while the database is away, it may not."""
        if job.last_error not in scouts.REFUSED_CLASSES:
            return True
        return not await self._database.try_read(
            lambda conn: scouts.others_wait(conn, job.id, self._lanes), True, "probe_delayed"
        )

"""Crash points: named places between two writes where a fault test may kill the process.

`STOCKPOT_CRASH_AT=name[:n][:job_id]` arms one: at its n-th passing (for that job, where one is named) the process
sends itself SIGKILL, after a line on stderr, so that the test has its witness. Unarmed, a point costs one
comparison.
"""

from __future__ import annotations

import os
import signal
import sys

from worker.base import settings

#: Every crash point there is; a test enumerates them and fails for one that nothing passes.
POINTS = frozenset(
    {
        "submit.committed",  # the row is there, the doorbell is not rung
        "claim.before",  # a slice is about to be claimed
        "claim.committed",  # claimed and on record, nothing sent
        "call.before",  # admitted, the request not sent
        "call.chunk",  # a chunk has come and is not published
        "call.answered",  # the whole answer is here, nothing written
        "settle.before",  # in the writer, before its transaction
        "settle.written",  # written, not committed
        "settle.committed",  # committed, not yet announced
        "release.before",  # a job is about to be given back
        "sweep.reclaimed",  # expired leases were written, not committed
        "lookup.before",  # broken calls are about to be looked up in the provider's log
        "file.piece",  # a piece of an upload is committed
        "file.written",  # all pieces of an upload are committed, the file is not there yet
        "import.surveyed",  # a stored batch file is valid, its batch not begun
        "import.begun",  # the batch is in progress, no line imported
        "import.slice",  # a slice of its lines is committed
        "output.written",  # ended lines are appended to a batch's files, not committed
        "output.finished",  # the batch's files are whole and it has ended, not committed
        "copy.slice",  # a slice of a table is committed in the database that `db copy` fills
        "hook.claimed",  # webhook events claimed, nothing sent
        "hook.sent",  # the receiver has answered, no record of it yet
        "hook.recorded",  # the attempt is written, not committed
    }
)

#: Whether a point may be armed: who passes one for each chunk looks here first.
may_die = True
_armed: tuple[str, int, str | None] | bool | None = False  # False: not read yet
_passed = 0


def _read() -> tuple[str, int, str | None] | None:
    spec = settings.crash_at()
    if not spec:
        return None
    name, _, rest = spec.partition(":")
    if name not in POINTS:
        raise ValueError(f"STOCKPOT_CRASH_AT: no crash point is called {name!r}; there are {', '.join(sorted(POINTS))}")
    count, _, job_id = rest.partition(":")
    if count and not count.isdigit():
        count, job_id = "", rest
    return name, int(count or 1), job_id or None


def crashpoint(name: str, job_id: str | None = None) -> None:
    """Die here if this point is armed (for this job, where one is named)."""
    global _armed, _passed, may_die
    if _armed is None:
        return
    if _armed is False:
        _armed = _read()
        may_die = _armed is not None
        if _armed is None:
            return
    armed, count, job = _armed  # type: ignore[misc]
    if armed != name or (job is not None and job != job_id):
        return
    _passed += 1
    if _passed >= count:
        sys.stderr.write(f"crashpoint {name} {job_id or ''}\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)

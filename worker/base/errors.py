"""The errors Stockpot raises, one class per decision a caller can take.

StockpotError
├── InvalidRequest          the request is wrong: mend it (defined in `api_schemas.errors`, a ValueError too)
├── SettingsError           the configuration is wrong: the message names the key
├── IdempotencyConflict     the key is taken by a request with another body
├── NotFound                no such job, batch, endpoint or event (for this tenant)
├── NotAllowed              the job's state does not admit the verb (cancel a finished job)
├── WaitTimeout             the job goes on; the caller stopped waiting
├── NotWritten              an output takes no more: a full disk, or no reader; `offset` is where to go on
├── NotCompleted            the job whose text was read is over without an answer; `status` and `error` have how
└── Unreachable             a dependency does not answer; `dependency` names it, `mend` has what to do
    ├── StatementTimeout    the database answers, and has cancelled a statement that took too long
    └── Refused             the database answers, and lets this role not do it, or takes no writes
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from api_schemas.errors import InvalidRequest, StockpotError

__all__ = [
    "IdempotencyConflict",
    "InvalidRequest",
    "NotAllowed",
    "NotCompleted",
    "NotFound",
    "NotWritten",
    "Refused",
    "SettingsError",
    "StatementTimeout",
    "StockpotError",
    "Unreachable",
    "WaitTimeout",
    "out_of_files",
]


class SettingsError(StockpotError):
    """The configuration is wrong; the message names the key and what was expected."""


class IdempotencyConflict(StockpotError):
    """The idempotency key belongs to a job with another body."""


class NotFound(StockpotError):
    """There is no such thing under this tenant."""


class NotAllowed(StockpotError):
    """What was asked does not fit the state that the thing is in."""


class WaitTimeout(StockpotError, TimeoutError):
    """The job is not finished yet; it goes on without the caller."""


class NotCompleted(StockpotError):
    """A job whose text was read to its end did not complete: it failed, was cancelled or expired."""

    def __init__(self, job_id: str, status: str, error: Mapping[str, Any] | None = None) -> None:
        self.job_id = job_id
        self.status = status
        self.error = error
        why = error.get("message") if error else None
        super().__init__(f"{job_id} is {status}" + (f": {why}" if why else ""))


#: Why an output takes no more, by the kernel's number.
_NOT_WRITTEN = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file may not be that large here",
    errno.EPIPE: "its reader has gone",
    errno.ENXIO: "nothing reads it",
}


class NotWritten(StockpotError):
    """An output could not be written. What grows ends with a whole line; what is written at one go is not there.

    `offset` counts the lines of the batch that were written whole, now and before; None: none, of what is written at
    one go.
    """

    def __init__(self, path: str, error: OSError, offset: int | None = None) -> None:
        self.path, self.errno, self.offset = path, error.errno, offset
        why = _NOT_WRITTEN.get(error.errno or 0, error.strerror or str(error))
        super().__init__(f"{'stdout' if path == '-' else path}: {why}")


class Unreachable(StockpotError):
    """A dependency does not answer."""

    def __init__(self, dependency: str, detail: str, mend: str = "") -> None:
        self.dependency = dependency
        self.mend = mend
        super().__init__(f"{dependency} is unreachable: {detail}" + (f"\n{mend}" if mend else ""))


class StatementTimeout(Unreachable):
    """The database has cancelled a statement: it took too long, or an operator asked for it. Nothing was committed."""

    def __init__(self, detail: str) -> None:
        super().__init__("the database", detail)
        self.args = (f"the database has cancelled the statement: {detail}",)


class Refused(Unreachable):
    """The database answers and refuses: the role lacks a right, or nothing may be written. Nothing was committed."""

    def __init__(self, detail: str, mend: str) -> None:
        super().__init__("the database", detail, mend)
        self.args = (f"the database refuses: {detail}\n{mend}",)


def out_of_files(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, means that this process (or the machine) may open no more files."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            return True
        error = error.__cause__
    return False

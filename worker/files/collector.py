"""What deleted, expired and broken-off files leave behind is removed, a slice per transaction.

Repeating any step does no harm: the objects of a file go first, then its pieces, its row with the last of them.
"""

from __future__ import annotations

from worker.base.errors import Unreachable
from worker.base.log import get_logger
from worker.db.connect import Database
from worker.db.files import records
from worker.db.refusals import REFUSED, Refusals
from worker.files import place as places

log = get_logger(__name__)

#: Pieces in one transaction: 16 MB on PostgreSQL and SQLite.
SLICE = 16
#: An upload that has not moved for so many leases is broken; it moves at least once in each.
IDLE_LEASES = 4


def is_anything_left(database: Database) -> bool:
    """Whether `collect` would find anything. Reads only. Raises Unreachable."""
    idle = IDLE_LEASES * database.settings.lease_seconds
    return database.read(lambda conn: records.left(conn, idle_seconds=idle))


def collect(database: Database, refused: Refusals | None = None) -> int:
    """Remove what may be removed now; how many files are gone. What the database refuses to lose is added to `refused`.

    Raises:
        Unreachable: the database does not answer.
    """
    idle, refused = IDLE_LEASES * database.settings.lease_seconds, refused or Refusals("file")
    given_up = database.write(lambda conn: records.expire(conn, idle_seconds=idle))
    gone = 0
    for file, place in database.read(records.collectable):
        try:
            if place is not None:
                places.remove(place, file)
        except Unreachable as error:
            log.warning("file_not_removed", file=file, error=str(error))
            continue
        try:
            while not database.write(lambda conn, file=file: records.remove(conn, file, pieces=SLICE)):  # type: ignore[misc]
                pass
        except REFUSED as error:
            refused.add(file, error)
            continue
        gone += 1
    if gone or given_up:
        log.info("files_collected", files=gone, given_up=given_up)
    return gone

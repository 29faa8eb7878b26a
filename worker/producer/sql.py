"""What the two faces need of the database, in one place: SQLAlchemy is imported with the first producer that is made.

A web application imports Stockpot at its start, in tests and in commands that submit nothing; SQLAlchemy is half of what
that took. The faces ask this module for all of it (`worker.base.later`), and it has nothing of its own.
"""

from worker.db.jobs import cancel, listing, lookup, usage
from worker.db.jobs.failures import failures
from worker.db.jobs.submit import insert
from worker.producer.callers_transaction import insert as insert_in
from worker.producer.callers_transaction import insert_awaited, one_of
from worker.producer.connections import acquire, watch
from worker.producer.scope import Scope

__all__ = [
    "Scope",
    "acquire",
    "cancel",
    "failures",
    "insert",
    "insert_awaited",
    "insert_in",
    "listing",
    "lookup",
    "one_of",
    "usage",
    "watch",
]

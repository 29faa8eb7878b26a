"""The numbers of live events: which `seq` an event has, decided so that no number is ever given twice.

Every claim of a job has a block of numbers of its own, by its fence, which only rises and lives in the database:

    fence 1: 1 … 999,999     fence 2: 1,000,000 + (1 … 999,999)     fence n: (n - 1) × 1,000,000 + (1 … 999,999)

Inside its block the claim's worker counts from 1. No other process writes there, so no loss of Redis and no death of a
worker can make a number come twice. Who ends a job without having claimed it (a cancellation while it is queued, its
time to live, a lost lease) raises the fence first and so has a block of its own.

Two kinds of events are made from the database, for a reader whose events are lost. Their numbers are no real event's:

    the first number of a block, (n - 1) × 1,000,000     the `attempt.reset` of this block where the real one is lost
    the two before a terminal event's                     an `attempt.reset` and a `chunk` with the whole text
"""

from __future__ import annotations

from api_schemas.errors import FieldProblem, InvalidRequest

#: Numbers of one fence: a call of five hours at a flush every 20 ms. A fence is below 2^31, so every number is exact in
#: JavaScript, too (2^53).
BLOCK = 1_000_000
#: Numbers kept free before a terminal event's: for the reset and the chunk that are made from the database.
KEPT_FREE = 2
#: The place, in its block, of the terminal event of a job that ended without a claim.
FIRST_END = 1 + KEPT_FREE
#: A claim numbers no more events than this, so that its terminal event has a place.
MOST_EVENTS = BLOCK - 1 - FIRST_END
#: Above every number that there is.
HIGHEST = 2**53 - 1


def number(fence: int, place: int) -> int:
    """The `seq` of the event at a place (from 1) of a fence's block."""
    return (fence - 1) * BLOCK + place


def block_start(seq: int) -> int:
    """The number before the first real one of the block that `seq` is in."""
    return seq - seq % BLOCK


def opens_block(seq: int) -> bool:
    """Whether this is the first real number of a block."""
    return seq % BLOCK == 1


def end_number(fence: int, place: int) -> int:
    """The `seq` of the terminal event of a row that is over; `place` is the row's own `seq`."""
    return number(max(fence, 1), max(place, FIRST_END))


def after_number(value: int | str | bytes | None) -> int:
    """The number after which a reader wants to go on, as a caller or an HTTP header gives it; 0 for none.

    Raises:
        InvalidRequest: it is no whole number, or negative.
    """
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str("" if value is None else value).strip()
    if text == "":
        return 0
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()):
        raise InvalidRequest([FieldProblem(field="after", message=f"expected the seq of an event, got {text[:40]!r}")])
    return min(int(text.lstrip("0")[:17] or "0"), HIGHEST)

"""Whether a refusal concerns the account or one request, where its message does not show it, or is wrong.

- A refusal without a reason (a bare 403, a firewall's page) is its job's. `IN_A_ROW` of different jobs without one
  answer of the key between them are the account's.
- A refusal that speaks of the account is the account's. A job that is refused so again, although others of its key have
  been answered in between, is doubted: it waits, and the others go on. After a second time it has itself to blame; and from
  then on so has its model, until the model itself is answered.

The evidence of all workers stands in Redis, beside the account's pause (`refused.lua`); this class is the same in
memory, for one worker while Redis is away.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

V = TypeVar("V")

#: Different jobs refused in a row until it is the account. A batch has them within a second, if it is; and a batch with
#: a few lines that a firewall dislikes has an answered one between them.
IN_A_ROW = 5
#: Refusals of one job, each after answers of others, until it is the job. One may be chance: an account that was filled
#: and is empty again.
STRIKES = 2
#: Refused jobs and models remembered of a key.
REMEMBERED = 4_096


class Verdict(StrEnum):
    """Whose trouble a refusal is taken for."""

    ACCOUNT = "account"  # all calls of the key stop
    DOUBTED = "doubted"  # the job waits for longer, and the others go on
    REQUEST = "request"  # the job fails


@dataclass(slots=True)
class _Key:
    answered: int = 0
    in_a_row: dict[str, None] = field(default_factory=dict)
    # Job → how often it was refused after answers of others, and the key's answers at its last refusal.
    jobs: OrderedDict[str, tuple[int, int]] = field(default_factory=OrderedDict)
    # Models to blame → the key's answers at the last refusal.
    models: OrderedDict[str, int] = field(default_factory=OrderedDict)


class Refusals:
    """What this worker has seen refused and answered, by key."""

    def __init__(self) -> None:
        self._keys: defaultdict[str, _Key] = defaultdict(_Key)

    def passed(self, key: str, model: str) -> None:
        """A call of the key was answered."""
        seen = self._keys[key]
        seen.answered += 1
        seen.in_a_row.clear()
        seen.models.pop(model, None)

    def refused(self, key: str, job: str, model: str, *, unexplained: bool) -> Verdict:
        """A job was refused without a reason (`unexplained`), or with words about the account."""
        seen = self._keys[key]
        if unexplained:
            if len(seen.in_a_row) < IN_A_ROW:
                seen.in_a_row[job] = None
            return Verdict.ACCOUNT if len(seen.in_a_row) >= IN_A_ROW else Verdict.REQUEST
        strikes, before = seen.jobs.pop(job, (0, seen.answered))
        again = seen.answered > before
        strikes += again
        if strikes >= STRIKES or seen.answered > seen.models.get(model, seen.answered):
            _remember(seen.models, model, seen.answered)
            return Verdict.REQUEST
        _remember(seen.jobs, job, (strikes, seen.answered))
        return Verdict.DOUBTED if again else Verdict.ACCOUNT


def _remember(where: OrderedDict[str, V], name: str, value: V) -> None:
    where[name] = value
    where.move_to_end(name)
    if len(where) > REMEMBERED:
        where.popitem(last=False)

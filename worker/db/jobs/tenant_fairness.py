"""Whose turn it is: the jobs of a lane that belong to no batch are claimed in turns, tenant by tenant.

    each claim of n jobs      is dealt out by weight among the tenants that have work, and a tenant's part evenly among its
                              models; all weigh 1 where `STOCKPOT_TENANT_WEIGHTS` does not set another weight
    what one cannot use       goes to the others in the same claim: no slot stays empty while any tenant has work

The bound: while a tenant of weight w among tenants of weight W has due work, it has had its w / W of all that one worker
claimed, less two jobs at most, however small the claims are: the job goes to whom most is owed. Where all weigh the same
that is at least ⌊n / T⌋ of every claim of n jobs, and one in every ⌈T / n⌉ claims with more tenants than jobs. (Beyond `MOST_GROUPS` pairs of tenant and model a worker
looks at that many at a time, and goes on to the next ones after `REFRESH_SECONDS`.) A tenant with a million jobs in the
queue delays another's by no more than one with ten.

Which pairs there are is read from the index by skipping from one to the next, not by counting rows: its cost does not
depend on how many jobs wait. Jobs of a held route do not delay others for the same reason.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from sqlalchemy import Connection, text

from worker.db.budgets.tables import SHUT
from worker.db.clock import is_postgres

#: A tenant that is new in the queue waits this long at most for its first turn, while others have work.
REFRESH_SECONDS = 1.0
#: Pairs of tenant and model that one listing reads: some 10 ms.
MOST_GROUPS = 1_000
#: A claim that takes longer has stepped over rows that vacuum cannot clear, since a snapshot holds them (some 20,000).
SLOW_SECONDS = 0.02
#: After a slow one the next claims, for so many times its duration, begin where the ones before ended; at most until
#: the next listing would be due.
REST = 10
#: Jobs that were committed later than others that were due before them: found so much behind where a claim begins.
SLACK_SECONDS = 0.5
#: Further back than any job is due.
EVER_SECONDS = 1e9
#: What waits and belongs to no batch; the condition of the index `ix_jobs_queued`.
ALONE = "status = 'queued' AND batch_id IS NULL"

Group = tuple[str, str]
"""Tenant and model."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Claim up to `quota` due jobs of a tenant and a model."""

    tenant: str
    model: str
    quota: int
    back: float = EVER_SECONDS  # what was due longer ago than so many seconds is left to the next whole look


class TenantFairness:
    """The tenants of one lane, as one worker deals to them. Pure but for the clock (seconds, rising)."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, weights: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self._clock = clock
        self._weights = weights
        self._dealt = 0
        # Jobs that a tenant should have had by now, less those it had; and the number of the last one that it had.
        self._owed: dict[str, tuple[float, int]] = {}
        self._tenants: deque[tuple[str, deque[str]]] = deque()
        self._read_at = -REFRESH_SECONDS
        self._served = ""  # the tenant that was dealt to last: the next one is first after a listing
        self.after: Group | None = None  # where the next listing begins; None at the beginning
        self._listing: tuple[Sequence[Group], Collection[str]] = ((), ())
        self._short_until = -REFRESH_SECONDS  # until then claims are short
        self._reached: dict[Group, float] = {}  # what was due before this moment had been claimed

    @property
    def stale(self) -> bool:
        """Whether it is time to list again."""
        return self._clock() - self._read_at >= REFRESH_SECONDS

    @property
    def now(self) -> float:
        """This moment, by the clock that it measures with."""
        return self._clock()

    @property
    def short(self) -> bool:
        """Whether claims do not look at the whole queue now: a whole look took long, a moment ago."""
        return self._clock() < self._short_until

    def looked(self, began: float) -> None:
        """A whole look is over."""
        took = self._clock() - began
        if took >= SLOW_SECONDS:
            self._short_until = began + min(REFRESH_SECONDS, REST * took)

    def again(self) -> None:
        """Take the last listing in once more, in place of a new one."""
        self._deal_among(*self._listing)

    def shortened(self, turns: Sequence[Turn]) -> list[Turn]:
        """These turns, each from where the ones before it have ended."""
        now = self._clock()
        return [
            replace(turn, back=now - reached + SLACK_SECONDS)
            if (reached := self._reached.get((turn.tenant, turn.model))) is not None
            else turn
            for turn in turns
        ]

    def reached(self, turn: Turn, moment: float) -> None:
        """A turn has claimed all that was due before a moment."""
        group = turn.tenant, turn.model
        self._reached[group] = max(moment, self._reached.get(group, moment))

    def learn(self, groups: Sequence[Group], shut: Collection[str] = ()) -> None:
        """Take a listing in, which began behind `after`; tenants whose budget is `shut` have no turn."""
        self._read_at = self._clock()
        self.after = groups[-1] if len(groups) >= MOST_GROUPS else None
        self._listing = groups, shut
        listed = set(groups)
        self._reached = {group: at for group, at in self._reached.items() if group in listed}
        self._deal_among(groups, shut)

    def _deal_among(self, groups: Sequence[Group], shut: Collection[str]) -> None:
        by_tenant: dict[str, deque[str]] = {}
        for tenant, model in groups:
            if tenant in shut:
                continue
            by_tenant.setdefault(tenant, deque()).append(model)
        self._tenants = deque(by_tenant.items())
        self._tenants.rotate(-sum(tenant <= self._served for tenant in by_tenant))

    def deal(self, limit: int, held: Collection[str] = ()) -> list[Turn]:
        """Deal `limit` jobs out to those next in turn, leaving out models that are held."""
        turns: list[Turn] = []
        open_ = [tenant for tenant, models in self._tenants if any(model not in held for model in models)]
        quotas = self._quotas(limit, open_)
        for tenant, models in list(self._tenants)[: len(self._tenants)]:
            quota = quotas.get(tenant, 0)
            if not quota:
                continue
            usable = [model for model in models if model not in held]
            turns += [
                Turn(tenant, model, part) for model, part in zip(usable, _parts(quota, len(usable)), strict=False)
            ]
            models.rotate(-len(usable[:quota]))
            self._served = tenant
        if quotas:
            at = [tenant for tenant, _ in self._tenants].index(self._served)
            self._tenants.rotate(-(at + 1))
        return turns

    def _quotas(self, limit: int, tenants: Sequence[str]) -> Counter[str]:
        """Each job to whom most is owed; where that is the same for several, to who has had none for longest."""
        whole = sum(self._weights.get(tenant, 1) for tenant in tenants)
        heap = []
        for place, tenant in enumerate(tenants):
            owed, last = self._owed.get(tenant, (0.0, place - len(tenants)))
            less = -owed - limit * self._weights.get(tenant, 1) / whole
            # Compared as rounded, so that what is the same in arithmetic is the same here.
            heap.append((round(less, 6), last, tenant, less))
        heapq.heapify(heap)
        quotas: Counter[str] = Counter()
        for _ in range(limit if heap else 0):
            _, _, tenant, less = heap[0]
            quotas[tenant] += 1
            self._dealt += 1
            heapq.heapreplace(heap, (round(less + 1, 6), self._dealt, tenant, less + 1))
        self._owed = {tenant: (-less, last) for _, last, tenant, less in heap}
        return quotas

    def dry(self, turn: Turn) -> None:
        """A turn found less than its quota: nothing more is due there until the next listing."""
        for tenant, models in list(self._tenants):
            if tenant == turn.tenant and turn.model in models:
                models.remove(turn.model)
                if not models:
                    self._tenants.remove((tenant, models))


def _parts(whole: int, among: int) -> list[int]:
    """`whole` in even parts, the first ones greater by one; no part is 0, so there may be fewer than `among`."""
    among = min(among, whole)
    if among <= 0:
        return []
    each, more = divmod(whole, among)
    return [each + (at < more) for at in range(among)]


def groups(conn: Connection, lane: str, after: Group | None) -> tuple[list[Group], frozenset[str]]:
    """The pairs of tenant and model that have jobs in a lane's queue, in order, at most `MOST_GROUPS`.

    And the tenants of them whose budget is shut.
    """
    start = after or ("", "")
    return _postgres(conn, lane, start) if is_postgres(conn) else _sqlite(conn, lane, start)


def _postgres(conn: Connection, lane: str, start: Group) -> tuple[list[Group], frozenset[str]]:
    following = f"""
        SELECT tenant, model FROM jobs WHERE {ALONE} AND lane = :lane AND (tenant, model) > ({{tenant}}, {{model}})
        ORDER BY tenant, model LIMIT 1
    """
    first = following.format(tenant="CAST(:tenant AS text)", model="CAST(:model AS text)")
    rows = conn.execute(
        text(f"""
        WITH RECURSIVE walk AS (
            SELECT f.tenant, f.model, 1 AS n FROM ({first}) AS f
            UNION ALL
            SELECT f.tenant, f.model, walk.n + 1
            FROM walk CROSS JOIN LATERAL ({following.format(tenant="walk.tenant", model="walk.model")}) AS f
            WHERE walk.n < :most
        )
        SELECT tenant, model, {SHUT.format(tenant="walk.tenant")} AS shut FROM walk
        """),
        {"lane": lane, "tenant": start[0], "model": start[1], "most": MOST_GROUPS},
    ).all()
    return [(row.tenant, row.model) for row in rows], frozenset(row.tenant for row in rows if row.shut)


def _sqlite(conn: Connection, lane: str, start: Group) -> tuple[list[Group], frozenset[str]]:
    # The library is in this process: a step costs some microseconds, and its recursive queries know no LATERAL.
    step = text(f"""
        SELECT tenant, model FROM jobs INDEXED BY ix_jobs_queued
        WHERE {ALONE} AND lane = :lane AND (tenant, model) > (:tenant, :model) ORDER BY tenant, model LIMIT 1
    """)
    found: list[Group] = []
    at: Group | None = start
    while at is not None and len(found) < MOST_GROUPS:
        row = conn.execute(step, {"lane": lane, "tenant": at[0], "model": at[1]}).first()
        at = None if row is None else (row.tenant, row.model)
        if at is not None:
            found.append(at)
    asked = text(f"SELECT {SHUT.format(tenant=':tenant')}")
    tenants = {tenant for tenant, _ in found}
    return found, frozenset(tenant for tenant in tenants if conn.execute(asked, {"tenant": tenant}).scalar())

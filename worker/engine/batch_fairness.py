"""Rounds: which batch is claimed from next.

Tenants take turns by weight, and the batches of one tenant one after the other. A turn is one slice.

The bound: while two tenants of weights v and w both have lines to claim, what one worker has claimed for each, divided
by its weight, differs by a slice at most since both began, and by two over any stretch of that. A batch waits for no
more slices of its tenant than that one has other batches. How many batches a tenant has, and how long they are, gives it
nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from worker.db.batches.claims import OpenBatch


class BatchFairness:
    """The batches that may have lines to claim, as one worker goes round them.

    Args:
        weights: of tenants; who is not named weighs 1.
    """

    def __init__(self, weights: Mapping[str, int] = MappingProxyType({})) -> None:
        self._weights = weights
        self._batches: dict[str, deque[OpenBatch]] = {}
        self._served: dict[str, str] = {}  # the batch of each tenant that had its last turn
        self._had: dict[str, float] = {}  # lines claimed for each tenant, divided by its weight
        self._level = 0.0  # what the tenant that was served last had had before

    def __bool__(self) -> bool:
        return any(self._batches.values())

    def learn(self, batches: Sequence[OpenBatch]) -> None:
        """Go round these from now on (ordered by id), in each tenant behind the one that was served last.

        A tenant that is new, or was away, begins level with who is served now: it owes nothing, and has saved up nothing.
        """
        by_tenant: dict[str, deque[OpenBatch]] = {}
        for batch in batches:
            by_tenant.setdefault(batch.tenant, deque()).append(batch)
        self._had = {tenant: self._had.get(tenant, self._level) for tenant in by_tenant}
        self._served = {tenant: self._served.get(tenant, "") for tenant in by_tenant}
        for tenant, own in by_tenant.items():
            own.rotate(-sum(batch.id <= self._served[tenant] for batch in own))
        self._batches = by_tenant

    def take(self, held: Collection[str]) -> OpenBatch | None:
        """The batch whose turn it is; None if there is none. Those of a `held` model are not asked again before `learn`."""
        for tenant in sorted(filter(self._batches.get, self._batches), key=lambda one: self._had[one]):
            own = self._batches[tenant]
            while own:
                batch = own.popleft()
                if batch.model not in held:
                    self._served[tenant] = batch.id
                    return batch
        return None

    def claimed(self, batch: OpenBatch, lines: int, *, dry: bool) -> None:
        """So many lines of a batch were claimed; `dry`: it had no more.

        A turn that was not used up is not kept for later: else a tenant whose batches are bounded for an hour would have
        the hour after it to itself.
        """
        had = self._had.get(batch.tenant)
        if had is None:
            return  # a new list without this tenant has come meanwhile
        if dry:
            had = max(had, self._level)
        else:
            self._level = max(self._level, had)
        self._had[batch.tenant] = had + lines / self._weights.get(batch.tenant, 1)

    def again(self, batches: Sequence[OpenBatch]) -> None:
        """These may have more."""
        for batch in batches:
            if batch.tenant in self._batches and batch not in self._batches[batch.tenant]:
                self._batches[batch.tenant].append(batch)

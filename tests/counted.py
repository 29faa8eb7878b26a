"""What the metrics of this process have counted since a test began to look."""

from __future__ import annotations

from worker.base.metrics import REGISTRY


class Counted:
    """How much a sample has risen since this was made: the sum of all its series that have these labels."""

    def __init__(self, sample: str, **labels: str) -> None:
        self._sample, self._labels = sample, labels
        self._before = self.now()

    def now(self) -> float:
        """What it stands at."""
        return sum(
            one.value
            for family in REGISTRY.collect()
            for one in family.samples
            if one.name == self._sample and self._labels.items() <= one.labels.items()
        )

    def __call__(self) -> float:
        """The rise."""
        return self.now() - self._before

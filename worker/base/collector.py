"""Python's cyclic garbage collector, tuned for a process with thousands of calls or streams open.

By default it looks at the youngest objects every 700 allocations and, every so often, at all of them: the modules
(hundreds of thousands of objects that never die) and the state of every open stream. An answered call leaves no
cycles, so nearly all of that work finds nothing. ADR 0012 has the numbers.
"""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 50)
"""Allocations (net of what was freed) between looks at the youngest objects; looks of one generation between those of
the next. 50,000 containers are about 10 MB, the most that cycles of ours can hold before they are noticed."""

SERVER_THRESHOLDS = (2_000, 20, 50)
"""The same for a server of HTTP requests, each of which leaves cycles (its framework's): a look at few finds them at a
millisecond's cost, where one at 50,000 would stop every stream for tens of them."""


def freeze_permanent_objects(thresholds: tuple[int, int, int] = THRESHOLDS) -> None:
    """Set what is alive now aside from every later collection, and collect less often; call it once all is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds)

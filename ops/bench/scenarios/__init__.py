"""What is measured: one module per scenario, each yielding flat records for `results.json`."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]

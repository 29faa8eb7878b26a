"""Lengths of time as headers write them. Pure and lenient."""

from __future__ import annotations

import re

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|$)")
#: Only one part may lack its unit: with any, a long row of digits could be cut in 2**n ways, and all would be tried.
_WHOLE = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+|\d+(?:\.\d+)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "": 1.0}


def seconds_of(text: str) -> float | None:
    """`1.5`, `300ms`, `6m0s`, `2m59.56s` → seconds; None for anything else."""
    if _WHOLE.fullmatch(text) is None:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))

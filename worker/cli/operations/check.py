"""What one check of `stockpot doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ok", "note", "failed", "unreachable"]


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found. `note`: works, but worth knowing; `failed`: reachable and wrong."""

    name: str
    outcome: Outcome
    detail: str
    mend: str = ""


def first_line(error: Exception) -> str:
    """An error's message, without how to mend it."""
    return (str(error).splitlines() or [type(error).__name__])[0]

"""How the demo writes things: pure."""

from __future__ import annotations

from decimal import Decimal


def printable(text: str) -> str:
    """Text that only shows: a model's control characters would move the cursor or worse. Newlines stay."""
    return "".join(one if one == "\n" or one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def one_line(text: str, length: int = 60) -> str:
    """The beginning of a text, on one line."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def clock(seconds: float) -> str:
    """A duration: milliseconds below a second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def usd(amount: Decimal | None) -> str:
    """US dollars to six places, a dash for unknown."""
    return "–" if amount is None else f"${amount:,.6f}"

"""What a benchmark leaves: a Markdown page of tables, plots, and lines of JSON as it goes. All benchmarks write with this."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

Cell = str | float | int | None
_SIZE = (7.0, 4.0)


def line(record: dict[str, Any]) -> None:
    """Print one record as a line of JSON."""
    sys.stdout.write(orjson.dumps(record).decode() + "\n")
    sys.stdout.flush()


def measurement(name: str, **figures: Any) -> None:
    """Print one measurement as a line of JSON, with what else the machine was doing."""
    line({"measurement": name, **figures, "load": round(os.getloadavg()[0], 1), "cores_of_machine": os.cpu_count()})


def here(load: float | None = None) -> str:
    """The machine in a few words; `load` is its load average before the run (None: now)."""
    when = "now" if load is None else "before it began"
    load = os.getloadavg()[0] if load is None else load
    return f"{os.cpu_count()} cores, {platform.python_implementation()} {platform.python_version()}, load {load:.1f} {when}"


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A Markdown table."""
    lines = [row(head), "|" + "---|" * len(head)]
    return "\n".join([*lines, *map(row, rows)])


def row(cells: Sequence[Cell]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(map(shown, cells)) + " |"


def shown(value: Cell) -> str:
    """A number as people read it: three significant digits, thousands separated."""
    if value is None or value != value:  # noqa: PLR0124  NaN
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share with one decimal."""
    return f"{share:.1%}"


def write(path: Path, parts: Iterable[str]) -> None:
    """Write a page of these parts, each with a blank line behind it."""
    path.write_text("\n\n".join(part.strip("\n") for part in parts if part) + "\n", encoding="utf-8")


def plot(path: Path, picture: Callable[[Axes], object]) -> None:
    """Draw one picture as SVG. A fixed salt and no date: the same figures give the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "stockpot"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
    picture(axes)
    axes.grid(visible=True, alpha=0.3)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)

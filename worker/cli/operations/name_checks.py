"""The check of names: whether an application in this directory can import Stockpot.

A script's directory comes first on Python's path, so a `worker.py` beside it is imported instead of `worker`. Commands
are not affected: they import Stockpot's own modules.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import worker
from worker.cli.operations.check import Check

#: What an application imports of us, and what these import.
NAMES = ("worker", "api_schemas", "stockpot", "celery")


def names() -> Iterator[Check]:
    """Look for files that would be imported instead of ours, here and in what comes before ours on Python's path."""
    ours = Path(worker.__file__).resolve().parents[1]
    path = [Path(entry or ".").resolve() for entry in sys.path]
    before = path[: path.index(ours)] if ours in path else []
    imported = {str(Path(str(distribution("celery").locate_file("celery/__init__.py"))).resolve())}
    found = [
        str(file)
        for directory in dict.fromkeys([Path.cwd(), *before])
        if directory != ours
        for name in NAMES
        for file in (directory / f"{name}.py", directory / name / "__init__.py")
        if file.is_file() and str(file.resolve()) not in imported
    ]
    if not found:
        yield Check("names", "ok", "nothing here shadows Stockpot's packages")
        return
    yield Check(
        "names",
        "failed",
        f"{', '.join(found)}: imported instead of Stockpot's package by whatever runs there",
        "Rename it, or start Python with -P. `stockpot worker` and the other commands are not affected.",
    )

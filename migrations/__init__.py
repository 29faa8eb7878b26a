"""The database's history: alembic revisions, shipped with the package. Run them with `stockpot db upgrade`."""

from __future__ import annotations

from pathlib import Path

#: The newest revision, by its file's name, so that a producer need not load alembic to know it; a test holds it true.
HEAD = max(path.name[:4] for path in Path(__file__).parent.joinpath("versions").glob("[0-9][0-9][0-9][0-9]_*.py"))

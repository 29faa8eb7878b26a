"""The database's history: alembic revisions, shipped with the package. Run them with `stockpot db upgrade`."""

from __future__ import annotations

#: The newest revision, told here too so that a producer need not load alembic to know it; a test holds it true.
HEAD = "0005"

"""Where the revisions are: inside `worker` in an installed wheel, beside it in the source tree.

They are files that alembic runs, and no package to import: whatever is called `migrations` in an
application or its directory changes nothing.
"""

from __future__ import annotations

from pathlib import Path

import worker

_HERE = Path(worker.__file__).parent
#: The directory with alembic's `env.py` and `versions`.
DIRECTORY = next(
    (path for path in (_HERE / "migrations", _HERE.parent / "migrations") if (path / "env.py").is_file()),
    _HERE / "migrations",
)

#: The newest revision, by its file's name, so that a producer need not load alembic to know it; a test holds it true.
HEAD = max((path.name[:4] for path in DIRECTORY.glob("versions/[0-9][0-9][0-9][0-9]_*.py")), default="")
if not HEAD:
    raise ImportError(f"Stockpot's migrations are missing: {DIRECTORY} has none. Install Stockpot again.")

"""Starting Celery with our app, in any directory.

Celery puts the working directory first on the path, where a project may have its own `worker`, `migrations` or
`celery.py`: everything of ours is imported before that.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence


def start(program: Sequence[str], arguments: Sequence[str]) -> None:
    """Run a Celery command with our app, and end with it.

    Args:
        program: what this was started by, without the interpreter: a worker runs it again on SIGHUP.
        arguments: Celery's, for example `["worker", "--loglevel", "INFO"]`.
    """
    from celery.exceptions import SecurityWarning

    import worker.broker.tasks  # noqa: F401 -- all that a worker imports
    from worker.broker.app import app
    from worker.db.schema import head

    head()  # loads the migrations
    # It warns of a superuser who unpickles messages; ours are JSON, and no other is taken (`worker.broker.consumer`).
    warnings.filterwarnings("ignore", category=SecurityWarning)
    sys.argv = [*program, *arguments]
    app.start(list(arguments))

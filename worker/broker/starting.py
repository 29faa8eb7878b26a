"""Starting Celery with our app, in any directory.

Celery puts the working directory first on the path, where a project may have its own `worker`, `migrations` or
`celery.py`: everything of ours is imported before that.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def start(program: Sequence[str], arguments: Sequence[str]) -> NoReturn:
    """Run a Celery command with our app, and end with its exit code (`app.start` loses it).

    Args:
        program: what this was started by, without the interpreter: a worker runs it again on SIGHUP.
        arguments: Celery's, for example `["worker", "--loglevel", "INFO"]`.
    """
    import celery.bin.worker as celery_worker
    from celery.bin.celery import celery
    from celery.exceptions import SecurityWarning

    import worker.broker.tasks  # noqa: F401 -- all that a worker imports
    from worker.broker.app import app
    from worker.db.schema import head

    head()  # loads the migrations
    # It warns of a superuser who unpickles messages; ours are JSON, and no other is taken (`worker.broker.consumer`).
    warnings.filterwarnings("ignore", category=SecurityWarning)
    sys.argv = [*program, *arguments]
    # Celery would begin again as `python -m celery …`, with another app, or none.
    detached = celery_worker.detach
    again = [*program, *_attached(arguments)]
    celery_worker.detach = lambda path, _arguments, **options: detached(path, again, **options)
    celery.params[0].default = app
    # It would take the app, the loader and the broker from APP, LOADER and BROKER_URL, too.
    for option in celery.params:
        option.envvar = option.envvar if option.name == "no_color" else None
    celery.main(list(arguments), prog_name=Path(program[0]).name)
    raise SystemExit(0)


def _attached(arguments: Sequence[str]) -> list[str]:
    """The arguments without what is done by then: into the background, and another user."""
    kept, skip = list[str](), False
    for one in arguments:
        if skip or one in {"-D", "--detach"} or one.startswith(("--uid=", "--gid=")):
            skip = False
            continue
        skip = one in {"--uid", "--gid"}
        if not skip:
            kept.append(one)
    return kept

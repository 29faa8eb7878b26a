"""Where `celery -A worker` finds the app; `python -P -m worker.celery` is Celery with it, whatever the directory holds."""

from __future__ import annotations

import sys

from worker.broker.app import app
from worker.broker.starting import start

__all__ = ["app"]

if __name__ == "__main__":
    start(["-P", "-m", "worker.celery"], sys.argv[1:])

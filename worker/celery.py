"""Where `celery -A worker` finds the app."""

from __future__ import annotations

from worker.broker.app import app

__all__ = ["app"]

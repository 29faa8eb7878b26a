"""The Celery worker that people write when no job may be lost: `acks_late`, and everything else as Celery has it.

`celery -A ops.bench.peers.acks_late worker`. The visibility timeout of its Redis transport is the default, one hour.
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

from celery import Celery

app = Celery("acks_late", broker=os.environ.get("PLAIN_BROKER_URL", ""))
app.conf.task_ignore_result = True
app.conf.task_acks_late = True


@app.task(bind=True)
def complete(self: Any, script: str) -> None:
    """One whole call; the task's id names it in the simulator's journal."""
    body = {"model": f"openai/gpt-5-1-chat-latest@sim:{script}", "messages": [{"role": "user", "content": "?"}]}
    request = urllib.request.Request(
        os.environ["PLAIN_BASE_URL"] + "/chat/completions",
        data=json.dumps(body).encode(),
        headers={
            "Authorization": "Bearer plain",
            "Content-Type": "application/json",
            "X-Client-Request-Id": str(self.request.id),
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()

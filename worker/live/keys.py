"""Every Redis key and channel of the live streams: its pattern, its owner, its TTL.

| name | kind | owner | TTL |
|---|---|---|---|
| `<namespace>:job:<id>` | stream, the job's replay log; entry id `<seq>-<epoch>`, one field `e` | `append.lua` | set at each write: the job's longest life while it runs, `live_ttl_seconds` after its terminal event |
| `<namespace>:job:<id>` | pub/sub channel with the same envelopes | `append.lua` | none, a channel keeps nothing |
| `<namespace>:job:` | pub/sub channel without a publisher | `feed`, to hold its connection open | none |
| `<namespace>:control` | pub/sub channel: cancellations | `control` | none |
"""

from __future__ import annotations

from worker.base.redis_urls import DEFAULT_NAMESPACE

#: The one field of a log entry: the event's JSON.
ENTRY_FIELD = b"e"


def control_channel(namespace: str = DEFAULT_NAMESPACE) -> str:
    """The channel of cancellations."""
    return f"{namespace}:control"


def job_prefix(namespace: str = DEFAULT_NAMESPACE) -> str:
    """What the names of all jobs' logs and channels begin with."""
    return f"{namespace}:job:"


def job_key(job_id: str, namespace: str = DEFAULT_NAMESPACE) -> str:
    """The name of a job's log and of its channel."""
    return job_prefix(namespace) + job_id

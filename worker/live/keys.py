"""Every Redis key and channel of the live streams: its pattern, its owner, its TTL.

| name | kind | owner | TTL |
|---|---|---|---|
| `stockpot:job:<id>` | stream, the job's replay log; entry id `<seq>-<epoch>`, one field `e` | `append.lua` | set at each write: the job's longest life while it runs, `live_ttl_seconds` after its terminal event |
| `stockpot:job:<id>` | pub/sub channel with the same envelopes | `append.lua` | none, a channel keeps nothing |
| `stockpot:job:` | pub/sub channel that nobody publishes to | `feed`, to hold its connection open | none |
| `stockpot:control` | pub/sub channel: cancellations | `control` | none |
"""

from __future__ import annotations

JOB_PREFIX = "stockpot:job:"
CONTROL_CHANNEL = "stockpot:control"
#: The one field of a log entry: the event's JSON.
ENTRY_FIELD = b"e"


def job_key(job_id: str) -> str:
    """The name of a job's log and of its channel."""
    return JOB_PREFIX + job_id

"""What a stage of a fault test left behind, checked: the promises I1 to I9."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig import canary, checker
from tests.rig.environment import TEST_API_KEY
from tests.rig.invariants import QUIET_KEYS, Violation, shown_text
from tests.rig.procs import Process
from tests.rig.waiting import NeverHappened, eventually

if TYPE_CHECKING:
    from tests.rig.stage import Stage

#: What kombu keeps: of a worker that died with a message in hand, until the visibility timeout takes it back (minutes),
#: and which of its queues are declared to last. Nothing depends on either.
BROKER_KEYS = ("stockpot.unacked", "stockpot.unacked_index", "stockpot.unacked_mutex", "_kombu.binding_permanent.*")
#: A quiet system may take this long to write its last live events and bookkeeping after the last commit, in seconds.
SETTLING_SECONDS = 30.0
#: Lines that tell the world's faults, not ours: Celery prints a traceback when its broker goes away.
BROKER_ERRORS = (
    r"^(kombu|redis|amqp)\.exceptions\.",
    r"^redis\.\w+\.",
    r"^(ConnectionResetError|ConnectionRefusedError|BrokenPipeError|TimeoutError|OSError|ConnectionError)\b",
)


def check(
    stage: Stage,
    *,
    gaps_allowed: bool = False,
    gone: Sequence[Process] = (),
    allowed_errors: Sequence[str] = (),
    all_completed: bool = True,
    redis: bool = True,
) -> None:
    """Assert I1 to I9 of what was left behind; what may still be on its way gets a moment.

    Args:
        gaps_allowed: Redis was harmed: streams may have holes, and broker errors in the logs are expected.
        gone: workers that were meant to end.
        allowed_errors: patterns of last lines of tracebacks that may stand in the logs.
        all_completed: every job must be `completed`.
        redis: False: there is none to look at.
    """
    killed = (
        gaps_allowed or bool(stage.supervisors) or any(each.returncode == -signal.SIGKILL for each in stage.workers)
    )
    errors = [*allowed_errors, *(BROKER_ERRORS if gaps_allowed else ())]

    def broken() -> list[Violation]:
        found = checker.check(
            stage.database_url,
            journals=[stage.journal] if stage.journal.exists() else [],
            hooks=stage.hooks.journal,
            hook_secrets=stage.hooks.secrets,
            redis_url=stage.valkey.url if redis else None,
            submitted=stage.submitted,
            gaps_allowed=gaps_allowed,
            allowed_keys=[*QUIET_KEYS, *BROKER_KEYS],
        )
        if killed:
            # Who died between the commit and the terminal event told nobody: readers learn it from the database.
            ends = _endless(found)
            found = [one for one in found if one.subject not in {"unacked", *ends}]
            found += [one for job_id in ends for one in _read_to_its_end(stage, job_id)]
        return found

    with contextlib.suppress(NeverHappened):
        eventually(lambda: not broken(), SETTLING_SECONDS, "no promise is broken")
    alive = [each for each in stage.workers if each not in gone and each.returncode != -signal.SIGKILL]
    alive += [supervisor.process for supervisor in stage.supervisors]
    found = [*broken(), *checker.check_processes(alive), *_tracebacks(stage, errors), *_leaks(stage, redis=redis)]
    if all_completed:
        found += [
            Violation("I1", row["id"], f"is {row['status']}: {row['error_class']} {row['error_message']}")
            for row in stage.rows("SELECT * FROM jobs_v WHERE status <> 'completed'")
        ]
    assert not found, "\n".join(str(one) for one in found[:20])


def _read_to_its_end(stage: Stage, job_id: str) -> list[Violation]:
    """I6 as a reader of the product sees it, from the log and the database together."""
    job = stage.job(job_id)
    seen = list(stage.pot.events(job_id))
    if seen[-1]["type"] != f"job.{job['status']}":
        return [Violation("I6", job_id, f"is {job['status']}; a reader ends with {seen[-1]['type']}")]
    if job["status"] == "completed" and shown_text(seen) != job["text"]:
        return [Violation("I6", job_id, f"a reader shows {shown_text(seen)!r:.80}, stored {job['text']!r:.80}")]
    return []


def _tracebacks(stage: Stage, allowed: Sequence[str]) -> list[Violation]:
    """I9: what the workers logged as JSON, whose tracebacks are one line each."""
    found = []
    for path in stage.worker_logs():
        for line in path.read_text(errors="replace").splitlines():
            error = _exception(line)
            if error and not any(re.search(pattern, error) for pattern in allowed):
                found.append(Violation("I9", path.stem, f"traceback: {error}"))
    return found


def _leaks(stage: Stage, *, redis: bool) -> list[Violation]:
    """I8: no prompt and no key in logs, command lines, or Redis outside of the replay logs."""
    tokens = {"prompt": stage.canaries.prompt, "api_key": TEST_API_KEY, "webhook_secret": stage.secret}
    pids = [each.pid for each in stage.workers if each.running]
    places: list[Path | tuple[str, bytes]] = [*stage.worker_logs(), *canary.command_lines(pids)]
    if redis:
        keys = canary.redis_keys(stage.valkey.url)
        places += [(name, content) for name, content in keys if not name.startswith("redis key stockpot:job:")]
    return [Violation("I8", leak.where, f"shows a {leak.kind}") for leak in canary.scan(places, tokens)]


def _endless(found: Sequence[Violation]) -> list[str]:
    """The jobs whose replay log has no terminal event."""
    return sorted(
        {one.subject for one in found if one.invariant == "I6" and one.what.endswith("its stream ends with None")}
    )


def _exception(line: str) -> str | None:
    """The last line of the traceback in a line of a JSON log."""
    if '"exception"' not in line or not line.startswith("{"):
        return None
    try:
        told = json.loads(line).get("exception", "")
    except ValueError:
        return None  # torn by a kill
    return str(told).strip().rsplit("\n", 1)[-1] if "Traceback" in str(told) else None

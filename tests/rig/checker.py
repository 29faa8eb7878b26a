"""The checker: reads what a run left behind and says which promises it broke; an empty list is a good run.

assert check(database_url, journals=[simulator_journal], hooks=hooks.journal, redis_url=url) == []

python -m tests.rig.checker --database URL --journal FILE [--hooks FILE] [--redis URL] [--submitted FILE]
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tests.rig import invariants, receipts
from tests.rig.evidence import Evidence, collect
from tests.rig.invariants import QUIET_KEYS, Violation
from tests.rig.procs import Process

_TRACEBACK = re.compile(r"Traceback \(most recent call last\):(?:\n[ \t].*)*\n(?P<error>\S.*)")


def check(
    database_url: str,
    *,
    journals: Sequence[Path] = (),
    hooks: Path | None = None,
    hook_secrets: Sequence[str] | None = None,
    redis_url: str | None = None,
    submitted: Collection[str] | None = None,
    gaps_allowed: bool = False,
    allowed_keys: Sequence[str] = QUIET_KEYS,
) -> list[Violation]:
    """Every violation of I1 to I7 in what a quiet system left behind; see `evidence.collect` for the arguments.

    Args:
        gaps_allowed: Redis was harmed, so that live streams may have holes.
        allowed_keys: patterns of Redis keys that may exist.
    """
    evidence = collect(
        database_url,
        journals=journals,
        hooks=hooks,
        hook_secrets=hook_secrets,
        redis_url=redis_url,
        submitted=submitted,
    )
    return violations(evidence, gaps_allowed=gaps_allowed, allowed_keys=allowed_keys)


def violations(
    evidence: Evidence, *, gaps_allowed: bool = False, allowed_keys: Sequence[str] = QUIET_KEYS
) -> list[Violation]:
    """Every violation in the evidence, sorted."""
    return sorted(
        [
            *invariants.every_job_ends_once(evidence),
            *invariants.answers_are_right(evidence),
            *invariants.calls_are_on_record(evidence),
            *invariants.fences_held(evidence),
            *invariants.hooks_were_delivered(evidence),
            *receipts.deliveries_verify(evidence),
            *invariants.streams_are_whole(evidence, gaps_allowed=gaps_allowed),
            *invariants.everything_is_quiet(evidence, allowed_keys=allowed_keys),
        ]
    )


def check_processes(processes: Iterable[Process], *, allowed_errors: Sequence[str] = ()) -> list[Violation]:
    """I9: each process lives, and wrote no traceback but those whose last line matches an allowed pattern."""
    found = []
    for process in processes:
        if not process.running:
            found.append(Violation("I9", process.name, f"ended with {process.returncode}"))
        for match in _TRACEBACK.finditer(process.output):
            error = match["error"]
            if not any(re.search(pattern, error) for pattern in allowed_errors):
                found.append(Violation("I9", process.name, f"traceback: {error}"))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig.checker", description=__doc__)
    parser.add_argument("--database", required=True, help="SQLAlchemy URL")
    parser.add_argument("--journal", type=Path, action="append", default=[], help="a simulator's journal")
    parser.add_argument("--hooks", type=Path, help="the webhook receiver's journal")
    parser.add_argument("--hook-secret", action="append", help="what the receiver accepts: verify its journal again")
    parser.add_argument("--redis", help="Redis URL")
    parser.add_argument("--submitted", type=Path, help="file of job ids, one a line, that submitters were promised")
    parser.add_argument("--gaps-allowed", action="store_true", help="Redis was harmed: streams may have holes")
    given = parser.parse_args(arguments)
    submitted = given.submitted.read_text().split() if given.submitted else None
    found = check(
        given.database,
        journals=given.journal,
        hooks=given.hooks,
        hook_secrets=given.hook_secret,
        redis_url=given.redis,
        submitted=submitted,
        gaps_allowed=given.gaps_allowed,
    )
    sys.stdout.writelines(f"{violation}\n" for violation in found)
    sys.stderr.write(f"{len(found)} violations\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Nothing that decides reads the machine's clock: it may be set by hours while a worker runs.

Leases, waits and limits use the database's clock, Redis' clock or the loop's. Each place that does read the wall clock
stands here, with the reason why a step of it harms nothing.
"""

from __future__ import annotations

import ast
from pathlib import Path

WORKER = Path(__file__).resolve().parents[2] / "worker"
#: Commands and pages: what a person reads, and ends; the simulator is a provider, with a clock of its own.
PEOPLE = ("cli", "dashboard", "local", "simulator")
READS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
REASONS = {
    "base/figures.py": "words for a person",
    "batches/progress.py": "words for a person",
    "db/batches/keeping.py": "only for a type checker: the database always has a moment",
    "db/jobs/usage.py": "which of two equal sources a report of past days is read from",
    "engine/fleet_gauges.py": "a metric that is compared with the scraper's clock",
    "limits/pauses.py": "the provider's midnight, within a backoff of two minutes at most",
    "live/script.py": "the time of an event, for people; its order is its number",
    "producer/batch_options.py": "a wish that lies in the past is refused; the import asks the database",
    "producer/keys.py": "how often the use of a key is noted",
    "producer/stream_urls.py": "when a link ends that another process made: there is no other clock",
    "producer/waiting.py": "words for a person",
    "upstream/exchange.py": "a Retry-After that is a date, of an answer without a date of its own",
}


def readings() -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for path in sorted(WORKER.rglob("*.py")):
        name = path.relative_to(WORKER).as_posix()
        if name.split("/")[0] in PEOPLE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in READS:
                found.setdefault(name, []).append(node.lineno)
    return found


def test_each_reading_of_the_wall_clock_has_its_reason() -> None:
    found = readings()
    assert {name: lines for name, lines in found.items() if name not in REASONS} == {}
    assert set(REASONS) - set(found) == set(), "a reason without a reading"

"""A batch of a million lines, overnight: `python -m ops.bench.overnight --lines 1000000`.

Makes the file (300 bytes a line), submits it with the real command, runs two real workers against an upstream that
answers at once, kills one of them with SIGKILL every 30 s and Redis once, exports, and checks that every `custom_id`
is there once. What the command, the workers and Redis took is written to `ops/bench/OVERNIGHT.md`; the exit code is 1
if a promise was broken.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from ops.bench.children import raise_file_limit
from ops.bench.commands import run_command
from ops.bench.options import command_line
from ops.bench.overnight_report import Outcome, write
from ops.bench.rig import Rig
from ops.bench.vitals import Vitals
from ops.bench.wire import TAG
from tests.factories import opened, rows
from tests.rig.environment import scrub
from tests.rig.ports import fresh_directory
from tests.rig.procs import Process

LINE_BYTES = 300
WORKERS = 2
#: A run that makes no progress for so long has failed, in seconds: several leases.
STUCK_SECONDS = 300.0


def make_file(path: Path, lines: int, *, repeat_every: int = 0) -> None:
    """Write the input; with `repeat_every` N each Nth line asks what the line before it asks."""
    frame = (
        '{"custom_id":"request-%08d","method":"POST","url":"/v1/chat/completions","body":'
        '{"model":"bench/wait-0","messages":[{"role":"user","content":"%s"}],"max_tokens":64}}\n'
    )
    padding = "Answer the customer in one sentence and name the order. " * 6
    with path.open("w") as file:
        for number in range(1, lines + 1):
            asked = number - 1 if repeat_every and number % repeat_every == 0 else number
            prompt = TAG.format(number=asked) + " " + padding
            room = LINE_BYTES - len(frame % (number, ""))
            file.write(frame % (number, prompt[:room]))


@dataclass(slots=True)
class Night:
    """One run: its servers, its workers, what it does to them."""

    wanted: argparse.Namespace
    rig: Rig
    env: dict[str, str]
    database_url: str
    vitals: Vitals

    def work(self, batch: str) -> tuple[float, int, int]:
        """Run the batch to its end under kills; seconds, kills and Redis restarts."""
        names = itertools.count(1)
        workers = [self._worker(next(names)) for _ in range(WORKERS)]
        kills = restarts = 0
        began = moved = last_kill = time.monotonic()
        done = -1
        with opened(self.database_url) as database:
            while True:
                [row] = rows(database, _PROGRESS, id=batch)
                now = time.monotonic()
                if row["done"] != done:
                    done, moved = row["done"], now
                if row["finished_at"] is not None:
                    break
                if now - moved > STUCK_SECONDS:
                    raise RuntimeError(f"nothing has moved for {STUCK_SECONDS:.0f} s at {done:,} lines")
                if self.wanted.kill_every and now - last_kill >= self.wanted.kill_every:
                    workers.append(self._replaced(workers.pop(0), next(names)))
                    kills, last_kill = kills + 1, now
                if self.wanted.redis_restart and not restarts and done >= row["total"] / 2:
                    self.rig.valkey.restart(empty=True)
                    restarts += 1
                time.sleep(0.5)
        seconds = time.monotonic() - began
        for worker in workers:
            worker.close()
        return seconds, kills, restarts

    def _worker(self, number: int) -> Process:
        started = self.rig.worker(self.env, f"worker-{number}", ready=False)
        self.vitals.watch(started.pid)
        return started

    def _replaced(self, victim: Process, number: int) -> Process:
        victim.kill9()
        self.vitals.forget(victim.pid)
        victim.close()
        return self._worker(number)


_PROGRESS = """
    SELECT finished_at, total, completed + failed + cancelled + expired AS done FROM batches WHERE id = :id
"""


def verify(source: Path, out: Path) -> tuple[int, int, list[str]]:
    """Read both output files; answers, errors, and what is wrong with them: a line missing, doubled or unknown."""
    seen = bytearray(sum(block.count(b"\n") for block in iter_blocks(source)) + 1)
    wrong: list[str] = []
    counts = []
    for path in (out, out.with_name(f"{out.stem}.errors{out.suffix}")):
        before, lines = 0, 0
        for line in path.open("rb") if path.exists() else ():
            number = int(orjson.loads(line)["custom_id"].removeprefix("request-"))
            lines += 1
            seen[number] = min(2, seen[number] + 1)
            if number <= before:
                wrong.append(f"{path.name}: {number} stands behind {before}")
            before = number
        counts.append(lines)
    missing, doubled = seen.count(0) - 1, seen.count(2)
    if missing or doubled:
        wrong.append(f"{missing:,} lines are missing, {doubled:,} are there more than once")
    return counts[0], counts[1], wrong


def iter_blocks(path: Path) -> Iterator[bytes]:
    """A file in blocks of a megabyte."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def overnight(wanted: argparse.Namespace) -> Outcome:
    """Run it all."""
    scrub()
    raise_file_limit()
    home = fresh_directory("overnight")
    source, out = home / "prompts.jsonl", home / "answers.jsonl"
    make_file(source, wanted.lines, repeat_every=wanted.repeat_every)
    with Rig() as rig:
        url = rig.database(wanted.database)
        env = rig.environment(url, log_level="warning")
        server = rig.postgres.pid if wanted.database == "postgres" else None
        with Vitals(rig.valkey, server) as vitals:
            submit = ["batch", "submit", str(source), "--json", *(["--dedupe"] if wanted.repeat_every else [])]
            printed, submitted = run_command(rig.valkey, env, *submit)
            batch = str(orjson.loads(printed.splitlines()[-1])["id"])
            server_submit = vitals.server_cpu()
            seconds, kills, restarts = Night(wanted, rig, env, url, vitals).work(batch)
            _, exported = run_command(rig.valkey, env, "batch", "results", batch, "-o", str(out))
        answers, errors, wrong = verify(source, out)
        with opened(url) as database:
            [row] = rows(database, _COUNTERS, id=batch)
            [ledger] = rows(database, "SELECT count(*) AS n FROM attempts")
        calls = rig.control("stats")
        return Outcome(
            lines=wanted.lines,
            database=wanted.database,
            submit=submitted,
            server_submit_cpu=server_submit,
            run_seconds=seconds,
            kills=kills,
            redis_restarts=restarts,
            export=exported,
            answers=answers,
            errors=errors,
            wrong=wrong,
            counters=dict(row),
            ledger_calls=ledger["n"],
            upstream_calls=calls["calls"],
            upstream_distinct=calls["distinct"],
            redis_peak_mib=vitals.redis_peak_mib,
            worker_rss=vitals.worker_rss(),
        )


_COUNTERS = "SELECT status, total, completed, failed, duplicates, copied, calls FROM batches WHERE id = :id"


def _command(wanted: argparse.Namespace) -> str:
    """The command that makes it again, whatever was left to its default."""
    given = {"lines": wanted.lines, "database": wanted.database, "kill-every": f"{wanted.kill_every:g}"}
    if wanted.repeat_every:
        given["repeat-every"] = wanted.repeat_every
    options = " ".join(f"--{name} {value}" for name, value in given.items())
    return f"python -m ops.bench.overnight {options}" + (" --redis-restart" if wanted.redis_restart else "")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_line("overnight", __doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--database", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--kill-every", type=float, default=30.0, metavar="SECONDS", help="0: kill nobody")
    parser.add_argument("--redis-restart", action="store_true", help="kill Redis at half of the run, start it empty")
    parser.add_argument("--repeat-every", type=int, default=0, metavar="N", help="every Nth line is a copy: --dedupe")
    parser.add_argument("--report", type=Path, default=Path(__file__).with_name("OVERNIGHT.md"))
    return parser


def main() -> int:
    """Run, report, judge."""
    wanted = arguments().parse_args()
    outcome = overnight(wanted)
    write(outcome, wanted.report, _command(wanted))
    sys.stdout.write(wanted.report.read_text())
    return 1 if outcome.broken() else 0


if __name__ == "__main__":
    sys.exit(main())

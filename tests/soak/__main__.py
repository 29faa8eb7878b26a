"""`python -m tests.soak --minutes 60 --seed 7`: random faults under load, then the checker; 1 if a promise was broken.

Ctrl-C (or SIGTERM) ends the faults early: everything is healed, checked and reported all the same. A second one ends it at once.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tests.rig import procs
from tests.rig.environment import scrub
from tests.soak import report
from tests.soak.arena import MORTALS, Arena
from tests.soak.faults import FAULTS, drawn
from tests.soak.history import History
from tests.soak.load import Load
from tests.soak.readers import Readers
from tests.soak.storm import Storm
from tests.soak.verdict import Verdict, reckon
from tests.soak.vitals import Vitals

#: Seconds between two lines of progress.
PROGRESS_SECONDS = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 if every promise was kept."""
    given = _parser().parse_args(arguments)
    if unknown := set(given.faults) - {fault.name for fault in FAULTS}:
        sys.stderr.write(f"no such fault: {', '.join(sorted(unknown))}\n")
        return 2
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    logs: Path = given.logs or Path("var/soak") / str(seed)
    if logs.exists() and any(logs.iterdir()) and not (logs / "history.jsonl").exists():
        sys.stderr.write(f"{logs} holds something else than an earlier soak\n")
        return 2
    shutil.rmtree(logs, ignore_errors=True)
    scrub()
    command = _command(given, seed)
    began = time.monotonic()
    try:
        with History(logs / "history.jsonl") as history:
            history.tell(f"seed {seed}; journals and logs in {logs}; to repeat: {command}")
            verdict = run(given, seed, logs.resolve(), history)
            for line in report.summary(verdict, command):
                history.tell(line)
            if given.report is not None:
                minutes = (time.monotonic() - began) / 60
                given.report.parent.mkdir(parents=True, exist_ok=True)
                given.report.write_text(report.markdown(verdict, history, command=command, minutes=minutes))
    finally:
        procs.close_all()
    return 0 if verdict.good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long faults are done (default 5)")
    parser.add_argument("--seed", type=int, help="repeats the faults of a run; a new one by default")
    parser.add_argument("--report", type=Path, help="write a Markdown report here")
    parser.add_argument(
        "--logs",
        type=Path,
        help="journals and logs go here; those of an earlier soak are removed; default var/soak/SEED",
    )
    parser.add_argument("--rate", type=float, default=200.0, help="jobs a minute (default 200)")
    parser.add_argument("--pause", type=float, default=2.0, help="mean seconds between two faults (default 2)")
    parser.add_argument("--storm", type=float, default=0.0, help="kills a minute, beside the faults (default none)")
    parser.add_argument("--kills", type=int, default=0, help="end the faults after so many kills of the storm")
    parser.add_argument("--mortals", type=int, default=MORTALS, help=f"workers that may die (default {MORTALS})")
    parser.add_argument("--faults", nargs="*", default=[], metavar="NAME", help="only these faults")
    return parser


def _command(given: argparse.Namespace, seed: int) -> str:
    names = ("rate", "pause", *(("storm", "kills") if given.storm else ()), "mortals")
    changed = "".join(f" --{name} {getattr(given, name):g}" for name in names)
    only = f" --faults {' '.join(given.faults)}" if given.faults else ""
    return f"python -m tests.soak --minutes {given.minutes:g} --seed {seed}{changed}{only}"


def run(given: argparse.Namespace, seed: int, logs: Path, history: History) -> Verdict:
    """Faults and load for the given time, or until Ctrl-C; then everything is healed and reckoned."""
    vitals = Vitals()
    with Arena(logs, random.Random(f"{seed} faults"), mortals=given.mortals) as arena, contextlib.ExitStack() as stack:
        _end_on_signal(arena.over)
        readers = Readers(arena.on.settings(), random.Random(f"{seed} readers"))
        stack.callback(readers.close)
        load = Load(arena.on, random.Random(f"{seed} load"), per_minute=given.rate, readers=readers)
        storm = Storm(arena, random.Random(f"{seed} storm"), a_minute=given.storm, most=given.kills)
        try:
            _strike(arena, given, history, vitals, storm)
        finally:
            storm.close()
            load.close()
        history.tell(
            "healing, and waiting until everything is over" + (" (ended early)" if arena.over.is_set() else "")
        )
        arena.heal()
        return reckon(arena, history, load, vitals, readers, storm.kills)


def _end_on_signal(over: threading.Event) -> None:
    """The first Ctrl-C or SIGTERM ends the faults after the one that is being done; the second one ends the program."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.default_int_handler)
        # Not here: the signal may have come while this very thread holds the event's lock.
        threading.Thread(target=over.set).start()

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)


def _strike(arena: Arena, given: argparse.Namespace, history: History, vitals: Vitals, storm: Storm) -> None:
    end, told = time.monotonic() + given.minutes * 60, 0.0
    while True:
        arena.pause(0.5 * given.pause, 1.5 * given.pause)
        if time.monotonic() >= end or arena.over.is_set():
            return
        vitals.look(arena.workers)
        history.add(drawn(arena.rng, given.faults).done_to(arena))
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            ended, calls = arena.on.done(), len(arena.on.calls())
            killed = f", {storm.kills} kills of the storm" if given.storm else ""
            history.tell(f"        {len(arena.on.submitted)} jobs accepted, {ended} over, {calls} calls{killed}")


if __name__ == "__main__":
    sys.exit(main())

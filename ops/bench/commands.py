"""Running `stockpot` commands and reading what they took: time, CPU, peak memory, and Valkey's memory meanwhile."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass

from ops.bench.measure import peak_rss_mib, valkey_mib
from ops.bench.rig import STOCKPOT
from tests.rig.ports import fresh_directory
from tests.rig.valkey import ValkeyServer

#: Seconds between looks at the memory; the peak is the kernel's own, so one look near the end is enough for it.
_LOOK = 0.05


@dataclass(frozen=True, slots=True)
class Spent:
    """What a command took: wall seconds, CPU seconds, peak resident memory and Valkey's in MiB."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    valkey_peak_mib: float


def run_command(valkey: ValkeyServer, env: dict[str, str], *arguments: str) -> tuple[str, Spent]:
    """Run `stockpot ARGUMENTS` to its end; what it printed, and what it took.

    Raises:
        RuntimeError: it did not exit with 0.
    """
    logs = fresh_directory("command")
    out, err = logs / "out", logs / "err"
    began = time.monotonic()
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen([STOCKPOT, *arguments], env=env, cwd=logs, stdout=stdout, stderr=stderr)
        peak = valkey_peak = 0.0
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            peak = max(peak, peak_rss_mib(process.pid))
            valkey_peak = max(valkey_peak, valkey_mib(valkey))
            time.sleep(_LOOK)
    seconds = time.monotonic() - began
    _, status, used = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        end = err.read_text(errors="replace")[-2_000:]
        raise RuntimeError(f"stockpot {' '.join(arguments[:2])} ended with {process.returncode}:\n{end}")
    return out.read_text(), Spent(seconds, used.ru_utime + used.ru_stime, peak, valkey_peak)

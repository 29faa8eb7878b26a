"""How large a session is, and how every benchmark reads its command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """The sizes of a session.

    Args:
        runs: rounds per scenario; the report prints medians.
        stream_seconds: how long chunks flow. At 5,000 streams a chunk comes twice a second, so these are answers of
            40 chunks: shorter ones would be a measure of beginnings and ends, not of chunks.
        sizes: how many of the streaming sizes are run, from the smallest.
        scale: factor on the numbers of jobs and lines.
        backlog: the largest number of queued rows in the backlog's curve.
        contenders: only those whose name contains this.
    """

    runs: int = 5
    stream_seconds: float = 20.0
    sizes: int = 4
    scale: float = 1.0
    backlog: int = 1_000_000
    contenders: str = ""

    def wants(self, name: str) -> bool:
        """Whether this contender takes part."""
        return self.contenders.lower() in name.lower()


def command_line(program: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m ops.bench.PROGRAM`; the description is the module's, with its line breaks."""
    return argparse.ArgumentParser(
        prog=f"python -m ops.bench.{program}".removesuffix("."),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


QUICK = Options(runs=1, stream_seconds=4.0, sizes=2, scale=0.1, backlog=100_000)
TINY = Options(runs=1, stream_seconds=0.4, sizes=1, scale=0.005, backlog=10_000)

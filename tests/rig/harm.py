"""Harm from inside a worker: code of a test's that runs in the worker's process when the test says so.

Python imports `sitecustomize` before everything else. The one that is written here starts a thread which waits on a
named pipe: nothing is polled, and nothing happens until somebody writes.
"""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import indent

_SITE = """
import sys, threading

def until(pipe):
    with open(pipe) as told:
        told.read()

def harm():
    until({go!r})
{code}
    sys.stderr.write("harm is done\\n")

threading.Thread(target=harm, daemon=True).start()
"""


class Harm:
    """Code for a worker, and the pipes that let it go.

    Args:
        directory: of the test's own; becomes part of the worker's `PYTHONPATH`.
        code: run in a thread of the worker after `do`. It may call `until(pipe)`, and names pipes as `{name}`.
        pipes: names of more pipes, for `open`.
    """

    def __init__(self, directory: Path, code: str, *pipes: str) -> None:
        self._pipes = {name: directory / f"{name}.pipe" for name in ("go", *pipes)}
        for pipe in self._pipes.values():
            os.mkfifo(pipe)
        named = {name: repr(str(pipe)) for name, pipe in self._pipes.items()}
        body = indent(code.strip("\n").format(**named), "    ")
        (directory / "sitecustomize.py").write_text(_SITE.format(go=str(self._pipes["go"]), code=body))
        self.env = {"PYTHONPATH": str(directory)}

    def do(self) -> None:
        """Let the code run; returns when a worker has heard it."""
        self.open("go")

    def open(self, pipe: str) -> None:
        """Let go what waits on a pipe; waits for it if it does not yet."""
        self._pipes[pipe].write_text("")

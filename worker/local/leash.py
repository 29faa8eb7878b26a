"""Run a module as a program that ends with its parent: `python -P -m worker.local.leash MODULE ARGUMENTS…`.

Standard input is a pipe whose other end only the parent (and each process that needs this one) holds open. However they end,
with `kill -9` too, the pipe ends with them, and this program stops as after SIGTERM: a worker drains.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Run the module that the command line names."""
    sys.argv = sys.argv[1:]
    threading.Thread(target=_stop_with_parent, name="stockpot-leash", daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _stop_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()

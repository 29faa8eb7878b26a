"""One gateway process: `python -m worker.gateway --port 8484`. `stockpot serve` and `stockpot up` start it."""

from __future__ import annotations

import argparse
import sys

from worker.base import telemetry
from worker.base.settings import settings
from worker.gateway import serving


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m worker.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--shared", action="store_true", help="other gateway processes listen on the same port")
    given = parser.parse_args()
    telemetry.configure(settings())
    try:
        sock = serving.listen(given.host, given.port, shared=given.shared)
    except OSError as error:
        # Another program took the port, perhaps a gateway of another home: its clients must not come here.
        sys.exit(f"cannot listen on {given.host}:{given.port}: {error.strerror or error}")
    url = serving.address_of(sock)
    serving.serve(settings(), sock, lambda: _say(f"{serving.READY}{url}/v1"))


def _say(line: str) -> None:
    if sys.stdout is None:
        return
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

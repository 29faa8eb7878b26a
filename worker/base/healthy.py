"""`python -m worker.base.healthy`: the image's health check. 0 if the worker or the gateway of this container is alive."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Sequence

#: Where the image's worker and gateway answer, unless arguments name another.
PORTS = (9464, 8484)
SECONDS = 4.0


def main(arguments: Sequence[str]) -> int:
    """0 if `/livez` answers 200 at one of these ports of this machine, else 1."""
    ports = [int(port) for port in arguments] or PORTS
    return 0 if any(_alive(port) for port in ports) else 1


def _alive(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS / len(PORTS))
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m worker.base.healthy`: the image's health check. 0 if the worker or the gateway of this container is alive."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

#: Where a worker and a gateway answer: the setting, and the image's.
PORTS = {"STOCKPOT_HTTP_PORT": 9464, "STOCKPOT_GATEWAY_PORT": 8484}
SECONDS = 4.0


def main(arguments: Sequence[str]) -> int:
    """0 if `/livez` answers 200 at one of these ports of this machine, or else at one that is set; else 1."""
    ports = [int(port) for port in arguments] or list(_set(os.environ))  # noqa: TID251 -- pydantic would take longer than the check
    return 0 if any(_alive(port) for port in ports) else 1


def _set(env: Mapping[str, str]) -> Iterator[int]:
    """The ports of the settings. Kubernetes puts an address into a variable of the same name, which is none."""
    for name, usual in PORTS.items():
        given = env.get(name, "").strip()
        yield int(given) if given.isdecimal() else usual


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

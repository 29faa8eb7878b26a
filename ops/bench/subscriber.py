"""A process that listens to live channels and records how late each chunk arrives.

Lag is CLOCK_MONOTONIC at receipt less the stamp that the upstream wrote into the chunk. Nothing but RESP is
parsed: stamps are found in the raw message, which costs about a microsecond each.

Its arguments are SOCKET_OR_HOST:PORT and a PATTERN; on stdin `{"do": "reset"}`, `{"do": "report"}`.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from array import array
from collections.abc import Mapping

import hiredis
import orjson

from ops.bench import wire
from ops.bench.measure import spread

_RECEIVE = 1 << 20


class Lags:
    """What has arrived since the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.lags_ns = array("q")
        self.messages = 0
        self.ends = 0
        self.last_ns = 0

    def take(self, payload: bytes) -> None:
        """Record one message: every stamp in it that is not zero is one chunk."""
        now = time.monotonic_ns()
        self.messages += 1
        self.last_ns = now
        for stamp in wire.STAMP_PATTERN.findall(payload):
            sent = int(stamp, 16)
            if sent:
                self.lags_ns.append(now - sent)

    def report(self) -> dict[str, float | int]:
        """Chunks, messages, and lag in ms."""
        counted = {"chunks": len(self.lags_ns), "messages": self.messages, "last_ns": self.last_ns}
        return counted | {f"{name}_ms": value for name, value in spread(self.lags_ns, scale=1e-6).items()}


def connect(address: str) -> socket.socket:
    """A plain socket to `host:port` or to a path."""
    if address.startswith("/"):
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(address)
        return channel
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)))


def listen(address: str, pattern: str) -> None:
    """Subscribe, say so on stdout, then record and answer until stdin closes."""
    channel = connect(address)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * _RECEIVE)
    channel.sendall(b"PSUBSCRIBE %b\r\n" % pattern.encode())
    reader = hiredis.Reader()
    lags = Lags()
    watch = selectors.DefaultSelector()
    watch.register(channel, selectors.EVENT_READ)
    watch.register(sys.stdin.buffer, selectors.EVENT_READ)
    say({"subscribed": pattern})
    while True:
        for key, _ in watch.select():
            if key.fileobj is channel:
                data = channel.recv(_RECEIVE)
                if not data:
                    return
                reader.feed(data)
                while (message := reader.gets()) is not False:
                    if isinstance(message, list) and message[0] == b"pmessage":
                        lags.take(message[3])
            else:
                line = sys.stdin.buffer.readline()
                if not line:
                    return
                if orjson.loads(line)["do"] == "reset":
                    lags.reset()
                    say({})
                else:
                    say(lags.report())


def say(answer: Mapping[str, object]) -> None:
    """One JSON line on stdout."""
    sys.stdout.write(orjson.dumps(answer).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    listen(sys.argv[1], sys.argv[2])

"""HTTP as bytes: requests that no client library would send, and the one answer that comes."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from http.client import HTTPMessage, HTTPResponse
from typing import Any

#: Seconds that an answer may take on a busy machine.
_PATIENCE = 60


@dataclass(frozen=True)
class Reply:
    """An answer: its status, headers and body."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error body, with all four keys and no other."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}, self
        assert error["message"] and error["type"], self
        return error


def dial(url: str, sent: bytes) -> socket.socket:
    """A connection on which these bytes were sent."""
    host, port = url.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)), timeout=_PATIENCE)
    sock.sendall(sent)
    return sock


def ask(url: str, sent: bytes, *, method: str = "GET") -> Reply:
    """Send these bytes and read the answer; `method` says whether a body is to come."""
    with dial(url, sent) as sock:
        return reply(sock, method=method)


def reply(sock: socket.socket, *, method: str = "GET") -> Reply:
    """The next answer of a connection."""
    response = HTTPResponse(sock, method=method)
    response.begin()
    return Reply(response.status, response.headers, response.read())


def request(method: str, target: str, body: bytes | None = None, *headers: str) -> bytes:
    """A request's bytes; with a body its length is given."""
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")

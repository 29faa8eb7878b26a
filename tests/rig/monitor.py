"""What passes through Redis while a test runs: a capture of MONITOR, for the search for secrets and for counting."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from tests.rig.closing import Closing
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import eventually


class Monitor(Closing):
    """Writes every command that the server gets to a file, as the server shows it, until closed."""

    def __init__(self, server: ValkeyServer, path: Path) -> None:
        self.path = path
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        if server.password is not None:
            self._socket.sendall(f"AUTH {server.password}\r\n".encode())
        self._socket.sendall(b"MONITOR\r\n")
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._copy, name="monitor", daemon=True)
        self.path.touch()
        self._thread.start()
        # One +OK for MONITOR itself, and one for AUTH.
        eventually(lambda: path.read_bytes().count(b"+OK") >= 1 + (server.password is not None), what="MONITOR is on")

    def _copy(self) -> None:
        with self.path.open("ab", buffering=0) as file:
            while data := self._receive():
                file.write(data)

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except OSError:
            # The server was killed, which is what it is here for.
            return b""

    def close(self) -> None:
        """End the capture."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

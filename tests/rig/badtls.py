"""A host with a certificate that nobody vouches for, and an ear for what it is told all the same."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.certificates import self_signed, serving


class SelfSigned:
    """Listens on `port` of 127.0.0.1. `refusals`: handshakes that the client broke off; `told`: bytes after one."""

    def __init__(self, directory: Path) -> None:
        self.refusals = 0
        self.told = 0
        self._tls = serving(self_signed(directory / "self-signed.pem", "127.0.0.1"))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="self-signed", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                client.settimeout(10)
                with client:
                    self._greet(client)

    def _greet(self, client: socket.socket) -> None:
        try:
            with self._tls.wrap_socket(client, server_side=True) as secured:
                # TLS 1.3: the client's refusal comes after the server took the handshake for done.
                self.told += len(secured.recv(65536))
        except (ssl.SSLError, OSError):
            self.refusals += 1

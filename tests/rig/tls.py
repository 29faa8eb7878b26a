"""TLS in front of a server that speaks none: what is sent to it encrypted, it gets in plain text, and back."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.certificates import serving

#: What a client of PostgreSQL sends before all else when it wants TLS: the length, and 80877103.
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")


class TlsFront:
    """Listens on `port` of 127.0.0.1 with a certificate and passes on to `behind`. `forwarded`: bytes of clients.

    With `postgres` a client asks for TLS first, as PostgreSQL's do; one that does not is turned away.
    """

    def __init__(self, certificate: Path, behind: tuple[str, int], *, postgres: bool = False) -> None:
        self.forwarded = 0
        self._postgres = postgres
        self._tls, self._behind = serving(certificate), behind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve, name="tls-front", daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if self._postgres:
                if client.recv(8, socket.MSG_WAITALL) != _SSL_REQUEST:
                    return
                client.sendall(b"S")
            secured = self._tls.wrap_socket(client, server_side=True)
            with secured, socket.create_connection(self._behind) as server:
                back = threading.Thread(target=self._copy, args=(server, secured), daemon=True)
                back.start()
                self._copy(secured, server, count=True)
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)
                back.join()

    def _copy(self, source: socket.socket | ssl.SSLSocket, target: socket.socket, *, count: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if count:
                    self.forwarded += len(data)
                target.sendall(data)

"""Ports that are listened on: what a taken one is called, and a look before anything is started."""

from __future__ import annotations

import socket

from worker.base.errors import SettingsError

LARGEST = 65_535


def taken(setting: str, host: str, port: int, error: OSError) -> SettingsError:
    """The error of a port that cannot be listened on, by the setting that names it."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return SettingsError(
        f"{setting}: {where} cannot be listened on ({error.strerror or error}); each process of a machine needs a port of its own"
    )


def check(setting: str, host: str, port: int) -> None:
    """Refuse a port that another program has now. Raises SettingsError."""
    if port > LARGEST:
        raise SettingsError(f"{setting}: {port} is no port; the workers count up from the first one's")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise taken(setting, host, port, error) from error

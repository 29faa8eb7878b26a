"""What the webhook settings mean: read when they are loaded, so that a producer, too, refuses what no worker can use."""

from __future__ import annotations

import base64
import binascii
from ipaddress import IPv4Network, IPv6Network, ip_network

from pydantic import SecretStr

from worker.base import key_lists

#: What a signing secret begins with, and how many bytes its base64 holds.
MARK = "whsec_"
SHORTEST_KEY, LONGEST_KEY = 24, 64


def networks(value: str) -> bool | tuple[IPv4Network | IPv6Network, ...]:
    """`STOCKPOT_WEBHOOK_ALLOW_PRIVATE`: false, true, or a comma list of networks. Raises ValueError."""
    word = value.strip().lower()
    if word in ("", "false", "no", "off", "0"):
        return False
    if word in ("true", "yes", "on", "1"):
        return True
    try:
        return tuple(ip_network(part.strip()) for part in word.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"expected false, true or networks such as 10.1.0.0/16; {error}") from None


def signing_key(secret: str) -> bytes:
    """The key in a `whsec_…` secret. Raises ValueError, which does not repeat the secret."""
    try:
        key = base64.b64decode(secret.removeprefix(MARK), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(MARK) or not SHORTEST_KEY <= len(key) <= LONGEST_KEY:
        raise ValueError(f"a webhook secret is {MARK} and the base64 of {SHORTEST_KEY} to {LONGEST_KEY} bytes")
    return key


def signing_secrets(value: SecretStr | None) -> list[str]:
    """The parts of `STOCKPOT_WEBHOOK_SECRET`, a comma list."""
    return key_lists.listed(value)


def check_networks(value: str) -> str:
    """The setting as it is, if it can be used. Raises ValueError."""
    networks(value)
    return value


def check_secrets(value: SecretStr | None) -> SecretStr | None:
    """The setting as it is, if it can be used. Raises ValueError."""
    return key_lists.check_parts(value, _check_secret)


def _check_secret(part: str) -> None:
    try:
        signing_key(part)
    except ValueError as error:
        raise ValueError(f"is none: {error}") from None

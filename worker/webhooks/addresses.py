"""Which addresses a webhook may reach: pure. Public ones, and private ones that the operator names.

The lists follow the IANA special-purpose registries (RFC 6890 and its updates) and what Smokescreen and Svix deny.
An address that embeds an IPv4 address (mapped, NAT64, 6to4, Teredo) is never just an IPv6 address: behind a
translator it reaches the embedded one.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

from api_schemas.webhook_urls import Address, embedded_v4
from worker.base.errors import SettingsError
from worker.base.webhook_settings import networks

Network = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


PRIVATE = _networks(
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "::1/128", "fc00::/7"
)
"""What `STOCKPOT_WEBHOOK_ALLOW_PRIVATE=true` opens: one's own machine and network."""

NEVER = _networks(
    "0.0.0.0/8",  # "this host": connects to loopback on Linux
    "169.254.0.0/16",  # link-local; cloud metadata (.169.254, ECS .170.2, EKS .170.23)
    "100.100.100.200/32",  # metadata of Alibaba Cloud, inside the shared address space
    "168.63.129.16/32",  # Azure's wire server, a public address
    "192.0.0.0/24",  # IETF protocol assignments; metadata of Oracle Cloud (.192)
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
    "::/128",
    "fe80::/10",  # link-local
    "ff00::/8",  # multicast
    "fd00:ec2::/32",  # metadata of AWS over IPv6
    "fd20:ce::/32",  # metadata of Google Cloud over IPv6
    "fd00:42::/32",  # metadata of Scaleway over IPv6
)
"""What no setting opens."""

_DENIED = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # AMT
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarking
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "2001::/23",  # IETF protocol assignments: Teredo, benchmarking, ORCHID
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All of IPv6 that is handed out to the public; everything beyond it is denied without naming it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Public addresses over TLS, and the networks in `allowed`, also without TLS and on any port."""

    allowed: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, setting: str) -> Policy:
        """Read `STOCKPOT_WEBHOOK_ALLOW_PRIVATE`: `false`, `true`, or a comma list of networks.

        Raises:
            SettingsError: a part that is no network.
        """
        try:
            given = networks(setting)
        except ValueError as error:
            raise SettingsError(f"STOCKPOT_WEBHOOK_ALLOW_PRIVATE: {error}") from None
        return cls(given if isinstance(given, tuple) else PRIVATE if given else ())

    def is_allowed(self, address: Address) -> bool:
        """Whether the operator opened this address by name; what `NEVER` holds cannot be opened."""
        inner = embedded_v4(address)
        if _within(address, NEVER) or (inner is not None and self.refusal(inner) is not None):
            return False
        return _within(address, self.allowed)

    def refusal(self, address: Address) -> str | None:
        """Why a webhook may not reach this address; None when it may."""
        if _within(address, NEVER):
            return "the address is never allowed (link-local, cloud metadata, multicast or reserved)"
        if self.is_allowed(address):
            return None
        if embedded_v4(address) is not None:
            return "the address carries another one"
        if isinstance(address, IPv6Address) and (address.scope_id is not None or address not in _GLOBAL_UNICAST):
            return "the address is not public"
        if _within(address, _DENIED):
            return "the address is not public"
        return None


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)

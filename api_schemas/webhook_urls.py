"""What a webhook's URL may look like: the one rule, for producers, the command line and the workers.

The URL is read by one strict grammar, and whatever two parsers could read differently is refused: that, not an exotic
address, is how guards are passed. Where the URL leads is judged when the connection is made (`egress`), because a name
that is checked here may resolve to something else there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from pydantic_core import PydanticCustomError

from api_schemas.errors import FieldProblem, InvalidRequest

Address = IPv4Address | IPv6Address

MAX_URL = 2_048
"""Characters: what common proxies and servers take, and more than any receiver's route needs."""

_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<rest>[/?][^#]*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
# The last label decides, as in the WHATWG URL standard: a host that ends in a number is an IPv4 address or an error.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_PRINTABLE = re.compile(r"[!-~]*")
_MAX_NAME = 253
_PORTS = {"http": 80, "https": 443}
# Networks whose IPv6 addresses carry an IPv4 address in their last 32 bits.
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class Target:
    """A well-formed URL: what to connect to. `address` is set when the host is an address instead of a name."""

    url: str
    scheme: str
    host: str
    port: int
    address: Address | None

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a connection is made to."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def path(self) -> str:
        """The path without its query, where tokens are kept; `/` when the URL has none."""
        return re.sub(r"[^:]+://[^/?]*", "", self.url, count=1).partition("?")[0] or "/"


def check_webhook(url: str) -> str:
    """As `check_url`, for a field of a pydantic model."""
    try:
        check_url(url)
    except InvalidRequest as error:
        raise PydanticCustomError("refused", "refused", {"why": error.problems[0].message}) from None
    return url


def check_url(url: str) -> None:
    """Refuse a webhook URL that could never be delivered to.

    Raises:
        InvalidRequest: not http(s), too long, control characters or line breaks, a user name or password, a fragment,
            a host in an odd spelling (decimal, octal, hex or short IPv4, zone ids, IPv4 within IPv6), a bad port.
    """
    read_target(url)


def read_target(url: str) -> Target:
    """Read a webhook URL. Raises InvalidRequest as `check_url` does; the message does not repeat the URL."""
    if len(url) > MAX_URL:
        raise _refused(f"expected a URL of at most {MAX_URL:,} characters, got {len(url):,}")
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise _refused(
            "expected a URL of printable ASCII without spaces, line breaks or backslashes; percent-encode"
            " the path, and write an international host name as xn--…"
        )
    whole = _URL.fullmatch(url)
    if whole is None:
        raise _refused("expected a URL such as https://example.com/hooks, without a fragment")
    if "@" in whole["authority"]:
        raise _refused("a user name or password in the URL is not accepted; use the signature")
    authority = _AUTHORITY.fullmatch(whole["authority"])
    if authority is None or not authority["host"]:
        raise _refused("expected a host, or a host and a port, after the scheme")
    scheme = whole["scheme"].lower()
    port = int(authority["port"]) if authority["port"] else _PORTS[scheme]
    if not 1 <= port <= 65_535:
        raise _refused("expected a port between 1 and 65535")
    host, address = _read_host(authority["host"])
    return Target(url=url, scheme=scheme, host=host, port=port, address=address)


def _read_host(text: str) -> tuple[str, Address | None]:
    if text.startswith("["):
        return _read_v6(text[1:-1])
    labels = text.split(".")
    if _NUMBER.fullmatch(labels[-1] or labels[-2:][0]):
        return _read_v4(text)
    if len(text) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused("expected a host name of letters, digits, dashes and dots, without a final dot")
    return text.lower(), None


def _read_v4(text: str) -> tuple[str, Address]:
    try:
        address = parse_address(text)
    except ValueError:
        raise _refused("expected an IPv4 address as four decimal numbers without leading zeros") from None
    return str(address), address


def _read_v6(text: str) -> tuple[str, Address]:
    try:
        address = parse_address(text)
    except ValueError:
        raise _refused("expected an IPv6 address within the brackets") from None
    if address.version != 6 or address.scope_id is not None:
        raise _refused("expected an IPv6 address without a zone within the brackets")
    if embedded_v4(address) is not None:
        raise _refused("an IPv4 address within an IPv6 address is not accepted; write the IPv4 address")
    return str(address), address


def embedded_v4(address: Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address carries, if it is of a kind that carries one."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _NAT64):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in _COMPATIBLE and int(address) > 1:  # :: and ::1 are addresses of their own
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def parse_address(text: str) -> Address:
    """The address in its canonical spelling. Raises ValueError."""
    return ip_address(text)


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest([FieldProblem(field="webhook", message=why)])

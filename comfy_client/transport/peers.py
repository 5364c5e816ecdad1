"""The kind of network that a connected peer stands in: public, private, this machine.  Pure."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final, Literal, NamedTuple

#: The kinds of addresses: ``shared`` is that of carriers and VPNs (100.64.0.0/10), ``benchmark``
#: (198.18.0.0/15) that of proxies which make up addresses, ``metadata`` that of cloud services
#: which tell secrets of a machine, and ``other`` all that are no host of the internet.
PeerKind = Literal[
    "public", "loopback", "link-local", "private", "shared", "benchmark", "metadata", "other"
]
_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

_NETWORKS: Final[tuple[tuple[str, PeerKind], ...]] = (
    ("127.0.0.0/8", "loopback"),
    ("::1/128", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("fe80::/10", "link-local"),
    ("10.0.0.0/8", "private"),
    ("172.16.0.0/12", "private"),
    ("192.168.0.0/16", "private"),
    ("fc00::/7", "private"),
    ("fec0::/10", "private"),
    ("100.64.0.0/10", "shared"),
    ("198.18.0.0/15", "benchmark"),
)
_KIND_OF_NETWORK: Final = tuple((ipaddress.ip_network(text), kind) for text, kind in _NETWORKS)
#: Metadata services outside of link-local networks: AWS, Google, Alibaba, Azure and Oracle.
_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
)
#: Networks whose addresses end with the IPv4 address that they stand for.
_TRANSLATED: Final = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")))
#: Endings of names that are reserved for private networks.
_PRIVATE_NAMES: Final = (".local", ".internal", ".home.arpa")


class Peer(NamedTuple):
    """A host as connections reach it.

    Attributes:
        host: Its IP address, or its name if a proxy looks that up.
        kind: The kind of its address.
    """

    host: str
    kind: PeerKind


def peer_of(address: str) -> Peer:
    """Return the peer with an IP address; its kind is ``other`` if the text is none."""
    try:
        ip = _unwrapped(ipaddress.ip_address(address))
    except ValueError:
        return Peer(address, "other")
    return Peer(str(ip), _kind_of(ip))


def is_address(host: str) -> bool:
    """Return whether a host is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def named_peer(host: str) -> Peer:
    """Return the peer of a name that only a proxy looks up.

    IP addresses in any spelling have their kind.  Names of this machine are ``loopback``, those
    without a dot and those that are reserved for private networks ``private``, others ``public``.
    """
    name = host.lower().rstrip(".")
    if is_address(name):
        return peer_of(name)
    try:  # 2130706433, 0177.0.0.1, 0x7f.1
        return peer_of(socket.inet_ntoa(socket.inet_aton(name)))
    except OSError:
        pass
    if f".{name}".endswith(".localhost"):
        return Peer(name, "loopback")
    is_private = "." not in name or name.endswith(_PRIVATE_NAMES)
    return Peer(name, "private" if is_private else "public")


def _unwrapped(ip: _Ip) -> _Ip:
    """Return the IPv4 address that an IPv6 address stands for, else the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if int(ip) > 1 and any(ip in network for network in _TRANSLATED):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    found = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
    return ip if found is None else found


def _kind_of(ip: _Ip) -> PeerKind:
    if ip in _METADATA:
        return "metadata"
    for network, kind in _KIND_OF_NETWORK:
        if ip in network:
            return kind
    return "public" if ip.is_global and not ip.is_multicast else "other"

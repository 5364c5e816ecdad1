"""The kind of network that an address belongs to, in whatever way it is written."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client.hosted.files import is_acceptable
from comfy_client.transport.peers import Peer, named_peer, peer_of
from comfy_client.transport.url import parse_host

PUBLIC = Peer("", "public")


@pytest.mark.parametrize(
    ("kind", "addresses"),
    [
        ("public", "8.8.8.8 2606:4700::1111"),
        ("loopback", "127.0.0.1 127.8.9.10 ::1"),
        ("link-local", "169.254.169.254 fe80::1 fe80::1%eth0"),
        ("private", "10.0.0.1 172.31.0.1 192.168.1.1 fd00::1 fec0::1"),
        ("shared", "100.64.0.1 100.127.0.1"),
        ("benchmark", "198.18.0.1 198.19.0.1"),
        ("metadata", "fd00:ec2::254 100.100.100.200 168.63.129.16"),
        ("other", "0.0.0.0 :: 255.255.255.255 224.0.0.1 ff02::1 240.0.0.1 192.0.2.1 nonsense "),
    ],
)
def test_an_address_has_a_kind(kind: str, addresses: str) -> None:
    assert {peer_of(address).kind for address in addresses.split(" ")} == {kind}


@given(st.integers(2, 2**32 - 1))
def test_an_ipv4_address_inside_of_an_ipv6_one_has_its_own_kind(number: int) -> None:
    """Mapped, compatible, translated or tunnelled."""
    plain = ipaddress.IPv4Address(number)
    inside = [
        (0xFFFF << 32) | number,
        number,
        int(ipaddress.ip_address("64:ff9b::")) | number,
        (0x2002 << 112) | (number << 80),
        int(ipaddress.ip_address("2001::")) | (number ^ 0xFFFFFFFF),
    ]
    found = {peer_of(str(ipaddress.IPv6Address(each))) for each in inside}
    assert found == {peer_of(str(plain))}


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        *((host, "loopback") for host in ("127.0.0.1", "2130706433", "0177.0.0.1", "0x7f.1")),
        *((host, "loopback") for host in ("localhost", "LOCALHOST.", "a.localhost", "::1")),
        ("169.254.169.254", "link-local"),
        *((host, "private") for host in ("10.1", "gpu-box", "nas.local", "metadata.internal")),
        ("storage.example", "public"),
    ],
)
def test_a_name_that_a_proxy_looks_up_has_the_kind_that_it_shows(host: str, kind: str) -> None:
    assert named_peer(host).kind == kind


LAN, LOOP = peer_of("192.168.1.5"), peer_of("127.0.0.1")
LINK = peer_of("169.254.7.7")


@pytest.mark.parametrize(
    ("storage", "host", "server", "peers", "is_fine"),
    [
        (peer_of("8.8.8.8"), "s.example", "https://gate.example", {PUBLIC}, True),
        (peer_of("8.8.8.8"), "s.example", "http://127.0.0.1", {LOOP}, True),
        (LOOP, "localhost", "https://gate.example", {PUBLIC}, False),
        (LOOP, "localhost", "http://127.0.0.1", {LOOP}, True),
        (LOOP, "localhost", "http://gate.example", {LOOP}, False),  # a name may lead here
        (LOOP, "Gate.example", "http://gate.example", {LOOP}, True),  # its own host
        (LOOP, "gate.example", "http://gate.example", {PUBLIC, LOOP}, False),  # rebound
        (LOOP, "gate.example", "http://gate.example", {LAN}, False),
        (peer_of("192.168.1.9"), "nas", "http://gpu-box", {LAN}, True),
        (peer_of("10.0.0.9"), "nas", "http://gpu-box", {LAN, LOOP}, False),
        (LAN, "nas", "http://127.0.0.1", {LOOP}, False),
        (LOOP, "localhost", "http://gpu-box", {LAN}, False),
        (LAN, "nas", "http://gpu-box", set(), False),  # no peer is known
        (LINK, "other", "http://169.254.7.7", {LINK}, False),
        (LINK, "169.254.7.7", "http://169.254.7.7", {LINK}, True),
        (peer_of("fd00:ec2::254"), "x", "http://gpu-box", {peer_of("fd00::1")}, False),
        (peer_of("100.64.0.9"), "x", "http://gpu-box", {peer_of("100.64.0.1")}, True),
        (peer_of("100.64.0.9"), "x", "http://gpu-box", {LAN}, False),
        (peer_of("0.0.0.0"), "x", "http://127.0.0.1", {LOOP}, False),
    ],
)
def test_a_storage_is_public_or_like_its_server(
    storage: Peer, host: str, server: str, peers: set[Peer], is_fine: bool
) -> None:
    address, _ = parse_host(server)
    assert is_acceptable(storage, host, address, peers) is is_fine

"""Requests to the storages that a hosted server names, and which of their hosts are acceptable.

A server could otherwise make its clients read what only they can reach: other programs of their
machine, their network, or the metadata service of their cloud.  The peer of each connection is
judged, as a name may lead elsewhere by the time of the connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import Final

from ..errors import ComfyError, UnexpectedResponse
from ..transport.http import Http
from ..transport.peers import Kind, Peer, is_address, named_peer, peer_of
from ..transport.response import Dialect
from ..transport.url import Address
from .places import FilePlace

#: The kinds that are refused, in words.
_WORDS: Final[dict[Kind, str]] = {
    "loopback": "this machine",
    "link-local": "an address of the local link, where clouds tell a machine's secrets",
    "private": "an address of a private network",
    "shared": "an address of a carrier's network or a VPN",
    "benchmark": "an address of a test network",
    "metadata": "a cloud's metadata service",
    "other": "no address of the internet",
}
#: The kinds that a server of the same kind may name.
_OF_NEIGHBOURS: Final = frozenset({"loopback", "private", "shared", "benchmark"})


def is_acceptable(storage: Peer, host: str, server: Address, peers: Collection[Peer]) -> bool:
    """Return whether a server may send its clients to a storage.

    The storage must be public, the host of the server itself, or of the same kind as that.  A
    server on this machine must have been called so by the user: any name may lead here.

    Args:
        storage: The peer of the storage.
        host: The name by which the server calls the storage.
        server: The address of the server, as the user gave it.
        peers: All peers that the server has had.
    """
    if storage.kind == "public":
        return True
    if not peers or any(peer.kind == "public" for peer in peers):
        return False
    if storage in peers and host.lower() == server.host.lower():
        return True
    if storage.kind == "loopback" and not server.is_loopback:
        return False
    return storage.kind in _OF_NEIGHBOURS and {peer.kind for peer in peers} == {storage.kind}


class Storages:
    """Requests for one file to the storages that a server names, and to which they redirect.

    A redirect by a storage leads to a public address, or to the same host.

    Args:
        own: The requests to the server.
        ask: Sends any request to the server, so that its peer is known.
        dialect: The dialect of storages.
        allow_private: Whether the server may name any address.
    """

    def __init__(
        self, own: Http, ask: Callable[[], object], dialect: Dialect, *, allow_private: bool
    ) -> None:
        self._own = own
        self._ask = ask
        self._dialect = dialect
        self._allow_private = allow_private
        self._last: Peer | None = None

    def at(self, place: FilePlace, *, redirected_by_storage: bool) -> Http:
        """Return the requests to a storage; raise UnexpectedResponse if a proxy would reach it.

        If there is no proxy, the requests themselves raise the error, once the peer is known.
        """
        before = self._last if redirected_by_storage else None

        def judge(peer: Peer) -> None:
            self._last = peer
            if not self._is_acceptable(peer, place, before):
                raise self._refusal(peer, place, before)

        here = self._own.at(
            place.address, self._dialect, on_connected=lambda ip: judge(peer_of(ip))
        )
        if here.endpoint.proxy is not None:
            judge(named_peer(place.address.host))
        return here

    def _is_acceptable(self, peer: Peer, place: FilePlace, before: Peer | None) -> bool:
        if before is not None:
            return peer.kind == "public" or peer == before
        host, server = place.address.host, self._own.address
        return self._allow_private or is_acceptable(peer, host, server, self._peers_of_server(peer))

    def _peers_of_server(self, storage: Peer) -> Collection[Peer]:
        """Return the peers that the server has had; connect to it if they are not known yet."""
        endpoint = self._own.endpoint
        named, is_ip = named_peer(endpoint.address.host), is_address(endpoint.address.host)
        if endpoint.proxy is not None or is_ip or named.kind == "loopback":
            return {named}
        if not endpoint.peers and storage.kind != "public":
            with contextlib.suppress(ComfyError):  # a refusal, too, tells the peer
                self._ask()
        return frozenset(endpoint.peers)

    def _refusal(self, peer: Peer, place: FilePlace, before: Peer | None) -> UnexpectedResponse:
        host = place.address.netloc
        where = host if peer.host == place.address.host else f"{host} ({peer.host})"
        what = f"GET {place.address.http_url}{place.path}: not sent"
        if before is not None:
            said = f"a storage redirects to {where}, {_WORDS[peer.kind]}"
        else:
            said = (
                f"{self._own.address.http_url} names {where}, {_WORDS[peer.kind]}, as the storage "
                "of a file; if it may, pass allow_private_storage=True"
            )
        return UnexpectedResponse(f"{what}, since {said}", method="GET", path=place.path)

"""Checks of the network path to the server: proxy, host name, port and TLS."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

from ..transport.dial import DialPlan, connect_socket
from ..transport.failures import explain
from ..transport.sockets import look_up, new_socket
from ..transport.url import is_loopback_address, split_proxy
from .context import CheckContext, in_ms
from .report import CheckResult, failed, ok, warning

#: Seconds for an address to accept a connection.
_CONNECT: Final = 3.0

_LOOPBACKS: Final = ("127.0.0.1", "::1")
_USUAL_PORTS: Final = {8188: "ComfyUI's own", 8000: "the desktop app's"}

#: Advice by OpenSSL's code for an untrusted certificate.
_ABOUT_CERTIFICATE: Final = {
    9: "it is not valid yet: check the clocks of both machines",
    10: "it has expired: have it renewed",
    18: "it is self-signed: pass verify='its.pem'",
    19: "its CA is not a public one: pass verify='ca.pem'",
    20: "its CA is not known: pass verify='ca.pem', and have the server send the chain",
    62: "it is for another name: use the name in the certificate as host",
    64: "it is for another address: use the name in the certificate as host",
}


def check_proxy(ctx: CheckContext) -> CheckResult:
    """Check which proxy HTTP and the event socket use, and where it is set."""
    proxy, reason = ctx.http.endpoint.proxy, ctx.http.endpoint.proxy_reason
    if not proxy:
        return ok(f"none: {reason}")
    parts = split_proxy(proxy)
    if not parts.hostname:
        raise ValueError("the proxy's URL names no host")
    secret = " (with a password)" if parts.password is not None else ""
    shown = f"{parts.scheme}://{parts.hostname}:{parts.port or 80}{secret}"
    found = f"{shown}, for HTTP and the socket alike; by {reason}"
    if parts.scheme != "http":
        return warning(found, "the event socket takes http proxies only: use transport='poll'")
    return ok(found)


def check_name(ctx: CheckContext) -> CheckResult:
    """Look up the host name of the server, or that of the proxy if there is one."""
    host, port = _target(ctx)
    begun = time.monotonic()
    try:
        found = look_up(host, port)
    except socket.gaierror as exc:
        away = exc.errno == socket.EAI_AGAIN
        what = "no name server answers" if away else "no name server knows it"
        advice = "check the spelling, the network and the VPN, or give an address as host"
        return failed(f"{host!r}: {what}", advice)
    seconds = time.monotonic() - begun
    ctx.addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    names = [str(address[0]) for _, address in ctx.addresses]
    if names == [host]:
        return ok(f"{host} is an address; nothing to look up")
    text = f"{host}: {', '.join(names[:4])} ({in_ms(seconds)})"
    if seconds > 1:
        return warning(text, "the name server is slow, and each new connection waits for it")
    return ok(text)


def check_port(ctx: CheckContext) -> CheckResult:
    """Check which addresses accept a connection; if local, or if none does, try both loopbacks."""
    port = _target(ctx)[1]
    seen = {str(a[0]): why_refused(family, a, ctx.left) for family, a in ctx.addresses[:4]}
    is_own = all(map(is_loopback_address, seen))
    others = [a for a in _LOOPBACKS if a not in seen] if is_own or not _open(seen) else []
    seen_else = {name: why_refused(_family(name), (name, port), ctx.left) for name in others}
    text = "the proxy at " if ctx.http.endpoint.proxy else ""
    text += "; ".join(f"{_at(a, port)} {said or 'accepts'}" for a, said in seen.items())
    elsewhere = "".join(f"; {_at(a, port)} accepts" for a in _open(seen_else))
    if not _open(seen):
        advice = _about_no_port(ctx, port, seen, _open(seen_else), is_own=is_own)
        return failed(text + elsewhere, advice)
    first = next(iter(seen))
    if seen[first]:
        advice = f"each connection tries {first} first, in vain: use {_open(seen)[0]} as host"
        return warning(text, advice)
    return ok(text + elsewhere)


def _about_no_port(
    ctx: CheckContext, port: int, seen: Mapping[str, str], elsewhere: list[str], *, is_own: bool
) -> str:
    """Return advice for the case that no address accepts a connection."""
    if ctx.http.endpoint.proxy:
        return "the proxy is not running there; see 'proxy' above for where it is set"
    if "refuses" not in seen.values():
        return "is the machine on, is the address right, does a firewall block the port?"
    if not is_own:
        advice = "start ComfyUI there with --listen; without it, only its own machine can connect"
        here = f"; or, if that is this machine, give {elsewhere[0]}:{port}" if elsewhere else ""
        return advice + here
    if elsewhere:
        return f"give {ctx.http.address.scheme}://{_at(elsewhere[0], port)} as host"
    advice = "start ComfyUI, or give its port"
    for number, whose in _USUAL_PORTS.items():
        if number != port and not why_refused(socket.AF_INET, (_LOOPBACKS[0], number), ctx.left):
            advice += f"; {number}, {whose}, accepts"
    return advice


def check_tls(ctx: CheckContext) -> CheckResult:
    """Check whether the server's certificate is trusted, and how long it is still valid."""
    http = ctx.http
    if http.address.scheme != "https":
        return ok("none: plain http")
    trust = _trust(ctx)
    try:
        context = http.endpoint.ssl_context
    except ssl.SSLError as exc:
        advice = "both must be PEM files; the one of cert= contains the certificate and its key"
        return failed(f"verify= or cert= cannot be read ({exc.reason})", advice)
    plan = DialPlan(f"{http.address.ws_url}/ws", {}, context, http.endpoint.proxy)
    begun = time.monotonic()
    try:
        sock: Any = connect_socket(plan, ctx.left, ctx.sockets.hold)
    except OSError as exc:
        advice = _ABOUT_CERTIFICATE.get(getattr(exc, "verify_code", 0), "")
        error = explain(exc, "TLS", http.address.http_url)
        return failed(f"{ctx.redact.foreign(error)}; {trust}", advice)
    with contextlib.closing(sock):
        seconds = time.monotonic() - begun
        certificate = sock.getpeercert() or {}
        text = f"{sock.version()}, {in_ms(seconds)}; {trust}"
    if http.endpoint.verify is False:
        return warning(
            text, "anyone on the network path can read everything: pass verify='ca.pem' instead"
        )
    expiry = str(certificate.get("notAfter", ""))
    if expiry:
        days = (ssl.cert_time_to_seconds(expiry) - time.time()) / 86400
        text += f"; valid for {days:.0f} more days"
        if days < 14:
            return warning(text, "the server's certificate must be renewed soon")
    return ok(text)


def _trust(ctx: CheckContext) -> str:
    verify = ctx.http.endpoint.verify
    if verify is False:
        return "not verified (verify=False)"
    if verify is True:
        return f"verified by certifi's CAs ({version_of('certifi')})"
    return f"verified by the CAs in {ctx.brief(os.path.basename(verify))!r}"


def _target(ctx: CheckContext) -> tuple[str, int]:
    """Return the host and port to connect to: the server's, or the proxy's."""
    if ctx.http.endpoint.proxy:
        parts = split_proxy(ctx.http.endpoint.proxy)
        return parts.hostname or "", parts.port or 80
    return ctx.http.address.host, ctx.http.address.port


def why_refused(family: socket.AddressFamily, address: Any, most: float) -> str:
    """Return why connecting to an address fails, or ``""`` if it succeeds in time."""
    seconds = min(_CONNECT, most)
    try:
        with new_socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(seconds)
            sock.connect(address)
    except ConnectionRefusedError:
        return "refuses"
    except TimeoutError:
        return f"does not answer within {seconds:.1f} s"
    except OSError as exc:
        return f"cannot be reached ({exc.strerror or exc})"
    return ""


def _open(seen: Mapping[str, str]) -> list[str]:
    return [name for name, refusal in seen.items() if not refusal]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def version_of(distribution: str) -> str:
    """Return the version of a distribution, or ``not installed``."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

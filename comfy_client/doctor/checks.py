"""The checks of ``api.doctor()``, each a method of :class:`Visit`.

Nothing that a server says is shown but for a few short facts (versions, names of features and
devices), and without what is known to be secret.
"""

from __future__ import annotations

import contextlib
import email.utils
import importlib.metadata
import ipaddress
import logging
import os
import queue
import random
import re
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from .. import credentials as creds
from .. import models
from ..budget import Newest
from ..errors import (
    AuthenticationError,
    ClientClosed,
    ComfyError,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
)
from ..events import EndEvent, Event, Executing, FeatureFlags, JobEvent, StatusEvent
from ..routes.prompts import MARK
from ..transport.decode import HELLO, decode_binary, decode_text
from ..transport.failures import explain, is_for_another
from ..transport.frames import BINARY, PONG, TEXT
from ..transport.pool import shut
from ..transport.response import Answer, route_is_missing, wants_tls
from ..transport.websocket import Line, Plan, State, open_line, speaks_tls

if TYPE_CHECKING:
    from ..client import ComfyApi
    from .report import Redactor

log = logging.getLogger("comfy_client")

CheckState = Literal["ok", "warning", "failed", "unknown"]

#: Seconds that an address has to accept a connection.
_CONNECT: Final = 3.0
#: Seconds that a queue which is not empty is watched.
_WATCH: Final = 3.0
#: Bytes that any answer may have which is read here.
_MOST: Final = 1 << 20
#: Bytes of what the socket brings that are kept.
MOST_BYTES: Final = 16 << 20

_LOOPBACKS = ("127.0.0.1", "::1")
_PORTS = {8188: "ComfyUI's own", 8000: "the desktop app's"}
_UPGRADE = (
    "have the proxy pass WebSockets on (nginx: proxy_http_version 1.1; proxy_set_header Upgrade "
    '$http_upgrade; proxy_set_header Connection "upgrade"); until then results come by '
    "polling, without previews and progress"
)


class Found(NamedTuple):
    """What a check has to say: see :class:`comfy_client.DoctorCheck`."""

    state: CheckState
    found: str
    advice: str = ""


class Visit:
    """One examination: the checks, in methods, and what they learn for those that follow."""

    def __init__(self, api: ComfyApi, redact: Redactor, timeout: float) -> None:
        self.api = api
        self.http = api._http
        self.redact = redact
        self.client_id = str(uuid.uuid4())  # two sockets of one id make each other deaf
        self.started = time.monotonic()
        timeout = min(timeout, 1e6)  # more than this cannot be waited for
        self.last = self.started + timeout
        # A little is kept back, so that what waits inside a check says what it waited for.
        self.end = self.started + 0.95 * timeout
        self.check_end = self.end
        self._lock = threading.Lock()  # guards the sockets
        self._sockets: list[socket.socket] | None = []  # None: the visit is over
        self.line: Line | None = None
        self.events: Newest[Event] = Newest(1000, MOST_BYTES)  # that came over it
        self.pongs = 0
        self.addresses: list[tuple[socket.AddressFamily, Any]] = []
        self.answer: Answer | None = None
        self.remaining: int | None = None
        self.stats: models.SystemStats | None = None
        self.features: Mapping[str, Any] = {}
        self.has_jobs = False
        self.own_was_deaf = False  # the client's own socket, while a prompt ran

    @property
    def left(self) -> float:
        """Seconds that the present check has left, always more than 0."""
        return max(0.05, self.check_end - time.monotonic())

    def look(self, name: str, check: Callable[[Visit], Found], limit: float) -> Found:
        """One check, in a thread that is left alone when it does not come back."""
        begun = time.monotonic()
        self.check_end = min(self.end, begun + limit)
        told: queue.SimpleQueue[Found | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                told.put(check(self))
            except ClientClosed:
                told.put(None)
            except (ComfyError, OSError, ValueError, TypeError, Warning) as exc:
                told.put(Found("failed", self.redact.told(exc) or type(exc).__name__))
            except Exception as exc:
                log.exception("a defect of comfy_client's doctor, in its check %r", name)
                told.put(Found("unknown", f"a defect of comfy_client: {type(exc).__name__}"))

        thread = threading.Thread(target=work, name=f"comfy-doctor-{name}", daemon=True)
        thread.start()
        end = min(self.last, self.check_end + 0.5)
        while thread.is_alive() and time.monotonic() < end:
            thread.join(0.25)  # in slices, for Ctrl-C
        try:
            result = told.get_nowait()
        except queue.Empty:
            self.cut()
            return Found("failed", f"did not come to an end within {self.check_end - begun:.1f} s")
        if result is None:
            raise ClientClosed  # anew: what it passed in that thread may hold a server's words
        return result

    def hold(self, sock: socket.socket) -> None:
        """From now on :meth:`cut` ends whatever this socket waits for."""
        with self._lock:
            if self._sockets is None:
                sock.close()
                raise ServerUnreachable("the time was over")
            self._sockets.append(sock)

    def cut(self, *, for_good: bool = False) -> None:
        """End every socket that a check has opened."""
        with self._lock:
            sockets, self._sockets = self._sockets or [], None if for_good else []
        for sock in sockets:
            shut(sock)
            with contextlib.suppress(OSError):
                sock.close()

    def finish(self) -> None:
        """Leave nothing open."""
        if self.line is not None:
            self.line.close()
        self.cut(for_good=True)

    def get(self, route: str, **kw: Any) -> Answer:
        """A small answer, whatever its status."""
        return self.http.request(
            "GET", route, timeout=self.left, allow=range(300, 600), most=_MOST, **kw
        )

    def get_json(self, route: str) -> Any:
        """The decoded answer, ``None`` for any that is not a 200 with JSON."""
        answer = self.get(route)
        return _decoded(answer) if answer.status == 200 else None

    def post(self, route: str, body: object, timeout: float) -> Answer:
        """An answer to a POST, whatever its status."""
        return self.http.request(
            "POST", route, json=body, timeout=timeout, allow=range(300, 600), most=_MOST
        )

    def until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Read the socket until something is true; whether it came to be in time."""
        end = time.monotonic() + min(seconds, self.left)
        while not done():
            message = self.line.read(max(0.0, end - time.monotonic())) if self.line else None
            if message is None:
                return False
            opcode, data = message
            self.pongs += opcode == PONG
            if opcode in (TEXT, BINARY):
                decode = decode_text if opcode == TEXT else decode_binary
                for event in decode(data):
                    self.events.append(event, event.nbytes)
        return True

    def has(self, kind: type[Event]) -> bool:
        """Whether an event of that kind has come."""
        return any(isinstance(event, kind) for event in self.events.values())

    def brief(self, value: object, most: int = 60) -> str:
        """Something short that a server says of itself; cut only when no secret is in it."""
        return self.redact.told(value)[:most]

    # -- the way to the server -----------------------------------------------------------

    def proxy(self) -> Found:
        """Which proxy HTTP and the socket take, and who says so."""
        proxy, reason = self.http.proxy, self.http.proxy_reason
        if not proxy:
            return Found("ok", f"none, directly: {reason}")
        parts = _proxy_parts(proxy)
        if not parts.hostname:
            raise ValueError("what is given as a proxy names none")
        secret = " (with a password)" if parts.password is not None else ""
        shown = f"{parts.scheme}://{parts.hostname}:{parts.port or 80}{secret}"
        found = f"{shown}, for HTTP and the socket alike; by {reason}"
        if parts.scheme != "http":
            advice = "the event socket takes http proxies only: use transport='poll'"
            return Found("warning", found, advice)
        return Found("ok", found)

    def _target(self) -> tuple[str, int]:
        """Whom we connect to: the server, or the proxy."""
        if self.http.proxy:
            parts = _proxy_parts(self.http.proxy)
            return parts.hostname or "", parts.port or 80
        return self.http.address.host, self.http.address.port

    def name(self) -> Found:
        """The addresses behind the name of the server, or of the proxy."""
        host, port = self._target()
        begun = time.monotonic()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as exc:
            away = getattr(exc, "errno", None) == socket.EAI_AGAIN
            what = "no name server answers" if away else "no name server knows it"
            advice = "check the spelling, the network and the VPN, or give an address as host"
            return Found("failed", f"{host!r}: {what}", advice)
        seconds = time.monotonic() - begun
        for family, _, _, _, address in found:
            if (family, address) not in self.addresses:
                self.addresses.append((family, address))
        names = [str(address[0]) for _, address in self.addresses]
        if names == [host]:
            return Found("ok", f"{host} is an address, there is nothing to look up")
        text = f"{host}: {', '.join(names[:4])} ({_ms(seconds)})"
        if seconds > 1:
            advice = "the name server is slow, and each new connection waits for it"
            return Found("warning", text, advice)
        return Found("ok", text)

    def port(self) -> Found:
        """Who of the addresses accepts a connection; on the own machine both loopbacks."""
        port = self._target()[1]
        seen = {str(a[0]): _refusal(family, a, self.left) for family, a in self.addresses[:4]}
        is_own = all(_is_loopback(name) for name in seen)
        others = [a for a in _LOOPBACKS if a not in seen] if is_own or not _open(seen) else []
        seen_else = {name: _refusal(_family(name), (name, port), self.left) for name in others}
        text = "the proxy at " if self.http.proxy else ""
        text += "; ".join(f"{_at(a, port)} {said or 'accepts'}" for a, said in seen.items())
        elsewhere = "".join(f"; {_at(a, port)} accepts" for a in _open(seen_else))
        if _open(seen):
            first = next(iter(seen))
            if seen[first]:
                advice = f"each connection tries {first} first, in vain: give {_open(seen)[0]}"
                return Found("warning", text, advice)
            return Found("ok", text + elsewhere)
        if self.http.proxy:
            advice = "the proxy does not run there: see 'proxy' above for who names it"
        elif not any(said == "refuses" for said in seen.values()):
            advice = "is the machine on, is this its address, does a firewall let the port through?"
        elif not is_own:
            advice = "start ComfyUI there with --listen: without, it is for its own machine only"
            if elsewhere:
                advice += f"; or, if that is this machine, give {_open(seen_else)[0]}:{port}"
        elif elsewhere:
            advice = f"give {self.http.address.scheme}://{_at(_open(seen_else)[0], port)} as host"
        else:
            advice = "start ComfyUI, or give its port"
            for number, whose in _PORTS.items():
                if number != port and not _refusal(
                    socket.AF_INET, (_LOOPBACKS[0], number), self.left
                ):
                    advice += f"; {number}, {whose}, accepts"
        return Found("failed", text + elsewhere, advice)

    def tls(self) -> Found:
        """Whether the server's certificate is one that we trust, and for how long."""
        address = self.http.address
        if address.scheme != "https":
            return Found("ok", "none: plain http")
        trust = self._trust()
        try:
            context = self.http.ssl_context
        except ssl.SSLError as exc:
            advice = "both are PEM files; that of cert= holds the certificate and its key"
            return Found("failed", f"verify= or cert= cannot be read ({exc.reason})", advice)
        plan = Plan(f"{address.ws_url}/ws", {}, context, self.http.proxy)
        begun = time.monotonic()
        try:
            sock: Any = open_line(plan, self.left, self.hold)
        except OSError as exc:
            return self._no_tls(exc, trust)
        with contextlib.closing(sock):
            seconds = time.monotonic() - begun
            certificate = sock.getpeercert() or {}
            text = f"{sock.version()}, {_ms(seconds)}; {trust}"
        if self.http.verify is False:
            advice = "whoever stands between can read all: pass verify='ca.pem' instead"
            return Found("warning", text, advice)
        expiry = str(certificate.get("notAfter", ""))
        if expiry:
            days = (ssl.cert_time_to_seconds(expiry) - time.time()) / 86400
            text += f"; good for {days:.0f} days"
            if days < 14:
                return Found("warning", text, "have the server's certificate renewed")
        return Found("ok", text)

    def _trust(self) -> str:
        verify = self.http.verify
        if verify is False:
            return "not verified (verify=False)"
        if verify is True:
            return f"verified by certifi's CAs ({version_of('certifi')})"
        return f"verified by the CAs in {self.brief(os.path.basename(verify))!r}"

    def _no_tls(self, exc: OSError, trust: str) -> Found:
        advice = {
            9: "it is not valid yet: check the clocks of both machines",
            10: "it has expired: have it renewed",
            18: "it is signed by itself: pass verify='its.pem'",
            19: "its CA is not a public one: pass verify='ca.pem'",
            20: "its CA is not known: pass verify='ca.pem', and have the server send the chain",
            62: "it is for another name: give the name that stands in it as host",
            64: "it is for another address: give the name that stands in it as host",
        }.get(getattr(exc, "verify_code", 0), "")
        error = explain(exc, "TLS", self.http.address.http_url)
        return Found("failed", f"{self.redact.told(error)}; {trust}", advice)

    def credentials(self) -> Found:
        """Whether there are credentials, and can be had."""
        try:
            applied = creds.apply(self.http.credentials)
        except AuthenticationError as exc:
            return Found("failed", self.redact.told(exc), "nothing is asked without them")
        kind = type(self.http.credentials).__name__
        if self.http.credentials is None:
            if self.http.left_behind:
                advice = "they do not travel in a pickle: name them with EnvCredentials"
                return Found("warning", "lost on the way", advice)
            return Found("ok", "none are given")
        names = [*applied.headers, *(f"?{name}=" for name in applied.query)]
        text = f"{kind if kind != 'function' else 'a callable'}: {', '.join(names) or 'nothing'}"
        address = self.http.address
        if address.scheme == "http" and not address.is_loopback:
            return Found("warning", text, "they go over the network unencrypted: use https")
        return Found("ok", text)

    # -- what answers there --------------------------------------------------------------

    def answers(self) -> Found:
        """Whether anything answers in HTTP."""
        begun = time.monotonic()
        try:
            self.answer = answer = self.get("/prompt")
        except ComfyError as exc:
            advice = ""
            if isinstance(exc, TimeoutError):
                advice = (
                    "something accepts and does not answer: the server hangs or loads a model, "
                    "or another program has the port; look into its terminal"
                )
            elif self._is_for_tls(exc):
                advice = "it speaks TLS, not plain http: use https:// in host"
            return Found("failed", self.redact.told(exc), advice)
        seconds = time.monotonic() - begun
        by = self.brief(answer.headers.get("server", "a server that does not say its name"))
        text = f"GET {self._route(answer)}: {answer.status} in {_ms(seconds)}, by {by}"
        if answer.status == 407:
            advice = "the proxy wants a password: proxies={'http': 'http://user:password@proxy'}"
            return Found("failed", text, advice)
        if seconds > 2:
            return Found("warning", text, "the server, or the way to it, is slow")
        return Found("ok", text)

    def _is_for_tls(self, exc: ComfyError) -> bool:
        """Whether plain http was answered by nothing, or by what is none, for want of TLS."""
        address = self.http.address
        return (
            address.scheme == "http"
            and type(exc) in (TransportError, UnexpectedResponse)
            and speaks_tls(address, self.http.proxy, self.left, self.hold)
        )

    def _route(self, answer: Answer) -> str:
        return answer.path.removeprefix(self.http.address.prefix)

    def _sent(self) -> str:
        names = [*self.http._applied.headers, *(f"?{name}=" for name in self.http._applied.query)]
        given = [*self.http._given_headers, *self.http._session.headers]
        names += [name for name in given if name.lower() in ("authorization", "cookie")]
        if self.http._session.auth:
            names.append("auth of the Session")
        if self.http._session.cookies:
            names.append("cookies of the Session")
        return f"sent: {', '.join(names)}" if names else "no credentials were sent"

    def auth(self) -> Found:
        """Whether the server, or a proxy before it, lets us in."""
        answer = _given(self.answer)
        if answer.status not in (401, 403):
            return Found("ok", f"let in; {self._sent()}")
        text = f"{answer.status}; {self._sent()}"
        if answer.status == 401:
            asked = re.match(r"\w+", self.redact.told(answer.headers.get("www-authenticate", "")))
            text += f"; it asks for {asked[0][:20]}" if asked else ""
            advice = "pass credentials=..., which the server or the proxy before it takes"
            if self.http.has_credentials:
                advice = "the credentials are wrong, or of a kind that is not asked for"
            return Found("failed", text, advice)
        if self._origins():
            return Found("failed", text + "; with an Origin", "leave Origin out of the headers")
        advice = (
            "ComfyUI itself says so only when Origin and Host differ, and this client sends no "
            "Origin: a login layer, a firewall or the proxy before it refuses; ask who runs it"
        )
        return Found("failed", text, advice)

    def _origins(self) -> bool:
        given = (*self.http._given_headers, *self.http._session.headers)
        return any(name.lower() == "origin" for name in given)

    def comfyui(self) -> Found:
        """Whether what answers is a ComfyUI."""
        answer = _given(self.answer)
        status = answer.status
        if status < 300:
            self.remaining = _count(answer)
            if self.remaining is not None:
                return Found("ok", "it tells its queue, as a ComfyUI does")
        kind = self.brief(answer.kind) or "no content type"
        if answer.is_page and status < 300:
            advice = "a login page, or another program: open the address in a browser"
            return Found("failed", f"{status} with a page ({kind}), not JSON", advice)
        if status < 300:
            return Found("failed", f"{status} with {kind}, not the queue", "another program")
        if status < 400:
            return self._redirected(answer)
        if is_for_another(status):
            advice = "start ComfyUI, or wait until it has loaded; else mend the proxy's target"
            return Found("failed", f"{status}: a proxy answers, the server behind does not", advice)
        if status in (404, 405, 501):
            advice = (
                "another program has this port, or host lacks the path below which a proxy has "
                "ComfyUI, as in 'https://example.org/comfy'"
            )
            return Found("failed", f"{status}: there is no /prompt", advice)
        advice = "the log of the server may say why"
        if wants_tls(answer):
            advice = "it speaks TLS, not plain http: use https:// in host"
        return Found("failed", f"{status} to GET /prompt", advice)

    def _redirected(self, answer: Answer) -> Found:
        address = self.http.address
        try:
            # Without secrets first: of what is cut out of it they would not be known.
            to = urlsplit(self.redact.told(answer.headers.get("location", "")))
            host, scheme = to.hostname or address.host, to.scheme or address.scheme
        except ValueError:
            host, scheme = "what is no URL", address.scheme
        text = f"{answer.status}, redirected to {self.brief(scheme, 10)}://{self.brief(host)}"
        if host == address.host and scheme != address.scheme:
            return Found("failed", text, f"use {scheme}:// in host")
        return Found("failed", text, "a login page, or not the final address: give that as host")

    def origin(self) -> Found:
        """Whether the server sees the Host that we address, and so lets its own pages in."""
        if self._origins():
            text = "an Origin stands among the headers, and is compared with Host"
            return Found("warning", text, "leave it out: a script has none to send")
        address = self.http.address
        answer = self.get("/prompt", headers={"Origin": f"{address.scheme}://{address.netloc}"})
        if answer.status == 403:
            text = "a page of this very address is refused (403); this client sends no Origin"
            advice = (
                "nothing for this client; for browsers have the proxy pass Host on "
                "(nginx: proxy_set_header Host $http_host)"
            )
            return Found("warning", text, advice)
        if answer.status != 200:
            return Found("unknown", f"{answer.status} to a request with an Origin")
        return Found("ok", "a page of this very address is let in; this client sends no Origin")

    # -- the socket ----------------------------------------------------------------------

    def websocket(self) -> Found:
        """Whether /ws becomes a WebSocket, also through what stands between."""
        if self.api._transport == "poll":
            return Found("unknown", "none is opened, by transport='poll': no previews")
        begun = time.monotonic()
        try:
            self.line = Line(self.api._plan(self.client_id), self.left, self.hold)
        except AuthenticationError as exc:
            advice = "HTTP is let in: have the proxy treat /ws as it treats the rest"
            return Found("failed", self.redact.told(exc), advice)
        except ServerUnreachable as exc:
            advice = "results come by polling, without previews"
            return Found("failed", self.redact.told(exc), advice)
        except ComfyError as exc:
            return Found("failed", f"HTTP works, but {self.redact.told(exc)}", _UPGRADE)
        return Found("ok", f"opened in {_ms(time.monotonic() - begun)}")

    def greeting(self) -> Found:
        """Whether the socket is heard: a ComfyUI says its ``status`` first."""
        begun = time.monotonic()
        if self.until(lambda: self.has(StatusEvent), self.left):
            return Found("ok", f"status after {_ms(time.monotonic() - begun)}")
        text = f"open, but deaf: no status within {time.monotonic() - begun:.1f} s"
        advice = "a proxy that holds answers back, a server that hangs, or no ComfyUI behind /ws"
        return Found("failed", text, advice)

    def echo(self) -> Found:
        """Whether what we send arrives, and is answered."""
        line = self.line
        if line is None:
            return Found("unknown", "no socket")
        begun = time.monotonic()
        line.send(HELLO)
        line.ping()
        if not self.until(lambda: self.pongs > 0, self.left):
            text = "a ping is not answered"
            return Found("failed", text, "what this client sends does not arrive: the proxy")
        text = f"a ping came back after {_ms(time.monotonic() - begun)}"
        if self.features and not self.until(lambda: self.has(FeatureFlags), self.left):
            text += ", but no answer to a message: the socket is deaf"
            return Found("failed", text, "restart the server, or the proxy before it")
        return Found("ok", text)

    # -- what the server is and has ------------------------------------------------------

    def version(self) -> Found:
        """Which ComfyUI it is, and what this client has to do without."""
        data = self.get_json("/system_stats")
        with contextlib.suppress(ComfyError):
            self.stats = models.SystemStats.from_json(data)
        flags = self.get_json("/features")
        self.features = flags if isinstance(flags, dict) else {}
        job = self.get(f"/api/jobs/{self.client_id}")  # of no such id
        self.has_jobs = "json" in job.kind and not route_is_missing(job)
        without = []
        if not self.has_jobs:
            without.append("the jobs API (ComfyUI 0.6), and previews that a prompt asks for (0.5)")
        if not self.features:
            without.append("prompt ids of our own, progress_state and features (0.3.45)")
        if self.stats is not None and self.stats.comfyui_version is None:
            without.append("its version, lists of models, logs (September 2024)")
        if self.http._api is False:
            without.append("routes below /api (June 2024)")
        advice = f"it lacks {'; '.join(without)}: this client does without" if without else ""
        if self.stats is None:
            return Found("unknown", "GET /system_stats does not tell", advice)
        versions = {
            "ComfyUI": self.stats.comfyui_version or "of before September 2024",
            "Python": self.brief(self.stats.python_version or "?").partition(" ")[0],
            "PyTorch": self.stats.pytorch_version or "?",
            "on": self.stats.os or "?",
        }
        devices = ", ".join(self.brief(device.name) for device in self.stats.devices[:4])
        text = ", ".join(f"{name} {self.brief(value)}" for name, value in versions.items())
        return Found("ok", f"{text}; {devices or 'no device'}", advice)

    def told(self) -> Found:
        """What the server says that it can do."""
        if not self.features:
            return Found("ok", "none are told, as by every ComfyUI before 0.3.45")
        return Found("ok", ", ".join(self.brief(name, 40) for name in list(self.features)[:12]))

    def previews(self) -> Found:
        """Whether the sampler shows its work."""
        if self.has_jobs:
            return Found("ok", "each prompt chooses; asked for while anyone listens")
        argv = self.stats.argv if self.stats else None
        if argv is None:
            text = "the server does not tell how it was started"
            return Found("unknown", text, "none come without --preview-method auto")
        method = _option(tuple(map(str, argv)), "--preview-method")
        if method in ("", "none"):
            text = "off: it was started without --preview-method"
            return Found("warning", text, "start ComfyUI with --preview-method auto")
        node = self.features.get("supports_preview_metadata") is True
        text = f"--preview-method {self.brief(method, 20)}"
        return Found("ok", text + (", and they name their node" if node else ""))

    def upload(self) -> Found:
        """How large a request may be."""
        size = models.Features.from_json(self.features).max_upload_size
        if size is None:
            return Found("unknown", "not told (100 MiB unless --max-upload-size says otherwise)")
        text = f"up to {_bytes(size)}"
        if "aiohttp" not in _given(self.answer).headers.get("server", "").lower():
            text += "; the proxy before it may allow less (nginx: 1 MiB by default)"
        return Found("ok", text)

    def memory(self) -> Found:
        """What is free of RAM and of the devices' memory."""
        stats = self.stats
        if stats is None:
            return Found("unknown", "not told")
        rooms = [("RAM", stats.ram_free, stats.ram_total)]
        rooms += [(self.brief(d.name, 30), d.vram_free, d.vram_total) for d in stats.devices[:4]]
        told = [
            (name, free, total) for name, free, total in rooms if _is_size(free) and _is_size(total)
        ]
        if not told:
            return Found("unknown", "not told")
        text = ", ".join(
            f"{name}: {_bytes(free or 0)} of {_bytes(total or 0)} free"
            for name, free, total in told
        )
        if any((free or 0) < 1 << 29 for _, free, total in told):
            advice = "api.free_memory(unload_models=True), or a smaller picture"
            return Found("warning", text, advice)
        return Found("ok", text)

    def user(self) -> Found:
        """Whether the server keeps users, and knows this one."""
        config = self.get_json("/users")
        users = config.get("users") if isinstance(config, dict) else None
        if not isinstance(config, dict):
            return Found("unknown", "the server does not tell whether it keeps users")
        if not isinstance(users, dict):
            return Found(
                "ok", "the server keeps none" + ("" if not self.http._user else "; unused")
            )
        if not self.http._user:
            advice = "settings and user data need ComfyApi(user=...); prompts do not"
            return Found("warning", "the server keeps users, and none is given", advice)
        if self.http._user not in users:
            advice = "give an id as api.get_user_config().users has it, or create_user"
            return Found("failed", "the server keeps users, and does not know the given", advice)
        return Found("ok", "the server keeps users, and knows the given")

    def queue(self) -> Found:
        """How much there is to do, and whether it moves."""
        before = self.remaining or 0
        if not before:
            return Found("ok", "empty")
        end = time.monotonic() + min(_WATCH, self.left)
        while (now := _count(self.get("/prompt"))) in (before, None):
            if time.monotonic() >= end:
                text = f"{_prompts(before)}; none ended while watched for {_WATCH:g} s"
                advice = (
                    "fine when a long one runs; if nothing ends at all, look into the server's "
                    "terminal, api.interrupt() what runs, or restart it"
                )
                return Found("warning", text, advice)
            time.sleep(0.25)
        return Found("ok", f"{_prompts(now or 0)}, and it moves")

    def clock(self) -> Found:
        """Whether the clocks of both machines agree."""
        date = _given(self.answer).headers.get("date", "")
        try:
            theirs = email.utils.parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return Found("unknown", "the server does not tell the time")
        apart = abs(theirs - time.time())
        text = f"ours and the server's are {apart:.0f} s apart"
        if apart > 60:
            return Found("warning", text, "set the clocks: times of jobs and TLS depend on them")
        return Found("ok", text)

    # -- all of it -----------------------------------------------------------------------

    def run(self) -> Found:
        """A trivial prompt, from end to end."""
        prompt_id = str(uuid.uuid4())
        body = {
            "prompt": _trivial(),
            "client_id": self.client_id,
            "prompt_id": prompt_id,
            "extra_data": {MARK: prompt_id},
        }
        own = self.api._connection
        generation = own.generation if own.state is State.CONNECTED else None
        heard_at = self.api._status_at
        begun = time.monotonic()
        self.events.clear()
        answer = self.post("/prompt", body, self.left)
        told = _decoded(answer)
        if answer.status != 200 or not isinstance(told, dict) or "prompt_id" not in told:
            text = f"POST /prompt: {answer.status}, {self.brief(answer.kind) or 'no content type'}"
            advice = "HTTP lets GET through: does a proxy refuse or redirect POST?"
            if answer.status == 400:
                text += ": the server refused EmptyImage and PreviewImage"
                advice = "its nodes are not ComfyUI's own: look into its terminal"
            return Found("failed", text, advice)
        prompt_id = str(told["prompt_id"])
        verdict = self._verdict(prompt_id)
        seconds = time.monotonic() - begun
        if generation is not None:
            end = time.monotonic() + 2  # the event thread may have to wait for its turn
            while self.api._status_at == heard_at and time.monotonic() < end:
                time.sleep(0.02)
            unbroken = own.state is State.CONNECTED and own.generation == generation
            self.own_was_deaf = unbroken and self.api._status_at == heard_at
        came = [event.name for event in self._of(prompt_id)]
        by = (
            f"by socket came {', '.join(dict.fromkeys(came))}" if came else "by socket came nothing"
        )
        if verdict is None:
            with contextlib.suppress(ComfyError):
                self.post("/queue", {"delete": [prompt_id]}, 2.0)
            text = f"not over after {seconds:.1f} s, and taken back if it was still waiting; {by}"
            return Found("warning", text, "see 'queue'; or give the doctor a longer timeout")
        text = f"EmptyImage to PreviewImage {verdict} in {_ms(seconds)}; {by}"
        if verdict != "succeeded":
            return Found("failed", text, "look into the server's terminal")
        if self.line is not None and not came:
            advice = "the socket is open but deaf: results come by polling; restart the server"
            return Found("failed", text, advice)
        return Found("ok", text)

    def _of(self, prompt_id: str) -> list[JobEvent]:
        return [
            e for e in self.events.values() if isinstance(e, JobEvent) and e.prompt_id == prompt_id
        ]

    def _verdict(self, prompt_id: str) -> str | None:
        """What became of a prompt, by the history, which the events only hasten."""

        def over() -> bool:
            return any(
                isinstance(event, EndEvent) or (isinstance(event, Executing) and not event.node)
                for event in self._of(prompt_id)
            )

        pause = 0.02
        while time.monotonic() < self.check_end:
            try:
                self.until(over, 0.5)
            except ComfyError:
                self.line = None
            history = self.get_json(f"/history/{prompt_id}")
            entry = history.get(prompt_id) if isinstance(history, dict) else None
            if isinstance(entry, dict):
                with contextlib.suppress(ComfyError):
                    self.until(over, 1.0)  # events may still be on their way
                status = entry.get("status")
                told = status.get("status_str") if isinstance(status, dict) else None
                return "failed" if told == "error" else "succeeded"
            if self.line is None or over():
                time.sleep(pause)  # history is written a moment after the last event
                pause = min(1.0, 1.5 * pause)
        return None

    def client(self) -> Found:
        """How the client's own socket is."""
        connection = self.api._connection
        state = connection.state
        notes = [f"its socket: {state.value}"]
        if connection.generation > 1:
            notes.append(f"connected {connection.generation} times")
        waiting = len(self.api._jobs.outstanding)
        if waiting:
            notes.append(f"{waiting} jobs outstanding")
        quiet = connection.quiet_for
        if state is State.CONNECTED and quiet < float("inf"):
            notes.append(f"last heard {quiet:.1f} s ago")
        if connection.error is not None:
            notes.append(f"last failure: {self.redact.told(connection.error)}")
        if self.api.dropped_events:
            notes.append(f"{self.api.dropped_events} events gave way to newer ones")
        text = "; ".join(notes)
        if self.own_was_deaf:
            advice = (
                "it is open but hears nothing: does another client use the same client_id? "
                "It dials again with the next job; results come by polling"
            )
            return Found("warning", text, advice)
        if state in (State.WAITING, State.POLLING) and self.api._transport != "poll":
            works = self.has(StatusEvent)
            advice = "it dials again by itself" + ("; a fresh socket works now" if works else "")
            return Found("warning", text, advice)
        if self.api.dropped_events:
            return Found("warning", text, "receivers are slow: let them hand their work on")
        return Found("ok", text)


# -- small things -----------------------------------------------------------------------


def _decoded(answer: Answer) -> Any:
    """What an answer holds, ``None`` when it is no JSON."""
    with contextlib.suppress(ComfyError):  # whose text has the beginning of the page
        return answer.json() if "json" in answer.kind else None
    return None


def _count(answer: Answer) -> int | None:
    """How many prompts there are, ``None`` when this is not what a ComfyUI answers."""
    with contextlib.suppress(ComfyError):
        count = models.QueueStatus.from_json(_decoded(answer)).queue_remaining
        return count if isinstance(count, int) else None
    return None


def _given(answer: Answer | None) -> Answer:
    if answer is None:
        raise RuntimeError("a check was made before what it needs")
    return answer


def _proxy_parts(proxy: str) -> Any:
    try:
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
        _ = parts.port
    except ValueError:
        raise ValueError("what is given as a proxy is no URL") from None
    return parts


def _refusal(family: socket.AddressFamily, address: Any, most: float) -> str:
    """Why an address does not accept a connection within so long; ``""`` when it does."""
    seconds = min(_CONNECT, most)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
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


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _option(argv: tuple[str, ...], name: str) -> str:
    """The value of a command line's option, the last if there are several; ``""``: none."""
    found = ""
    for word, after in zip(argv, (*argv[1:], ""), strict=True):
        if word == name:
            found = after
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _bytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _prompts(count: int) -> str:
    return f"{count} prompt{'' if count == 1 else 's'} of all clients"


def _ms(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _trivial() -> dict[str, Any]:
    """A prompt that any ComfyUI runs at once; the colour keeps it from being cached."""
    colour = random.randrange(1 << 24)  # noqa: S311
    image = {"width": 16, "height": 16, "batch_size": 1, "color": colour}
    return {
        "1": {"class_type": "EmptyImage", "inputs": image},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def version_of(distribution: str) -> str:
    """Of an installed distribution, ``?`` when there is no telling."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "?"

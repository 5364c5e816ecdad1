"""What people put before a ComfyUI, for the tests: nginx, and a forward proxy.

    with Nginx(comfyui.port, "auth_basic comfy; auth_basic_user_file users;") as door:
        ComfyApi(door.url)

nginx comes from PATH, else from Debian's package, unpacked below the user's cache folder
without touching the system.  It runs with a folder of its own and dies with the tests.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from tests.comfyui import cache, free_port, locked

# -- nginx, the program -----------------------------------------------------------------


def nginx() -> tuple[str, dict[str, str]]:
    """The program and the environment that it needs; RuntimeError when it cannot be had."""
    found = shutil.which("nginx")
    if found:
        return found, {}
    folder = cache() / "nginx"
    program = folder / "usr" / "sbin" / "nginx"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        if not program.exists():
            _fetch(folder, "nginx")
        if not _runs(program, _environment(folder)):
            _fetch(folder, *_libraries())
    if not _runs(program, _environment(folder)):
        raise RuntimeError(f"{program} does not run here; install nginx")
    return str(program), _environment(folder)


def _environment(folder: Path) -> dict[str, str]:
    libraries = [str(path) for path in folder.glob("usr/lib/*-linux-gnu*")]
    return {"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else {}


def _runs(program: Path, env: Mapping[str, str]) -> bool:
    done = subprocess.run([program, "-v"], env={**os.environ, **env}, capture_output=True)
    return done.returncode == 0


def _fetch(folder: Path, *packages: str) -> None:
    """Unpack Debian packages into `folder`."""
    try:
        if os.geteuid() == 0 and not glob.glob("/var/lib/apt/lists/*_Packages*"):
            _run("apt-get", "update")
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            _run("apt-get", "download", *packages, cwd=fresh)
            for package in sorted(Path(fresh).glob("*.deb")):
                _run("dpkg", "-x", str(package), str(folder))
    except (OSError, subprocess.CalledProcessError) as exc:
        said = getattr(exc, "stderr", None) or str(exc)
        raise RuntimeError(
            "the tests of proxies need nginx: it is not on PATH, and Debian's package could "
            f"not be fetched ({said.strip()})"
        ) from exc


def _libraries() -> list[str]:
    """What Debian's nginx links to, beside the C library."""
    words = _run("apt-cache", "depends", "--important", "nginx").split()
    return [word for word in words if word.startswith(("lib", "zlib")) and word != "libc6"]


def _run(*args: str, cwd: str | None = None) -> str:
    print("+", *args, file=sys.stderr, flush=True)
    return subprocess.run(args, cwd=cwd, check=True, capture_output=True, text=True).stdout


# -- nginx, running ---------------------------------------------------------------------

CONFIG = """
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log notice;
events {{}}
http {{
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    log_format told '$request_method $request_uri $status cookie=$http_cookie '
                    'proxy-authorization=$http_proxy_authorization';
    access_log access.log told;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
    {http}
    server {{
        listen {listen};
        {tls}
        {server}
    }}
}}
"""

FILES = {
    "forward.conf": """
        proxy_pass http://127.0.0.1:{upstream};
        proxy_set_header Host $http_host;
        include upgrade.conf;
    """,
    # as the manual of nginx has it
    "upgrade.conf": """
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
    """,
}

EVERYTHING = "location / { include forward.conf; }"

# Ends nginx and removes its folder when our end of stdin is closed, also by our death.
LAUNCHER = '"$@" & read -r _; kill $!; wait $!; rm -rf "$0"'


class Nginx:
    """One nginx before the server on port `upstream`; ``with`` starts and ends it.

    `server` stands in its ``server`` block, before a location that forwards everything
    (``include forward.conf;``), unless it has locations of its own; `http` stands outside.
    ``{upstream}`` in them is the port.  `files` lie beside the configuration.  With
    `certificates` (a folder with ``server.pem``) it speaks TLS.
    """

    def __init__(
        self,
        upstream: int,
        server: str = "",
        *,
        http: str = "",
        host: str = "127.0.0.1",
        files: Mapping[str, str] | None = None,
        certificates: Path | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"http{'s' if certificates else ''}://{host}:{self.port}"
        self._address = (host.strip("[]"), self.port)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="comfy-client-tests-nginx-"))
        (self._folder / "temp").mkdir()
        tls = ""
        if certificates:
            tls = (
                f"ssl_certificate {certificates}/server.pem; "
                f"ssl_certificate_key {certificates}/server.pem;"
            )
        config = CONFIG.format(
            user="user root root;" if os.geteuid() == 0 else "",
            http=http,
            listen=f"{host}:{self.port}{' ssl' if certificates else ''}",
            tls=tls,
            server=server if "location" in server else server + EVERYTHING,
        )
        for name, text in {"nginx.conf": config, **FILES, **(files or {})}.items():
            (self._folder / name).write_text(text.replace("{upstream}", str(upstream)))

    def __enter__(self) -> Nginx:
        program, env = nginx()
        argv = [program, "-p", self._folder, "-c", self._folder / "nginx.conf", "-e", "error.log"]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", LAUNCHER, *map(str, (self._folder, *argv))],
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + 60
        while not self._answers():
            if time.monotonic() > end:
                log = self._read("error.log")
                self.__exit__()
                raise RuntimeError(f"nginx does not answer at {self.url}:\n{log}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate(timeout=60)  # closes stdin, and waits

    def _answers(self) -> bool:
        try:
            socket.create_connection(self._address, 1).close()
        except OSError:
            return False
        return True

    def _read(self, name: str) -> str:
        path = self._folder / name
        return path.read_text() if path.exists() else ""

    def requests(self, text: str = "") -> list[str]:
        """A line for each finished request in which `text` occurs; see ``log_format``."""
        return [line for line in self._read("access.log").splitlines() if text in line]


# -- certificates -----------------------------------------------------------------------


def certificates(folder: Path) -> Path:
    """Make ``ca.pem``, ``server.pem`` for this machine, and ``client.pem`` in `folder`."""
    import trustme  # imports cryptography, which takes long

    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    names = {"server": ("127.0.0.1", "::1", "localhost", "comfy.example"), "client": ("me@home",)}
    for who, identities in names.items():
        issued = ca.issue_cert(*identities)
        issued.private_key_and_cert_chain_pem.write_to_path(folder / f"{who}.pem")
    return folder


# -- a forward proxy --------------------------------------------------------------------


@attrs.frozen
class Asked:
    """What a forward proxy was asked for."""

    method: str  #: ``CONNECT`` for a tunnel.
    target: str  #: ``host:port`` of a tunnel, else an absolute URL.
    authorization: str  #: ``Proxy-Authorization``, or ``""``.


class ForwardProxy:
    """An HTTP proxy in a thread: tunnels and plain requests.

    Every name leads to 127.0.0.1, so that tests may use names that do not exist.
    ``refuses_tunnels``: answers 403 to CONNECT.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.refuses_tunnels = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = [self._listener]

    def __enter__(self) -> ForwardProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            head, body = _head(client)
            lines = head.split("\r\n")
            method, target, _ = lines[0].split(" ")
            own = [line for line in lines[1:] if line.lower().startswith("proxy-")]
            given = [line.partition(": ")[2] for line in own if "uthorization" in line]
            self.asked.append(Asked(method, target, "".join(given)))
            if method == "CONNECT" and self.refuses_tunnels:
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            port = target.removeprefix("http://").partition("/")[0].rpartition(":")[2]
            with socket.create_connection(("127.0.0.1", int(port)), 10) as server:
                self._open.append(server)
                server.settimeout(None)
                if method == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    # One request for each connection keeps this short.
                    kept = [lines[0], *(line for line in lines[1:] if line not in own)]
                    kept = [line for line in kept if not line.lower().startswith("connection:")]
                    kept.append("Connection: close")
                    server.sendall("\r\n".join(kept).encode("latin-1") + b"\r\n\r\n")
                server.sendall(body)
                threading.Thread(target=_copy, args=(client, server), daemon=True).start()
                _copy(server, client)


def _head(sock: socket.socket) -> tuple[str, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _read(sock)
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def _read(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("ended")
    return data


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for data in iter(lambda: source.recv(65536), b""):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def names_lead_to(*addresses: str) -> Iterator[None]:
    """Every lookup of a name gives these addresses, in this order."""
    real = socket.getaddrinfo

    def look_up(host, port, *args, **kw):  # type: ignore[no-untyped-def]
        if host in ("localhost", "comfy.example"):
            return [found for a in addresses for found in real(a, port, *args, **kw)]
        return real(host, port, *args, **kw)

    socket.getaddrinfo = look_up
    try:
        yield
    finally:
        socket.getaddrinfo = real

"""The list of the doctor's checks, and ``api.doctor()``, which runs them one after the other.

Each check has its own time limit, and runs in a thread that is abandoned after that, as a name
lookup cannot be interrupted.
"""

from __future__ import annotations

import math
import platform
import queue
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from .._version import __version__
from ..errors import ClientClosed, ComfyError
from ..transport.deadline import Deadline, check_timeout
from . import event_checks, network_checks, server_checks
from .context import CheckContext, Client, Redactor
from .network_checks import version_of
from .report import CheckResult, DoctorCheck, DoctorReport, failed, ok, unknown, warning

# -- packages ---------------------------------------------------------------------------


class Advised(NamedTuple):
    """A package, the oldest release without known flaws, and what older ones do."""

    package: str
    release: str
    flaw: str


#: Older releases work, too, and ``setup.cfg`` allows them, so that the client can be installed
#: beside others; but they have known flaws that a hostile server or client may use.
ADVISED: Final = (
    Advised("urllib3", "2.8", "unpacks or drains more of an answer than is asked for"),
    Advised("requests", "2.33", "has known flaws with .netrc and certificates"),
    Advised("Pillow", "13.0", "has known flaws in decoding pictures of strangers"),
    Advised("aiohttp", "3.14.4", "has known flaws in reading requests (the embedded server)"),
)


def numbers(release: str) -> tuple[int, ...]:
    """Return the numbers at the start of a release, by which releases are compared."""
    start = re.match(r"\d+(\.\d+)*", release)
    return tuple(map(int, start[0].split("."))) if start else ()


def check_packages(_: CheckContext) -> CheckResult:
    """Check which installed packages have known flaws."""
    return judged({one.package: version_of(one.package) for one in ADVISED})


def judged(releases: Mapping[str, str]) -> CheckResult:
    """Return the result for releases by package; those without a number are not installed."""
    installed = {name: release for name, release in releases.items() if numbers(release)}
    old = [
        one
        for one in ADVISED
        if one.package in installed and numbers(installed[one.package]) < numbers(one.release)
    ]
    text = ", ".join(f"{name} {release}" for name, release in installed.items())
    if not old:
        return ok(text)
    flaws = "; ".join(f"{one.package} before {one.release} {one.flaw}" for one in old)
    wanted = " ".join(f'"{one.package}>={one.release}"' for one in old)
    return warning(f"{text}: {flaws}", f"if nothing else needs the old ones: pip install {wanted}")


# -- all checks -------------------------------------------------------------------------


class Check(NamedTuple):
    """A check: its name, the checks that it depends on, its function, and its limit in seconds."""

    name: str
    needs: tuple[str, ...]
    function: Callable[[CheckContext], CheckResult]
    limit: float = 10.0


CHECKS: Final = (
    Check("proxy", (), network_checks.check_proxy),
    Check("name", ("proxy",), network_checks.check_name, 5.0),
    Check("port", ("name",), network_checks.check_port),
    Check("tls", ("port",), network_checks.check_tls),
    Check("credentials", (), server_checks.check_credentials),
    Check("http", ("tls", "credentials"), server_checks.check_http),
    Check("clock", ("http",), server_checks.check_clock),
    Check("auth", ("http",), server_checks.check_auth),
    Check("comfyui", ("auth",), server_checks.check_comfyui),
    Check("origin", ("comfyui",), server_checks.check_origin),
    Check("version", ("comfyui",), server_checks.check_version),
    Check("features", ("comfyui",), server_checks.check_features),
    Check("websocket", ("comfyui",), event_checks.check_websocket),
    Check("greeting", ("websocket",), event_checks.check_greeting),
    Check("echo", ("greeting",), event_checks.check_echo, 5.0),
    Check("previews", ("comfyui",), server_checks.check_previews),
    Check("upload", ("comfyui",), server_checks.check_upload),
    Check("memory", ("comfyui",), server_checks.check_memory),
    Check("user", ("comfyui",), server_checks.check_user),
    Check("queue", ("comfyui",), server_checks.check_queue),
    Check("run", ("comfyui",), event_checks.check_run, math.inf),
    Check("client", (), event_checks.check_client),
    Check("packages", (), check_packages),
)


def examine(
    client: Client, *, run: bool, timeout: float, checks: Sequence[Check] | None = None
) -> DoctorReport:
    """Implement :meth:`comfy_client.ComfyApi.doctor`."""
    check_timeout(timeout)
    if not timeout > 0:
        raise ValueError("timeout must be more than 0 seconds")
    started = datetime.now(UTC)
    ctx = CheckContext(client, Redactor(client.http, client.client_id), timeout)
    made: dict[str, DoctorCheck] = {}
    try:
        for check in CHECKS if checks is None else checks:
            if check.name != "run" or run:
                made[check.name] = _make(ctx, check, made)
    finally:
        ctx.finish()
    address = client.http.address
    return DoctorReport(
        checks=tuple(made.values()),
        host=f"{address.scheme}://{address.netloc}{'/***' if address.prefix else ''}",
        started=started,
        seconds=time.monotonic() - ctx.started,
        versions=_versions(),
    )


def report_of_no_client(host: str, check: str, result: CheckResult) -> DoctorReport:
    """Return the report for a server of which no client can be made, with one check."""
    return DoctorReport(
        checks=(DoctorCheck(check, *result),),
        host=host,
        started=datetime.now(UTC),
        seconds=0.0,
        versions=_versions(),
    )


def _make(ctx: CheckContext, check: Check, made: Mapping[str, DoctorCheck]) -> DoctorCheck:
    """Run a check; report it as skipped if a check that it needs did not pass, or time ran out."""
    for need in check.needs:
        before = made[need]
        if before.state in ("failed", "unknown"):
            cause = before.because or need
            return DoctorCheck(
                check.name, "unknown", f"skipped: {cause!r} has to work first", because=cause
            )
    if ctx.end.expired:
        text, advice = "skipped: time ran out", "give the doctor a longer timeout"
        return DoctorCheck(check.name, "unknown", text, advice)
    begun = time.monotonic()
    state, found, advice = _run(ctx, check)
    seconds = time.monotonic() - begun
    found, advice = ctx.redact(found), ctx.redact(advice)
    return DoctorCheck(check.name, state, found, advice, seconds=seconds)


def _run(ctx: CheckContext, check: Check) -> CheckResult:
    """Run a check in a thread; if it takes too long, abandon the thread and return a failure."""
    seconds = min(ctx.end.left(), check.limit)
    ctx.check_end = Deadline.after(seconds)
    results: queue.SimpleQueue[CheckResult | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put(check.function(ctx))
        except ClientClosed:
            results.put(None)
        except (ComfyError, OSError, ValueError, TypeError, Warning) as exc:
            results.put(failed(ctx.redact.foreign(exc) or type(exc).__name__))
        except Exception as exc:
            said = "a bug in comfy_client's doctor, in its check %r"
            ctx.client.http.log.exception(said, check.name)
            results.put(unknown(f"a bug in comfy_client: {type(exc).__name__}"))

    thread = threading.Thread(target=work, name=f"comfy-doctor-{check.name}", daemon=True)
    thread.start()
    deadline = Deadline(min(ctx.last.at, ctx.check_end.at + 0.5))
    while True:
        try:
            result = results.get(timeout=deadline.left(0.25))  # a slice
            break
        except queue.Empty:
            if deadline.expired:
                ctx.sockets.cut()
                return failed(f"not finished within {seconds:.1f} s")
    if result is None:
        raise ClientClosed  # a new one: the traceback of that thread may quote the server
    return result


def _versions() -> dict[str, str]:
    libraries = ("requests", "urllib3", "certifi", "websocket-client", "attrs", "blinker")
    return {
        "comfy_client": __version__,
        "Python": platform.python_version(),
        "platform": platform.platform(),
        "OpenSSL": ssl.OPENSSL_VERSION.removeprefix("OpenSSL ").partition(" ")[0],
        **{name: version_of(name) for name in libraries},
    }

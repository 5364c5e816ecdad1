"""Checks of the answering server: its identity, credentials, versions, features and queue.

Only a few short facts from the server are shown (versions, names of features and devices), after
known secrets are hidden.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from .. import models
from ..errors import (
    AuthenticationError,
    ComfyError,
    TransportError,
    UnexpectedResponse,
    is_for_another,
)
from ..transport.dial import speaks_tls
from ..transport.identity import apply_credentials
from ..transport.response import Response, route_is_missing, wants_tls
from .context import CheckContext, decode_model, in_ms
from .report import CheckResult, failed, ok, unknown, warning

_USE_HTTPS = "it speaks TLS, not plain http: use https:// in host"


# -- who answers, and whether it accepts us ----------------------------------------------


def check_credentials(ctx: CheckContext) -> CheckResult:
    """Check whether there are credentials, and whether they can be read."""
    http = ctx.http
    try:
        applied = apply_credentials(http.identity.credentials)
    except AuthenticationError as exc:
        return failed(ctx.redact.foreign(exc), "no request is sent without them")
    kind = http.describe().credentials
    if kind is None:
        if http.left_behind:
            advice = "a pickle leaves them out: name them with EnvCredentials"
            return warning("none: the pickle left them out", advice)
        return ok("none are given")
    names = [*applied.headers, *(f"?{name}=" for name in applied.query)]
    text = f"{kind if kind != 'function' else 'a callable'}: {', '.join(names) or 'nothing'}"
    if http.address.scheme == "http" and not http.address.is_loopback:
        return warning(text, "they go over the network unencrypted: use https")
    return ok(text)


def check_http(ctx: CheckContext, route: str = "/prompt") -> CheckResult:
    """Check whether anything at the server's address answers an HTTP request."""
    begun = time.monotonic()
    try:
        ctx.answer = answer = ctx.get(route)
    except ComfyError as exc:
        advice = ""
        if isinstance(exc, TimeoutError):
            advice = (
                "something accepts connections and does not answer: the server hangs or is "
                "loading a model, or another program uses the port; look at its terminal"
            )
        # No answer, or an invalid one, maybe for want of TLS.
        elif type(exc) in (TransportError, UnexpectedResponse) and speaks_tls(
            ctx.http, ctx.left, ctx.sockets.hold
        ):
            advice = _USE_HTTPS
        return failed(ctx.redact.foreign(exc), advice)
    seconds = time.monotonic() - begun
    by = ctx.brief(answer.headers.get("server", "a server that does not say its name"))
    route = answer.path.removeprefix(ctx.http.address.prefix)
    text = f"GET {route}: {answer.status} in {in_ms(seconds)}, by {by}"
    if answer.status == 407:
        advice = "the proxy wants a password: proxies={'http': 'http://user:password@proxy'}"
        return failed(text, advice)
    if seconds > 2:
        return warning(text, "the server, or the network to it, is slow")
    return ok(text)


def check_clock(ctx: CheckContext) -> CheckResult:
    """Check whether the clocks of this machine and of the server agree."""
    date = ctx.answer.headers.get("date", "")
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return unknown("the server does not send its time")
    apart = abs(theirs - time.time())
    text = f"ours and the server's differ by {apart:.0f} s"
    if apart > 60:
        return warning(text, "set the clocks: times of jobs and TLS depend on them")
    return ok(text)


def check_auth(ctx: CheckContext) -> CheckResult:
    """Check whether the server, or a proxy in front of it, accepts the credentials."""
    answer, sending = ctx.answer, ctx.http.describe()
    sent = f"sent: {', '.join(sending.sent)}" if sending.sent else "no credentials were sent"
    if answer.status not in (401, 403):
        return ok(f"accepted; {sent}")
    text = f"{answer.status}; {sent}"
    if answer.status == 401:
        asked = re.match(r"\w+", ctx.redact.foreign(answer.headers.get("www-authenticate", "")))
        text += f"; it asks for {asked[0][:20]}" if asked else ""
        advice = "pass credentials=... that the server, or a proxy in front of it, accepts"
        if ctx.http.identity.credentials is not None:
            advice = "the credentials are wrong, or of the wrong kind"
        return failed(text, advice)
    if sending.sends_origin:
        return failed(text + "; with an Origin", "leave Origin out of the headers")
    advice = (
        "ComfyUI itself answers 403 only if Origin and Host differ, and this client sends no "
        "Origin: a login layer, a firewall or a proxy refuses; ask its administrator"
    )
    return failed(text, advice)


def check_comfyui(ctx: CheckContext) -> CheckResult:
    """Check whether the server that answers is a ComfyUI."""
    answer = ctx.answer
    status = answer.status
    if status < 300:
        queue = decode_model(answer, models.QueueStatus.from_json)
        if queue is not None:
            ctx.remaining = queue.queue_remaining
            return ok("it reports its queue, as ComfyUI does")
        kind = ctx.brief(answer.kind) or "no content type"
        if answer.is_page:
            advice = "a login page, or another program: open the address in a browser"
            return failed(f"{status} with a page ({kind}), not JSON", advice)
        return failed(f"{status} with {kind}, not the queue", "another program")
    if status < 400:
        return _about_redirect(ctx, answer)
    if is_for_another(status):
        advice = "start ComfyUI, or wait until it has loaded; else correct the proxy's target"
        return failed(f"{status}: a proxy answers, the server behind does not", advice)
    if status in (404, 405, 501):
        advice = (
            "another program has this port, or host lacks the path below which a proxy has "
            "ComfyUI, as in 'https://example.org/comfy'"
        )
        return failed(f"{status}: there is no /prompt", advice)
    advice = _USE_HTTPS if wants_tls(answer) else "the log of the server may say why"
    return failed(f"{status} to GET /prompt", advice)


def _about_redirect(ctx: CheckContext, answer: Response) -> CheckResult:
    address = ctx.http.address
    try:
        # Hide secrets first, as they could not be recognized in a part of it.
        to = urlsplit(ctx.redact.foreign(answer.headers.get("location", "")))
        host, scheme = to.hostname or address.host, to.scheme or address.scheme
    except ValueError:
        host, scheme = "something that is not a URL", address.scheme
    text = f"{answer.status}, redirected to {ctx.brief(scheme, 10)}://{ctx.brief(host)}"
    if host == address.host and scheme != address.scheme:
        return failed(text, f"use {scheme}:// in host")
    return failed(text, "a login page, or not the final address: give that as host")


def check_origin(ctx: CheckContext) -> CheckResult:
    """Check whether the server accepts its own address as Origin, which its web pages send."""
    if ctx.http.describe().sends_origin:
        text = "the headers contain an Origin, which the server compares with Host"
        return warning(text, "leave it out: scripts need none")
    address = ctx.http.address
    answer = ctx.get("/prompt", headers={"Origin": f"{address.scheme}://{address.netloc}"})
    if answer.status == 403:
        text = "pages of this address are refused (403); this client sends no Origin"
        advice = (
            "no action for this client; for browsers, have the proxy pass Host on "
            "(nginx: proxy_set_header Host $http_host)"
        )
        return warning(text, advice)
    if answer.status != 200:
        return unknown(f"{answer.status} to a request with an Origin")
    return ok("pages of this address are accepted; this client sends no Origin")


# -- what the server is and has ---------------------------------------------------------


def check_version(ctx: CheckContext) -> CheckResult:
    """Check the server's version, and list what newer servers have and it lacks."""
    ctx.stats = stats = ctx.ask("/system_stats", models.SystemStats.from_json)
    ctx.features = ctx.ask("/features", models.Features.from_json) or models.Features()
    job = ctx.get(f"/api/jobs/{ctx.client_id}")  # certainly unknown
    ctx.has_jobs = "json" in job.kind and not route_is_missing(job)
    without = []
    if not ctx.has_jobs:
        without.append("the jobs API (ComfyUI 0.6), and previews for single prompts (0.5)")
    if not ctx.features:
        without.append("prompt ids of our own, progress_state and features (0.3.45)")
    if stats is not None and stats.comfyui_version is None:
        without.append("its version, lists of models, logs (September 2024)")
    if ctx.http.describe().has_api_prefix is False:
        without.append("routes below /api (June 2024)")
    advice = f"an update brings {'; '.join(without)}; this client works without" if without else ""
    if stats is None:
        return unknown("GET /system_stats does not say", advice)
    versions = {
        "ComfyUI": stats.comfyui_version or "from before September 2024",
        "Python": ctx.brief(stats.python_version or "?").partition(" ")[0],
        "PyTorch": stats.pytorch_version or "?",
        "on": stats.os or "?",
    }
    devices = ", ".join(ctx.brief(device.name) for device in stats.devices[:4])
    text = ", ".join(f"{name} {ctx.brief(value)}" for name, value in versions.items())
    return ok(f"{text}; {devices or 'no device'}", advice)


def check_features(ctx: CheckContext) -> CheckResult:
    """List the features that the server reports."""
    if not ctx.features:
        return ok("none reported, as by every ComfyUI before 0.3.45")
    return ok(", ".join([ctx.brief(name, 40) for name in list(ctx.features)[:12]]))


def check_previews(ctx: CheckContext) -> CheckResult:
    """Check whether samplers send previews."""
    if ctx.has_jobs:
        return ok("each prompt chooses; this client asks for them while anything listens")
    argv = ctx.stats.argv if ctx.stats else None
    if argv is None:
        text = "the server does not report its command line"
        return unknown(text, "without --preview-method auto there are none")
    method = _option(argv, "--preview-method")
    if method in ("", "none"):
        text = "off: it was started without --preview-method"
        return warning(text, "start ComfyUI with --preview-method auto")
    named = ", and they name their node" if ctx.features.supports_preview_metadata else ""
    return ok(f"--preview-method {ctx.brief(method, 20)}{named}")


def check_upload(ctx: CheckContext) -> CheckResult:
    """Check how large an upload to the server may be."""
    size = ctx.features.max_upload_size
    if size is None:
        return unknown("not reported (100 MiB unless --max-upload-size changes that)")
    text = f"up to {_in_bytes(size)}"
    if "aiohttp" not in ctx.answer.headers.get("server", "").lower():
        text += "; a proxy in front of it may allow less (nginx: 1 MiB by default)"
    return ok(text)


def check_memory(ctx: CheckContext) -> CheckResult:
    """Check how much RAM and device memory is free on the server."""
    stats = ctx.stats or models.SystemStats()
    rooms = [("RAM", stats.ram_free, stats.ram_total)]
    rooms += [(ctx.brief(d.name, 30), d.vram_free, d.vram_total) for d in stats.devices[:4]]
    known = [(name, free, total) for name, free, total in rooms if free and total]
    if not known:
        return unknown("not reported")
    text = ", ".join(
        f"{name}: {_in_bytes(free)} of {_in_bytes(total)} free" for name, free, total in known
    )
    if any(free < 1 << 29 for _, free, _ in known):
        return warning(text, "api.free_memory(unload_models=True), or a smaller picture")
    return ok(text)


def check_user(ctx: CheckContext) -> CheckResult:
    """Check whether the server is in multi-user mode and, if so, knows the client's user."""
    config = ctx.ask("/users", models.UserConfig.from_json)
    user = ctx.http.describe().user
    if config is None:
        return unknown("the server does not say whether it has users")
    if config.users is None:
        return ok("the server has none" + ("; user= is not used" if user else ""))
    if not user:
        advice = "settings and user data need ComfyApi(user=...); prompts do not"
        return warning("the server has users, and none is given", advice)
    if user not in config.users:
        text = "the server has users, but not the given one"
        return failed(text, "give an id from api.get_user_config().users, or call create_user")
    return ok("the server has users, and knows the given one")


def check_queue(ctx: CheckContext) -> CheckResult:
    """Check how many prompts are in the server's queue, and whether it is moving."""
    before = ctx.remaining
    if not before:
        return ok("empty")
    watch = ctx.client.watch
    end = time.monotonic() + min(watch, ctx.left)
    while True:
        queue = ctx.ask("/prompt", models.QueueStatus.from_json)
        if queue is not None and queue.queue_remaining != before:
            return ok(f"{_prompts(queue.queue_remaining)}, and it is moving")
        if time.monotonic() >= end:
            text = f"{_prompts(before)}; none ended within {watch:g} s"
            advice = (
                "normal while a long one runs; if none ever ends, look at the server's terminal, "
                "call api.interrupt(), or restart it"
            )
            return warning(text, advice)
        time.sleep(0.25)


def _option(argv: Sequence[str], name: str) -> str:
    """Return the value of an option's last occurrence on a command line, or ``""``."""
    found = ""
    for word, after in zip(argv, (*argv[1:], ""), strict=True):
        if word == name:
            found = after
        elif word.startswith(f"{name}="):
            found = word.partition("=")[2]
    return found


def _in_bytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _prompts(count: int) -> str:
    return f"{count} prompt{'' if count == 1 else 's'} of all clients"

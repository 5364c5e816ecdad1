"""The doctor's checks of a hosted server, of which only ``run`` may cost something.

Imported late.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from .. import runtime
from ..doctor import event_checks, server_checks
from ..doctor.context import CheckContext, in_ms
from ..doctor.examine import CHECKS, Check
from ..doctor.report import CheckResult, failed, ok, unknown, warning
from ..errors import ComfyError
from ..transport.http import SMALL
from ..transport.response import Response, code_of
from .assets import new_hasher
from .older_api import CloudHttp
from .references import UNKNOWN_ASSET, reference
from .sending import label_of
from .servers import is_serverless

#: The id of a job that no server has.
NOBODY: Final = "00000000-0000-0000-0000-000000000000"
_JOB: Final = f"/api/v2/jobs/{NOBODY}"
#: The forms of labels, and what they are called.
_FORMS: Final = {"text": "a text", "mapping": "texts by name"}

_WRONG_KEY: Final = "the key is wrong, or of another server"
_NO_KEY: Final = "set COMFY_API_KEY, or pass api_key=... (in commands: --token-file FILE)"

#: Runs a workflow, with a timeout in seconds, and returns the number of bytes in its files.
RunWorkflow = Callable[[Mapping[str, Any], float], int]


class HostedChecks:
    """The doctor's checks of one hosted server, and what they have proved so far.

    Args:
        run: Runs a workflow, and returns the number of bytes in its files.
        is_cloud: Whether the server is Comfy Cloud.
    """

    def __init__(self, run: RunWorkflow, *, is_cloud: bool) -> None:
        self._run = run
        self._is_cloud = is_cloud
        self._proved: list[str] = []
        self._differs: list[str] = []

    def checks(self) -> tuple[Check, ...]:
        """Return all checks for this server, in the order in which they are made."""
        older = (Check("v1", ("api",), self.check_v1),) if self._is_cloud else ()
        shared = {check.name: check for check in CHECKS}
        return (
            *(shared[name] for name in ("proxy", "name", "port", "tls", "credentials")),
            Check("http", ("tls", "credentials"), check_http),
            shared["clock"],
            Check("key", ("http",), self.check_key),
            Check("api", ("key",), self.check_api),
            Check("place", ("api",), self.check_place),
            Check("jobs", ("api",), self.check_jobs),
            Check("labels", ("api",), self.check_labels),
            Check("streams", ("api",), self.check_streams),
            Check("assets", ("api",), self.check_assets),
            Check("references", ("api",), self.check_references),
            *older,
            Check("run", ("api",), self.check_run, float("inf")),
            Check("client", (), check_client),
            shared["packages"],
            Check("proved", (), self.check_proved),
        )

    def check_key(self, ctx: CheckContext) -> CheckResult:
        """Check whether the server accepts the key, or needs none."""
        answer = ctx.answer
        has_key = ctx.http.identity.credentials is not None
        if answer.status == 401:
            advice = _WRONG_KEY if has_key else _NO_KEY
            return failed(f"401; {'a key was' if has_key else 'no key was'} sent", advice)
        if answer.status in (402, 403):
            advice = "no credits, or this account may not use the server: see its web page"
            return failed(f"{answer.status}, {_reason(ctx, answer)}", advice)
        return ok("accepted" if has_key else "none was sent, and the server needs none")

    def check_api(self, ctx: CheckContext) -> CheckResult:
        """Check whether the server speaks Comfy API v2, by its answer about an unknown job."""
        answer = ctx.answer
        if answer.status == 404 and _code(answer) is not None:
            has_key = ctx.http.identity.credentials is not None
            self._proved.append("the key is accepted" if has_key else "no key is wanted")
            self._proved.append("an unknown job is 404")
            return ok("the server answers as Comfy API v2 does")
        if answer.status in (500, 502, 503, 504):
            advice = "start ComfyUI, or wait until it has loaded; see --comfyui of the proxy"
            return failed(f"{answer.status}, {_reason(ctx, answer)}", advice)
        advice = "another program, or a ComfyUI itself: use ComfyApi (in commands: no --hosted)"
        kind = ctx.brief(answer.kind) or "no content type"
        return failed(f"{answer.status} with {kind} to GET {_JOB}", advice)

    def check_place(self, ctx: CheckContext) -> CheckResult:
        """Find out whether the server is Comfy Cloud, a serverless deployment or a proxy."""
        if self._is_cloud:
            return ok("Comfy Cloud, by its address")
        if is_serverless(ctx.http.address):
            return ok("a serverless deployment, by its address")
        health = ctx.get("/api/v2/health")
        if health.status == 200:
            return ok("a proxy in front of a ComfyUI: only a proxy has /health")
        return ok(f"no proxy (GET /health: {health.status}), maybe a gateway to a deployment")

    def check_jobs(self, ctx: CheckContext) -> CheckResult:
        """Check whether the server has a list of jobs, to find a submission that got no answer."""
        answer = ctx.get("/api/v2/jobs", params={"limit": 1})
        if answer.status == 200:
            self._proved.append("it lists jobs")
            return ok("the server lists them, so that a submission without an answer is found")
        text = f"no list of jobs: {answer.status}, {_reason(ctx, answer)}"
        if answer.status in (403, 404, 501):
            self._differs.append("it lists no jobs")
            return warning(text, "a submission without an answer may raise SubmitUncertain")
        return unknown(text)

    def check_labels(self, ctx: CheckContext) -> CheckResult:
        """Check which labels the server accepts, by workflows without nodes, which it refuses."""
        key = str(uuid.uuid4())
        taken = []
        for form, words in _FORMS.items():
            label = label_of(key, "text" if form == "text" else "mapping")
            answer = _refused(ctx, {"workflow": {}, "metadata": label})
            if answer.status < 300:
                return failed("it accepted a workflow without nodes", "please report that")
            if _code(answer) == "invalid_workflow":
                taken.append(words)
        if taken:
            self._proved.append(f"labels may be {' or '.join(taken)}")
            return ok(f"it accepts {' or '.join(taken)}, or checks the workflow before the label")
        text = f"it accepts none ({_reason(ctx, answer)})"
        return ok(f"{text}; a job is recognized by the mark in the workflow")

    def check_streams(self, ctx: CheckContext) -> CheckResult:
        """Check whether jobs have event streams, by requesting the events of an unknown job."""
        answer = ctx.get(f"{_JOB}/events", headers={"Accept": "text/event-stream"})
        if answer.status == 404 and _code(answer) not in (None, "not_implemented"):
            self._proved.append("there are event streams")
            return ok("the server has them")
        if answer.status in (404, 405, 501):
            self._differs.append("it has no event streams")
            return warning(f"none ({answer.status})", "there will be no progress and no previews")
        return unknown(f"{answer.status}, {_reason(ctx, answer)}")

    def check_assets(self, ctx: CheckContext) -> CheckResult:
        """Check whether the server answers a request for a file by its hash."""
        route = f"/api/v2/assets/by-hash/blake3:{'0' * 64}"
        answer = ctx.http.request("HEAD", route, timeout=ctx.left, allow=range(300, 600))
        if answer.status != 404:
            return unknown(f"{answer.status} to a search for an unknown hash")
        self._proved.append("an unknown hash is 404")
        text = "the server searches files by their hash"
        if new_hasher() is None:
            return ok(text, "install the extra [hosted]: then files that it has are not sent again")
        return ok(f"{text}, so files that it has are not sent again")

    def check_references(self, ctx: CheckContext) -> CheckResult:
        """Check whether the server looks at references to assets, by a workflow that it refuses.

        The workflow has no output, and the reference is to an asset that no server has.
        """
        inputs = {"image": reference(NOBODY)}
        workflow = {"1": {"class_type": "LoadImage", "inputs": inputs}}
        answer = _refused(ctx, {"workflow": workflow})
        if answer.status < 300:
            return failed("it accepted a workflow without outputs", "please report that")
        if _code(answer) == UNKNOWN_ASSET:
            self._proved.append("references to assets are resolved")
            return ok("the server resolves references to assets")
        if _code(answer) == "invalid_workflow":
            self._differs.append("it may take files by their names only")
            text = "the server does not look at references to assets, or only after the outputs"
            return ok(f"{text}; where it refuses one, it gets the file's name instead")
        return unknown(f"{answer.status}, {_reason(ctx, answer)}")

    def check_v1(self, ctx: CheckContext) -> CheckResult:
        """Check which routes of Comfy Cloud's older API answer."""
        http = ctx.http
        if not isinstance(http, CloudHttp):
            return unknown("not asked")
        said = {}
        for route in ("/features", "/system_stats", "/queue", "/jobs", "/models"):
            params = {"limit": 1} if route == "/jobs" else None
            try:
                http.v1.json("GET", route, params=params, timeout=ctx.left)
                said[route] = "answers"
            except ComfyError as exc:
                said[route] = f"fails ({getattr(exc, 'status', 0) or type(exc).__name__})"
        good = [route for route, words in said.items() if words == "answers"]
        text = "; ".join(f"{route} {words}" for route, words in said.items())
        if not good:
            return warning(text, "check() and lists of nodes and models do not work")
        self._proved.append(f"its older API answers {' '.join(good)}")
        return ok(text) if len(good) == len(said) else warning(text, "see what fails")

    def check_run(self, ctx: CheckContext) -> CheckResult:
        """Check that a trivial job runs, and that its file can be read."""
        color = random.randrange(1 << 24)  # noqa: S311  # it keeps the job from being cached
        image = {"width": 16, "height": 16, "batch_size": 1, "color": color}
        saved = {"images": ["1", 0], "filename_prefix": "comfy-client-doctor"}
        graph = {
            "1": {"class_type": "EmptyImage", "inputs": image},
            "2": {"class_type": "SaveImage", "inputs": saved},
        }
        begun = runtime.monotonic()
        size = self._run(graph, ctx.left)
        text = f"EmptyImage to SaveImage in {in_ms(runtime.monotonic() - begun)}"
        if not size:
            return failed(f"{text}, and no file", "the server left out the output")
        self._proved.append("a job runs, and its file can be read")
        return ok(f"{text}; {size} bytes read")

    def check_proved(self, ctx: CheckContext) -> CheckResult:
        """Report which of the guide's claims were proved, and what differs from a proxy."""
        text = "; ".join(self._proved) or "nothing"
        text += f"; unlike a proxy, {' and '.join(self._differs)}" if self._differs else ""
        return ok(f"{text}; not tested: a lost answer, a cancelled job")


def check_http(ctx: CheckContext) -> CheckResult:
    """Check whether anything at the server's address answers an HTTP request."""
    return server_checks.check_http(ctx, _JOB)


def check_client(ctx: CheckContext) -> CheckResult:
    """Report for how many jobs the client waits, and whether its receivers are too slow."""
    client = ctx.client
    jobs = "1 job" if client.outstanding == 1 else f"{client.outstanding or 'no'} jobs"
    text = f"it waits for {jobs}"
    if client.dropped_events:
        text += f"; {client.dropped_events} events were dropped for newer ones"
        return warning(text, event_checks.SLOW_RECEIVERS)
    return ok(text)


def _refused(ctx: CheckContext, body: Mapping[str, Any]) -> Response:
    """Return the answer to the submission of a job that cannot be run."""
    return ctx.http.request(
        "POST",
        "/api/v2/jobs",
        json=body,
        headers={"Idempotency-Key": str(uuid.uuid4())},
        timeout=ctx.left,
        allow=range(300, 600),
        max_bytes=SMALL,
    )


def _code(answer: Response) -> str | None:
    """Return the error code in the JSON body of a refusal, or None."""
    try:
        return code_of(answer.json())
    except (ComfyError, ValueError):
        return None


def _reason(ctx: CheckContext, answer: Response) -> str:
    """Return the error code of a refusal, or the content type of an answer without one."""
    return ctx.brief(_code(answer) or answer.kind or "no content type")

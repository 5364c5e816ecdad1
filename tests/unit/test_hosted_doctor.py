"""What the doctor says of answers that hosted servers give seldom, and of the client itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from comfy_client.doctor.report import CheckResult
from comfy_client.hosted.hosted_checks import HostedChecks, check_client
from comfy_client.transport.response import Response


def says(
    check: str, status: int, code: str = "", *, key: str | None = None, size: int = 0
) -> CheckResult:
    """Return what a check says when every request is answered like this."""
    body = json.dumps({"error": {"code": code, "message": "m"}}) if code else "<html>"
    headers = {"content-type": "application/json" if code else "text/html"}
    answer = Response("GET", "/", status, headers, body.encode())
    http = SimpleNamespace(
        identity=SimpleNamespace(credentials=key), request=lambda *_, **__: answer
    )
    ctx: Any = SimpleNamespace(
        answer=answer, http=http, left=1.0, get=lambda *_, **__: answer, brief=str
    )
    checks = HostedChecks(lambda *_: size, is_cloud=False)
    found: CheckResult = getattr(checks, f"check_{check}")(ctx)
    return found


@pytest.mark.parametrize(
    ("check", "status", "code", "state", "found"),
    [
        ("key", 402, "no_credits", "failed", "402, no_credits"),
        ("key", 403, "", "failed", "403, text/html"),
        ("api", 503, "starting", "failed", "503, starting"),
        ("api", 200, "", "failed", "200 with text/html"),
        ("jobs", 418, "", "unknown", "no list of jobs: 418"),
        ("jobs", 501, "not_implemented", "warning", "no list of jobs: 501, not_implemented"),
        ("labels", 200, "", "failed", "it accepted a workflow without nodes"),
        ("labels", 400, "no_labels", "ok", "it accepts none (no_labels)"),
        ("streams", 418, "", "unknown", "418, text/html"),
        ("streams", 501, "", "warning", "none (501)"),
        ("assets", 405, "", "unknown", "405 to a search for an unknown hash"),
        ("references", 200, "", "failed", "it accepted a workflow without outputs"),
        ("references", 418, "", "unknown", "418, text/html"),
        ("v1", 200, "", "unknown", "not asked"),
        ("run", 200, "", "failed", "and no file"),
    ],
)
def test_a_rare_answer_is_reported(
    check: str, status: int, code: str, state: str, found: str
) -> None:
    result = says(check, status, code)
    assert result.state == state
    assert found in result.found


@pytest.mark.parametrize("key", [None, "a key"])
def test_a_refused_key_is_reported_apart_from_a_missing_one(key: str | None) -> None:
    result = says("key", 401, "unauthorized", key=key)
    assert ("a key was sent" in result.found) == (key is not None)
    assert ("COMFY_API_KEY" in (result.advice or "")) == (key is None)


@pytest.mark.parametrize(
    ("counts", "state", "found"),
    [
        ({"outstanding": 0, "dropped_events": 0}, "ok", "it waits for no jobs"),
        ({"outstanding": 1, "dropped_events": 0}, "ok", "it waits for 1 job"),
        ({"outstanding": 2, "dropped_events": 3}, "warning", "2 jobs; 3 events were dropped"),
    ],
)
def test_dropped_events_of_the_client_are_a_warning(
    counts: Mapping[str, int], state: str, found: str
) -> None:
    ctx: Any = SimpleNamespace(client=SimpleNamespace(**counts))
    result = check_client(ctx)
    assert result.state == state
    assert found in result.found

"""Routes and refusals of Comfy API v2."""

from __future__ import annotations

import contextlib
import inspect
import json
import pickle
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from comfy_client import CloudApi, ComfyApi, HostedApi
from comfy_client.credentials import BearerCredentials
from comfy_client.errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    Conflict,
    NotFound,
    NotSupported,
    PaymentRequired,
    PromptRejected,
    RequestTimeout,
    ServerUnreachable,
    Throttled,
    TransportError,
    UnexpectedResponse,
    UploadTooLarge,
)
from comfy_client.hosted.dialect import HOSTED, REASONS
from comfy_client.hosted.models import ServerEvent
from comfy_client.hosted.routes import HostedRoutes
from comfy_client.routes import Routes
from comfy_client.testing import ComfyServer, cut
from comfy_client.transport.http import Http
from comfy_client.transport.response import MOST_RETRY_AFTER, retry_after
from tests.guide import section_of
from tests.helpers.calls import arguments_for, exhaust
from tests.helpers.clients import LIMIT, quickly
from tests.helpers.http import HTML, SECRET, head_of, opened, raw_server, texts

JOB = {"id": "job-1", "status": "queued", "created_at": "2026-11-28T22:43:08+00:00"}
GRAPH = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}, "_meta": {}}}
JOBS = "/api/v2/jobs"
LOOK = "/api/v2/jobs/job-1"
TEXT = {"Content-Type": "text/plain; charset=utf-8"}
SSE = {"Content-Type": "text/event-stream; charset=utf-8"}


def connected(url: str, **options: Any) -> Any:
    return opened(url, dialect=HOSTED, credentials=BearerCredentials(SECRET), **options)


@pytest.fixture
def routes(comfy: ComfyServer) -> Iterator[HostedRoutes]:
    with connected(comfy.url) as http:
        yield HostedRoutes(http)


def envelope(code: str, message: str = "words", details: Any = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "details": details}}


# -- requests ------------------------------------------------------------------------------


def test_a_job_is_submitted_with_a_key_and_a_label(
    comfy: ComfyServer, routes: HostedRoutes
) -> None:
    """The label in the dialect that it was given in; nothing else is sent."""
    comfy.on("POST", JOBS, (201, {}, JOB))
    for label in (None, "mine", {"comfy_client": "u-1"}):
        assert routes.submit(GRAPH, key="k-1", label=label).id == "job-1"
    extra = {"api_key_comfy_org": f"other-{SECRET}"}
    routes.submit(GRAPH, key="k-2", extra_data=extra)
    bodies = [json.loads(request.body) for request in comfy.requests]
    assert bodies == [
        {"workflow": GRAPH},
        {"workflow": GRAPH, "metadata": "mine"},
        {"workflow": GRAPH, "metadata": {"comfy_client": "u-1"}},
        {"workflow": GRAPH, "extra_data": extra},
    ]
    headers = [request.headers for request in comfy.requests]
    assert [one["Idempotency-Key"] for one in headers] == ["k-1"] * 3 + ["k-2"]
    assert all(one["Authorization"] == f"Bearer {SECRET}" for one in headers)


def test_jobs_are_listed_by_what_each_surface_knows(
    comfy: ComfyServer, routes: HostedRoutes
) -> None:
    """Labels and cursors on serverless deployments, statuses on the proxy."""
    comfy.on("GET", JOBS, (200, {}, {"jobs": [JOB], "truncated": False}))
    assert [job.id for job in routes.jobs().jobs] == ["job-1"]
    routes.jobs(label={"a b": "1&2"}, cursor="c", limit=5)
    routes.jobs(status="queued,running")
    assert [dict(request.query) for request in comfy.requests] == [
        {"limit": "100"},
        {"limit": "5", "cursor": "c", "metadata[a b]": "1&2"},
        {"limit": "100", "status": "queued,running"},
    ]


def test_the_graph_of_a_job_and_a_cancel(comfy: ComfyServer, routes: HostedRoutes) -> None:
    """Ids are encoded, whatever they are."""
    comfy.on("GET", f"{LOOK}/workflow", (200, {}, {"workflow": GRAPH, "format": "api"}))
    comfy.on("POST", f"{LOOK}/cancel", (200, {}, {**JOB, "status": "canceling"}))
    comfy.on("GET", LOOK, (200, {}, JOB))
    assert routes.workflow("job-1") == GRAPH
    assert routes.cancel("job-1").status == "canceling"
    assert routes.job("job-1").status == "queued"
    comfy.on("GET", f"{LOOK}/workflow", (200, {}, {"workflow": [1]}))
    with pytest.raises(UnexpectedResponse):
        routes.workflow("job-1")
    for wrong in ("", ".", ".."):
        with pytest.raises(ValueError, match="cannot be part of a path"):
            routes.job(wrong)
    with pytest.raises(ApiError):
        routes.job("a/../b?c#d")
    assert comfy.requests[-1].target.endswith("/jobs/a%2F..%2Fb%3Fc%23d")


def test_no_request_looks_for_the_prefix_of_comfyui(
    comfy: ComfyServer, routes: HostedRoutes
) -> None:
    """A 404 says nothing of it, and each request is sent once."""
    comfy.on("GET", LOOK, (404, {}, envelope("not_found")))
    comfy.on("POST", JOBS, (405, {"Content-Type": "text/plain"}, "405: Method Not Allowed"))
    with pytest.raises(NotFound):
        routes.job("job-1")
    with pytest.raises(NotSupported):
        routes.submit(GRAPH, key="k")
    assert len(comfy.requests) == 2


# -- refusals ------------------------------------------------------------------------------

REFUSALS: list[tuple[int, Any, type[ComfyError], bool]] = [
    (400, envelope("invalid_request"), ApiError, False),
    (401, envelope("unauthorized"), AuthenticationError, False),
    (402, envelope("insufficient_credits"), PaymentRequired, False),
    (403, envelope("forbidden"), AuthenticationError, False),
    (403, envelope("forbidden_origin"), AuthenticationError, False),
    (403, envelope("public_deployment_no_list"), NotSupported, False),
    (404, envelope("not_found"), NotFound, False),
    (404, envelope("blob_not_found"), NotFound, False),
    (408, envelope("timeout"), ApiError, True),
    (409, envelope("asset_in_use"), Conflict, False),
    (413, envelope("payload_too_large", "Upload exceeds 1048576 bytes."), UploadTooLarge, False),
    (422, envelope("idempotency_key_reuse"), ApiError, False),
    (422, envelope("deployment_stopped"), ApiError, False),
    (422, envelope("metadata_not_supported"), ApiError, False),
    (429, envelope("queue_full"), Throttled, True),
    (429, envelope("too_many_streams"), Throttled, True),
    (500, envelope("upstream_error"), ApiError, True),
    (501, envelope("not_implemented"), NotSupported, False),
    (502, envelope("upstream_error"), ApiError, True),
    (503, envelope("upstream_unreachable"), ApiError, True),
]


@pytest.mark.parametrize(("status", "body", "kind", "retryable"), REFUSALS)
def test_each_code_is_an_error_of_ours(
    comfy: ComfyServer, routes: HostedRoutes, status: int, body: Any, kind: Any, retryable: bool
) -> None:
    """With the server's own code, by which a caller branches."""
    comfy.on("GET", LOOK, (status, {}, body))
    with pytest.raises(ApiError) as caught:
        routes.job("job-1")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.reason, error.body) == (status, body["error"]["code"], body)
    assert error.retryable is retryable
    assert body["error"]["message"] in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.reason, again.retryable) == (kind, error.reason, retryable)


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "words"),
    [
        (500, TEXT, "500 Internal\n\nServer got itself in trouble", ApiError, "trouble"),
        (502, HTML, "<html><title>502 Bad Gateway</title></html>", ApiError, "Bad Gateway"),
        (503, {}, b"", ApiError, "503"),
        (404, TEXT, "404: Not Found", NotSupported, "does not have that"),
        (405, TEXT, "405: Method Not Allowed", NotSupported, "405"),
        (404, HTML, "<title>Tunnel not found</title>", UnexpectedResponse, "web page"),
        (403, HTML, "<title>Blocked</title>", AuthenticationError, "Blocked"),
        (302, {"Location": "/login?next=secret"}, b"", UnexpectedResponse, "/login,"),
        (400, HTML, "The plain HTTP request was sent to HTTPS port", UnexpectedResponse, "https://"),
        (422, {}, ["x"], ApiError, "422"),
        (422, {}, {"error": "just text"}, ApiError, "just text"),
        (422, {}, {"error": {"code": 7, "message": ["x"]}}, ApiError, "422"),
        (422, {}, {"detail": "fastapi"}, ApiError, "fastapi"),
        (418, {}, None, ApiError, "418"),
    ],
)  # fmt: skip
def test_gateway_errors_in_other_forms_are_understood(
    comfy: ComfyServer,
    routes: HostedRoutes,
    status: int,
    headers: dict[str, str],
    body: Any,
    kind: type[ComfyError],
    words: str,
) -> None:
    """Plain text, web pages, redirects, and JSON of other programs."""
    comfy.on("GET", LOOK, (status, headers, body))
    with pytest.raises(kind, match=words) as caught:
        routes.job("job-1")
    assert type(caught.value) is kind
    assert getattr(caught.value, "reason", None) is None
    assert "secret" not in str(caught.value)


def test_advice_says_what_to_do(comfy: ComfyServer, routes: HostedRoutes) -> None:
    """About the key, the credits, the time and the size."""
    for status, words in ((401, "refused the key"), (402, "credits"), (403, "forbidden")):
        comfy.on("GET", LOOK, (status, {}, envelope("x", "no")))
        with pytest.raises(ApiError, match=words) as caught:
            routes.job("job-1")
        assert caught.value.hint
    with opened(comfy.url, dialect=HOSTED) as http:
        comfy.on("GET", LOOK, (401, {}, envelope("unauthorized", "Missing")))
        with pytest.raises(AuthenticationError, match="wants a key: pass api_key="):
            HostedRoutes(http).job("job-1")
        http.left_behind = True
        with pytest.raises(AuthenticationError, match="a pickle leaves it out: set COMFY_API_KEY"):
            HostedRoutes(http).job("job-1")
    comfy.on("GET", LOOK, (413, {}, envelope("payload_too_large", "Upload exceeds 10 bytes.")))
    with pytest.raises(UploadTooLarge) as large:
        routes.job("job-1")
    assert large.value.limit == 10


def test_a_repeated_secret_is_hidden(comfy: ComfyServer, routes: HostedRoutes) -> None:
    """Wherever the server repeats it, and the key of partner nodes too."""
    other = f"partner-{SECRET[::-1]}"
    comfy.on("POST", JOBS, (422, {}, envelope("invalid_workflow", f"no {SECRET} {other}")))
    with pytest.raises(PromptRejected) as caught:
        routes.submit(GRAPH, key="k", extra_data={"api_key_comfy_org": other})
    shown = texts(caught.value)
    assert SECRET not in shown
    assert other not in shown


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("99999999999999", MOST_RETRY_AFTER),
        ("9" * 5000, None),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Fri, 32 Foo 2026", None),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", MOST_RETRY_AFTER),
    ],
)
def test_a_throttled_request_says_when_to_come_back(
    comfy: ComfyServer, routes: HostedRoutes, header: str, seconds: float | None
) -> None:
    """In seconds, within an hour; None for rubbish."""
    comfy.on("GET", LOOK, (429, {"Retry-After": header}, envelope("rate_limited")))
    with pytest.raises(Throttled) as caught:
        routes.job("job-1")
    assert caught.value.retry_after == seconds
    wait = "later" if seconds is None else f"in {seconds:g} s"
    assert caught.value.hint.startswith(f"Call again {wait}")


def test_a_date_says_when_to_come_back() -> None:
    """HTTP allows both forms."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    left = retry_after({"retry-after": soon})
    assert left is not None
    assert 0 < left <= 600
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert retry_after({"retry-after": past}) == 0
    later = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    assert retry_after({"retry-after": later}) == MOST_RETRY_AFTER


# -- submissions ---------------------------------------------------------------------------

INVALID = "prompt_outputs_failed_validation"
NODE_ERRORS = {
    "1": {
        "errors": [
            {
                "type": "required_input_missing",
                "message": "Required input is missing",
                "details": "images",
                "extra_info": {"input_name": "images"},
            }
        ],
        "dependent_outputs": ["1"],
        "class_type": "SaveImage",
    }
}


@pytest.mark.parametrize(
    ("message", "node_errors", "kind", "words"),
    [
        ("Prompt outputs failed validation", NODE_ERRORS, INVALID, "images"),
        ("Prompt has no outputs", {}, "prompt_no_outputs", "output"),
        ("Cannot execute because node Nope does not exist.", {}, "missing_node_type", "'Nope'"),
        ("Node 'Nope' not found. The custom node may ...", {}, "missing_node_type", "Nope"),
        ("Missing 'workflow' (API-format graph).", None, "invalid_workflow", "API-format"),
        ("something new", ["x"], "invalid_workflow", "something new"),
    ],
)  # fmt: skip
def test_a_refused_workflow_is_explained_as_by_comfyui(
    comfy: ComfyServer, routes: HostedRoutes, message: str, node_errors: Any, kind: str, words: str
) -> None:
    """By node and input, with ComfyUI's own types, which the API leaves out."""
    details = None if node_errors is None else {"node_errors": node_errors}
    comfy.on("POST", JOBS, (422, {}, envelope("invalid_workflow", message, details)))
    with pytest.raises(PromptRejected, match=words) as caught:
        routes.submit(GRAPH, key="k")
    error = caught.value
    assert (error.status, error.reason, error.error["type"]) == (422, "invalid_workflow", kind)
    assert error.node_errors == (node_errors if isinstance(node_errors, dict) else {})
    assert not error.retryable
    assert len(comfy.requests) == 1


def test_the_same_refusal_reads_the_same_from_comfyui(comfy: ComfyServer) -> None:
    """Through the surface, and straight."""
    graph = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}, "_meta": {}}}
    from comfy_client.routes.definitions import NodeDefinitions
    from comfy_client.routes.prompts import post_prompt

    with opened(comfy.url) as http, pytest.raises(PromptRejected) as straight:
        post_prompt(http, {"prompt": graph}, NodeDefinitions(http, lambda: None))
    with (
        ComfyServer(hosted="proxy") as server,
        connected(server.url) as http,
        pytest.raises(PromptRejected) as through,
    ):
        HostedRoutes(http).submit(graph, key="k")
    assert str(through.value) == str(straight.value)
    assert through.value.node_errors == straight.value.node_errors
    assert through.value.problems == straight.value.problems


def test_an_unknown_asset_is_named(comfy: ComfyServer, routes: HostedRoutes) -> None:
    """The workflow is refused, and nothing was queued."""
    details = {"missing_ids": ["a-1", 5, "x" * 1000]}
    comfy.on("POST", JOBS, (422, {}, envelope("missing_asset", "Unknown assets.", details)))
    with pytest.raises(PromptRejected, match="unknown assets: 'a-1', 'x") as caught:
        routes.submit(GRAPH, key="k")
    assert caught.value.reason == "missing_asset"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((500, {}, envelope("upstream_error")), ApiError),
        ((503, {}, envelope("upstream_unreachable")), ApiError),
        ((408, {}, envelope("timeout")), ApiError),
        ((201, HTML, "<title>ok</title>"), UnexpectedResponse),
        ((201, {}, {"status": "queued"}), UnexpectedResponse),
        (cut((201, {}, JOB), 10), TransportError),
    ],
)
def test_a_submission_that_may_have_arrived_is_not_retryable(
    comfy: ComfyServer, routes: HostedRoutes, answer: Any, kind: type[ComfyError]
) -> None:
    """The caller would submit it once more; and the client sends it once only."""
    comfy.on("POST", JOBS, answer)
    with pytest.raises(kind) as caught:
        routes.submit(GRAPH, key="k")
    assert not caught.value.retryable
    assert len(comfy.requests) == 1


def test_a_submission_that_surely_did_not_arrive_is_retryable(refused: str) -> None:
    """Refused connections, and requests that are throttled."""
    with connected(refused) as http, pytest.raises(ServerUnreachable) as caught:
        HostedRoutes(http).submit(GRAPH, key="k")
    assert caught.value.retryable
    assert "is the server running" in str(caught.value)
    assert "ComfyUI" not in str(caught.value)


# -- events --------------------------------------------------------------------------------


def test_events_come_as_they_are_sent(comfy: ComfyServer, routes: HostedRoutes) -> None:
    """What is no JSON object is an event without data, which wakes all the same."""
    stream = (
        b': keepalive\n\nevent: status\ndata: {"status": "running"}\n\n'
        b"event: log\ndata: [" + b"{}," * 300_000 + b"{}]\n\n"
        b"event: log\ndata: [1]\n\nevent: log\ndata: {broken\n\nevent: log\ndata: " + b"[" * 9000
        + b'\n\nevent: output\ndata: {"name": "a.png"}\n\nevent: cut\ndata: {}'
    )  # fmt: skip
    comfy.on("GET", f"{LOOK}/events", (200, SSE, stream))
    with routes.events("job-1") as events:
        assert list(events) == [
            ServerEvent("status", {"status": "running"}),
            *[ServerEvent("log", {})] * 4,
            ServerEvent("output", {"name": "a.png"}),
        ]
    assert comfy.requests[-1].headers["Accept"] == "text/event-stream"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((429, {"Retry-After": "5"}, envelope("too_many_streams")), Throttled),
        ((501, {}, envelope("not_implemented")), NotSupported),
        ((404, {}, envelope("not_found")), NotFound),
        ((200, HTML, "<title>login</title>"), UnexpectedResponse),
        ((200, {"Content-Type": "application/json"}, JOB), UnexpectedResponse),
        ((200, SSE, b"data: " + b"x" * (9 << 20)), UnexpectedResponse),
        ((302, {"Location": "/login"}, None), UnexpectedResponse),
    ],
)
def test_answers_that_are_no_event_stream_are_an_error(
    comfy: ComfyServer, routes: HostedRoutes, answer: Any, kind: type[ComfyError]
) -> None:
    """Then the caller polls only."""
    comfy.on("GET", f"{LOOK}/events", answer)

    def read() -> None:
        with routes.events("job-1") as events:
            list(events)

    with pytest.raises(kind):
        read()


Then = Callable[[socket.socket], object]


def stream_then(then: Then, began: threading.Event) -> Then:
    def handle(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        body = b'event: status\ndata: {"status": "running"}\n\n'
        connection.sendall(b"%x\r\n%s\r\n" % (len(body), body))
        began.set()
        then(connection)

    return handle


def test_a_silent_stream_ends_in_time() -> None:
    """A server sends a comment every 15 seconds; the first event came at once."""
    began, over = threading.Event(), threading.Event()
    seen: list[ServerEvent] = []

    def read(routes: HostedRoutes) -> None:
        with routes.events("job-1", idle=0.2) as events:
            seen.extend(events)

    with raw_server(stream_then(lambda _: over.wait(LIMIT), began)) as port:
        silent = pytest.raises(RequestTimeout)
        with connected(f"http://127.0.0.1:{port}") as http, quickly(), silent:
            read(HostedRoutes(http))
        over.set()
    # A busy machine may be silent before the first one.
    assert seen in ([], [ServerEvent("status", {"status": "running"})])


def test_a_comment_is_enough_to_leave_a_stream_whose_job_has_ended() -> None:
    """A proxy may keep it open for minutes."""
    began, over = threading.Event(), threading.Event()

    def comment(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.01):
                connection.sendall(b"d\r\n: keepalive\n\n\r\n")

    with raw_server(stream_then(comment, began)) as port:
        with (
            connected(f"http://127.0.0.1:{port}") as http,
            HostedRoutes(http).events("job-1", is_over=began.is_set) as events,
        ):
            assert not list(events)[1:]
        over.set()


def test_close_ends_a_stream_in_another_thread() -> None:
    """As every other transfer."""
    began, over = threading.Event(), threading.Event()
    caught: list[BaseException] = []
    with raw_server(stream_then(lambda _: over.wait(LIMIT), began)) as port:
        with connected(f"http://127.0.0.1:{port}") as http:

            def read() -> None:
                try:
                    with HostedRoutes(http).events("job-1", idle=2 * LIMIT) as events:
                        list(events)
                except BaseException as exc:
                    caught.append(exc)

            thread = threading.Thread(target=read)
            thread.start()
            assert began.wait(LIMIT)
            http.close()
            thread.join(LIMIT)
        over.set()
    assert [type(exc) for exc in caught] == [ClientClosed]


def test_a_stream_that_breaks_says_so() -> None:
    """Not like one that has ended."""
    began = threading.Event()
    with (
        raw_server(stream_then(lambda _: None, began)) as port,
        connected(f"http://127.0.0.1:{port}") as http,
        pytest.raises(TransportError),
        HostedRoutes(http).events("job-1") as events,
    ):
        list(events)


# -- what the API lacks --------------------------------------------------------------------

#: Methods of ComfyUI's routes that send no request themselves.
WITHOUT_A_REQUEST = {"get_path_image", "lasting", "ping"}
#: What a client of Comfy API v2 does have, all of it in the guide.
WORKS = {
    *("as_completed", "cancel_job", "close", "doctor", "download_image", "events", "generate_id"),
    *("get_image", "get_path_image", "has_image", "init", "job", "lasting", "map", "off", "on"),
    *(
        "open_image",
        "packs_of_classes",
        "ping",
        "pixels",
        "poll_status",
        "run",
        "stats",
        "stream_image",
        "submit",
    ),
    *("sweep", "timing", "upload_image", "wait_for", "wait_until_ready"),
}


def public_of(kind: type) -> list[str]:
    return sorted(name for name, _ in inspect.getmembers(kind, callable) if name[0] != "_")


def check_is_lacking(owner: object, http: Http, name: str) -> None:
    """It says so in one sentence, and before any request: nobody listens at this address."""

    def call() -> None:
        exhaust(method(*arguments_for(method)))

    method, before = getattr(owner, name), http.traffic.requests
    with pytest.raises(NotSupported, match=r"^Comfy API v2 ") as caught:
        call()
    assert http.traffic.requests == before
    error = caught.value
    assert (error.status, error.method, error.path, error.hint) == (0, "", "", None)
    assert ". " not in str(error)


@pytest.mark.parametrize("name", sorted({*public_of(Routes)} - WITHOUT_A_REQUEST))
def test_each_route_of_comfyui_says_that_it_is_not_there(refused: str, name: str) -> None:
    """A new method joins by itself."""
    with opened(refused, dialect=HOSTED) as http:
        check_is_lacking(Routes(http), http, name)


@pytest.mark.parametrize("name", sorted({*public_of(ComfyApi)} - WORKS))
def test_each_method_of_the_client_works_or_says_that_it_does_not(refused: str, name: str) -> None:
    """Those of routes, and those that do more; a new method joins by itself."""
    with contextlib.closing(HostedApi(refused, "")) as api:
        check_is_lacking(api, api.parts.http, name)


def test_the_guide_says_what_a_hosted_server_has() -> None:
    """As the tests above know it, and as Comfy Cloud's older API adds to it."""
    section = section_of("compatibility", "Every method")
    said: dict[str, set[str]] = {}
    for line in section[section.index("=====") :].splitlines():
        names = re.findall(r"``(\w+)``", line[:42])
        said.setdefault(line[90:96].strip(), set()).update(names)
    others = {name for name, _ in inspect.getmembers(ComfyApi, inspect.isdatadescriptor)}
    assert said["yes"] - others == WORKS - {"timing"} - others
    with ComfyServer(hosted="cloud") as server, CloudApi("key", base_url=server.url) as api:
        for name in said["Cloud"] - {"wait_for_vram"}:  # the embedded server has none
            with contextlib.suppress(NotFound):
                exhaust(getattr(api, name)(*arguments_for(getattr(api, name))))
        # interrupt first looks for a prompt that runs.
        for name in said["no"] - others - {"interrupt"}:
            with pytest.raises(NotSupported):
                exhaust(getattr(api, name)(*arguments_for(getattr(api, name))))


@pytest.mark.parametrize("place", [None, "proxy", "serverless", "cloud"])
def test_the_wrong_client_names_the_right_one(place: Any) -> None:
    """At each first call that is usual."""
    with ComfyServer(hosted=place) as server:
        api = HostedApi(server.url, "") if place is None else ComfyApi(server.url)
        with contextlib.closing(api):
            for call in (api.init, lambda: api.run(GRAPH), lambda: api.upload_image(b"x", "x.png")):
                with pytest.raises(ComfyError) as caught:
                    call()
                assert ("use ComfyApi" if place is None else "HostedApi") in str(caught.value)


def test_a_ping_says_that_there_is_no_such_route(refused: str) -> None:
    """It never raises."""
    with opened(refused, dialect=HOSTED) as http:
        assert isinstance(Routes(http).ping().error, NotSupported)


@pytest.mark.parametrize(
    "route", ["/nope", "/api/nope", "/", "/api/v2", "/api/v20/jobs", "/api/v1/x"]
)
def test_any_other_route_says_where_the_routes_are(refused: str, route: str) -> None:
    """Such as one of a custom node."""
    with opened(refused, dialect=HOSTED) as http:
        with pytest.raises(NotSupported, match="its routes are below /api/v2/"):
            Routes(http).fetch_api(route)
        with pytest.raises(NotSupported, match="has no WebSocket"):
            http.json("GET", "/ws")


def test_a_route_of_the_api_can_be_fetched(comfy: ComfyServer) -> None:
    """By the method for any route."""
    comfy.on("GET", LOOK, (200, {}, JOB))
    with connected(comfy.url) as http:
        assert Routes(http).fetch_api(LOOK).json() == JOB


def test_each_reason_is_one_plain_sentence() -> None:
    """After "Comfy API v2"."""
    for route, reason in REASONS.items():
        assert route.startswith("/")
        assert reason[0].islower()
        assert not reason.endswith(".")


# -- assets --------------------------------------------------------------------------------


def test_assets_are_asked_for_and_deleted(comfy: ComfyServer, routes: HostedRoutes) -> None:
    """By id and by hash."""
    asset = {"id": "a-1", "hash": "blake3:00", "size_bytes": 3}
    comfy.on("GET", "/api/v2/assets/a-1", (200, {}, asset))
    comfy.on("DELETE", "/api/v2/assets/a-1", (204, {}, None))
    comfy.on("POST", "/api/v2/assets/from-hash", (200, {}, asset))
    assert routes.asset("a-1").size_bytes == 3
    assert routes.from_hash("blake3:00", "p.png").hash == "blake3:00"
    routes.delete("a-1")
    sent = [json.loads(r.body) for r in comfy.requests if r.method == "POST"]
    assert sent == [{"hash": "blake3:00", "file_path": "p.png"}]


def test_the_health_of_the_proxy(comfy: ComfyServer, routes: HostedRoutes) -> None:
    """It is open to everybody."""
    comfy.on("GET", "/api/v2/health", (200, {}, {"status": "healthy"}))
    health: Mapping[str, Any] = routes.health(5.0)
    assert health == {"status": "healthy"}

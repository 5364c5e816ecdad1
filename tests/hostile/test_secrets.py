"""Whatever a server, a proxy or a log repeats of what proves who we are, nobody gets to see it."""

from __future__ import annotations

import _thread
import base64
import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from comfy_client import (
    BasicCredentials,
    BearerCredentials,
    ClientClosed,
    ComfyApi,
    ComfyError,
    ComfyPool,
    HeaderCredentials,
    JobFailed,
    QueryCredentials,
    UnexpectedResponse,
    Workflow,
    WorkflowError,
)
from comfy_client.cli.main import main
from comfy_client.recording.secrets import MAX_WORDS, Secrets
from comfy_client.testing import ComfyServer
from tests.helpers.command_line import runner
from tests.helpers.http import opened
from tests.hostile.server import GRAPH, Comfy, Request, Server, answer

SECRET = "S3cret-99/&x"


def shown(exc: BaseException | None) -> str:
    """All that an exception and its chain say, hold, and have in their frames of others' code."""
    seen: dict[int, BaseException] = {}
    todo = [exc]
    while todo:
        each = todo.pop()
        if each is not None and id(each) not in seen:
            seen[id(each)] = each
            todo += [each.__cause__, each.__context__]
    said = []
    for each in seen.values():
        said += [str(each), repr(each), repr(each.args), repr(vars(each))]
        said += [json.dumps(each.to_dict())] if isinstance(each, ComfyError) else []
        said += getattr(each, "__notes__", ())
        step = each.__traceback__
        while step is not None:
            frame = step.tb_frame
            if not frame.f_globals.get("__name__", "").startswith(
                ("tests.", "_pytest.", "hypothesis")
            ):
                said += [f"{frame.f_code.co_name}: {n} = {v!r}" for n, v in frame.f_locals.items()]
            step = step.tb_next
    return "\n".join(said)


def spelled(secret: str) -> list[str]:
    """What a reader would know it by."""
    plain = secret.encode()
    ways = [
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        base64.b64encode(plain).decode(),
    ]
    return [*ways, base64.b64encode(b"me:" + plain).decode()]


def assert_nowhere(text: str, secret: str = SECRET) -> None:
    for way in spelled(secret):
        assert way not in text, text


@contextlib.contextmanager
def poller(url: str, **options: Any) -> Iterator[ComfyApi]:
    api = ComfyApi(url, transport="poll", **options)
    with contextlib.closing(api):
        yield api


def failure(url: str, do: Callable[[ComfyApi], object] | None = None, **options: Any) -> ComfyError:
    with poller(url, **options) as api, pytest.raises(ComfyError) as caught:
        (do or ComfyApi.get_queue)(api)
    return caught.value


@pytest.fixture(autouse=True)
def logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All libraries log all that they can, and none of it is secret."""
    names = ("comfy_client", "urllib3", "requests", "websocket")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(caplog.at_level(logging.DEBUG, name))
        yield caplog
    assert_nowhere(caplog.text)


#: Answers that are none, and repeat what came.
JUNK: dict[str, Callable[[Request], bytes]] = {
    "status line": lambda r: r.head + b"\r\n\r\n",
    "status": lambda r: (
        b"HTTP/1.1 %s X\r\n\r\n" % r.head.replace(b"\r\n", b" ").replace(b" ", b"_")
    ),
    "chunk": lambda r: (
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + r.head.replace(b"\r\n", b" ")
    ),
    "header": lambda r: b"HTTP/1.1 200 X\r\n" + r.head + b"\r\n\r\nx",
    "nothing": lambda r: b"",
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(
    "credentials", [QueryCredentials("token", SECRET), BearerCredentials(SECRET), ("me", SECRET)]
)
def test_an_answer_that_is_none_and_repeats_the_request(junk: str, credentials: Any) -> None:
    """Neither the error shows it, nor its cause, its frames, or a log."""

    def handle(request: Request) -> None:
        request.conn.sendall(JUNK[junk](request))

    with Server(handle) as server:
        exc = failure(server.url, credentials=credentials)
    assert_nowhere(shown(exc))
    assert exc.__cause__ is None or isinstance(exc.__cause__, OSError)


@pytest.mark.parametrize("key", ["1.api_key", ("1", "api_key")])
@pytest.mark.parametrize(
    "call",
    [
        ComfyApi.run,
        ComfyApi.submit,
        lambda api, graph, inputs: list(api.map(graph, [inputs])),
        lambda api, graph, inputs: Workflow(graph).set(inputs),
    ],
    ids=["run", "submit", "map", "set"],
)
def test_a_key_among_the_inputs_of_a_run_is_in_no_frame_of_an_error(call: Any, key: Any) -> None:
    """It was given with a name that there is not."""
    graph = {"1": {"class_type": "A", "inputs": {"api_key": "", "b": 1}}}
    exc = failure("http://127.0.0.1:9", lambda api: call(api, graph, {key: SECRET, "1.c": 2}))
    assert_nowhere(shown(exc))


@pytest.mark.parametrize("key", ["1.api_key", ("1", "api_key")])
@pytest.mark.parametrize(
    "call",
    [
        ComfyPool.run,
        ComfyPool.submit,
        lambda pool, graph, inputs: list(pool.map(graph, [inputs])),
    ],
    ids=["run", "submit", "map"],
)
def test_a_key_among_the_inputs_of_a_pool_is_in_no_frame_of_an_error(
    comfy: ComfyServer, call: Any, key: Any
) -> None:
    """Nor is one in the workflow itself."""
    graph = {"1": {"class_type": "A", "inputs": {"api_key": SECRET, "b": 1}}}
    with ComfyPool([comfy.url]) as pool, pytest.raises(WorkflowError) as caught:
        call(pool, graph, {key: SECRET, "1.c": 2})
    assert_nowhere(shown(caught.value))


def in_every_way(secret: str) -> dict[str, str]:
    """Return how servers, proxies and tools write it."""
    return {
        "plain": secret,
        "JSON": json.dumps(secret)[1:-1],
        "percent": quote(secret, safe=""),
        "lower": quote(secret, safe="").lower().replace("s3", "S3"),
        "base64": base64.b64encode(secret.encode()).decode(),
        "pair": base64.b64encode(f"me:{secret}".encode()).decode(),
    }


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        *(("application/json", status) for status in (400, 401, 413, 500)),
        *(("text/plain", status) for status in (200, 404)),
        *(("text/html", status) for status in (200, 403, 502)),
    ],
)
def test_a_repeated_password_is_hidden_however_it_is_written(kind: str, status: int) -> None:
    """As it is, or as JSON, URLs and headers spell it."""
    said = ""

    def handle(_: Request) -> bytes:
        body = f'{{"error": {{"message": "bad {said}", "details": ["{said}"]}}, "{said}": 1}}'
        if kind != "application/json":
            body = f"<title>bad {said}</title>"
        return answer(status, body, [("Content-Type", kind)])

    with Server(handle) as server:
        for said in in_every_way(SECRET).values():
            exc = failure(server.url, credentials=("me", SECRET))
            text = shown(exc)
            assert_nowhere(text)
            assert said not in text


def test_cookies_push_no_password_out(tmp_path: Any) -> None:
    """However many a server sets, in errors and in recordings."""

    def handle(request: Request) -> bytes:
        cookies = [("Set-Cookie", f"c{n}=value-{len(server.requests)}-{n:06}") for n in range(90)]
        status = 200 if len(server.requests) < 9 else 400
        return answer(status, {"error": f"bad {SECRET}"}, cookies)

    path = tmp_path / "recording.jsonl"
    with (
        Server(handle) as server,
        poller(server.url, credentials=("me", SECRET), record=path) as api,
    ):
        for _ in range(8):
            api.fetch_api("/x")
        with pytest.raises(ComfyError) as caught:
            api.fetch_api("/x")
    assert_nowhere(shown(caught.value))
    assert_nowhere(path.read_text())


@pytest.mark.parametrize("route", ["/settings", "/history"])
def test_a_recording_has_no_secret_for_a_name_either(tmp_path: Path, route: str) -> None:
    """In the keys of an answer of any route."""
    path = tmp_path / "run.jsonl"
    with Comfy() as server:
        server.lies[route] = lambda _: answer(body={f"of {SECRET}": {SECRET: 1}})
        with poller(server.url, credentials=("me", SECRET), record=path) as api:
            api.fetch_api(route)
    assert_nowhere(path.read_text())
    assert '"of ***"' in path.read_text()


@pytest.mark.parametrize("session", [None, requests.Session], ids=["own", "given"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int, session: Any) -> None:
    """By no route, with no body, by the socket neither; whatever session a user gives."""
    calls: list[Callable[[ComfyApi], object]] = [
        ComfyApi.get_queue,
        lambda api: api.queue_prompt(None, GRAPH),
        lambda api: api.upload_image(b"x", "a.png"),
        lambda api: api.get_image({"filename": "a.png"}),
        lambda api: api.init(timeout=5.0),
    ]
    with Server() as other:

        def lead_away(request: Request) -> bytes:
            return answer(status, headers=[("Location", other.url + request.target)])

        with Server(lead_away) as server:
            for call in calls:
                how = {"session": session()} if session else {}
                api = ComfyApi(server.url, credentials=BearerCredentials(SECRET), **how)
                with contextlib.closing(api), pytest.raises(ComfyError):
                    call(api)
        assert not other.requests


def test_a_cookie_goes_to_its_own_address_only() -> None:
    """Whatever address and path a server gives it for."""
    places = ["Domain=example.com", "Domain=com", "Path=/elsewhere", "Secure"]
    given = [("Set-Cookie", f"c{n}={SECRET}; {place}") for n, place in enumerate(places)]
    ours = ("Set-Cookie", "ours=1; Path=/")
    with (
        Server(lambda _: answer(200, headers=[*given, ours])) as server,
        poller(server.url) as api,
    ):
        api.fetch_api("/x")
        api.fetch_api("/x")
        assert server.requests[-1].headers["cookie"] == "ours=1"


def test_a_password_of_the_users_netrc_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gave it to this client; other programs have it for the same address."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for how in ({}, {"credentials": HeaderCredentials({"X-Key": "mine"})}):
        with Server(lambda _: answer()) as server, poller(server.url, **how) as api:
            api.fetch_api("/x")
        assert not [each for each in server.requests if "authorization" in each.headers]


def test_pinned_secrets_stay() -> None:
    """Of the rest the latest count, and credentials that are used again are the latest."""
    secrets = Secrets()
    secrets.add([SECRET], pinned=True)
    for number in range(2 * MAX_WORDS):
        secrets.add([f"a-cookie-{number}"])
    for number in range(2 * MAX_WORDS):
        secrets.add([f"a-token-{number}", SECRET], pinned=True)
    assert secrets.hide_words(f"{SECRET} a-token-0 a-cookie-0") == "*** a-token-0 a-cookie-0"


@pytest.mark.parametrize("status", [407, 403, 502])
def test_a_reason_phrase_is_not_shown(status: int) -> None:
    """Of a proxy, which knows its own password."""

    def handle(request: Request) -> bytes:
        return answer(status, reason=request.headers["proxy-authorization"])

    with Server(handle) as proxy:
        way = {"https": f"http://me:{quote(SECRET, safe='')}@127.0.0.1:{proxy.port}"}
        exc = failure("https://comfy.example", proxies=way)
        with poller("https://comfy.example", proxies=way) as api:
            report = str(api.doctor(timeout=5))
    assert str(status) in str(exc)
    assert_nowhere(shown(exc))
    assert_nowhere(report)


def test_the_socket_shows_no_reason_phrase_either() -> None:
    """The tunnel for the event socket, whose answer is no HTTP."""
    from comfy_client.transport.dial import DialPlan, dial  # what a client dials by

    for reply in (
        lambda r: answer(407, reason=r.headers["proxy-authorization"]),
        lambda r: r.headers["proxy-authorization"].encode() + b"\r\n\r\n",
    ):
        with Server(reply) as proxy:
            way = f"http://me:{quote(SECRET, safe='')}@127.0.0.1:{proxy.port}"
            opened: list[socket.socket] = []
            plan = DialPlan("ws://comfy.example/ws", {"X-Key": SECRET}, proxy=way)
            with pytest.raises(ComfyError) as caught:
                dial(plan, 5.0, opened.append)
            for sock in opened:
                sock.close()
        assert_nowhere(shown(caught.value))


@pytest.mark.parametrize("kind", ["query", "header", "params"])
def test_no_library_logs_a_secret(kind: str, logs: pytest.LogCaptureFixture) -> None:
    """urllib3 warns of headers that it cannot read, and logs each URL."""
    how: dict[str, dict[str, Any]] = {
        "query": {"credentials": QueryCredentials("token", SECRET)},
        "header": {"credentials": HeaderCredentials({"X-Key": SECRET})},
        "params": {"session": requests.Session()},
    }
    if kind == "params":
        how[kind]["session"].params = {"any": SECRET}

    def handle(request: Request) -> None:
        echo = request.headers.get("x-key", request.query)
        request.conn.sendall(f"HTTP/1.1 200 X\r\n{echo} {SECRET}\r\n\r\n{{}}".encode())

    with Server(handle) as server, poller(server.url, **how[kind]) as api:
        with contextlib.suppress(ComfyError):
            api.fetch_api("/x")
        logging.getLogger("urllib3.connectionpool").warning("it said\n%s", SECRET)
        logging.getLogger("websocket").debug("Authorization: " + SECRET)  # noqa: G003  # as libraries do
        try:
            raise RuntimeError(SECRET)
        except RuntimeError:
            logging.getLogger("comfy_client").exception("a receiver failed")
    assert "a receiver failed" in logs.text
    assert "Traceback" in logs.text
    assert "it said\\n***" in logs.text
    assert_nowhere("\n".join(logging.Formatter().format(each) for each in logs.records))


def test_credentials_show_nothing_themselves() -> None:
    """So a frame that holds them does not."""
    assert_nowhere(repr(BasicCredentials("me", SECRET)))
    with Comfy() as server:
        api = ComfyApi(server.url, credentials=("me", SECRET))
        api.close()
        assert_nowhere(repr(api))
        with opened(server.url, credentials=("me", SECRET)) as http:
            assert_nowhere(repr(http))


#: The value of a header whose name tells nothing.
OPAQUE = "opaque/Value-77&x"


def given(how: str) -> dict[str, Any]:
    """Options of a client that sends it with each request."""
    if how == "headers":
        return {"headers": {"X-Foo": OPAQUE}}
    session = requests.Session()
    session.headers["X-Foo"] = OPAQUE
    return {"session": session}


@pytest.mark.parametrize("how", ["headers", "session"])
def test_a_secret_header_of_any_name_is_hidden(how: str, logs: pytest.LogCaptureFixture) -> None:
    """In errors, log lines of libraries, job errors and the doctor's report."""

    def junk(request: Request) -> None:
        request.conn.sendall(f"HTTP/1.1 200 X\r\n{OPAQUE}\r\n\r\n{{}}".encode())

    def refuse(request: Request) -> bytes:
        assert request.headers["x-foo"] == OPAQUE
        return answer(400, {"error": f"bad {OPAQUE}"}, reason=OPAQUE)

    with Comfy() as server, poller(server.url, **given(how)) as api:
        failed(server, OPAQUE)
        with pytest.raises(JobFailed) as failure:
            api.submit(GRAPH).result(60)
        server.lies["/x"] = refuse
        with pytest.raises(ComfyError) as refusal:
            api.fetch_api("/x")
        server.lies["/y"] = junk
        with contextlib.suppress(ComfyError):
            api.fetch_api("/y")
        server.lies["GET /features"] = lambda _: answer(body={OPAQUE: True})
        report = str(api.doctor(timeout=10))
    assert "Failed to parse headers" in logs.text
    assert "***" in str(refusal.value)
    assert_nowhere(logs.text + report + str(failure.value), OPAQUE)
    assert_nowhere(shown(refusal.value), OPAQUE)


def test_a_secret_header_of_any_name_of_one_request_is_hidden() -> None:
    """It is not known to the client otherwise."""
    with Server(lambda _: answer(400, {"error": f"bad {OPAQUE}"})) as server:
        exc = failure(server.url, lambda api: api.fetch_api("/x", headers={"X-Foo": OPAQUE}))
    assert "bad ***" in str(exc)
    assert_nowhere(shown(exc), OPAQUE)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Stage": "prod"},
        {"X-Unit": "resolution"},
        {"Accept-Language": "resolution"},
        {"X-About": "a resolution"},
    ],
)
def test_a_header_that_is_a_common_word_hides_nothing(headers: dict[str, str]) -> None:
    """A short one, one that is well known, or a word of several."""
    with Server(lambda _: answer(400, {"error": "prod: bad resolution"})) as server:
        exc = failure(server.url, headers=headers)
    assert "prod: bad resolution" in str(exc)


# -- prompts ------------------------------------------------------------------------------


def failed(server: Comfy, said: str, **facts: Any) -> None:
    """History has each prompt as failed, with these words."""

    def history(request: Request) -> Any:
        prompt_id = request.path.rpartition("/")[2]
        if prompt_id not in server.prompts:
            return False
        entry = server.entry(prompt_id)
        told = {
            "prompt_id": prompt_id,
            "node_id": "3",
            "node_type": "KSampler",
            "exception_type": "RuntimeError",
            "exception_message": f"401 for key {said}",
            "traceback": [f"x = ask({said!r})\n"],
            "current_inputs": {"seed": [said]},
            **facts,
        }
        entry["status"] = {
            "status_str": "error",
            "completed": False,
            "messages": [["execution_error", told]],
        }
        return answer(body={prompt_id: entry})

    server.lies["GET /history/"] = history


@pytest.mark.parametrize("place", ["comfy_api_key", "extra_data", "workflow", "credentials"])
def test_a_node_that_repeats_a_key_when_it_fails(place: str) -> None:
    """As those of partners do; the facts stay."""
    graph = json.loads(json.dumps(GRAPH))
    options: dict[str, Any] = {"comfy_api_key": {"comfy_api_key": SECRET}}.get(place, {})
    if place == "extra_data":
        options = {"extra_data": {"auth_token_comfy_org": SECRET}}
    if place == "workflow":
        graph["3"]["inputs"]["api_key"] = SECRET
    how = {"credentials": ("me", SECRET)} if place == "credentials" else {}
    with Comfy() as server, poller(server.url, **how) as api:
        failed(server, SECRET)
        with pytest.raises(JobFailed) as caught:
            api.submit(graph, **options).result(60)
    exc = caught.value
    told = json.dumps(exc.to_dict())
    assert_nowhere("".join([str(exc), repr(exc.args), repr(vars(exc)), told]))
    assert (exc.node_id, exc.class_type, exc.exception_type) == ("3", "KSampler", "RuntimeError")


@pytest.mark.parametrize("secret", ["KSampler", "RuntimeError", "3", "node"])
def test_a_password_that_is_a_fact_of_a_failure_leaves_it(secret: str) -> None:
    """Ids, classes and kinds of exceptions are no texts."""
    with Comfy() as server, poller(server.url, credentials=("me", secret)) as api:
        failed(server, "x")
        with pytest.raises(JobFailed) as caught:
            api.run(GRAPH, timeout=20)
    exc = caught.value
    assert (exc.node_id, exc.class_type, exc.exception_type) == ("3", "KSampler", "RuntimeError")


def test_node_errors_are_logged_without_secrets(
    logs: pytest.LogCaptureFixture,
) -> None:
    """On one line for each problem, whatever signs stand in it."""
    fault = {
        "type": "x\n",
        "message": f"no {SECRET}\x1b]52;c;AAAA\x07",
        "details": "\nWARNING: forged",
    }
    told = {"9": {"class_type": "x", "errors": [fault]}}

    def receipt(request: Request) -> bytes:
        prompt_id = request.json()["prompt_id"]
        return answer(body={"prompt_id": prompt_id, "number": 1, "node_errors": told})

    with Comfy() as server, poller(server.url, credentials=("me", SECRET)) as api:
        server.lies["POST /prompt"] = receipt
        job = api.submit(GRAPH)
        assert "***" in json.dumps(job.to_dict()["node_errors"])
        assert_nowhere(json.dumps(job.to_dict()))
        assert_nowhere(json.dumps(api.queue_prompt(None, GRAPH, prompt_id=job.prompt_id).to_dict()))
    (record,) = [each for each in logs.records if "without some" in each.getMessage()]
    lines = record.getMessage().splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert "***" in lines[1]


def test_no_frame_holds_a_key_of_a_prompt_or_of_a_request() -> None:
    """What shows the variables of a traceback shows none."""

    def hang_up(request: Request) -> None:
        request.conn.close()

    body = {"deep": [{"api_key": SECRET}]}
    calls: list[Callable[[ComfyApi], object]] = [
        lambda api: api.run(GRAPH, comfy_api_key=SECRET, timeout=1),
        lambda api: api.queue_prompt(None, GRAPH, extra_data={"auth_token_comfy_org": SECRET}),
        lambda api: api.fetch_api("/x", "POST", json=body),
        lambda api: api.fetch_api("/x", params={"token": SECRET}, headers={"X-Api-Key": SECRET}),
    ]
    for call in calls:
        with Comfy() as server:
            server.lies["/"] = hang_up
            exc = failure(server.url, call, credentials=BearerCredentials(SECRET))
        assert_nowhere(shown(exc))


def test_errors_of_a_foreign_answer_do_not_repeat_its_text() -> None:
    """Neither those of a model, nor the body that the error keeps."""
    bodies: dict[str, Any] = {
        "GET /prompt": {"exec_info": {"queue_remaining": SECRET}},
        "GET /queue": {"queue_running": [[SECRET]], "queue_pending": []},
        "POST /prompt": {"prompt_id": [SECRET], "exec_info": SECRET},
    }
    calls: list[Callable[[ComfyApi], object]] = [
        ComfyApi.poll_status,
        ComfyApi.get_queue,
        lambda api: api.queue_prompt(None, GRAPH),
    ]
    for call, (route, body) in zip(calls, bodies.items(), strict=True):
        with Comfy() as server:
            server.lies[route] = lambda _, body=body: answer(body=body)
            exc = failure(server.url, call, credentials=BearerCredentials(SECRET))
        for each in (exc, exc.__cause__):
            assert_nowhere(f"{each} {vars(each) if each else ''}")


def test_errors_of_a_foreign_record_show_no_secret_id() -> None:
    with Comfy() as server:
        record = {"the-id": {"prompt": [1, SECRET, {}, {}, []], "outputs": {}, "status": {}}}
        server.lies["GET /history"] = lambda _: answer(body=record)
        exc = failure(
            server.url,
            lambda api: api.get_history("the-id"),
            credentials=BearerCredentials(SECRET),
        )
    assert "is about another, ***" in str(exc)
    assert_nowhere(str(exc))


@pytest.mark.parametrize(
    "call",
    [
        ComfyApi.get_node_defs,
        ComfyApi.get_node_replacements,
        ComfyApi.get_folder_paths,
        ComfyApi.get_workflow_templates,
    ],
)
def test_errors_show_a_malformed_name_unless_it_is_a_secret(
    call: Callable[[ComfyApi], object],
) -> None:
    """Else nobody could find what the server has sent."""
    with Comfy() as server, poller(server.url, credentials=BearerCredentials(SECRET)) as api:
        server.lies["/"] = lambda request: answer(body={SECRET: 5})
        with pytest.raises(UnexpectedResponse) as caught:
            call(api)
        assert_nowhere(str(caught.value) + repr(caught.value.__context__))
        server.lies["/"] = lambda _: answer(body={"KSampler": 5})
        with pytest.raises(UnexpectedResponse, match="KSampler"):
            call(api)


def test_no_frame_of_a_look_up_holds_what_a_server_repeats() -> None:
    """Ctrl-C while a submission is looked for: what the queue said is no variable of ours."""
    said = [1, SECRET, {"3": {"class_type": SECRET, "inputs": {}}}, {"echo": SECRET}, []]

    def interrupt(_: Request) -> bytes:
        _thread.interrupt_main()
        time.sleep(0.2)
        return answer(body={})

    with Comfy() as server:
        server.lies = {
            "POST /prompt": lambda request: request.conn.close(),
            "GET /queue": lambda _: answer(body={"queue_running": [said], "queue_pending": []}),
            "GET /history": interrupt,
        }
        with (
            poller(server.url, credentials=BearerCredentials(SECRET)) as api,
            pytest.raises(KeyboardInterrupt) as caught,
        ):
            api.submit(GRAPH)
    text = shown(caught.value)
    assert "find: " in text
    assert_nowhere(text)


@pytest.mark.parametrize("route", ["GET /features", "GET /jobs", "GET /users", "GET /history"])
def test_no_frame_of_the_doctor_holds_what_a_server_repeats(route: str) -> None:
    """The client is closed while a check asks."""
    body: dict[str, Any] = {"echo": SECRET, "system": {"os": SECRET}, "devices": []}
    with Comfy() as server, poller(server.url, credentials=BearerCredentials(SECRET)) as api:

        def close(_: Request) -> bytes:
            api.close()
            return answer(body=body)

        server.lies = {
            "GET /system_stats": lambda _: answer(body=body),
            "GET /features": lambda _: answer(body={SECRET: SECRET}),
            "GET /users": lambda _: answer(body=body),
            "POST /prompt": lambda _: answer(body={"prompt_id": "an-id", "echo": SECRET}),
            route: close,
        }
        with pytest.raises(ClientClosed) as caught:
            api.doctor(run=True, timeout=10)
    assert_nowhere(shown(caught.value))


@pytest.mark.parametrize(
    ("call", "route"),
    [
        (lambda api, graph: api.run(graph, comfy_api_key=SECRET), "POST /prompt"),
        (lambda api, graph: api.run(graph), "GET /queue"),
        (lambda api, graph: api.submit(graph), "POST /prompt"),
        (lambda api, graph: api.submit(graph).result(), "GET /queue"),
        (lambda api, graph: api.queue_prompt(None, graph), "POST /prompt"),
        (lambda api, graph: list(api.map([graph, graph])), "POST /prompt"),
        (lambda api, graph: list(api.map([graph, graph])), "GET /queue"),
        (lambda api, graph: api.sweep(graph, {"3.seed": [1, 2]}), "POST /prompt"),
        (lambda api, graph: api.sweep(graph, {"3.seed": [1, 2]}), "GET /queue"),
    ],
)
def test_no_frame_holds_a_key_that_is_in_a_workflow(
    call: Callable[[ComfyApi, Any], object], route: str
) -> None:
    """Ctrl-C while it is submitted, or waited for."""
    graph = json.loads(json.dumps(GRAPH))
    graph["3"]["inputs"] |= {"api_key": SECRET, "deep": {"token": SECRET}}

    once = iter([_thread.interrupt_main])

    def interrupt(_: Request) -> bytes:
        # A second Ctrl-C may come in the middle of an exchange, whose socket nobody closes then.
        next(once, lambda: None)()
        time.sleep(0.2)
        return answer(body={"queue_running": [], "queue_pending": []})

    with Comfy() as server:
        server.ended = False
        server.lies[route] = interrupt
        with (
            poller(server.url, credentials=BearerCredentials(SECRET)) as api,
            pytest.raises(KeyboardInterrupt) as caught,
        ):
            call(api, graph)
    assert_nowhere(shown(caught.value))


def test_no_frame_of_a_workflow_that_cannot_be_sent_holds_a_key() -> None:
    """The message says what is wrong with it."""
    for fault in (float("nan"), ["nowhere", 0]):
        graph = {"3": {"class_type": "KSampler", "inputs": {"api_key": SECRET, "x": fault}}}
        with poller("127.0.0.1:9") as api, pytest.raises(WorkflowError) as caught:
            api.submit(graph)
        assert_nowhere(shown(caught.value))


@pytest.mark.parametrize(
    ("theirs", "sent"), [(None, True), ("same", True), ("http://other", False)]
)
def test_a_token_of_the_environment_goes_where_comfy_host_says(
    theirs: str | None, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is named on the command line."""
    monkeypatch.setenv("COMFYUI_TOKEN", SECRET)
    with Server() as server:
        if theirs:
            monkeypatch.setenv("COMFYUI_HOST", server.url if theirs == "same" else theirs)
        run = runner().invoke(main, ["doctor", "--host", server.url, "--timeout", "5"])
        assert any("authorization" in each.headers for each in server.requests) is sent
    assert ("COMFYUI_TOKEN is not sent" in run.stderr) is not sent


def test_a_cookie_that_is_a_common_word_hides_nothing() -> None:
    """Those that a server gives are secret when they are long, or by their names."""
    body = b'{"exec_info": {"queue_remaining": 0}}'
    cookies = {"theme": "dark", "session_id": "dusky-77", "visit": "0123456789abcdef"}
    refused = {"error": f"a dark input, {cookies['session_id']}, {cookies['visit']}"}
    with ComfyServer() as server, ComfyApi(server.url, transport="poll") as api:
        for name, value in cookies.items():
            headers = {"Set-Cookie": f"{name}={value}; Path=/", "Content-Type": "application/json"}
            server.on("GET", "/prompt", (200, headers, body))
            api.poll_status(20)
        server.on("POST", "/prompt", (400, {}, refused))
        with pytest.raises(ComfyError, match=r"a dark input, \*\*\*, \*\*\*"):
            api.submit(GRAPH)

"""Control of an embedded server over HTTP: ``ComfyServer(control=True)``."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
import requests

from comfy_client import ComfyApi, Workflow
from comfy_client.testing import ComfyServer, Faults
from comfy_client.testing.control.control_service import ControlService
from tests.guide import section_of
from tests.helpers.control import LIMIT, PROGRAMS, call

CUT = {"name": "cut", "args": {"method": "POST", "path": "/prompt", "ran": True}, "times": 1}


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(control=True) as running:
        yield running


def error_of(answer: tuple[int, Any]) -> tuple[int, str, str | None]:
    status, content = answer
    return status, content["error"]["type"], content["error"]["did_you_mean"]


# -- health --------------------------------------------------------------------------------


def test_health_tells_address_version_queue_and_faults(server: ComfyServer) -> None:
    server.faults.no_history()
    status, health = call(server, "GET", "/health")
    assert status == 200
    assert health.items() >= {"status": "ready", "url": server.url, "faults": 1}.items()
    assert health["imitates"] == server.version
    assert health["queue"] == {"running": 0, "pending": 0}


def test_health_answers_while_the_server_is_frozen_or_behind_a_bad_gateway(
    server: ComfyServer,
) -> None:
    with server.faults.freeze(), server.faults.bad_gateway():
        assert call(server, "GET", "/health")[0] == 200


def test_a_killed_server_is_stopped_until_it_comes_back(server: ComfyServer) -> None:
    port = server.port
    assert call(server, "POST", "/kill")[0] == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), LIMIT)
    status, health = call(server, "GET", "/health")
    assert (status, health["status"], health["queue"]) == (503, "stopped", None)
    assert error_of(call(server, "POST", "/kill"))[:2] == (409, "not_possible_now")
    assert call(server, "POST", "/start")[0] == 200
    assert call(server, "POST", "/kill", {"seconds": 0.05})[0] == 200
    server.until(lambda: call(server, "GET", "/health")[0] == 200)
    assert server.port == port


def test_a_restart_empties_the_history(server: ComfyServer) -> None:
    with ComfyApi(server.url) as api:
        api.run(Workflow.example())
    server.until(lambda: len(server.history) == 1)  # it follows the end event
    assert call(server, "POST", "/restart")[0] == 200
    assert server.history == {}


# -- faults --------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_programs_of_any_language_switch_faults_on_and_off(
    server: ComfyServer, program: Callable[..., tuple[int, Any]]
) -> None:
    """Also while the server is frozen, which is when keeping a connection would be a mistake."""
    faults = f"{server.control_url}/faults"
    status, made = program("POST", faults, {"name": "freeze"})
    assert (status, server.faults.active("freeze") != []) == (201, True)
    assert program("DELETE", f"{faults}/{made['id']}") == (200, {"hits": 0})
    assert not server.faults.active()
    assert program("POST", faults, CUT)[0] == 201
    with pytest.raises(requests.ConnectionError):
        requests.post(f"{server.url}/prompt", json={}, timeout=LIMIT)
    assert program("GET", faults) == (200, {"faults": []})


def test_active_faults_are_listed_with_what_they_affected(server: ComfyServer) -> None:
    server.faults.no_history()
    call(server, "POST", "/faults", {**CUT, "times": 2})
    with pytest.raises(requests.ConnectionError):
        requests.post(f"{server.url}/prompt", json={}, timeout=LIMIT)
    listed = call(server, "GET", "/faults")[1]["faults"]
    assert [(each["name"], each["hits"], each["args"]) for each in listed] == [
        ("no_history", 0, None),
        ("cut", 1, CUT["args"]),
    ]
    assert len({each["id"] for each in listed}) == 2
    assert call(server, "DELETE", "/faults") == (200, {"ended": 2})
    assert not server.faults.active()


def test_a_fault_ends_after_its_seconds(server: ComfyServer) -> None:
    call(server, "POST", "/faults", {"name": "bad_gateway", "seconds": 0.05})
    server.until(lambda: not server.faults.active())
    assert requests.get(f"{server.url}/queue", timeout=LIMIT).status_code == 200


def test_faults_that_happen_at_once_have_no_id(server: ComfyServer) -> None:
    with ComfyApi(server.url) as api:
        api.run(Workflow.example())
        server.until(lambda: server.history)  # it follows the end event
        assert call(server, "POST", "/faults", {"name": "evict"}) == (
            200,
            {"id": None, "name": "evict"},
        )
        assert server.history == {}


def test_several_names_of_events_are_a_list(server: ComfyServer) -> None:
    data = {"name": "lose", "args": {"events": ["executed", "progress*"]}}
    assert call(server, "POST", "/faults", data)[0] == 201
    events: list[str] = []
    with ComfyApi(server.url) as api:
        api.run(Workflow.example(), on_event=lambda event: events.append(event.name))
    assert {"execution_start", "execution_success"} <= {*events}
    assert not {"executed", "progress", "progress_state"} & {*events}


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        ({"json": {"a": [1]}}, b'{"a": [1]}'),
        ({"json": None}, b"null"),
        ({"text": "later"}, b"later"),
        ({"base64": base64.b64encode(b"\x89\x00").decode()}, b"\x89\x00"),
        ({}, b""),
    ],
    ids=str,
)
def test_a_fixed_answer_has_json_text_or_bytes(
    server: ComfyServer, answer: dict[str, Any], content: bytes
) -> None:
    described = {**answer, "status": 503, "headers": {"Retry-After": "7"}}
    args = {"method": "GET", "path": "/queue", "answer": described}
    assert call(server, "POST", "/faults", {"name": "answer", "args": args})[0] == 201
    got = requests.get(f"{server.url}/api/queue", timeout=LIMIT)
    assert (got.status_code, got.headers["Retry-After"], got.content) == (503, "7", content)


def test_rewriting_is_a_merge_patch(server: ComfyServer) -> None:
    merge = {"system": {"ram_total": 1, "os": None}, "more": {"a": None, "b": 2}}
    args = {"method": "GET", "path": "/system_stats", "merge": merge}
    before = requests.get(f"{server.url}/system_stats", timeout=LIMIT).json()
    assert call(server, "POST", "/faults", {"name": "rewrite", "args": args})[0] == 201
    after = requests.get(f"{server.url}/system_stats", timeout=LIMIT).json()
    del before["system"]["os"]
    system = {**before["system"], "ram_total": 1}
    assert {**after, "system": {**after["system"], "ram_free": 0}} == {
        **before,
        "system": {**system, "ram_free": 0},
        "more": {"b": 2},
    }


@pytest.mark.parametrize(
    ("data", "kind", "near"),
    [
        ({"name": "cutt"}, "unknown_fault", "cut"),
        ({"name": "active"}, "unknown_fault", None),
        ({"name": "_rule"}, "unknown_fault", None),
        ({"name": 5}, "unknown_fault", None),
        ({}, "invalid", None),
        ([], "invalid", None),
        ({"name": "cut", "agrs": {}}, "unknown_member", "args"),
        (
            {"name": "cut", "args": {"method": "GET", "path": "/x", "rann": 1}},
            *("unknown_member", "ran"),
        ),
        ({"name": "cut", "args": {"method": "GET"}}, "invalid", None),
        ({"name": "cut", "args": {"method": "GET", "path": "/x", "ran": "yes"}}, "invalid", None),
        ({"name": "cut", "args": {"method": "GET", "path": "no slash"}}, "invalid", None),
        ({"name": "cut", "args": ["GET", "/x"]}, "invalid", None),
        ({"name": "lose", "args": {"events": [5]}}, "invalid", None),
        ({"name": "freeze", "times": 1}, "invalid", None),
        ({"name": "drop", "seconds": 1}, "invalid", None),
        ({"name": "junk", "seconds": 0}, "invalid", None),
        ({"name": "junk", "seconds": 1e9}, "invalid", None),
        ({"name": "junk", "seconds": "1"}, "invalid", None),
        ({"name": "bad_gateway", "args": {"status": True}}, "invalid", None),
    ],
    ids=lambda value: json.dumps(value),
)
def test_wrong_faults_are_refused_with_a_hint(
    server: ComfyServer, data: Any, kind: str, near: str | None
) -> None:
    assert error_of(call(server, "POST", "/faults", data)) == (400, kind, near)
    assert not server.faults.active()


def test_a_thousand_faults_are_active_at_most(server: ComfyServer) -> None:
    for _ in range(1000):
        server.faults.no_history()
    answer = call(server, "POST", "/faults", {"name": "no_history"})
    assert error_of(answer) == (409, "too_many_faults", None)


def test_the_catalogue_has_every_fault_with_a_schema_of_its_arguments(server: ComfyServer) -> None:
    kinds = {each["name"]: each for each in call(server, "GET", "/faults/catalogue")[1]["faults"]}
    assert all(re.fullmatch(r"[A-Z][^`:]+.*\.", each["description"]) for each in kinds.values())
    assert not any("`" in each["description"] for each in kinds.values())
    methods = {name for name in dir(Faults) if not name.startswith("_")}
    assert kinds.keys() == methods - {"active", "clear"}
    for kind in kinds.values():
        jsonschema.Draft202012Validator.check_schema(kind["args"])
        assert kind["description"].endswith(".")
    jsonschema.validate(CUT["args"], kinds["cut"]["args"])
    assert kinds["cut"]["times"]
    assert not kinds["drop"]["lasts"]
    assert kinds["lose"]["args"]["properties"]["events"] == {
        "type": "array",
        "items": {"type": "string"},
    }
    for wrong in ({}, {**CUT["args"], "sent": "5"}, {**CUT["args"], "other": 1}):  # type: ignore[dict-item]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, kinds["cut"]["args"])


# -- requests ------------------------------------------------------------------------------


def test_requests_are_listed_without_those_of_the_control(server: ComfyServer) -> None:
    server.faults.bad_gateway(504, path="/features")
    for path in ("/queue?a=1", "/nope", "/features"):
        requests.get(f"{server.url}/api{path}", timeout=LIMIT)
    requests.post(f"{server.url}/interrupt", json={"prompt_id": "x"}, timeout=LIMIT)
    status, found = call(server, "GET", "/requests?body=1")
    shown = [(r["id"], r["method"], r["path"], r["status"]) for r in found["requests"]]
    assert (status, found["count"], found["next"]) == (200, 4, 4)
    assert shown == [
        (1, "GET", "/api/queue", 200),
        (2, "GET", "/api/nope", 404),
        (3, "GET", "/api/features", 504),
        (4, "POST", "/interrupt", 200),
    ]
    assert found["requests"][0]["query"] == {"a": "1"}
    assert found["requests"][3]["body"] == {"prompt_id": "x"}
    assert len(server.requests) == 4


def test_requests_are_filtered_and_read_in_pages(server: ComfyServer) -> None:
    for path in ("/queue", "/prompt", "/queue", "/queue"):
        requests.get(f"{server.url}{path}", timeout=LIMIT)
    first = call(server, "GET", "/requests?path=/que*&method=get&limit=2")[1]
    assert ([r["id"] for r in first["requests"]], first["count"]) == ([1, 3], 3)
    rest = call(server, "GET", f"/requests?path=/que*&since={first['next']}")[1]
    assert [r["id"] for r in rest["requests"]] == [4]
    end = call(server, "GET", f"/requests?since={rest['next']}")[1]
    assert end == {"count": 0, "next": 4, "requests": []}
    assert call(server, "DELETE", "/requests") == (200, {"forgotten": 4})
    assert server.requests == []


def test_bodies_are_json_text_or_base64(server: ComfyServer) -> None:
    for body in (b"[1]", b"5", b"text", b"\xff"):
        requests.post(f"{server.url}/nope", data=body, timeout=LIMIT)
    listed = call(server, "GET", "/requests?body=1")[1]["requests"]
    shown = [r.get("body", r.get("body_base64")) for r in listed]
    assert shown == [[1], "5", "text", base64.b64encode(b"\xff").decode()]
    assert "body" not in call(server, "GET", "/requests")[1]["requests"][0]


def test_the_status_of_an_open_socket_is_101_and_of_a_cut_request_none(
    server: ComfyServer,
) -> None:
    with ComfyApi(server.url) as api:
        api.init()
        server.faults.cut("GET", "/queue")
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server.url}/queue", timeout=LIMIT)
        listed = call(server, "GET", "/requests")[1]["requests"]
    assert {(r["path"], r["status"]) for r in listed} >= {("/ws", 101), ("/queue", None)}


def test_verification_compares_parts_of_bodies_and_counts(server: ComfyServer) -> None:
    with ComfyApi(server.url) as api:
        api.run(Workflow.example())
    node, inputs = next(iter(Workflow.example().to_dict().items()))
    wanted = {"prompt": {node: {"class_type": inputs["class_type"]}}}
    asked = {"method": "POST", "path": "/prompt", "body_contains": wanted}
    assert call(server, "POST", "/verify", asked)[0] == 200
    for count in (1, {"min": 1}, {"max": 1}, {"min": 0, "max": 3}):
        assert call(server, "POST", "/verify", {**asked, "count": count})[0] == 200
    for count in (0, 2, {"min": 2}, {"max": 0}):
        answer = call(server, "POST", "/verify", {**asked, "count": count})
        assert error_of(answer)[:2] == (417, "not_as_expected")
        assert answer[1]["count"] == 1
    asked["body_contains"] = {"prompt": {node: {"class_type": "Other"}}}
    status, content = call(server, "POST", "/verify", asked)
    assert (status, content["count"]) == (417, 0)
    assert content["nearest"][0]["path"].endswith("/prompt")
    assert len(content["nearest"]) == 3


# -- prompts -------------------------------------------------------------------------------


def test_prompts_are_shown_with_graph_outputs_and_seconds(server: ComfyServer) -> None:
    with ComfyApi(server.url) as api:
        done = api.run(Workflow.example()).prompt_id
    server.until(lambda: server.history)  # it follows the end event
    listed = call(server, "GET", "/prompts")[1]
    assert listed["count"] == 1
    assert listed["prompts"][0].items() >= {"id": done, "status": "success"}.items()
    prompt = call(server, "GET", f"/prompts/{done}")[1]
    assert prompt["graph"].keys() == Workflow.example().to_dict().keys()
    assert prompt["seconds"] >= 0
    assert any(output.get("images") for output in prompt["outputs"].values())
    assert error_of(call(server, "GET", "/prompts/nope"))[:2] == (404, "unknown_prompt")


# -- who may ask -----------------------------------------------------------------------------


def test_control_is_off_by_default() -> None:
    with ComfyServer() as server:
        with pytest.raises(RuntimeError, match="control=True"):
            _ = server.control_url
        assert requests.get(f"{server.url}/embedded/v1/health", timeout=LIMIT).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:5173"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
def test_pages_and_other_host_names_are_refused(headers: dict[str, str]) -> None:
    """Also those that the server itself allows."""
    with ComfyServer(control=True, allowed_hosts=["*"], cors=["*"]) as server:
        for method, path in (("GET", "/health"), ("OPTIONS", "/faults"), ("POST", "/kill")):
            url = f"{server.control_url}{path}"
            answer = requests.request(method, url, headers=headers, timeout=LIMIT)
            assert (answer.status_code, answer.json()["error"]["type"]) == (403, "forbidden")
            assert "Access-Control-Allow-Origin" not in answer.headers
        assert server.running == []  # nobody has killed it


ROUTES = [
    (method, path.replace("*", "1")) for method, path, _ in ControlService(ComfyServer()).routes
]


@pytest.fixture(scope="module")
def open_to_all() -> Iterator[ComfyServer]:
    with ComfyServer(control=True, allowed_hosts=["*"], cors=["*"]) as server:
        yield server


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=" ".join)
def test_no_route_of_the_control_answers_a_foreign_origin(
    open_to_all: ComfyServer, method: str, path: str
) -> None:
    answer = call(open_to_all, method, path, {}, Origin="http://evil.example")
    assert error_of(answer)[:2] == (403, "forbidden")
    assert open_to_all.running == []  # it is up


def test_the_guide_lists_every_route_of_the_control() -> None:
    section = section_of("fake-server", "All routes of the control")
    rows = re.findall(r"^``(/\S*)`` +([A-Z, ]+?)(?:  |$)", section, re.MULTILINE)
    listed = {
        (method, re.sub(r"\b(ID|CLASS)\b", "1", path))
        for path, methods in rows
        for method in methods.split(", ")
    }
    assert listed == {*ROUTES}


def test_the_routes_of_the_control_are_more_than_those_for_faults() -> None:
    assert {("POST", "/faults"), ("POST", "/reset"), ("POST", "/answers")} < {*ROUTES}


@pytest.mark.parametrize("path", ["", "/"])
def test_the_root_of_the_control_lists_its_routes(server: ComfyServer, path: str) -> None:
    status, told = call(server, "GET", path)
    prefix = "/embedded/v1"
    listed = {(method, at) for at, methods in told["routes"].items() for method in methods}
    assert status == 200
    assert listed == {
        (method, f"{prefix}{path}") for method, path, _ in ControlService(server).routes
    }


def test_tools_that_wait_for_a_server_may_ask_for_the_head_alone(server: ComfyServer) -> None:
    health = f"{server.control_url}/health"
    answer = requests.head(health, timeout=LIMIT)
    assert (answer.status_code, answer.content) == (200, b"")
    server.kill()
    assert requests.head(health, timeout=LIMIT).status_code == 503


def test_a_foreign_host_name_is_not_told_of_options_of_the_server(server: ComfyServer) -> None:
    """They do not concern its control."""
    status, told = call(server, "GET", "/health", Host="evil.example")
    assert (status, told["error"]["type"]) == (403, "forbidden")
    assert "allowed" not in told["error"]["message"]


def test_a_token_is_asked_of_each_call() -> None:
    with ComfyServer(control=True, control_token="s3cret", credentials="other") as server:
        for given in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic s3cret"}):
            assert error_of(call(server, "GET", "/health", **given))[:2] == (401, "unauthorized")
        assert call(server, "GET", "/health", Authorization="bearer s3cret")[0] == 200


def test_control_listens_on_loopback_unless_it_has_a_token() -> None:
    with ComfyServer(control=True, host="0.0.0.0") as server:
        assert server.control_url.startswith("http://127.0.0.1:")
    with ComfyServer(control=True, host="0.0.0.0", control_token="t") as server:
        assert server.control_url.startswith("http://0.0.0.0:")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"control": 70000}, ValueError),
        ({"control": "yes"}, TypeError),
        ({"control_token": "t"}, ValueError),
        ({"control": True, "control_token": ""}, ValueError),
        ({"control": True, "control_token": "a b"}, ValueError),
        ({"control": True, "control_token": 5}, TypeError),
    ],
    ids=str,
)
def test_wrong_options_of_the_control_are_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match="control"):
        ComfyServer(**options)


def test_control_keeps_its_port_until_the_server_stops() -> None:
    with ComfyServer(control=True) as server:
        url = server.control_url
        server.restart()
        assert (server.control_url, call(server, "GET", "/health")[0]) == (url, 200)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=LIMIT)


def test_a_port_of_the_control_that_is_in_use_stops_the_server() -> None:
    with ComfyServer(control=True) as one:
        port = int(one.control_url.split(":")[2].partition("/")[0])
        other = ComfyServer(control=port)
        with pytest.raises(OSError, match="cannot listen"):
            other.start()
        assert repr(other) == "<ComfyServer stopped>"


def test_bodies_of_the_control_have_a_limit(server: ComfyServer) -> None:
    data = {"name": "x" * 2**20}
    assert error_of(call(server, "POST", "/faults", data))[:2] == (413, "too_large")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"5", b"[" * 10_000], ids=len)
def test_bodies_that_are_no_json_objects_are_refused(server: ComfyServer, body: bytes) -> None:
    answer = requests.post(f"{server.control_url}/verify", data=body, timeout=LIMIT)
    assert error_of((answer.status_code, answer.json()))[:2] == (400, "invalid")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/healt", 404, "unknown_path"),
        ("GET", "/faults/1/2", 404, "unknown_path"),
        ("PUT", "/faults", 405, "wrong_method"),
        ("DELETE", "/faults/99", 404, "unknown_fault"),
        ("GET", "/requests?limit=1001", 400, "invalid"),
        ("GET", "/requests?limit=-1", 400, "invalid"),
        ("GET", "/requests?sinse=1", 400, "unknown_parameter"),
        ("POST", "/verify", 417, "not_as_expected"),
    ],
)
def test_wrong_calls_are_errors_of_one_form(
    server: ComfyServer, method: str, path: str, status: int, kind: str
) -> None:
    assert error_of(call(server, method, path))[:2] == (status, kind)

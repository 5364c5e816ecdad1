"""The doctor: what it asks, says and never says."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_client import (
    BasicCredentials,
    ClientClosed,
    ComfyApi,
    Event,
    HeaderCredentials,
    QueryCredentials,
)
from comfy_client.cli.main import main
from comfy_client.doctor import examine
from comfy_client.doctor.context import Redactor, Sockets
from comfy_client.doctor.examine import CHECKS, judged
from comfy_client.doctor.report import CheckResult
from comfy_client.errors import ServerUnreachable
from comfy_client.event_queue import HIGH_WATER
from comfy_client.testing import ComfyServer
from comfy_client.testing.versions import RELEASES
from comfy_client.testing.wire import Request
from tests.comfyui import ComfyUI, free_port
from tests.conftest import examples
from tests.helpers.clients import LIMIT, Fast, quickly, until, until_connected
from tests.helpers.command_line import runner
from tests.helpers.doctor import Impatient, ask, failing, states
from tests.helpers.doors import Nginx
from tests.helpers.http import opened
from tests.helpers.interrupts import press_ctrl_c_in_a_call
from tests.versions import has

#: What a check needs does not have to be told again.
ALL = [check.name for check in CHECKS]

TRIVIAL = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 7},
    },
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


# -- a server that is well -----------------------------------------------------------------


def test_every_check_is_well_on_a_healthy_server(server: ComfyServer) -> None:
    """Every check is made, and none complains."""
    report = ask(server.url, run=True)
    assert report.ok
    assert states(report) == {}
    assert [check.name for check in report] == ALL
    for event in ("execution_start", "executed", "execution_success"):
        assert event in report["run"].found
    assert f"ComfyUI {RELEASES[server.version].comfyui}" in report["version"].found


def test_without_run_nothing_changes_on_the_server_and_no_big_route_is_asked(
    server: ComfyServer,
) -> None:
    """Only GETs of small routes, each once or twice."""
    report = ask(server.url)
    assert [check.name for check in report] == [name for name in ALL if name != "run"]
    asked = [(r.method, r.path.removeprefix("/api")) for r in server.requests]
    small = {"/prompt", "/system_stats", "/features", "/users", "/ws"}
    assert {method for method, _ in asked} == {"GET"}
    assert {path for _, path in asked if not path.startswith("/jobs/")} == small
    assert len(asked) <= 8
    assert not server.ran


def test_with_run_it_asks_the_history_of_its_own_prompt_only(server: ComfyServer) -> None:
    """Others' graphs are nobody's business."""
    ask(server.url, run=True)
    (ran,) = server.ran
    paths = {r.path.removeprefix("/api") for r in server.requests}
    assert f"/history/{ran.prompt_id}" in paths
    assert not paths & {"/history", "/object_info", "/queue", "/jobs"}


def test_doctor_leaves_no_connection_open(server: ComfyServer) -> None:
    """After close() the server has not a single connection of it."""
    ask(server.url, run=True)
    server.until(lambda: server.open_connections == 0)
    assert not [t for t in threading.enumerate() if t.name.startswith("comfy-doctor")]


def test_the_clients_own_socket_is_left_alone(server: ComfyServer) -> None:
    """The second socket has an id of its own, and the first goes on."""
    gone: list[Any] = []
    with ComfyApi(server.url) as api:
        api.on("disconnected", gone.append)
        report = api.doctor(run=True)
        assert report.ok
        assert "connected" in report["client"].found
        assert api.connected
        assert len(server.hellos) == 2
        assert len(set(server.hellos)) == 2
        assert api.run(TRIVIAL, timeout=30).prompt_id
    assert not gone


def test_doctor_works_after_an_init_that_failed(refused: str) -> None:
    """Which is when people need it."""
    api = ComfyApi(refused)
    with pytest.raises(ServerUnreachable):
        api.init(timeout=1.0)
    assert failing(api.doctor()) == ["port"]
    api.close()


@pytest.mark.parametrize(
    "options", [{"credentials": ("me", "a secret")}, {"prefix": "/comfy/ui"}, {"version": "0.33"}]
)
def test_passwords_prefixes_and_new_servers_are_no_obstacle(options: dict[str, Any]) -> None:
    """All is fine there too."""
    with ComfyServer(**options) as server:
        given = {k: v for k, v in options.items() if k == "credentials"}
        report = ask(server.url, run=True, **given)
    assert states(report) == {}


def test_a_report_is_a_value(server: ComfyServer) -> None:
    """It can be iterated over, asked by name, pickled and printed, in a notebook too."""
    report = ask(server.url)
    assert report
    assert {check.name for check in report} == {check.name for check in report.checks}
    assert report["port"] in list(report)
    with pytest.raises(KeyError, match="teeth"):
        report["teeth"]
    assert str(pickle.loads(pickle.dumps(report))) == str(report) == repr(report)
    text = str(report)
    for word in ("comfy_client 0.", "Python 3.", "requests 2.", "websocket-client 1.", "UTC"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    """It is in seconds."""
    with pytest.raises(ValueError, match="seconds"):
        ask("127.0.0.1", timeout=timeout)
    with pytest.raises(TypeError, match="a timeout must be a number of seconds"):
        ask("127.0.0.1", timeout=str(timeout))


def test_the_doctor_refuses_a_closed_client() -> None:
    """As for every other method."""
    api = ComfyApi("127.0.0.1:9")
    api.close()
    with pytest.raises(ClientClosed):
        api.doctor()


# -- what the server is and has ------------------------------------------------------------


def test_previews_are_off_on_or_for_each_prompt_to_choose() -> None:
    """By the command line of the server, which it tells; else nobody knows."""
    with ComfyServer(version="0.3.75", previews=False) as server:
        report = ask(server.url)
        assert states(report) == {"previews": "warning"}
        assert "--preview-method auto" in report["previews"].advice
        with server.faults.rewrite("GET", "/system_stats", without_argv):
            assert ask(server.url)["previews"].state == "unknown"
    with ComfyServer(version="0.3.75") as server:
        assert "name their node" in ask(server.url)["previews"].found
        with server.faults.rewrite("GET", "/system_stats", with_previews):
            assert ask(server.url)["previews"].state == "ok"
    with ComfyServer(version="0.28", previews=False) as server:
        assert "chooses" in ask(server.url)["previews"].found


def without_argv(stats: Any) -> Any:
    return {**stats, "system": {k: v for k, v in stats["system"].items() if k != "argv"}}


def with_previews(stats: Any) -> Any:
    argv = ["main.py", "--preview-method", "none", "--preview-method=taesd"]
    return {**stats, "system": {**stats["system"], "argv": argv}}


def test_an_old_server_is_reported_with_what_it_lacks(server: ComfyServer) -> None:
    """By what it answers; no version is compared."""
    for route in ("/features", "/jobs/*"):
        server.faults.missing("*", route)
    report = ask(server.url)
    assert "0.3.45" in report["version"].advice
    assert "jobs API" in report["version"].advice
    assert report["upload"].state == "unknown"
    server.faults.missing("*", "/api/*")
    assert "routes below /api" in ask(server.url)["version"].advice
    server.faults.missing("GET", "/system_stats")
    report = ask(server.url)
    assert report.ok
    assert {report[name].state for name in ("version", "memory", "previews")} == {"unknown"}


def test_packages_with_known_flaws_are_a_warning() -> None:
    """With the reason and what installs newer ones; what is not installed is no concern."""
    packages = {"urllib3": "2.8.0rc1", "requests": "2.9.9", "Pillow": "not installed"}
    check = judged(packages)
    assert check.state == "warning"
    assert check.found.startswith(
        "urllib3 2.8.0rc1, requests 2.9.9: requests before 2.33 has known"
    )
    assert check.advice.endswith('pip install "requests>=2.33"')
    assert judged({**packages, "requests": "2.33"}).state == "ok"


def test_the_packages_that_are_looked_at_are_the_installed_ones(server: ComfyServer) -> None:
    found = ask(server.url)["packages"].found
    assert f"urllib3 {urllib3.__version__}" in found
    assert f"requests {requests.__version__}" in found


def test_scarce_memory_is_a_warning(server: ComfyServer) -> None:
    """With how to free some."""

    def scarce(stats: Any) -> Any:
        return {**stats, "devices": [{**stats["devices"][0], "vram_free": 1 << 20}]}

    with server.faults.rewrite("GET", "/system_stats", scarce):
        report = ask(server.url)
    assert states(report) == {"memory": "warning"}
    assert "free_memory" in report["memory"].advice
    warnings = 1 + (report["packages"].state == "warning")
    assert f": 0 failed, {warnings} warning" in str(report)


def test_users_are_asked_for_only_where_the_server_keeps_them(server: ComfyServer) -> None:
    """None given, an unknown one, a known one."""
    assert report_of_user(server, None) == "ok"
    with ComfyServer(multi_user=True) as shared:
        with ComfyApi(shared.url) as api:
            known = api.create_user("somebody")
        assert report_of_user(shared, None) == "warning"
        assert report_of_user(shared, "nobody-we-know") == "failed"
        assert report_of_user(shared, known) == "ok"


def report_of_user(server: ComfyServer, user: str | None) -> str:
    report = ask(server.url, user=user)
    assert "somebody" not in str(report)
    return report["user"].state


def test_a_queue_that_does_not_move_is_a_warning_and_the_run_is_cancelled(
    server: ComfyServer,
) -> None:
    """A worker that died leaves HTTP alive."""
    with server.faults.hang_worker(), Impatient(server.url) as api:
        api.submit(TRIVIAL)
        server.until(lambda: api.get_queue().running)
        report = api.doctor(run=True, timeout=12)  # in which a busy machine answers
        assert report["queue"].state == report["run"].state == "warning"
        assert "1 prompt of" in report["queue"].found
        assert not api.get_queue().pending


def test_a_queue_that_moves_is_fine_however_long_it_is(server: ComfyServer) -> None:
    """Prompts end while it is watched."""
    left = itertools.count(1000, -1)
    server.on("GET", "/prompt", lambda _: (200, {}, {"exec_info": {"queue_remaining": next(left)}}))
    report = ask(server.url)
    assert "and it is moving" in report["queue"].found
    assert report["queue"].state == "ok"


def test_a_prompt_that_fails_is_reported_by_the_run_check(server: ComfyServer) -> None:
    """Whatever the server has to say of it stands in its terminal."""

    class EmptyImage:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            names = TRIVIAL["1"]["inputs"]
            return {"required": {name: ("INT", {}) for name in names}}

        def run(self, **_: Any) -> Any:
            raise MemoryError("too little for sk-secret-of-mine")

    server.add_node(EmptyImage)
    report = ask(server.url, run=True)
    assert failing(report) == ["run"]
    assert "EmptyImage to PreviewImage failed" in report["run"].found
    assert "terminal" in report["run"].advice
    assert "sk-secret-of-mine" not in str(report)


def test_a_socket_that_breaks_during_the_run_costs_its_events_only(server: ComfyServer) -> None:
    """The history has the end."""

    def dropped(request: Request) -> Any:
        answer = server.answer(request)
        server.faults.drop()
        return answer

    server.on("POST", "/prompt", dropped)
    report = ask(server.url, run=True)
    assert "succeeded" in report["run"].found


@pytest.mark.timing(watch=0.02)
def test_doctor_reports_the_connections_and_jobs_of_the_client(server: ComfyServer) -> None:
    """Connections, jobs that wait, and when the last message came."""
    with server.faults.hang_worker(), Fast(server.url) as api:
        api.submit(TRIVIAL)
        server.faults.drop()
        until_connected(server, api, 2)
        told = api.doctor(timeout=20)["client"].found
        for words in ("its socket: connected", "connected 2 times", "1 jobs outstanding"):
            assert words in told
        assert "last message" in told


def test_a_check_with_a_defect_of_ours_spoils_no_other(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it asks is unknown, and the log has the traceback."""

    def broken(_: object) -> CheckResult:
        raise ZeroDivisionError

    checks = [c._replace(function=broken) if c.name == "clock" else c for c in CHECKS]
    monkeypatch.setattr(examine, "CHECKS", checks)
    report = ask(server.url)
    assert states(report) == {"clock": "unknown"}
    assert report["clock"].found == "a bug in comfy_client: ZeroDivisionError"
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
        ZeroDivisionError
    ]


def test_events_that_were_dropped_are_a_warning(server: ComfyServer) -> None:
    """With what to do: receivers that are slow."""
    seen, goes_on = threading.Event(), threading.Event()

    def receive(_: Event) -> None:
        seen.set()
        assert goes_on.wait(LIMIT)

    with Fast(server.url) as api:
        try:
            api.on("progress", receive)
            until_connected(server, api, 1)
            for value in range(2 * HIGH_WATER):
                data = {"value": value, "max": 1000, "prompt_id": "x", "node": "1"}
                server.push({"type": "progress", "data": data}, to=api.client_id)
                assert seen.wait(LIMIT)
            until(lambda: api.stats().dropped_events)
            check = api.doctor()["client"]
        finally:
            goes_on.set()
    assert check.state == "warning"
    assert "events were dropped for newer ones" in check.found
    assert "receivers are slow" in check.advice


def test_a_check_whose_time_is_over_opens_nothing_more() -> None:
    """Its thread may come back late, with a socket that nobody would close."""
    sockets = Sockets()
    sockets.cut(for_good=True)
    with socket.socket() as late, pytest.raises(ServerUnreachable, match="time ran out"):
        sockets.hold(late)
    assert late.fileno() == -1


def test_clocks_that_differ_are_a_warning(server: ComfyServer) -> None:
    """By the Date of an answer."""
    old = {"Date": "Tue, 01 Jan 2019 00:00:00 GMT"}
    answer = (200, old, {"exec_info": {"queue_remaining": 0}})
    with server.faults.answer("GET", "/prompt", answer):
        report = ask(server.url)
    assert report["clock"].state == "warning"


def test_a_post_that_a_proxy_refuses_is_reported_by_the_run_check(server: ComfyServer) -> None:
    """GET may pass while POST does not."""
    with server.faults.answer("POST", "/prompt", (403, {}, b"")):
        report = ask(server.url, run=True)
    assert failing(report) == ["run"]
    with server.faults.answer("POST", "/prompt", (400, {}, {"error": "no"})):
        report = ask(server.url, run=True)
    assert "EmptyImage" in report["run"].found


def test_junk_and_foreign_traffic_do_not_disturb(server: ComfyServer) -> None:
    """The socket brings what it likes."""
    with server.faults.junk(), server.faults.foreign_traffic():
        assert states(ask(server.url, run=True)) == {}


def test_ctrl_c_leaves_at_once() -> None:
    """Whatever a check is waiting for; here for one who accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = ComfyApi(f"127.0.0.1:{silent.getsockname()[1]}")
        thread = press_ctrl_c_in_a_call()
        with quickly(), contextlib.closing(api), pytest.raises(KeyboardInterrupt):
            api.doctor(timeout=60.0)
        thread.join()


@pytest.mark.parametrize(("is_up", "status", "words"), [(True, 0, "run  "), (False, 1, "FAILED")])
def test_the_command_prints_the_report(
    server: ComfyServer, refused: str, is_up: bool, status: int, words: str
) -> None:
    """And its exit status tells whether anything failed."""
    host = server.url if is_up else refused
    done = runner().invoke(main, ["doctor", "--run", "--host", host, "--timeout", "20"])
    assert done.exit_code == status
    assert words in done.output
    assert "comfy_client doctor: " in done.output


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)

FACTS = {
    "/system_stats": ("system", "devices", "comfyui_version", "argv", "ram_free", "name"),
    "/features": ("supports_preview_metadata", "max_upload_size"),
    "/users": ("users", "storage"),
    "/prompt": ("exec_info", "queue_remaining"),
}


# -- it never raises, and tells no secret --------------------------------------------------


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_doctor_never_raises_for_any_json_of_a_server(
    shared: ComfyServer, data: st.DataObject
) -> None:
    """Any JSON in the place of any answer makes a report."""
    shared.faults.clear()
    for route, names in FACTS.items():
        if data.draw(st.booleans()):
            inner = st.dictionaries(st.sampled_from(names), JSON, max_size=3)
            body = st.dictionaries(
                st.sampled_from(names), JSON | inner | st.lists(inner), max_size=3
            )
            shared.faults.answer("GET", route, (200, {}, data.draw(body | JSON)))
    report = ask(shared.url, timeout=20)
    shared.faults.clear()
    assert str(report)
    assert "defect" not in str(report)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    status=st.sampled_from([200, 200, 201, 204, 299, 302, 400, 401, 403, 404, 407, 418, 500, 503]),
    kind=st.sampled_from(["", "application/json", "text/html", "text/plain; charset=klingon"]),
    body=st.binary(max_size=40) | JSON,
    route=st.sampled_from(["/prompt", "/ws", "/features", "/system_stats", "/users", "*"]),
)
def test_doctor_never_raises_for_any_status_type_or_bytes(
    shared: ComfyServer, status: int, kind: str, body: Any, route: str
) -> None:
    """Any status, any type, any bytes."""
    headers = {"Content-Type": kind} if kind else {}
    with shared.faults.answer("*", route, (status, headers, body)):
        report = ask(shared.url, run=True, timeout=20)
    assert "defect" not in str(report)


SECRETS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":@/?#[]%,\\"),
    min_size=6,
    max_size=20,
).map(lambda text: f"S3{text}")


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), secrets=st.lists(SECRETS, min_size=11, max_size=11, unique=True))
def test_a_secret_is_nowhere_in_the_text_wherever_it_stood(
    shared: ComfyServer, data: st.DataObject, secrets: list[str]
) -> None:
    """Though the server repeats whatever it was sent, and more, in each place that is shown."""
    one, two, header, given_, cookie, name, password, param, client_id, *proxy = secrets
    kinds: list[Any] = [
        (one, two),
        BasicCredentials(one, two),
        HeaderCredentials({"X-Key": one, "X-More": f"{two} {one}"}),
        lambda: HeaderCredentials({"Authorization": f"Bearer {one}", "X-More": two}),
        QueryCredentials("token", one),
    ]
    session = requests.Session()
    session.headers["X-Session"] = header
    session.cookies.set("sid", cookie)
    session.auth = (name, password)
    session.params = {"p": param}
    is_refused = data.draw(st.booleans())
    kind = data.draw(st.sampled_from(kinds))
    known = [secret for secret in secrets if secret != two or kind is not kinds[-1]]

    def repeats(request: Request) -> Any:
        told = " ".join([request.target, *request.headers.values(), *known])
        if is_refused:
            return 401, {"WWW-Authenticate": told, "Server": told}, told
        system = {"comfyui_version": told, "os": told, "argv": ["--preview-method", told]}
        answers = {
            "/prompt": {"exec_info": {"queue_remaining": 0}},
            "/system_stats": {"system": system, "devices": [{"name": told}]},
            "/features": dict.fromkeys(known, 1),
            "/users": {"users": dict.fromkeys(known, "")},
        }
        return 200, {"Server": told}, answers.get(request.path, {})

    with session, shared.faults.answer("*", "*", repeats):
        report = ask(
            shared.url,
            client_id=client_id,
            credentials=kind,
            user=one,
            headers={"X-Given": given_},
            session=session,
            proxies={"http": f"http://{proxy[0]}:{proxy[1]}@127.0.0.1:9"},
        )
    told = str(report) + repr(report.checks)
    assert not [secret for secret in secrets if secret in told or secret[:5] in told]
    assert "***" in told


def test_a_password_that_is_a_common_word_is_not_revealed_by_stars(server: ComfyServer) -> None:
    """Who knows the text would read it from what is hidden there."""
    report = ask(server.url, credentials=("server", "proxy"), run=True)
    assert states(report) == {}
    assert "***" not in str(report)


def test_names_of_people_are_no_part_of_it(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in paths, nor in the path of the server's address."""
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("LOGNAME", "alice")
    verify = "/home/alice/own/ca.pem"
    for path in (verify, "/data/alice/ca.pem"):
        with opened("https://127.0.0.1:9", verify=path) as http:
            redact = Redactor(http, "me")
            assert "alice" not in redact(f"no file {path!r}, nor /mnt/alice")
    with ComfyServer(prefix="/user/alice/proxy") as prefixed:
        report = ask(prefixed.url, run=True)
    assert states(report) == {}
    assert "alice" not in str(report)
    assert report.host.endswith("/***")


# -- the real one --------------------------------------------------------------------------


@pytest.mark.real
def test_every_real_version_passes_the_doctor(any_comfyui: ComfyUI) -> None:
    """What the servers of 2024 do not tell cannot be told; all else is fine."""
    report = ask(any_comfyui.url, run=True)
    assert report.ok
    untold = {"previews", "upload"} if any_comfyui.version.startswith("2024") else set()
    assert {name for name, state in states(report).items() if state == "unknown"} <= untold
    assert "executed" in report["run"].found


@pytest.mark.real
def test_a_real_one_behind_nginx(comfyui: ComfyUI, papers: Path) -> None:
    """Well, without upgrade, with a rewritten Host, with a password, with nothing behind."""
    users = {"users": "me:{PLAIN}secret"}
    basic = "auth_basic comfy; auth_basic_user_file users;"
    plain = "location / { proxy_pass http://127.0.0.1:{upstream}; }"
    with Nginx(comfyui.port, certificates=papers) as door:
        report = ask(door.url, run=True, verify=papers / "ca.pem")
        assert states(report) == {}
        assert "nginx" in report["http"].found
        assert "client" not in failing(ask(door.url))
    with Nginx(comfyui.port, plain) as door:
        report = ask(door.url, run=True)
        assert states(report, "origin") == {
            "websocket": "failed",
            "greeting": "unknown",
            "echo": "unknown",
        }
        assert report["origin"].state == "warning"
        assert "succeeded" in report["run"].found
    with Nginx(comfyui.port, basic, files=users) as door:
        assert failing(ask(door.url)) == ["auth"]
        assert states(ask(door.url, run=True, credentials=("me", "secret"))) == {}
    with Nginx(free_port()) as door:
        report = ask(door.url)
        assert failing(report) == ["comfyui"]
        assert "502" in report["comfyui"].found


@pytest.mark.real
def test_a_real_one_with_users_and_previews_off() -> None:
    """As the command line of the server has it."""
    with ComfyUI("--multi-user", "--preview-method", "none") as server:
        report = ask(server.url, user="nobody-we-know")
        assert failing(report) == ["user"]
        # Newer ones make previews for each prompt that wants some.
        per_prompt = has(server.version, "preview method")
        assert report["previews"].state == ("ok" if per_prompt else "warning")

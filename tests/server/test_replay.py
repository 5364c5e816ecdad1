"""What was recorded happens again."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests

from comfy_client import (
    ComfyApi,
    ComfyError,
    Conflict,
    JobFailed,
    JobInterrupted,
    JobLost,
    NotFound,
    PromptRejected,
    RequestTimeout,
    Result,
    TransportError,
)
from comfy_client.testing import ComfyServer, Request, cut, never_answer
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.helpers.clients import LIMIT, Quick, until
from tests.helpers.records import graph, rows

RECORDINGS = Path(__file__).parents[1] / "recordings"


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    """One to record on."""
    with ComfyServer() as running:
        (running.root / "models/checkpoints/tiny.ckpt").touch()
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where to record."""
    return tmp_path / "run.jsonl"


@attrs.define
class Seen:
    """What a client saw of a run, without ids and times."""

    events: list[tuple[str, Any]]
    outcome: Any = None
    files: list[bytes] = attrs.field(factory=list)


def see(api: ComfyApi, workflow: Mapping[str, Any], **options: Any) -> Seen:
    """Run a workflow; every event of the prompt is compared, and every file."""
    seen = Seen([])

    def note(event: Any) -> None:
        raw = json.loads(json.dumps(dict(event.raw or {})).replace(event.prompt_id or "-", "ID"))
        raw.pop("timestamp", None)
        picture = bytes(event.image) if hasattr(event, "image") else None
        seen.events.append((event.name, raw if picture is None else picture))

    try:
        result = api.run(workflow, on_event=note, timeout=180, **options)
    except (JobFailed, JobInterrupted, JobLost, PromptRejected) as exc:
        seen.outcome = describe(exc)
    else:
        seen.files = [file.bytes() for file in result.images]
        seen.outcome = describe(result)
    return seen


def describe(outcome: Result | Exception) -> Any:
    """What there is to compare of an outcome."""
    if isinstance(outcome, Result):
        facts = ("filename", "subfolder", "type", "node_id")
        files = [[getattr(file, name, None) for name in facts] for file in outcome.images]
        return files, outcome.cached_nodes, outcome.complete
    names = ("node_id", "class_type", "exception_type", "exception_message", "node_errors")
    return type(outcome), [getattr(outcome, name, None) for name in names]


def again(path: Path, workflow: Mapping[str, Any], skip_after: float = 2.0, **options: Any) -> Seen:
    """The same on a server that replays."""
    with (
        ComfyServer.replay(path, skip_after=skip_after) as server,
        ComfyApi(server.url) as api,
    ):
        return see(api, workflow, **options)


# -- on the embedded server -------------------------------------------------------------


def test_a_run_with_previews_is_the_same_again(server: ComfyServer, path: Path) -> None:
    """Result, events in their order, previews, files, byte by byte; the ids are new."""
    workflow = load_workflow("txt2img_tiny")
    with ComfyApi(server.url, record=path) as api:
        first = see(api, workflow)
    assert sum(name == "b_preview" for name, _ in first.events) == 8
    assert len(first.files) == 1
    for _ in range(3):
        assert again(path, workflow) == first
    with ComfyServer.replay(path) as other, ComfyApi(other.url) as api:
        result = api.run(workflow)
        assert result.prompt_id not in path.read_text()
        assert api.client_id not in path.read_text()
        assert api.get_history(result.prompt_id).succeeded
        assert not api.get_queue().running


def test_a_cached_run_is_the_same_again(server: ComfyServer, path: Path) -> None:
    """Two runs in one recording."""
    with ComfyApi(server.url, record=path) as api:
        first = [see(api, graph(1001)), see(api, graph(1001))]
    assert not first[0].outcome[1]
    assert first[1].outcome[1] == ("1", "2")
    with ComfyServer.replay(path) as other, ComfyApi(other.url) as api:
        assert [see(api, graph(1001)), see(api, graph(1001))] == first


def test_pictures_over_the_socket_are_the_same_again(server: ComfyServer, path: Path) -> None:
    """Those of SaveImageWebsocket."""
    workflow = graph(1002)
    workflow["2"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    with ComfyApi(server.url, record=path) as api:
        first = see(api, workflow)
    assert first.files
    assert again(path, workflow) == first


def test_a_failure_is_the_same_again(server: ComfyServer, path: Path) -> None:
    """The same typed error."""

    class Broken:
        """Fails."""

        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True
        CATEGORY = "test"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {}}

        def run(self) -> tuple[()]:
            raise RuntimeError("broken on purpose")

    server.add_node(Broken)
    workflow = {"1": {"class_type": "Broken", "inputs": {}}}
    with ComfyApi(server.url, record=path) as api:
        first = see(api, workflow)
    assert first.outcome[0] is JobFailed
    assert again(path, workflow).outcome == first.outcome


def test_a_rejection_is_the_same_again(server: ComfyServer, path: Path) -> None:
    """With its ``node_errors``."""
    workflow = graph(-5)
    with ComfyApi(server.url, record=path) as api:
        first = see(api, workflow)
    assert first.outcome[0] is PromptRejected
    assert first.outcome[1][-1]
    assert again(path, workflow) == first


def interrupted(api: ComfyApi, workflow: Mapping[str, Any]) -> Seen:
    """Run it, and interrupt it at its first step."""
    gone = threading.Event()

    def stop(event: Any) -> None:
        if not gone.is_set():
            gone.set()
            api.interrupt(event.prompt_id)

    unsubscribe = api.on("progress", stop)
    try:
        return see(api, workflow)
    finally:
        unsubscribe()


def test_an_interrupted_run_is_the_same_again(server: ComfyServer, path: Path) -> None:
    """What came after the interrupt waits for the interrupt."""
    workflow = load_workflow("txt2img_tiny", seed=3)
    with ComfyApi(server.url, record=path) as api:
        first = interrupted(api, workflow)
    assert first.outcome[0] is JobInterrupted
    with ComfyServer.replay(path) as other, ComfyApi(other.url) as api:
        assert interrupted(api, workflow).outcome == first.outcome


def test_requests_that_the_client_left_out_are_skipped(server: ComfyServer, path: Path) -> None:
    """A later request tells that it will not come."""
    with ComfyApi(server.url, record=path) as api:
        api.store_setting("Comfy.Locale", "de")
        first = see(api, graph(1003))
    assert again(path, graph(1003), skip_after=0.5) == first


def test_runs_of_several_threads_find_their_own_answers(server: ComfyServer, path: Path) -> None:
    """By their workflows, in whatever order they come."""
    workflows = [graph(2000 + n) for n in range(4)]

    def run(api: ComfyApi, order: list[int]) -> dict[int, bytes]:
        jobs = {n: api.submit(workflows[n]) for n in order}
        return {n: job.result(60).images[0].bytes() for n, job in jobs.items()}

    with ComfyApi(server.url, record=path) as api:
        first = run(api, [0, 1, 2, 3])
    assert len(set(first.values())) == 4
    with ComfyServer.replay(path) as other, ComfyApi(other.url) as api:
        assert run(api, [0, 1, 2, 3]) == first


def test_titles_do_not_distinguish_replayed_runs(server: ComfyServer, path: Path) -> None:
    """Whoever recorded it may have sent none, nor an empty place for them."""

    def titled(seed: int) -> dict[str, Any]:
        return {key: {**node, "_meta": {"title": key}} for key, node in graph(seed).items()}

    def run(api: ComfyApi, seeds: list[int]) -> dict[int, float | None]:
        return {seed: api.append_prompt(titled(seed)).number for seed in seeds}

    with ComfyApi(server.url, record=path) as api:
        first = run(api, [2010, 2011])
    bare = [json.dumps(_without(row, "_meta")) for row in rows(path)]
    path.write_text("".join(f"{row}\n" for row in bare))
    with ComfyServer.replay(path) as other, ComfyApi(other.url) as api:
        assert run(api, [2011, 2010]) == first


def _without(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _without(each, key) for name, each in value.items() if name != key}
    return [_without(each, key) for each in value] if isinstance(value, list) else value


def test_a_cut_in_the_middle_of_a_job_is_the_same_again(server: ComfyServer, path: Path) -> None:
    """The bug report becomes a test."""
    workflow = load_workflow("txt2img_tiny", seed=4)

    def run(api: ComfyApi, cut: bool) -> tuple[Seen, list[str]]:
        links: list[str] = []
        api.on("disconnected", lambda event: links.append(event.name))
        api.on("reconnected", lambda event: links.append(event.name))
        if cut:
            api.on("progress", lambda event: server.faults.drop(), once=True)
        seen = see(api, workflow)
        until(lambda: len(links) == 2)
        return seen, links

    with Quick(server.url, record=path) as api:
        first, links = run(api, True)
    assert [row["by"] for row in rows(path) if row["kind"] == "closed"] == ["server", "client"]
    with ComfyServer.replay(path, skip_after=20.0) as other, Quick(other.url) as api:
        second, links_again = run(api, False)
        assert len(other.handshakes) == 2
    assert links_again == links == ["disconnected", "reconnected"]
    assert second.outcome == first.outcome
    assert second.files == first.files


@pytest.mark.timing(lost=0.5)
def test_a_job_that_got_lost_gets_lost_again(path: Path) -> None:
    """A server that was restarted, seen from the client."""
    with ComfyServer() as server, Quick(server.url, record=path) as api:
        server.script({"type": "executing", "data": {"node": "1", "prompt_id": "x"}})
        api.on("executing", lambda event: server.restart(), once=True)
        with pytest.raises(JobLost):
            api.run(graph(), timeout=30)
    with ComfyServer.replay(path) as other, Quick(other.url) as api, pytest.raises(JobLost):
        api.run(graph(), timeout=30)


def test_the_path_below_which_a_proxy_had_it_is_no_part_of_it(path: Path) -> None:
    """A replay is a server of its own."""
    with ComfyServer(prefix="/user/alice") as server, ComfyApi(server.url, record=path) as api:
        first = see(api, graph())
    assert "alice" not in path.read_text()
    assert again(path, graph()) == first


def test_a_refused_socket_is_refused_again(path: Path) -> None:
    """And the run ends by polling."""
    with ComfyServer() as server:
        server.faults.refuse_sockets(404)
        with Quick(server.url, record=path) as api:
            first = api.run(graph())
    with ComfyServer.replay(path) as other, Quick(other.url) as api:
        other.until(lambda: len([r for r in other.requests if r.path == "/ws"]) > 2, 20)
        assert describe(api.run(graph(), timeout=20)) == describe(first)
        assert not api.connected


def test_an_answer_that_did_not_come_does_not_come_again(path: Path) -> None:
    """Of a submission: the job is looked for, and found."""
    with (
        ComfyServer() as server,
        Quick(server.url, record=path) as api,
        server.on("POST", "/prompt", lambda request: server.answer(request) and None),
    ):
        first = api.run(graph())
    assert any(r["status"] is None for r in rows(path) if r["kind"] == "http")
    with ComfyServer.replay(path) as other, Quick(other.url) as api:
        assert describe(api.run(graph(), timeout=20)) == describe(first)


def test_answers_that_end_too_soon_do_so_again(path: Path) -> None:
    """Cut, silent in the middle, and no JSON: the same errors."""

    def stall(request: Request) -> None:
        cut((200, {}, {"x": "y" * 500}), 300)(request)
        never_answer(request)

    faults: dict[str, Any] = {
        "/cut": cut((200, {}, {"x": "y" * 500}), 300),
        "/empty": cut((200, {}, {"x": "y" * 500}), 0),
        "/stall": stall,
        "/silent": never_answer,
        "/junk": (200, {"Content-Type": "application/json"}, b'{"x": '),
        "/page": (502, {"Content-Type": "text/html"}, "<p>bad gateway"),
    }

    def ask(api: ComfyApi) -> list[Any]:
        found = []
        for route in faults:
            timeout = 0.4 if route in ("/stall", "/silent") else 20.0
            with pytest.raises(ComfyError) as caught:
                api.fetch_api(route, timeout=timeout).json()
            found.append((route, type(caught.value), getattr(caught.value, "status", None)))
        return found

    with ComfyServer() as server, ComfyApi(server.url, record=path) as api:
        for route, answer in faults.items():
            server.on("GET", route, answer)
        first = ask(api)
    assert [kind for _, kind, _ in first[:4]] == [
        TransportError,
        TransportError,
        RequestTimeout,
        RequestTimeout,
    ]
    with ComfyServer.replay(path) as other, ComfyApi(other.url) as api:
        assert ask(api) == first


@pytest.mark.parametrize("recorded", ["auto", "poll"])
@pytest.mark.parametrize("played", ["auto", "poll"])
def test_a_run_ends_whatever_the_transport(
    server: ComfyServer, path: Path, recorded: Any, played: Any
) -> None:
    """What is asked now, and was not then, is told from what was."""
    with Quick(server.url, record=path, transport=recorded) as api:
        first = api.run(graph(3000))
    with (
        ComfyServer.replay(path, skip_after=0.5) as other,
        Quick(other.url, transport=played) as api,
    ):
        result = api.run(graph(3000), timeout=30)
    assert [file.filename for file in result.images] == [file.filename for file in first.images]


# -- what it answers --------------------------------------------------------------------


def test_unrecorded_requests_are_404_or_409(server: ComfyServer, path: Path) -> None:
    """404 for what it has not, 409 for what it has no more."""
    with ComfyApi(server.url, record=path) as api:
        api.run(graph(1004))
    with ComfyServer.replay(path) as other, ComfyApi(other.url) as api:
        api.run(graph(1004))
        with pytest.raises(NotFound, match=r"the recording run\.jsonl has no GET /api/models"):
            api.fetch_api("/models/checkpoints")
        with pytest.raises(Conflict, match=r"has no more POST /api/prompt: 1 in all"):
            api.run(graph(1004))


def test_answers_come_in_their_order_and_the_last_again(path: Path) -> None:
    """A GET between two requests that change something gets what was said between them."""
    with ComfyServer() as server, ComfyApi(server.url, record=path) as api:
        for value in ("one", "two"):
            api.store_setting("Comfy.X", value)
            assert api.get_setting("Comfy.X") == value
    with ComfyServer.replay(path) as other, ComfyApi(other.url) as api:
        for value in ("one", "two"):
            api.store_setting("Comfy.X", value)
            assert [api.get_setting("Comfy.X") for _ in range(3)] == [value] * 3


@pytest.mark.parametrize("route", ["jobs?status=pending%2Cin_progress", "queue"])
def test_a_job_of_which_only_the_history_told_the_end_runs_no_more(path: Path, route: str) -> None:
    """The recorded client had not asked for the queue again; another client does so in vain."""
    item = {"id": "p", "status": "in_progress"}
    exchanges: list[tuple[str, Any, Any]] = [
        ("POST /api/prompt", {"prompt": {}, "prompt_id": "p"}, {"prompt_id": "p", "number": 0}),
        (f"GET /api/{route}", None, {"jobs": [item], "queue_running": [[0, "p", {}, {}, []]]}),
        ("GET /api/history/p", None, {"p": {"outputs": {}, "status": {"status_str": "success"}}}),
    ]
    with path.open("w") as file:
        for t, (asked, body, answer) in enumerate(exchanges):
            method, _, target = asked.partition(" ")
            row = {"t": t, "kind": "http", "method": method, "path": target, "request": body}
            row |= {"status": 200, "response": answer, "content_type": "application/json"}
            file.write(json.dumps(row) + "\n")
    with ComfyServer.replay(path) as other:
        requests.post(f"{other.url}/api/prompt", json=exchanges[0][1], timeout=LIMIT)

        def running() -> bool:
            told = requests.get(f"{other.url}/api/{route}", timeout=LIMIT).json()
            return bool(told["queue_running"] if route == "queue" else told["jobs"])

        assert running()
        until(lambda: not running())


def test_downloads_in_part_and_their_tags_are_the_same_again(
    server: ComfyServer, path: Path
) -> None:
    """Requests are told apart by Range and If-None-Match too."""
    (server.root / "output" / "x.bin").write_bytes(bytes(range(256)))
    asked: list[dict[str, str]] = [{}, {"Range": "bytes=10-19"}, {"Range": "bytes=250-"}]

    def ask(api: ComfyApi) -> list[Any]:
        found = [api.fetch_api("/view?filename=x.bin", headers=headers) for headers in asked]
        return [(answer.status, answer.content, answer.headers["ETag"]) for answer in found]

    with ComfyApi(server.url, record=path) as api:
        first = ask(api)
    assert [status for status, _, _ in first] == [200, 206, 206]
    with ComfyServer.replay(path) as other, ComfyApi(other.url) as api:
        assert ask(api) == first


def test_a_body_that_was_not_recorded_is_an_error(server: ComfyServer, path: Path) -> None:
    """Not made up."""
    (server.root / "output" / "big.bin").write_bytes(bytes(5_000_000))
    with ComfyApi(server.url, record=path) as api:
        api.get_image({"filename": "big.bin"})
    with (
        ComfyServer.replay(path) as other,
        ComfyApi(other.url) as api,
        pytest.raises(Conflict, match=r"did not keep the body of GET /api/view.*5000000 bytes"),
    ):
        api.get_image({"filename": "big.bin"})


def test_secrets_are_not_needed_to_replay(path: Path) -> None:
    """What was hidden is not what requests are told apart by."""
    from comfy_client import QueryCredentials

    with (
        ComfyServer() as server,
        ComfyApi(
            server.url, record=path, credentials=QueryCredentials("token", "hunter2-geheim")
        ) as api,
    ):
        first = see(api, graph(), comfy_api_key="sk-12345678")
    assert "hunter2" not in path.read_text()
    assert again(path, graph()) == first


def test_port_prefix_and_tls_are_those_of_any_server(
    server: ComfyServer, path: Path, tmp_path: Path
) -> None:
    """Passed through."""
    import trustme

    with ComfyApi(server.url, record=path) as api:
        first = see(api, graph(1005))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    options = {"prefix": "/comfy", "tls": (tmp_path / "cert.pem", tmp_path / "key.pem")}
    with (
        ComfyServer.replay(path, **options) as other,  # type: ignore[arg-type]
        ComfyApi(other.url, verify=tmp_path / "ca.pem") as api,
    ):
        assert other.url.startswith("https://")
        assert other.url.endswith("/comfy")
        assert see(api, graph(1005)) == first


def test_faults_come_before_the_recording(server: ComfyServer, path: Path) -> None:
    """What ``server.on`` says counts."""
    with ComfyApi(server.url, record=path) as api:
        first = see(api, graph(1006))
    with ComfyServer.replay(path) as other, ComfyApi(other.url) as api:
        with other.on("GET", "/models", (200, {}, ["mine"])):
            assert api.fetch_api("/models").json() == ["mine"]
        assert see(api, graph(1006)) == first


def test_the_pauses_can_be_kept(server: ComfyServer, path: Path) -> None:
    """``pace=1``: as long as it was; without, at once."""
    workflow = load_workflow("txt2img_tiny", seed=5)
    with ComfyApi(server.url, record=path) as api:
        first = see(api, workflow)
    steps = [r["t"] for r in rows(path) if r.get("msg", {}).get("type") == "progress"]
    start = time.perf_counter()
    with ComfyServer.replay(path, pace=2.0) as other, ComfyApi(other.url) as api:
        assert see(api, workflow) == first
    assert time.perf_counter() - start > 2.0 * (steps[-1] - steps[0])
    for wrong in (-1, "1", float("nan")):
        with pytest.raises(ValueError, match="pace is 0 or more"):
            ComfyServer.replay(path, pace=wrong)  # type: ignore[arg-type]


def test_a_replay_leaves_no_thread_behind(server: ComfyServer, path: Path) -> None:
    """No thread, also when it is stopped in the middle."""
    with ComfyApi(server.url, record=path) as api:
        see(api, load_workflow("txt2img_tiny", seed=6))
    before = set(threading.enumerate())
    for _ in range(5):
        with ComfyServer.replay(path, pace=20) as other, ComfyApi(other.url) as api:
            api.submit(load_workflow("txt2img_tiny", seed=6))
    until(lambda: set(threading.enumerate()) <= before)


# -- the transcripts of real servers ----------------------------------------------------


def transcript(version: str, name: str) -> tuple[Path, list[dict[str, Any]]]:
    """A file of a real server, and what it says."""
    there = RECORDINGS / version / f"{name}.jsonl"
    return there, [json.loads(line) for line in there.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("version", ["2024-03", "0.3.52", "0.3.75", "0.28.1"])
def test_transcripts_of_runs_play(version: str) -> None:
    """All events of the file, in its order."""
    there, lines = transcript(version, "normal_previews")
    with ComfyServer.replay(there) as server, ComfyApi(server.url) as api:
        heard: list[str] = []
        api.on("all", lambda event: heard.append(event.name))
        result = api.run(load_workflow("txt2img_tiny"), timeout=20)
        recorded = [
            row["msg"]["type"] if row["kind"] == "json" else "b_preview"
            for row in lines
            if row["kind"] in ("json", "binary")
        ]
        recorded = [name for name in recorded if name != "status"]
        until(lambda: [name for name in heard if name in recorded] == recorded)
    assert [file.filename for file in result.images]


@pytest.mark.parametrize("version", ["2024-03", "0.3.52", "0.3.75", "0.28.1"])
def test_transcripts_of_failures_play(version: str) -> None:
    """As the typed errors that they are."""
    failed, _ = transcript(version, "runtime_error")
    with (
        ComfyServer.replay(failed) as server,
        ComfyApi(server.url) as api,
        pytest.raises(JobFailed) as caught,
    ):
        api.run(load_workflow("failing_runtime"), timeout=20)
    assert caught.value.node_id
    stopped, _ = transcript(version, "interrupt")
    with ComfyServer.replay(stopped) as server, ComfyApi(server.url) as api:
        job = api.submit(load_workflow("txt2img_slow"))
        api.interrupt()
        with pytest.raises(JobInterrupted):
            job.result(60)
    refused, _ = transcript(version, "validation_error")
    with (
        ComfyServer.replay(refused) as server,
        ComfyApi(server.url) as api,
        pytest.raises(PromptRejected),
    ):
        api.run(load_workflow("txt2img_tiny"))


def test_every_transcript_can_be_read() -> None:
    """Also those that nobody plays."""
    files = list(RECORDINGS.glob("[0-9]*/*.jsonl"))  # in the folders of versions
    assert len(files) > 30
    for file in files:
        ComfyServer.replay(file)


def test_an_answer_of_a_transcript_that_is_cut_is_not_made_up() -> None:
    """``routes`` has the first 700 characters of each."""
    there, _ = transcript("0.3.75", "routes")
    with ComfyServer.replay(there) as server, ComfyApi(server.url) as api:
        assert api.get_features().supports_preview_metadata
        with pytest.raises(Conflict, match="did not keep"):
            api.fetch_api("/internal/logs")


# -- bad files --------------------------------------------------------------------------


HTTP = '{"t": 0, "kind": "http", "method": "GET", "path": "/", "status": 200'
DEEP = f'"response": {"[" * 200}{"]" * 200}'


def test_a_stranger_chooses_no_headers(path: Path) -> None:
    """Only those that a recorder keeps are sent again."""
    names = ("Set-Cookie", "Location", "Access-Control-Allow-Origin", "ETag")
    row = f'{HTTP}, "response": "x", "headers": {json.dumps(dict.fromkeys(names, "a"))}}}'
    path.write_text(f"{row}\n")
    with ComfyServer.replay(path) as server:
        found = requests.get(server.url, timeout=60).headers
        assert [name for name in names if name in found] == ["ETag"]


@pytest.mark.parametrize(
    "more",
    [
        '"request": {"extra_data": [1]}, "response": {"prompt_id": "p"}',
        '"request": [], "response": {"prompt_id": ["p"]}',
        '"request": {"client_id": []}, "response": {"prompt_id": {}, "number": "x"}',
        '"response": "\\ud800", "content_type": "text/plain"',
    ],
)
def test_a_stranger_causes_no_failure(path: Path, more: str) -> None:
    """Values of any type, where the server uses them."""
    post = HTTP.replace("GET", "POST").replace('"path": "/"', '"path": "/prompt"')
    executed = '{"t": 0, "kind": "json", "ch": "a", "msg": {"type": "executed", "data": %s}}'
    data = '{"prompt_id": "p", "node": []}'
    path.write_text(f"{post}, {more}}}\n{executed % data}\n")
    with ComfyServer.replay(path, skip_after=0.1) as server:
        assert requests.post(f"{server.url}/prompt", json={}, timeout=60).status_code == 200
        for route in ("/queue", "/history", "/history/p", "/prompt"):
            assert requests.get(server.url + route, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: not JSON"),
        ("hello", "line 1: not JSON"),
        ("[" * 100_000, "line 1: not JSON"),
        ('{"t": 0, "kind": "note", "text": "x"}\n[1, 2]\n', "line 2: not a line of a recording"),
        ('{"t": 0, "kind": "nothing"}\n', "line 1: not a line of a recording"),
        ('{"kind": "note", "text": "x"}\n', "line 1: not a line of a recording"),
        ('{"t": 0, "kind": "json", "msg": {}}\n', "line 1: a line of kind 'json' without"),
        (
            '{"t": 0, "kind": "http", "method": "GET", "path": "/", "status": "x"}\n',
            "1: no proper 'status'",
        ),
        ('{"t": 0, "kind": "http", "method": "GET", "path": "/"}\n', "without a 'status'"),
        ('{"t": 0, "kind": "closed", "ch": "ws1", "code": []}\n', "line 1: no proper 'code'"),
        ('{"t": 0, "kind": "note", "text": "x", "format": 99}\n', "newer than this"),
        (
            '{"t": 0, "kind": "binary", "ch": "ws1", "len": 1, "head_b64": "?"}\n',
            "line 1: a 'head_b64' that is not base64",
        ),
        ('{"t": 1e400, "kind": "note", "text": "x"}\n', "no proper 't'"),
        ('{"t": NaN, "kind": "note", "text": "x"}\n', "no proper 't'"),
        ('{"t": -1, "kind": "note", "text": "x"}\n', "no proper 't'"),
        ('{"t": 0, "kind": "closed", "ch": "ws1", "code": 99999}\n', "no proper 'code'"),
        ('{"t": 0, "kind": "note", "text": "x", "refused": -5}\n', "no proper 'refused'"),
        (
            '{"t": 0, "kind": "binary", "ch": "a", "len": 1000000000000, "head_b64": ""}\n',
            "no proper 'len'",
        ),
        (f"{HTTP}, {DEEP}}}\n", "nested too deeply"),
        (f'{HTTP}, "begun": {"9" * 400}}}\n', "no proper 'begun'"),
        (f'{HTTP}, "asked": {{"range": []}}}}\n', "no proper 'asked'"),
        (f'{HTTP}, "headers": {{"etag": "a\\r\\nSet-Cookie: b"}}}}\n', "no proper 'headers'"),
        (f'{HTTP}, "content_type": "a\\r\\nSet-Cookie: b"}}\n', "no proper 'content_type'"),
        (f"{HTTP[:-3]}99999}}\n", "no proper 'status'"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    """It names the line."""
    there = tmp_path / "bad.jsonl"
    there.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        ComfyServer.replay(there)
    assert str(there) in str(caught.value)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    """As of any file."""
    with pytest.raises(FileNotFoundError, match=r"no\.jsonl"):
        ComfyServer.replay(tmp_path / "no.jsonl")


def test_a_last_line_that_a_crash_cut_is_left_out(server: ComfyServer, path: Path) -> None:
    """All before it counts."""
    with ComfyApi(server.url, record=path) as api:
        first = see(api, graph(1007))
    text = path.read_text()
    path.write_text(text + text.splitlines()[-2][:40])
    assert again(path, graph(1007)) == first


def test_a_replay_serves_other_clients(server: ComfyServer, path: Path) -> None:
    """Not only for this client."""
    with ComfyApi(server.url, record=path) as api:
        api.fetch_api("/features")
    with (
        ComfyServer.replay(path) as other,
        urllib.request.urlopen(f"{other.url}/api/features") as answer,
    ):
        assert json.loads(answer.read())["supports_preview_metadata"]


# -- on the real one --------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.timeout(240)
def test_runs_of_the_real_comfyui_are_the_same_again(comfyui: ComfyUI, path: Path) -> None:
    """With previews, cached, failing, refused, interrupted: one recording of all."""
    normal = load_workflow("txt2img_tiny", seed=int(time.time()))
    sender = load_workflow("txt2img_websocket", seed=int(time.time()))

    def everything(api: ComfyApi) -> list[Seen]:
        return [
            see(api, normal, preview_method="auto"),
            see(api, normal),
            see(api, sender),
            see(api, load_workflow("failing_runtime")),
            see(api, load_workflow("invalid_values")),
            interrupted(api, load_workflow("txt2img_slow")),
        ]

    with ComfyApi(comfyui.url, record=path) as api:
        first = everything(api)
    kinds = [JobFailed, PromptRejected, JobInterrupted]
    assert [seen.outcome[0] for seen in first[3:]] == kinds
    assert all(seen.files for seen in first[:3])
    assert sum(name == "b_preview" for name, _ in first[0].events) >= 4
    with ComfyServer.replay(path) as server, ComfyApi(server.url) as api:
        second = everything(api)
    for one, two in zip(first[:5], second[:5], strict=True):
        assert one.outcome == two.outcome
        assert one.files == two.files
        assert [name for name, _ in one.events] == [name for name, _ in two.events]
    for one, two in zip(first[:3], second[:3], strict=True):
        assert one.events == two.events
    assert second[5].outcome == first[5].outcome
    assert str(comfyui.root) not in path.read_text()


@pytest.mark.real
def test_every_version_of_comfyui_is_the_same_again(any_comfyui: ComfyUI, path: Path) -> None:
    """Also those without ``/api``, with ids of their own, without previews of type 4."""
    workflow = load_workflow("txt2img_tiny", seed=int(time.time()))
    with ComfyApi(any_comfyui.url, record=path) as api:
        first = [see(api, workflow), see(api, workflow)]
    with ComfyServer.replay(path) as server, ComfyApi(server.url) as api:
        second = [see(api, workflow), see(api, workflow)]
    assert first[0].files
    assert [seen.outcome for seen in second] == [seen.outcome for seen in first]
    assert [seen.files for seen in second] == [seen.files for seen in first]
    assert first[0].events == second[0].events

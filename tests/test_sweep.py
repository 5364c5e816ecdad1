"""A grid of prompts: its order, its rows, and its journal, whatever ends it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from comfy_client import (
    ApiError,
    AuthenticationError,
    BearerCredentials,
    ComfyApi,
    JobFailed,
    PromptRejected,
    QueryCredentials,
    ServerUnreachable,
    SweepRow,
    Workflow,
    WorkflowError,
)
from comfy_client.journal import Journal
from comfy_client.testing import ComfyServer
from comfy_client.workflow.grid import Grid, downstream, find_input
from tests.conftest import load_workflow
from tests.grids import GRID, LIMIT, POINTS, WORKFLOW, Record, furnish, lines, prompts, texts
from tests.heard import until


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as server:
        yield server


@pytest.fixture
def record(server: ComfyServer) -> Record:
    return furnish(server)


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as api:
        yield api


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "sweep.jsonl"


# -- the grid ---------------------------------------------------------------------------------


def txt2img() -> dict[str, Any]:
    return load_workflow("txt2img_tiny")


def test_what_feeds_the_most_is_the_outermost_loop() -> None:
    """Wherever it stands in the grid; the innermost is what feeds the least."""
    grid = Grid(
        txt2img(),
        {"KSampler.seed": range(3), "Checkpoint.ckpt_name": ["a", "b"], "Size.width": [64, 128]},
    )
    assert len(downstream(txt2img(), "4")) == 6
    assert len(downstream(txt2img(), "5")) == 4
    order = [grid.params(point) for point in grid.order()]
    assert [each["Checkpoint.ckpt_name"] for each in order] == ["a"] * 6 + ["b"] * 6
    assert [each["Size.width"] for each in order[:6]] == [64] * 3 + [128] * 3
    assert [each["KSampler.seed"] for each in order[:6]] == [0, 1, 2, 2, 1, 0]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_from_one_point_to_the_next_one_value_changes(sizes: list[int]) -> None:
    """And each point is there once."""
    inputs = ["KSampler.seed", "KSampler.steps", "Checkpoint.ckpt_name", "Size.width"]
    grid = Grid(txt2img(), {name: range(size) for name, size in zip(inputs, sizes, strict=False)})
    order = grid.order()
    assert sorted(order) == list(range(len(grid)))
    for here, there in itertools.pairwise(map(grid.params, order)):
        assert sum(here[name] != there[name] for name in here) == 1


def test_points_are_numbered_as_itertools_product_has_them() -> None:
    """With the names that the caller gave."""
    grid = Grid(WORKFLOW, GRID)
    assert [tuple(grid.params(n).values()) for n in range(len(grid))] == POINTS
    assert [list(grid.params(n)) for n in range(len(grid))] == [list(GRID)] * 4
    assert grid.workflow(1)["Load"]["name"] == "b"


@pytest.mark.parametrize(
    "name", ["Model v1.5.name", "Load.name", "1.name"], ids=["title", "class", "id"]
)
def test_an_input_is_named_by_title_class_or_id(name: str) -> None:
    """Titles may have dots."""
    node, field = find_input(Workflow(WORKFLOW), name)
    assert (node.id, field) == ("1", "name")


def test_inputs_may_have_dots_too() -> None:
    """As those of some newer nodes."""
    graph = {"1.2": {"class_type": "Batch", "inputs": {"images.image0": 1}}}
    for name in ("1.2.images.image0", "Batch.images.image0"):
        node, field = find_input(Workflow(graph), name)
        assert (node.id, field) == ("1.2", "images.image0")


@pytest.mark.parametrize(
    ("axes", "error", "match"),
    [
        ({"KSampler.sed": [1]}, WorkflowError, "no input 'sed'.*'seed'"),
        ({"KSamler.seed": [1]}, WorkflowError, "'KSampler'"),
        ({"CLIPTextEncode.text": ["a"]}, WorkflowError, "ambiguous"),
        ({"seed": [1]}, WorkflowError, "write node and input"),
        ({"KSampler.seed": [float("nan")]}, WorkflowError, "nan"),
        ({"KSampler.model": [1]}, WorkflowError, "is linked"),
        ({"KSampler.seed": []}, ValueError, "'KSampler.seed' has no values"),
        ({"KSampler.seed": itertools.count()}, ValueError, "at most 100000"),
        ({"KSampler.seed": [1], "3.seed": [2]}, ValueError, "are the same input"),
        ({}, ValueError, "without an input"),
        ({"Positive prompt.text": "a text"}, TypeError, "takes a list of values"),
        ({"KSampler.seed": 7}, TypeError, "takes a list of values"),
        ({3: [7]}, TypeError, "named as in"),
        ([("KSampler.seed", [1])], TypeError, "a dict of values"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused_before_anything_is_sent(axes, error, match) -> None:
    """In words that name the input; unknown names come with candidates."""
    api = ComfyApi("http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(error, match=match):
        api.sweep(txt2img(), axes)


def test_the_digest_is_that_of_what_is_run() -> None:
    """What an input had before it was varied does not count; order and values do."""
    digest = Grid(WORKFLOW, GRID).digest()
    other = copy.deepcopy(WORKFLOW)
    other["3"]["inputs"]["seed"] = 99
    assert Grid(other, {"3.seed": (0, 1), "1.name": ["a", "b"]}).digest() == digest
    assert Grid(WORKFLOW, dict(reversed(GRID.items()))).digest() != digest
    assert Grid(WORKFLOW, {**GRID, "Make.seed": [1, 0]}).digest() != digest
    other["2"]["inputs"]["text"] = "y"
    assert Grid(other, GRID).digest() != digest


# -- rows -------------------------------------------------------------------------------------


def test_rows_come_in_the_order_of_the_grid_and_run_in_another(api, record) -> None:
    """With parameters, seconds, results, and what was cached."""
    told: list[SweepRow] = []
    threads = set()
    on_row = lambda row: (told.append(row), threads.add(threading.get_ident()))  # noqa: E731
    rows = api.sweep(WORKFLOW, GRID, on_row=on_row)
    assert [tuple(row.params.values()) for row in rows] == POINTS
    assert [row.index for row in rows] == [0, 1, 2, 3]
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert record.values() == ["ax0", "ax1", "bx1", "bx0"]
    assert sorted(told, key=lambda row: row.index) == list(rows)
    assert threads == {threading.get_ident()}
    for row in rows:
        assert row.error is None
        assert not row.from_journal
        assert row.cached == len(row.result.cached_nodes)
        assert 0 <= row.execution_seconds <= row.seconds + 0.01
    with pytest.raises(AttributeError):
        rows[0].index = 7


def test_the_order_saves_runs_of_nodes(api, record) -> None:
    """Counted on the server, against the order in which the grid is written."""
    grid = {"Make.seed": range(4), "Write.text": ["x", "y"], "Load.name": ["a", "b"]}
    names, values = list(grid), list(grid.values())
    naive = [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
    assert len(list(api.map(WORKFLOW, naive))) == 16
    in_naive_order = Counter(name for name, _ in record.ran)
    record.ran.clear()
    rows = api.sweep(WORKFLOW, grid)
    in_this_order = Counter(name for name, _ in record.ran)
    assert in_naive_order == {"Load": 16, "Write": 8, "Make": 16, "Keep": 16}
    # One of each stands in the cache already.
    assert in_this_order["Load"] in (1, 2)
    assert in_this_order["Write"] in (2, 3)
    assert in_this_order["Make"] in (15, 16)
    assert sum(row.cached for row in rows) == 4 * 16 - in_this_order.total()


def test_an_error_of_one_prompt_is_in_its_row_and_the_others_run(api, record) -> None:
    """Of the run, and of the server's check."""
    record.failing = {1}
    rows = api.sweep(WORKFLOW, {"Make.seed": [0, 1, "many", 3]}, in_flight=2)
    assert texts(rows) == ["ax0", None, None, "ax3"]
    assert [type(row.error) for row in rows] == [type(None), JobFailed, PromptRejected, type(None)]
    assert rows[1].seconds is not None
    assert rows[2].seconds is None
    assert rows[2].cached is None


def test_the_table_is_flat(api, record) -> None:
    """For csv and pandas."""
    record.failing = {1}
    first, second = api.sweep(WORKFLOW, {"Make.seed": [0, 1]}).table()
    assert list(first) == [
        *("Make.seed", "files", "seconds", "execution_seconds", "cached", "prompt_id", "error")
    ]
    assert (first["Make.seed"], first["files"], first["error"]) == (0, [], None)
    assert "seed 1 is one that fails" in second["error"]
    json.dumps([first, second])


def test_no_more_than_in_flight_stand_in_the_queue(api, record) -> None:
    """As the server tells it."""
    lengths = []
    api.on("status", lambda event: lengths.append(event.queue_remaining))
    api.sweep(WORKFLOW, {"Make.seed": range(10)}, in_flight=3)
    until(lambda: 0 in lengths)
    assert max(lengths) <= 3


def test_what_a_callback_raises_ends_the_sweep_and_what_waits_is_taken_back(api, record) -> None:
    """What runs goes on."""
    record.gate = threading.Semaphore(1)

    def on_row(row: SweepRow) -> None:
        until(lambda: api.get_queue().running)
        raise LookupError("enough")

    with pytest.raises(LookupError):
        api.sweep(WORKFLOW, {"Make.seed": range(10)}, on_row=on_row)
    assert api.get_queue().pending == ()
    assert len(api.get_queue().running) == 1
    record.gate = None


def test_nobody_there_is_told_at_once(journal, monkeypatch) -> None:
    """Only a server that was there is waited for; the journal stays good."""
    monkeypatch.setattr("comfy_client.jobs.LOST_APART", 0.5)
    api = ComfyApi("http://127.0.0.1:9")
    with contextlib.closing(api), pytest.raises(ServerUnreachable):
        api.sweep(WORKFLOW, GRID, journal=journal)
    with ComfyServer() as server, ComfyApi(server.url) as api:
        furnish(server)
        assert texts(api.sweep(WORKFLOW, GRID, journal=journal)) == ["ax0", "bx0", "ax1", "bx1"]


def test_strict_refuses_what_the_server_would_run_in_part(api, record) -> None:
    """As submit does."""
    graph = copy.deepcopy(WORKFLOW)
    graph["5"] = {"class_type": "Keep", "inputs": {}}
    (row,) = api.sweep(graph, {"Make.seed": [1]}, strict=True)
    assert isinstance(row.error, PromptRejected)
    (row,) = api.sweep(graph, {"Make.seed": [2]})
    assert row.result.node_errors


# -- the journal ------------------------------------------------------------------------------


def test_a_finished_journal_gives_the_rows_again_and_asks_the_server_for_nothing(
    server, api, record, journal
) -> None:
    """With results whose files can be had, and with errors."""
    record.failing = {1}
    graph = copy.deepcopy(WORKFLOW)
    graph["6"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 7},
    }
    graph["7"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["6", 0], "filename_prefix": "in a folder/n"},
        "_meta": {"title": "Save"},
    }
    rows = api.sweep(graph, GRID, journal=journal)
    with ComfyApi(server.url) as other:
        asked = []
        other._http.request = lambda *args, **kw: asked.append(args)
        told = []
        again = other.sweep(graph, GRID, journal=journal, on_row=told.append)
        assert asked == []
        del other._http.request
        assert told == list(again)
        for old, new in zip(rows, again, strict=True):
            assert new.from_journal
            assert (new.index, new.params, new.prompt_id) == (old.index, old.params, old.prompt_id)
            assert (new.seconds, new.execution_seconds) == (old.seconds, old.execution_seconds)
            assert new.cached == old.cached
            assert type(new.error) is type(old.error)
            if old.error:
                assert str(new.error) == str(old.error)
                assert (new.error.node_id, new.error.exception_type) == ("3", "RuntimeError")
                assert new.error.prompt_id == old.prompt_id
                assert new.error.inputs == {}
            else:
                assert new.result.texts == old.result.texts
                assert new.result["Save"].files[0].subfolder == "in a folder"
                assert new.result.images[0].bytes() == old.result.images[0].bytes()
                assert new.result.seeds == old.result.seeds == {"3": old.params["Make.seed"]}
                for name in ("cached_nodes", "fully_cached", "complete", "node_errors"):
                    assert getattr(new.result, name) == getattr(old.result, name)


@pytest.mark.parametrize("version", ["0.3.75", "0.8", "new"])
def test_servers_take_ids_that_follow_from_the_journal(journal, version) -> None:
    """They are canonical UUIDs, which the newest insist on."""
    with ComfyServer(version=version) as server, ComfyApi(server.url) as api:
        furnish(server)
        rows = api.sweep(WORKFLOW, GRID, journal=journal)
        assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
        assert [row.prompt_id for row in rows] == [
            str(uuid.uuid5(uuid.UUID(lines(journal)[0]["id"]), f"{point}/1")) for point in range(4)
        ]
        journal.write_text(json.dumps(lines(journal)[0]) + "\n")
        api.sweep(WORKFLOW, GRID, journal=journal)
        assert prompts(api) == dict.fromkeys(POINTS, 1)


def test_the_file_is_for_its_owner_alone_from_its_first_moment(tmp_path, monkeypatch) -> None:
    """Whatever the umask says; and nothing else is left in the folder."""
    modes = []
    link = os.link
    monkeypatch.setattr(os, "link", lambda a, b: (modes.append(os.stat(a).st_mode), link(a, b)))
    old = os.umask(0)
    try:
        Journal(tmp_path / "j", {"a": 1}).__exit__()
    finally:
        os.umask(old)
    assert [mode & 0o777 for mode in modes] == [0o600]
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["j"]


def test_an_id_is_on_the_disk_before_the_prompt_is_sent(api, record, journal, monkeypatch) -> None:
    """Synced, not only written."""
    happened: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (happened.append("synced"), fsync(file))[1])
    post = ComfyApi._post_prompt

    def posted(self: ComfyApi, body: Any, **kw: Any) -> Any:
        assert lines(journal)[-1]["sent"] == body["prompt_id"]
        assert happened[-1] == "synced"
        happened.append("posted")
        return post(self, body, **kw)

    monkeypatch.setattr(ComfyApi, "_post_prompt", posted)
    api.sweep(WORKFLOW, GRID, journal=journal)
    assert happened.count("posted") == 4


def test_no_secret_comes_into_the_journal(journal) -> None:
    """Neither keys for partner nodes, nor credentials, nor values of the grid."""
    with ComfyServer(credentials="the-bearer-token") as server:
        record = furnish(server)
        record.failing = {1}
        graph = copy.deepcopy(WORKFLOW)
        graph["3"]["inputs"]["api_key"] = "sk-very-secret-key"
        with ComfyApi(server.url, credentials=BearerCredentials("the-bearer-token")) as api:
            rows = api.sweep(
                graph,
                {"Make.seed": [0, 1], "Write.text": ["a private text"]},
                journal=journal,
                comfy_api_key="comfy-partner-key",
                extra_data={"auth_token_comfy_org": "partner-token"},
            )
    assert isinstance(rows[1].error, JobFailed)
    text = journal.read_text()
    assert "seed 1 is one that fails" in text
    for secret in (
        *("the-bearer-token", "sk-very-secret-key", "comfy-partner-key", "partner-token"),
    ):
        assert secret not in text


@pytest.mark.parametrize("place", ["query", "header", "auth", "session", "callable"])
def test_what_a_server_repeats_of_our_credentials_is_not_in_the_journal(
    server, journal, place
) -> None:
    """Wherever they were given; the client need not have connected before."""
    secret = "very-secret-word"

    class Echo:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"n": ("INT", {})}}

        def run(self, n: int) -> None:
            raise RuntimeError(f"who asks with {secret}?")

    server.add_node(Echo)
    session = requests.Session()
    session.auth = ("me", secret) if place == "auth" else None
    session.headers["Authorization"] = f"Bearer {secret}"
    how: dict[str, Any] = {
        "query": {"credentials": QueryCredentials("token", secret)},
        "header": {"headers": {"X-Api-Key": secret}},
        "auth": {"session": session},
        "session": {"session": session},
        "callable": {"credentials": lambda: BearerCredentials(secret)},
    }
    graph = {"1": {"class_type": "Echo", "inputs": {"n": 0}}}
    with session, contextlib.closing(ComfyApi(server.url, **how[place])) as api:
        (row,) = api.sweep(graph, {"Echo.n": [1]}, journal=journal)
    assert isinstance(row.error, JobFailed)
    assert "who asks with ***?" in journal.read_text()
    assert secret not in journal.read_text()


def test_a_word_in_any_other_header_is_no_secret(server, record, journal) -> None:
    """What came out stays what it is."""
    headers = {"X-Project": "lighthouse"}
    grid = {"Write.text": ["lighthouse"]}
    with contextlib.closing(ComfyApi(server.url, headers=headers)) as api:
        for _ in range(2):
            assert texts(api.sweep(WORKFLOW, grid, journal=journal)) == ["alighthouse0"]


@pytest.mark.parametrize(
    ("workflow", "grid"),
    [
        ({**WORKFLOW, "2": {"class_type": "Write", "inputs": {"text": "other"}}}, GRID),
        (WORKFLOW, {"Make.seed": [0, 1], "Load.name": ["a", "c"]}),
        (WORKFLOW, {"Load.name": ["a", "b"], "Make.seed": [0, 1]}),
    ],
    ids=["workflow", "values", "order"],
)
def test_the_journal_of_another_sweep_is_refused(api, record, journal, workflow, grid) -> None:
    """In words, before anything is sent, and it stays as it is."""
    api.sweep(WORKFLOW, GRID, journal=journal)
    before = journal.read_bytes()
    with pytest.raises(ValueError, match="the journal of another sweep"):
        api.sweep(workflow, grid, journal=journal)
    assert journal.read_bytes() == before
    assert len(api.get_histories()) == 4


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not one complete line"),
        (b"no newline", "not one complete line"),
        (b"a note\n", "no journal: its first line is no JSON"),
        (b"[]\n", "no journal: its first line is no JSON"),
        (b"{}\n", "no journal of a sweep"),
        (b'{"journal": "sweep of comfy_client", "version": 2}\n', "newer version"),
    ],
)
def test_other_files_are_refused_and_left_alone(api, journal, content, match) -> None:
    """A typo in the name costs nothing."""
    journal.write_bytes(content)
    with pytest.raises(ValueError, match=match):
        api.sweep(WORKFLOW, GRID, journal=journal)
    assert journal.read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [
        b"\x00\x00\x00",
        b'{"point": 99, "sent": "x"}',
        b'{"sent": "x"}',
        b'{"point": 0}',
        b'{"point": 0, "prompt_id": "x", "seconds": 1, "execution_seconds": 1, "result": 7}',
    ],
)
def test_damage_before_the_end_is_refused(api, record, journal, line) -> None:
    """Only what a crash tears off the end is mended."""
    api.sweep(WORKFLOW, GRID, journal=journal)
    content = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([*content[:3], line, *content[3:]]) + b"\n")
    with pytest.raises(ValueError, match="is damaged"):
        api.sweep(WORKFLOW, GRID, journal=journal)
    assert len(api.get_histories()) == 4


def test_two_at_once_on_one_journal_are_refused(api, record, journal) -> None:
    """In one process as in two; afterwards it is free again."""
    record.gate = threading.Semaphore(0)
    thread = threading.Thread(target=lambda: api.sweep(WORKFLOW, GRID, journal=journal))
    thread.start()
    until(lambda: api.get_queue().running)
    with pytest.raises(BlockingIOError, match="another process is writing this journal"):
        api.sweep(WORKFLOW, GRID, journal=journal)
    code = (
        "import sys; from comfy_client.journal import Journal\n"
        "try: Journal(sys.argv[1], {})\nexcept BlockingIOError as exc: print(exc)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, journal], check=True, capture_output=True, text=True
    )
    assert "another process is writing this journal" in told.stdout
    record.gate = None
    thread.join(LIMIT)
    api.sweep(WORKFLOW, GRID, journal=journal)
    assert len(api.get_histories()) == 4


def test_failed_rows_run_again_when_told(api, record, journal) -> None:
    """And only they; the last word counts."""
    record.failing = {1}
    assert texts(api.sweep(WORKFLOW, GRID, journal=journal)) == ["ax0", "bx0", None, None]
    record.failing = set()
    assert texts(api.sweep(WORKFLOW, GRID, journal=journal)) == ["ax0", "bx0", None, None]
    rows = api.sweep(WORKFLOW, GRID, journal=journal, retry_failed=True)
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert [row.from_journal for row in rows] == [True, True, False, False]
    assert prompts(api) == {point: 1 + point[0] for point in POINTS}
    again = api.sweep(WORKFLOW, GRID, journal=journal)
    assert texts(again) == texts(rows)
    assert all(row.from_journal for row in again)


def test_a_graph_that_the_server_stumbled_over_is_told_the_same_again(
    server, api, record, journal
) -> None:
    """An ApiError stays one."""
    with server.faults.answer("POST", "/prompt", (500, {}, {"error": "boom"})):
        (row,) = api.sweep(WORKFLOW, {"Make.seed": [5]}, journal=journal)
    (again,) = api.sweep(WORKFLOW, {"Make.seed": [5]}, journal=journal)
    assert type(row.error) is type(again.error) is ApiError
    assert str(again.error) == str(row.error)


def cut_off(api: ComfyApi, record: Record, journal: Path | None) -> None:
    """Ctrl-C after the first row, while the next one runs."""
    record.gate = threading.Semaphore(1)

    def on_row(row: SweepRow) -> None:
        until(lambda: api.get_queue().running)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row)


def test_each_row_is_told_once_over_all_calls(api, record, journal) -> None:
    """One whose callback did not come back is told again."""
    told: list[tuple[Any, bool]] = []
    record.failing = {1}

    def on_row(row: SweepRow) -> None:
        told.append((row.index, row.from_journal))
        if len(told) == 2:
            raise LookupError("the disk is full")

    with pytest.raises(LookupError):
        api.sweep(WORKFLOW, GRID, journal=journal, in_flight=1, on_row=on_row)
    second = told[1][0]
    api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row)
    assert told[2] == (second, True)
    assert sorted(index for index, _ in told) == sorted([0, 1, 2, 3, second])
    api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row)
    assert len(told) == 5
    record.failing = set()
    rows = api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row, retry_failed=True)
    assert [index for index, _ in told[5:]] == [row.index for row in rows if not row.from_journal]
    assert len(told) == 7


def test_a_row_that_ran_anew_is_told_anew(api, record, journal) -> None:
    """Until its callback has come back, though the one of its failure had."""
    record.failing = {1}
    api.sweep(WORKFLOW, GRID, journal=journal, on_row=lambda row: None)
    record.failing = set()
    told: list[tuple[int, bool]] = []

    def on_row(row: SweepRow) -> None:
        told.append((row.index, row.from_journal))
        if len(told) == 1:
            raise LookupError("the disk is full")

    with pytest.raises(LookupError):
        api.sweep(WORKFLOW, GRID, journal=journal, in_flight=1, on_row=on_row, retry_failed=True)
    api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row)
    assert told[1] == (told[0][0], True)


def test_what_ctrl_c_took_back_is_no_loss_to_the_next_call(api, record, journal, caplog) -> None:
    """It is submitted without an alarm; what ran in spite of that is taken up."""
    cut_off(api, record, journal)
    (running,) = api.get_queue().running
    assert f"prompt {running.prompt_id} goes on: take it up by api.job" in caplog.text
    withdrawn = [line["withdrawn"] for line in lines(journal) if "withdrawn" in line]
    assert running.prompt_id in withdrawn
    caplog.clear()
    record.gate = None
    with ComfyApi(api.host) as other:
        rows = other.sweep(WORKFLOW, GRID, journal=journal)
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert caplog.text == ""
    assert prompts(api) == dict.fromkeys(POINTS, 1)


def test_ctrl_c_without_a_journal_says_what_one_is_good_for(api, record, caplog) -> None:
    """And how to come back to what runs."""
    cut_off(api, record, None)
    assert "1 of 4 rows had ended; with a journal=" in caplog.text
    assert "goes on: take it up by api.job" in caplog.text
    record.gate = None


def test_a_refused_password_leaves_nothing_in_the_queue_to_warn_of(journal, caplog) -> None:
    """Nothing was submitted."""
    with ComfyServer(credentials=("me", "right")) as server:
        furnish(server)
        with (
            ComfyApi(server.url, credentials=("me", "right")) as api,
            server.faults.answer("POST", "*", (401, {}, None)),
            pytest.raises(AuthenticationError),
        ):
            api.sweep(WORKFLOW, GRID, journal=journal)
    assert "may stay in the queue" not in caplog.text


def test_ctrl_c_and_the_same_call_again_runs_nothing_twice(api, record, journal) -> None:
    """What ran at that moment is taken up, what waited was taken back."""
    cut_off(api, record, journal)
    assert api.get_queue().pending == ()
    threading.Timer(0.5, lambda: setattr(record, "gate", None)).start()
    rows = api.sweep(WORKFLOW, GRID, journal=journal)
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert [row.from_journal for row in rows] == [True, False, False, False]
    assert rows[2].seconds is None  # it was taken up
    assert rows[2].execution_seconds is not None
    assert prompts(api) == dict.fromkeys(POINTS, 1)

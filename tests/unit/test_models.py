"""Answers of the server become frozen values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from comfy_client.errors import ServerUnreachable, UnexpectedResponse
from comfy_client.models import (
    Device,
    Features,
    GlobalSubgraph,
    HistoryEntry,
    JobInfo,
    JobPage,
    ModelFile,
    ModelFolder,
    NodeDef,
    PingResult,
    Queue,
    QueuedPrompt,
    QueueItem,
    QueueStatus,
    RawLogs,
    SystemStats,
    UploadedImage,
    UserConfig,
    UserDataEntry,
    UserDataInfo,
    combo_options,
)
from comfy_client.values import identifier

RECORDINGS = Path(__file__).parents[1] / "recordings"


def answers(version: str, name: str, path: str = "") -> list[Any]:
    """Bodies of the recorded answers whose path starts so."""
    text = (RECORDINGS / version / f"{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [
        row["response"]
        for row in rows
        if row["kind"] == "http" and row["path"].startswith(path) and row["status"] == 200
    ]


def last_history(version: str, name: str) -> HistoryEntry:
    """The last history entry of a recording."""
    found = [body for body in answers(version, name, "/history/") if body]
    (entry,) = found[-1].values()
    return HistoryEntry.from_json(entry)


def entry(*messages: tuple[str, dict[str, Any]], **fields: Any) -> HistoryEntry:
    """A history entry with these messages."""
    status = {"status_str": "error", "completed": False, "messages": [list(m) for m in messages]}
    prompt = [0, "p", {}, {}, []]
    return HistoryEntry.from_json({"prompt": prompt, "outputs": {}, "status": status, **fields})


# -- queue --------------------------------------------------------------------------------


def test_pending_prompts_stand_in_the_order_in_which_they_will_run():
    """The server's list is a heap."""
    pending = [[number, str(number), {}, {}, []] for number in (1001, 1005, 1002, -3, 1003.5)]
    queue = Queue.from_json({"queue_running": [], "queue_pending": pending})
    assert [item.number for item in queue.pending] == [-3, 1001, 1002, 1003.5, 1005]


def test_a_queue_knows_whether_it_holds_a_prompt():
    """Running or pending."""
    queue = Queue.from_json({"queue_running": [[0, "a"]], "queue_pending": [[1, "b"]]})
    assert "a" in queue
    assert "b" in queue
    assert "c" not in queue


@pytest.mark.parametrize("odd", [1, "text", True, ["x"]])
def test_odd_parts_of_an_answer_spoil_only_themselves(odd):
    """As a node pack or a proxy may leave them."""
    assert NodeDef.from_json("N", {"input": odd}).inputs() == {}
    node = NodeDef.from_json("N", {"input": {"required": odd, "optional": {"a": ["INT"]}}})
    assert node.inputs() == {"a": ["INT"]}
    messages = [["execution_cached", {"nodes": {"of": odd}}]]
    entry = {"prompt": [1, "p"], "status": {"messages": messages}}
    assert HistoryEntry.from_json(entry).cached_nodes == ()


@pytest.mark.parametrize("odd", [1, "text", True])
def test_folders_that_are_no_list_are_an_unexpected_response(odd):
    """Rather than one folder for each letter."""
    with pytest.raises(UnexpectedResponse):
        ModelFolder.from_json({"name": "loras", "folders": odd})


def test_prompts_without_a_number_come_last():
    """Whatever stands there in its place."""
    pending = [[None, "c"], ["1", "d"], [2, "b"], [1, "a"]]
    queue = Queue.from_json({"queue_running": [], "queue_pending": pending})
    assert [item.prompt_id for item in queue.pending] == ["a", "b", "c", "d"]


def test_prompts_of_equal_number_can_be_sorted():
    """Only the number is compared."""
    pending = [[1, "b", {}], [1, "a", {}]]
    queue = Queue.from_json({"queue_running": [], "queue_pending": pending})
    assert [item.prompt_id for item in queue.pending] == ["b", "a"]


@pytest.mark.parametrize(
    ("wire", "extra_data", "outputs"),
    [
        ([3, "p", {"1": {}}, {"client_id": "c"}, ["9", "10"]], {"client_id": "c"}, ("9", "10")),
        ([3, "p", {"1": {}}, {"client_id": "c"}, ["9"], {"secret": 1}], {"client_id": "c"}, ("9",)),
        ([3, "p", {"1": {}}, ["9"], {"client_id": "c"}], {"client_id": "c"}, ("9",)),
        ([3, "p", {"1": {}}], {}, ()),
    ],
)
def test_queue_items_of_any_length_are_read(wire, extra_data, outputs):
    """More elements, fewer, and the last two swapped as Comfy Cloud does."""
    item = QueueItem.from_json(wire)
    assert (item.number, item.prompt_id, item.workflow) == (3, "p", {"1": {}})
    assert item.extra_data == extra_data
    assert item.outputs == outputs
    assert item.raw == wire


@pytest.mark.parametrize("wire", [{}, None, "text", [], [1]])
def test_a_queue_item_that_names_no_prompt_is_an_unexpected_response(wire):
    """Whatever came instead of the list."""
    with pytest.raises(UnexpectedResponse):
        QueueItem.from_json(wire)


@pytest.mark.parametrize("errors", [[], {}, None])
def test_node_errors_are_always_a_mapping(errors):
    """Early servers send a list."""
    receipt = {"prompt_id": "p", "number": 1, "node_errors": errors}
    assert QueuedPrompt.from_json(receipt).node_errors == {}


def test_a_receipt_needs_only_the_prompt_id():
    """All else may be missing."""
    assert QueuedPrompt.from_json({"prompt_id": "p"}) == QueuedPrompt("p", None, {})
    with pytest.raises(UnexpectedResponse, match="prompt_id"):
        QueuedPrompt.from_json({"number": 1})


def test_queue_status_is_the_number_within():
    """And anything else is no answer of a ComfyUI."""
    assert QueueStatus.from_json({"exec_info": {"queue_remaining": 2}}).queue_remaining == 2
    for wrong in ({"e": 1}, [], {"exec_info": {}}):
        with pytest.raises(UnexpectedResponse):
            QueueStatus.from_json(wrong)


# -- history ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2024-03", "0.3.52", "0.3.75", "0.28.1"])
def test_a_recorded_success_is_one(version):
    """Also where the server had no execution_success yet."""
    found = last_history(version, "cached_rerun")
    assert found.succeeded
    assert not found.interrupted
    assert found.execution_error is None
    assert found.outputs
    assert found.workflow
    assert found.cached_nodes


@pytest.mark.parametrize("version", ["2024-03", "0.3.52", "0.3.75", "0.28.1"])
def test_a_recorded_failure_has_its_error(version):
    """With node and exception."""
    found = last_history(version, "runtime_error")
    assert not found.succeeded
    assert not found.interrupted
    assert found.execution_error["node_type"] == "LoadImage"
    assert found.execution_error["exception_message"]


@pytest.mark.parametrize("version", ["2024-03", "0.3.52", "0.3.75", "0.28.1"])
def test_a_recorded_interrupt_is_no_failure(version):
    """Only the last message tells them apart."""
    found = last_history(version, "interrupt")
    assert found.interrupted
    assert not found.succeeded
    assert found.execution_error is None
    assert found.status.status_str == "error"


def test_times_are_those_of_the_first_and_last_message():
    """In seconds; None on servers that give none."""
    found = last_history("0.3.75", "cached_rerun")
    assert 0 < found.ended - found.started < 60
    assert 1.7e9 < found.started < 1.9e9
    old = last_history("2024-03", "cached_rerun")
    assert old.started is None
    assert old.ended is None


def test_a_block_is_no_failure():
    """ExecutionBlocked is a notice; the prompt goes on to its success."""
    blocked = ("execution_error", {"exception_type": "ExecutionBlocked"})
    assert entry(blocked).execution_error is None
    assert entry(blocked, ("execution_success", {})).succeeded
    real = ("execution_error", {"exception_type": "OSError"})
    assert entry(real, blocked).execution_error == {"exception_type": "OSError"}


def test_the_last_end_counts():
    """An error that an interrupt followed is an interrupt."""
    found = entry(("execution_error", {"exception_type": "E"}), ("execution_interrupted", {}))
    assert found.interrupted
    assert found.execution_error is None


def test_the_end_message_outweighs_the_status():
    """The server's success flag can be a leftover of the prompt before."""
    said = {"status_str": "success", "completed": True, "messages": [["execution_error", {}]]}
    assert not entry(status=said).succeeded


@pytest.mark.parametrize(
    "fields", [{"status": None}, {"status": {}}, {"status": {"messages": None}}]
)
def test_without_a_status_outputs_decide(fields):
    """Servers of 2023 give none, those of early 2024 null now and then."""
    assert not entry(**fields).succeeded
    found = entry(**fields, outputs={"9": {"images": []}})
    assert found.succeeded
    assert found.messages == ()
    assert found.cached_nodes == ()
    assert found.started is None


def test_an_output_that_is_no_object_is_left_out():
    """It stays in raw."""
    found = entry(outputs={"1": None, "2": {"text": ["a"]}})
    assert found.outputs == {"2": {"text": ["a"]}}
    assert found.raw["outputs"]["1"] is None


# -- jobs ---------------------------------------------------------------------------------


JOBS = [("0.8.0", "jobs_api"), ("0.28.1", "jobs_list")]
TIMES = ("create_time", "execution_start_time", "execution_end_time")


def jobs_answers(version: str, name: str) -> list[dict[str, Any]]:
    """Recorded answers of the jobs API."""
    return [body for body in answers(version, name, "/api/jobs") if "cancelled" not in body]


@pytest.mark.parametrize(("version", "name"), JOBS)
def test_every_recorded_page_of_jobs_is_read(version, name):
    """Each field that the server sent is on the value; its times are milliseconds."""
    pages = [body for body in jobs_answers(version, name) if "jobs" in body]
    assert len(pages) > 5
    for body in pages:
        page = JobPage.from_json(body)
        assert len(page.jobs) == len(body["jobs"])
        assert {
            "offset": page.offset,
            "limit": page.limit,
            "total": page.total,
            "has_more": page.has_more,
        } == body["pagination"]
        for job, wire in zip(page.jobs, body["jobs"], strict=True):
            times = {name: wire[name] / 1000 for name in TIMES if name in wire}
            assert {name: getattr(job, name) for name in wire} == {**wire, **times}


@pytest.mark.parametrize(("version", "name"), JOBS)
def test_recorded_details_of_jobs_are_read(version, name):
    """A completed, a failed and interrupted ones, with outputs, status and workflow."""
    jobs = [JobInfo.from_json(body) for body in jobs_answers(version, name) if "jobs" not in body]
    completed = [job for job in jobs if job.status == "completed"]
    (output,) = completed[0].outputs.values()
    assert output["images"][0]["filename"].endswith(".png")
    assert completed[0].execution_status.status_str == "success"
    assert completed[0].execution_status.messages[0][0] == "execution_start"
    assert all(node["class_type"] for node in completed[0].workflow["prompt"].values())
    failed = [job for job in jobs if job.execution_error]
    assert failed[0].execution_error["exception_type"] == "OSError"
    pending = [job for job in jobs if job.status == "pending"]
    assert pending[0].execution_status is None
    assert pending[0].outputs_count == 0
    # ComfyUI 0.9 has a word of its own for what someone has stopped.
    stopped = [job for job in jobs if job.execution_status and job not in (*completed, *failed)]
    assert {job.status for job in stopped} == {"failed" if version == "0.8.0" else "cancelled"}


def test_newer_servers_count_what_a_job_has_to_show():
    """Older ones say nothing of it, which is not 0."""
    job = {"id": "a", "status": "completed", "outputs_count": 3}
    assert JobInfo.from_json({**job, "previewable_outputs_count": 2}).previewable_outputs_count == 2
    for said in ({}, {"previewable_outputs_count": "2"}):
        assert JobInfo.from_json({**job, **said}).previewable_outputs_count is None


def test_the_preview_of_a_job_may_be_a_text():
    """Of a prompt that has no file to show; a long one is cut."""
    said = answers("0.28.1", "progress_text", "/api/jobs")
    jobs = [JobInfo.from_json(job) for body in said for job in body.get("jobs", [body])]
    previews = [job.preview_output for job in jobs if job.outputs_count == 0]
    assert [(p["mediaType"], p.get("truncated", False), len(p["content"])) for p in previews] == [
        ("text", False, 38),
        ("text", True, 1024),
    ]


# -- nodes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ([["a", "b"], {"tooltip": "t"}], ["a", "b"]),
        ([["a", "b"]], ["a", "b"]),
        ([[]], []),
        ([[1, 2.5, True]], [1, 2.5, True]),
        (["COMBO", {"options": ["a", "b"], "multiselect": False}], ["a", "b"]),
        (["COMBO", {"remote": {"route": "/x"}}], []),
        (["COMBO"], []),
        (["COMBO", None], []),
        (["INT", {"default": 1}], None),
        (["MODEL"], None),
        ("PROMPT", None),
        ([], None),
        (None, None),
    ],
)
def test_combo_options_of_both_shapes_are_read(spec, options):
    """And nothing else is taken for one."""
    assert combo_options(spec) == options


def test_a_node_knows_its_inputs():
    """Required before optional, hidden ones left out."""
    node = NodeDef.from_json(
        "N",
        {
            "input": {
                "required": {"a": [["x"], {}]},
                "optional": {"b": ["INT", {}]},
                "hidden": {"c": "UNIQUE_ID"},
            },
            "output": ["IMAGE"],
            "output_node": True,
            "search_aliases": ["n"],
        },
    )
    assert list(node.inputs()) == ["a", "b"]
    assert node.options("a") == ["x"]
    assert node.options("b") is None
    assert node.output == ("IMAGE",)
    assert node.output_node
    assert node.raw["search_aliases"] == ["n"]
    with pytest.raises(KeyError):
        node.options("c")


@pytest.mark.parametrize(
    "info", [{}, {"input": None}, {"input": {"required": None}, "output": None}]
)
def test_a_node_that_says_little_is_read(info):
    """As those of careless node packs."""
    node = NodeDef.from_json("N", info)
    assert node.inputs() == {}
    assert node.output == ()


def test_a_subgraph_carries_its_id():
    """Which stands outside of it on the wire."""
    found = GlobalSubgraph.from_json("i", {"name": "n", "info": {"node_pack": "p"}, "new": 1})
    assert (found.id, found.name, found.info["node_pack"], found.data) == ("i", "n", "p", None)
    assert found.raw["new"] == 1


# -- the rest -----------------------------------------------------------------------------


def test_system_stats_of_today_and_of_2024():
    """What a server does not say is None."""
    wire = {
        "system": {"os": "posix", "comfyui_version": "0.3.75", "argv": ["main.py"], "ram_total": 5},
        "devices": [{"name": "cpu", "type": "cpu", "index": None, "vram_total": 7, "new": 1}],
    }
    stats = SystemStats.from_json(wire)
    assert stats.comfyui_version == "0.3.75"
    assert stats.argv == ("main.py",)
    assert stats.ram_total == 5
    assert stats.ram_free is None
    assert stats.devices == (Device("cpu", "cpu", None, vram_total=7),)
    assert stats.devices[0].raw["new"] == 1
    old = SystemStats.from_json({"system": {"os": "posix", "python_version": "3.11"}})
    assert old.comfyui_version is None
    assert old.devices == ()


def test_features_are_a_mapping():
    """With those that matter as properties; the size may come as a float."""
    features = Features.from_json({"max_upload_size": 1048576.0, "x": {"y": 1}})
    assert features.max_upload_size == 1048576
    assert isinstance(features.max_upload_size, int)
    assert not features.supports_preview_metadata
    assert features["x"] == {"y": 1}
    assert dict(features) == features.raw
    assert Features() == {}
    assert Features().max_upload_size is None
    newest = Features.from_json(
        {"node_replacements": True, "assets": True, "extension": {"manager": {"supports_v4": True}}}
    )
    assert (newest.node_replacements, newest.assets) == (True, True)
    assert newest.manager == {"supports_v4": True}
    for odd in (
        {},
        {"node_replacements": "yes", "assets": 1, "extension": {"manager": []}},
        {"extension": 1},
    ):
        features = Features.from_json(odd)
        assert (features.node_replacements, features.assets, features.manager) == (False, False, {})


def test_raw_logs_without_a_terminal():
    """Size null."""
    logs = RawLogs.from_json({"entries": [{"t": "now", "m": "a\n"}], "size": None})
    assert (logs.entries[0].time, logs.entries[0].text) == ("now", "a\n")
    assert logs.cols is None


def test_a_ping_is_true_when_it_went_well():
    """And carries the cause when not."""
    assert PingResult(True, 0.1)
    assert not PingResult(False, 5.0, ServerUnreachable("refused"))


@pytest.mark.parametrize(
    ("wire", "ref"),
    [
        ({"name": "a.png", "subfolder": "", "type": "input"}, "a.png"),
        ({"name": "a.png", "subfolder": "x/y", "type": "input"}, "x/y/a.png"),
        ({"name": "a.png", "subfolder": "x\\y\\", "type": "input"}, "x/y/a.png"),
        ({"name": "a.png", "subfolder": "", "type": "temp"}, "a.png [temp]"),
        ({"name": "a.png", "subfolder": "x", "type": "output", "asset": {}}, "x/a.png [output]"),
        ({"name": "a.png"}, "a.png"),
    ],
)
def test_an_upload_says_what_load_image_takes(wire, ref):
    """Folder, name, and the type unless it is input."""
    assert UploadedImage.from_json(wire).ref == ref


def test_users_of_both_modes():
    """What the other mode would say is None."""
    single = UserConfig.from_json({"storage": "server", "migrated": False})
    assert (single.migrated, single.users) == (False, None)
    multi = UserConfig.from_json({"storage": "server", "users": {"id": "name"}})
    assert (multi.migrated, multi.users) == (None, {"id": "name"})


def test_model_files_use_our_names():
    """pathIndex is path_index."""
    assert ModelFile.from_json({"name": "a", "pathIndex": 1, "size": 2}) == ModelFile("a", 1, 2)
    assert ModelFile.from_json({"name": "a"}).path_index is None
    folder = ModelFolder.from_json({"name": "loras", "folders": ["x", "y"]})
    assert folder == ModelFolder("loras", ("x", "y"))
    assert folder.extensions is None
    newer = ModelFolder.from_json({"name": "loras", "folders": [], "extensions": [".pt"]})
    assert newer.extensions == (".pt",)


@pytest.mark.parametrize("sent", [1795620219.488, 1795620219488, 1795620219488.0])
@pytest.mark.parametrize(
    ("cls", "least"),
    [
        (UserDataInfo, {"path": "a"}),
        (UserDataEntry, {"name": "a", "path": "a", "type": "file"}),
        (ModelFile, {"name": "a"}),
    ],
)
def test_times_are_seconds_whatever_the_server_counts_in(cls, least, sent):
    """Some routes send milliseconds since 0.21, as ints, others seconds."""
    assert cls.from_json({**least, "modified": sent}).modified == 1795620219.488


@pytest.mark.parametrize("odd", [10**400, float("nan"), float("-inf"), "1", True, [], {}, None])
def test_a_number_that_is_none_is_not_said(odd):
    """It stays in raw."""
    for found, name in (
        (UserDataInfo.from_json({"path": "a", "size": odd}), "size"),
        (UserDataInfo.from_json({"path": "a", "modified": odd}), "modified"),
        (Device.from_json({"name": "a", "vram_free": odd}), "vram_free"),
        (JobInfo.from_json({"id": "a", "status": "b", "priority": odd}), "priority"),
        (JobInfo.from_json({"id": "a", "status": "b", "create_time": odd}), "create_time"),
        (QueuedPrompt.from_json({"prompt_id": "a", "number": odd}), "number"),
    ):
        assert getattr(found, name) is None
        assert found.raw[name] is odd
    assert entry(("execution_start", {"timestamp": odd})).started is None
    assert QueueItem.from_json([odd, "p"]).number is None
    assert Features.from_json({"max_upload_size": odd}).max_upload_size is None
    with pytest.raises(UnexpectedResponse, match="queue_remaining"):
        QueueStatus.from_json({"exec_info": {"queue_remaining": odd}})


@pytest.mark.parametrize("odd", ["x" * 300, "\ud800", 5, None, {}])
def test_a_receipt_with_an_id_that_nobody_can_ask_for_is_none(odd):
    """Too long, not to be written into a URL, no text."""
    with pytest.raises(UnexpectedResponse, match="prompt_id"):
        QueuedPrompt.from_json({"prompt_id": odd})


def test_a_prompt_of_another_user_spoils_no_queue():
    """Servers before 0.25 take any text as an id: it is cut, and what no URL carries replaced."""
    pending = [[2, "x" * 300], [1, "a\ud800"], [3, 7], [4, "ours"]]
    queue = Queue.from_json({"queue_running": [], "queue_pending": pending})
    cut = identifier("x" * 300)
    assert [item.prompt_id for item in queue.pending] == ["a?", cut, "7", "ours"]


@pytest.mark.parametrize(
    ("cls", "least"),
    [
        (UserDataInfo, {"path": "a"}),
        (UserDataEntry, {"name": "a", "path": "a", "type": "file"}),
        (UploadedImage, {"name": "a"}),
        (ModelFile, {"name": "a"}),
        (Device, {"name": "a"}),
        (JobInfo, {"id": "a", "status": "new word"}),
        (UserConfig, {}),
    ],
)
def test_unknown_fields_are_kept_and_missing_ones_reported(cls, least):
    """Newer servers say more; who says less is no ComfyUI."""
    found = cls.from_json({**least, "newer": [1]})
    assert found.raw["newer"] == [1]
    assert "newer" not in repr(found)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.raw = {}
    for name in least:
        with pytest.raises(UnexpectedResponse, match=name):
            cls.from_json({key: value for key, value in least.items() if key != name})
    with pytest.raises(UnexpectedResponse):
        cls.from_json(["no object"])


@pytest.mark.parametrize("number", [-1, -(10**9), -0.5 - 1])
def test_a_queue_has_no_negative_length(number) -> None:
    with pytest.raises(UnexpectedResponse, match="queue_remaining"):
        QueueStatus.from_json({"exec_info": {"queue_remaining": number}})

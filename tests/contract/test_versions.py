"""Five versions of ComfyUI, from March 2024 to 0.3.75, held to the table of tests/versions.py.

Every method of the routes once, and every way in which a prompt ends.
"""

from __future__ import annotations

import json
import os
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    ApiError,
    Conflict,
    JobFailed,
    JobInterrupted,
    JobLost,
    NotFound,
    NotSupported,
    PromptRejected,
    WorkflowError,
)
from comfy_client.events import Event
from comfy_client.routes.prompts import EXTRA_DATA_KEY
from tests.comfyui import pictures
from tests.contract.conftest import Server, forgot, may_forget
from tests.helpers.clients import goes_on, until
from tests.versions import NOT_SUPPORTED, TABLE, has, without

ENDS = ("execution_success", "execution_error", "execution_interrupted", "job_lost")
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"


def unique(suffix: str = "") -> str:
    return f"t{uuid.uuid4().hex[:12]}{suffix}"


class Heard:
    """All events of a client."""

    def __init__(self, api: ComfyApi) -> None:
        self.events: list[Any] = []
        api.on("all", self.events.append)

    def __call__(self, *names: str, prompt_id: str | None = None) -> list[Any]:
        return [
            event
            for event in list(self.events)
            if event.name in names and prompt_id in (None, getattr(event, "prompt_id", None))
        ]

    def ends(self, prompt_id: str) -> list[str]:
        return [event.name for event in self(*ENDS, prompt_id=prompt_id)]


@pytest.fixture
def here(
    any_comfyui: Server, any_api: ComfyApi, workflow: Callable[..., Any], tmp_path: Path
) -> Iterator[SimpleNamespace]:
    """An idle server of one version, a client of it, and what that hears."""

    def idle() -> bool:
        any_api.clear_queue()
        any_api.interrupt()
        queue = any_api.get_queue()
        return not (queue.running or queue.pending)

    until(idle)
    yield SimpleNamespace(
        api=any_api,
        heard=Heard(any_api),
        has=lambda key: has(any_comfyui.version, key),
        server=any_comfyui,
        url=any_comfyui.url,
        workflow=workflow,
        tmp=tmp_path,
    )
    until(idle)


# -- every method -------------------------------------------------------------------------


def text(here: Any, **inputs: Any) -> Any:
    """A workflow that only takes the time it is told to."""
    return here.workflow("sleep", **{"seconds": 0.0, "ticks": 1, **inputs})


def ended(here: Any, prompt_id: str) -> Any:
    return until(lambda: here.api.get_history(prompt_id))


def queue_prompt(here: Any) -> None:
    receipt = here.api.queue_prompt(None, text(here))
    assert ended(here, receipt.prompt_id).succeeded
    assert receipt.number is not None
    uuid.UUID(receipt.prompt_id)


def append_prompt(here: Any) -> None:
    assert ended(here, here.api.append_prompt(text(here)).prompt_id).succeeded


def queue(here: Any) -> None:
    """A running, a deleted, a cleared prompt."""
    api = here.api
    running = api.queue_prompt(None, text(here, seconds=60.0, ticks=1000)).prompt_id
    ticks = lambda: len(here.heard("progress", prompt_id=running))  # noqa: E731
    until(ticks)
    first, second = (api.queue_prompt(None, text(here)).prompt_id for _ in range(2))
    assert [item.prompt_id for item in api.get_queue().pending] == [first, second]
    assert api.poll_status(60).queue_remaining == 3
    assert [api.get_history(one) for one in (running, first, "unknown")] == [None] * 3
    api.delete_from_queue(first, running, "unknown", "..", "a b&c")
    api.delete_from_queue()
    assert [item.prompt_id for item in api.get_queue().pending] == [second]
    assert api.get_history(first) is None
    api.clear_queue()
    before = ticks()
    until(lambda: ticks() > before + 1 or api.get_history(running))
    assert not api.get_queue().pending
    assert running in api.get_queue()
    api.interrupt()
    assert ended(here, running).interrupted


def history(here: Any) -> None:
    api = here.api
    first, second = (api.queue_prompt(None, text(here)).prompt_id for _ in range(2))
    assert ended(here, second).outputs == {"1": {"text": ["slept"]}}
    assert list(api.get_histories(2)) == [first, second]
    api.delete_history(first, "unknown")
    api.delete_history()
    assert api.get_history(first) is None
    assert second in api.get_histories()
    api.clear_history()
    assert api.get_histories() == {}


def get_jobs(here: Any) -> None:
    job = here.api.submit(text(here))
    job.result(60)
    found = until(lambda: here.api.get_job(job.prompt_id))
    assert (found.id, found.status) == (job.prompt_id, "completed")
    assert job.prompt_id in {one.id for one in here.api.get_jobs(["completed"]).jobs}
    with pytest.raises(NotFound):
        here.api.get_job(str(uuid.uuid4()))


def cancel_job(here: Any) -> None:
    """One that runs and one that waits, and whatever is over."""
    running, waiting = (here.api.submit(text(here, seconds=60.0, ticks=1000)) for _ in range(2))
    until(lambda: running.prompt_id in here.api.get_queue())
    assert here.api.cancel_job(waiting.prompt_id)
    assert here.api.cancel_jobs(running.prompt_id)
    for job in (running, waiting):
        assert isinstance(job.exception(60), JobInterrupted | JobLost)
    assert here.api.cancel_jobs() is False


def node_defs(here: Any) -> None:
    api = here.api
    one = api.get_node_defs("KSampler")["KSampler"]
    assert one.raw == api.get_node_defs()["KSampler"].raw
    assert one.inputs()["steps"][0] == "INT"
    assert (one.input_order is not None) == here.has("input order")
    assert "tiny.ckpt" in api.get_checkpoints()
    assert isinstance(api.get_loras(), list)
    assert "euler" in api.get_sampler_info().samplers
    assert isinstance(api.get_embeddings(), list)
    assert all(path.endswith(".js") for path in api.get_extensions())


def get_model_preview(here: Any) -> None:
    with pytest.raises(NotFound):
        here.api.get_model_preview("checkpoints", 0, "tiny.ckpt")


def view_metadata(here: Any) -> None:
    head = json.dumps({"__metadata__": {"made": "here"}}).encode()
    name = unique(".safetensors")
    lora = here.server.root / "models" / "loras" / name
    lora.write_bytes(struct.pack("<Q", len(head)) + head)
    try:
        assert here.api.view_metadata("loras", name) == {"made": "here"}
        assert here.api.get_view_metadata("loras", name) == {"made": "here"}
        assert here.api.view_metadata("loras", "none.safetensors") is None
    finally:
        lora.unlink()


def get_workflow_template(here: Any) -> None:
    with pytest.raises(NotFound):
        here.api.get_workflow_template("pack", "name")


def get_global_subgraph(here: Any) -> None:
    with pytest.raises(NotFound):
        here.api.get_global_subgraph("unknown")


def files(here: Any) -> None:
    """Up, looked at, and down again."""
    api = here.api
    picture = pictures()["testbed.png"]
    info = api.upload_image(picture, unique(".png"), subfolder="a/b")
    assert (info.subfolder, info.type) == ("a/b", "input")
    assert api.get_image(info) == picture
    assert api.get_image(info, preview="jpeg;50").startswith(JPEG)
    assert "filename=" in api.get_path_image(info)
    with api.stream_image(info) as download:
        assert b"".join(download) == picture
    assert api.has_image(info)
    with api.open_image(info) as file:
        assert file.read(8) == picture[:8]
        file.seek(-8, os.SEEK_END)
        assert file.read() == picture[-8:]
    assert api.download_image(info, here.tmp / "a.png").read_bytes() == picture
    masked = api.upload_mask(picture, info, unique(".png"))
    assert api.get_image(masked).startswith(PNG)
    missing = {"filename": "none.png", "type": "input"}
    with pytest.raises(NotFound):
        api.get_image(missing)
    with pytest.raises(NotFound):
        api.upload_mask(picture, missing, "mask.png")


def get_system_stats(here: Any) -> None:
    stats = here.api.get_system_stats()
    assert {device.type for device in stats.devices} == {"cpu"} or "--cpu" not in stats.argv
    assert stats.python_version
    assert (stats.comfyui_version is not None) == here.has("own version")


def free_memory(here: Any) -> None:
    here.api.run(here.workflow("image_ops"), timeout=60)
    here.api.free_memory()
    here.api.free_memory(unload_models=True)
    here.api.free_memory(free_memory=True)
    until(lambda: not here.api.run(here.workflow("image_ops"), timeout=60).cached_nodes)


def get_raw_logs(here: Any) -> None:
    here.api.run(text(here), timeout=60)
    assert any("got prompt" in entry.text for entry in here.api.get_raw_logs().entries)


def subscribe_logs(here: Any) -> None:
    written: list[str] = []
    here.api.on("terminal", lambda event: written.append(event.text))
    here.api.subscribe_logs()
    here.api.run(text(here), timeout=60)
    until(lambda: "got prompt" in "".join(written))
    here.api.subscribe_logs(False)


def settings(here: Any) -> None:
    api, one, two = here.api, unique(), unique()
    api.store_setting(one, {"a": [1, None]})
    api.store_settings({two: 2})
    assert api.get_setting(one) == {"a": [1, None]}
    assert {one, two} <= set(api.get_settings())
    assert api.get_setting(unique(), "nothing") == "nothing"


def users(here: Any) -> None:
    config = here.api.get_user_config()
    assert (config.storage, config.users, type(config.migrated)) == ("server", None, bool)
    name = unique()
    assert here.api.create_user(name).startswith(name)
    with pytest.raises(ApiError, match="Duplicate"):
        here.api.create_user(name)


def user_data(here: Any) -> None:
    api, name = here.api, unique(".json")
    assert api.store_user_data(name, {"a": 1}) == name
    assert json.loads(api.get_user_data(name)) == {"a": 1}
    with pytest.raises(NotFound):
        api.get_user_data(unique())


def delete_user_data(here: Any) -> None:
    api, name = here.api, unique()
    api.store_user_data(name, b"content")
    api.delete_user_data(name)
    with pytest.raises(NotFound):
        api.delete_user_data(name)


def move_user_data(here: Any) -> None:
    api, old, new = here.api, unique(), f"{unique()}/{unique()}"
    api.store_user_data(old, b"content")
    assert api.move_user_data(old, new) == new
    assert api.get_user_data(new) == b"content"
    api.store_user_data(old, b"other")
    with pytest.raises(Conflict):
        api.move_user_data(old, new)
    assert (api.get_user_data(old), api.get_user_data(new)) == (b"other", b"content")
    assert api.move_user_data(old, new, overwrite=True) == new
    assert api.get_user_data(new) == b"other"
    with pytest.raises(NotFound):
        api.move_user_data(old, new)


def list_user_data(here: Any) -> None:
    """The top alone, all, and in parts; whatever the server does without ``recurse``."""
    api, folder = here.api, unique()
    assert api.list_user_data(folder) == []
    api.store_user_data(f"{folder}/a.json", b"a")
    assert api.list_user_data(folder) == ["a.json"]
    api.store_user_data(f"{folder}/sub/b.json", b"bb")
    assert api.list_user_data(folder) == ["a.json"]
    assert api.list_user_data(folder, split=True) == [["a.json", "a.json"]]
    assert sorted(api.list_user_data(folder, recurse=True)) == ["a.json", "sub/b.json"]
    deep = {
        item.path: item.size for item in api.list_user_data(folder, recurse=True, full_info=True)
    }
    known = here.has("user data info")
    assert deep == ({"a.json": 1, "sub/b.json": 2} if known else dict.fromkeys(deep))
    assert set(deep) == {"a.json", "sub/b.json"}
    assert [item.path for item in api.list_user_data(folder, full_info=True)] == ["a.json"]


def list_user_data_v2(here: Any) -> None:
    folder = unique()
    here.api.store_user_data(f"{folder}/a.json", b"a")
    assert [entry.name for entry in here.api.list_user_data_v2(folder)] == ["a.json"]


def fetch_api(here: Any) -> None:
    assert here.api.fetch_api("/prompt").json()["exec_info"]
    with pytest.raises(NotSupported):
        here.api.fetch_api("/no/such/route")
    with pytest.raises(NotSupported):
        here.api.fetch_api("/no/such/route", "POST", json={})


def as_is(name: str, *args: Any, check: Callable[[Any], bool]) -> Callable[[Any], None]:
    """Call a method, and look at what it gives."""

    def call(here: Any) -> None:
        assert check(getattr(here.api, name)(*args))

    return call


METHODS: dict[str, Callable[[Any], None]] = {
    "queue_prompt": queue_prompt,
    "append_prompt": append_prompt,
    "poll_status": queue,
    "ping": as_is("ping", check=bool),
    "get_queue": queue,
    "clear_queue": queue,
    "delete_from_queue": queue,
    "interrupt": queue,
    "get_histories": history,
    "get_history": history,
    "clear_history": history,
    "delete_history": history,
    "get_jobs": get_jobs,
    "get_job": get_jobs,
    "cancel_job": cancel_job,
    "cancel_jobs": cancel_job,
    "get_node_defs": node_defs,
    "get_checkpoints": node_defs,
    "get_loras": node_defs,
    "get_sampler_info": node_defs,
    "get_embeddings": node_defs,
    "get_extensions": node_defs,
    # Newer servers bring some of their own.
    "get_global_subgraphs": as_is(
        "get_global_subgraphs", check=lambda found: all(one.name for one in found.values())
    ),
    "get_global_subgraph": get_global_subgraph,
    "get_workflow_templates": as_is("get_workflow_templates", check=lambda found: found == {}),
    "get_workflow_template": get_workflow_template,
    "get_node_replacements": as_is(
        "get_node_replacements", check=lambda found: isinstance(found, dict)
    ),
    "get_i18n": as_is("get_i18n", check=lambda found: isinstance(found, dict)),
    "get_model_types": as_is("get_model_types", check=lambda found: "loras" in found),
    "get_models": as_is("get_models", "checkpoints", check=lambda found: "tiny.ckpt" in found),
    "get_model_folders": as_is("get_model_folders", check=bool),
    "get_model_files": as_is("get_model_files", "checkpoints", check=bool),
    "get_model_preview": get_model_preview,
    "view_metadata": view_metadata,
    "get_view_metadata": view_metadata,
    "upload_image": files,
    "upload_mask": files,
    "get_path_image": files,
    "get_image": files,
    "stream_image": files,
    "open_image": files,
    "has_image": files,
    "download_image": files,
    "get_user_config": users,
    "create_user": users,
    "get_settings": settings,
    "get_setting": settings,
    "store_settings": settings,
    "store_setting": settings,
    "get_user_data": user_data,
    "store_user_data": user_data,
    "delete_user_data": delete_user_data,
    "move_user_data": move_user_data,
    "list_user_data": list_user_data,
    "list_user_data_v2": list_user_data_v2,
    "get_system_stats": get_system_stats,
    "get_features": as_is("get_features", check=lambda found: found.max_upload_size > 0),
    "free_memory": free_memory,
    "get_logs": as_is("get_logs", check=bool),
    "get_raw_logs": get_raw_logs,
    "get_folder_paths": as_is("get_folder_paths", check=lambda found: "loras" in found),
    "get_internal_files": as_is(
        "get_internal_files", "input", check=lambda found: "testbed.png" in str(found)
    ),
    "subscribe_logs": subscribe_logs,
    "fetch_api": fetch_api,
}

#: Arguments with which a method is called where it is not supported.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "get_job": ("unknown",),
    "cancel_job": ("unknown",),
    "cancel_jobs": ("unknown",),
    "get_global_subgraph": ("unknown",),
    "get_workflow_template": ("pack", "name"),
    "get_models": ("checkpoints",),
    "get_model_files": ("checkpoints",),
    "get_model_preview": ("checkpoints", 0, "tiny.ckpt"),
    "delete_user_data": ("name",),
    "move_user_data": ("old", "new"),
    "get_internal_files": ("input",),
}


def test_every_method_of_the_routes_is_held_to_the_table() -> None:
    """None is forgotten, here or in the table."""
    routes = {
        name
        for base in ComfyApi.__mro__
        if base.__module__.startswith("comfy_client.routes.")
        for name, value in vars(base).items()
        if callable(value) and not name.startswith("_")
    }
    others = {
        "append_prompt",
        "fetch_api",
        "queue_prompt",
        "subscribe_logs",
    }  # of the client itself
    assert set(METHODS) == routes - {"lasting"} | others  # which sends no request
    assert {name for row in TABLE for name in row.methods} <= set(METHODS)
    written = Path(__file__).read_text(encoding="utf-8")
    assert [row.key for row in TABLE if row.key and f'has("{row.key}")' not in written] == []


@pytest.mark.timing(silence=0.5, lost=0.5)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_what_the_table_says(here: Any, name: str) -> None:
    """It works, or it says that the server lacks it, or it takes the fall-back."""
    if here.has(name):
        METHODS[name](here)
    elif without(name) == NOT_SUPPORTED:
        with pytest.raises(NotSupported):
            getattr(here.api, name)(*ARGUMENTS.get(name, ()))
    else:
        assert without(name) == "empty"
        assert not getattr(here.api, name)()


# -- requests that old servers answer otherwise -------------------------------------------


def test_routes_are_found_where_the_server_has_them(here: Any) -> None:
    """Also when the first request is a large POST; the finding is kept."""
    with_api = here.has("api")
    for ask in (
        lambda api: api.get_queue(),
        lambda api: api.upload_image(bytes(20_000_000), unique(".bin")),
        lambda api: api.store_setting(unique(), 1),
        lambda api: api.queue_prompt(None, text(here)),
    ):
        api = ComfyApi(here.url)
        ask(api)
        assert ("/api/" in api.get_path_image({"filename": "a.png"})) == with_api
        api.close()


def test_content_that_is_uploaded_again_has_the_name_of_before(here: Any) -> None:
    """Or, on the oldest, a number; other content has one everywhere.

    By another client: one that knows that it is there does not send it again.
    """
    name = unique(".png")
    assert [here.api.upload_image(b"a", name).name for _ in range(2)] == [name, name]
    with ComfyApi(here.url) as api:
        again, other = (api.upload_image(data, name).name for data in (b"a", b"b"))
    assert (again == name) == here.has("same upload")
    assert other not in (name, again)


def test_user_data_is_replaced_only_when_that_is_meant(here: Any) -> None:
    """Also where the server does not look."""
    name = unique()
    here.api.store_user_data(name, b"old", overwrite=False)
    with pytest.raises(Conflict):
        here.api.store_user_data(name, b"new", overwrite=False)
    assert here.api.get_user_data(name) == b"old"
    here.api.store_user_data(name, b"new")
    assert here.api.get_user_data(name) == b"new"
    if here.has("user data overwrite"):
        with pytest.raises(Conflict):
            here.api.fetch_api(f"/userdata/{name}", "POST", params={"overwrite": "false"}, data=b"")
    else:
        here.api.fetch_api(f"/userdata/{name}", "POST", params={"overwrite": "false"}, data=b"x")
        assert here.api.get_user_data(name) == b"x"


def test_user_data_in_folders_and_under_odd_names(here: Any) -> None:
    """As far as the server goes with it."""
    api, path = here.api, f"{unique()}/a b.json"
    if here.has("user data folders"):
        assert api.store_user_data(path, b"a") == path
        assert api.get_user_data(path) == b"a"
    else:
        with pytest.raises(ApiError) as refused:
            api.store_user_data(path, b"a")
        assert refused.value.status == 500
    name = unique(" 50% ä")
    api.store_user_data(name, b"b")
    assert api.get_user_data(name) == b"b"
    kept = name if here.has("user data percent") else name.replace("%", "%25")
    assert (here.server.root / "user" / "default" / kept).read_bytes() == b"b"
    info = api.store_user_data(name, b"c", full_info=True)
    assert info.path in (name, kept)
    assert (info.size == 1) == here.has("user data info")


def test_a_folder_of_user_data_is_listed_by_the_server_as_the_table_says(here: Any) -> None:
    """The oldest list what lies one folder deeper."""
    if not here.has("list_user_data"):
        return
    folder = unique()
    here.api.store_user_data(f"{folder}/a", b"")
    raw = here.api.fetch_api("/userdata", params={"dir": folder}).json()
    assert (raw == ["a"]) == here.has("user data top")


def test_history_is_read_in_pieces(here: Any) -> None:
    """From any offset, whether or not the server knows of offsets."""
    api = here.api
    api.clear_history()
    ids = [api.queue_prompt(None, text(here)).prompt_id for _ in range(4)]
    entry = ended(here, ids[-1])
    assert list(api.get_histories()) == list(api.get_histories(None)) == ids
    assert list(api.get_histories(2)) == ids[2:]
    assert list(api.get_histories(2, offset=0)) == ids[:2]
    assert list(api.get_histories(2, offset=1)) == ids[1:3]
    assert list(api.get_histories(2, offset=4)) == []
    assert list(api.get_histories(None, offset=3)) == ids[3:]
    assert list(api.get_histories(2, offset=-1)) == ids[2:]
    assert list(api.get_histories(0, offset=1)) == list(api.get_histories(0)) == []
    raw = api.fetch_api("/history", params={"max_items": 1, "offset": 0}).json()
    assert (list(raw) == ids[:1]) == here.has("offset")
    assert (entry.started is not None and entry.ended is not None) == here.has("times")
    assert entry.succeeded


# -- prompts ------------------------------------------------------------------------------


def test_a_picture_is_sampled_with_previews_that_name_their_node(here: Any) -> None:
    """The main job, on every version."""
    seen: list[Any] = []
    graph = here.workflow("txt2img_tiny", seed=time.time_ns() % 2**32)
    result = here.api.run(graph, timeout=90, on_event=seen.append)
    names = [event.name for event in seen]
    assert names[:2] == ["execution_start", "execution_cached"]
    assert names[-1] == "execution_success"
    assert {event.prompt_id for event in seen} == {result.prompt_id}
    previews = [event for event in seen if event.name == "b_preview"]
    assert len(previews) == 8
    assert {(e.node_id, e.prompt_id, e.final) for e in previews} == {("3", result.prompt_id, False)}
    assert all(e.mime == "image/jpeg" and e.image.startswith(JPEG) for e in previews)
    named = here.heard("b_preview_with_metadata", prompt_id=result.prompt_id)
    assert len(named) == 8 * here.has("preview metadata")
    assert ("progress_state" in names) == here.has("new events")
    assert here.heard.ends(result.prompt_id) == ["execution_success"]
    assert [e.recovered for e in here.heard("execution_success")] == [False]
    assert [(e.value, e.max) for e in seen if e.name == "progress"] == [
        (step, 8) for step in range(1, 9)
    ]
    (picture,) = result.images
    assert picture.bytes().startswith(PNG)
    assert picture.save(f"{here.tmp}/").read_bytes() == picture.bytes()
    assert picture.node_id == "9"
    assert result["SaveImage"] is result["9"] is result["Save"]
    assert result.complete


def test_feature_flags_come_on_each_connection(here: Any) -> None:
    """By those that know the hello; the others pass it over."""
    api = ComfyApi(here.url)
    try:
        heard = Heard(api)
        api.run(text(here), timeout=60)
        assert bool(heard("feature_flags")) == here.has("new events")
    finally:
        api.close()


def test_end_events_of_each_version_are_those_of_the_table(here: Any) -> None:
    """With ``execution_success``, or only with ``executing`` of no node."""
    told: list[str] = []
    tracker = here.api.parts.tracker
    handle = tracker.handle

    def note(event: Event) -> None:
        told.append(event.name)
        handle(event)

    tracker.handle = note
    here.api.run(text(here), timeout=60)
    until(lambda: told.count("status") >= 3)
    assert ("execution_success" in told) == here.has("execution_success")


def test_a_rerun_from_the_cache_has_its_outputs(here: Any) -> None:
    """Also where cached nodes say nothing."""
    graph = here.workflow("image_ops")
    graph["2"]["inputs"]["width"] = 40 + time.time_ns() % 50
    first = here.api.run(graph, timeout=60)
    seen: list[Any] = []
    again = here.api.run(graph, timeout=60, on_event=seen.append)
    assert len(first.images) == len(again.images) == 2
    assert again.complete
    assert again.images[0].bytes() == first.images[0].bytes()
    if not forgot(here.server, again, *graph):
        assert set(again.cached_nodes) == set(graph)
        assert {(f.node_id, f.filename, f.type) for f in again.images} == {
            (f.node_id, f.filename, f.type) for f in first.images
        }
        assert bool([e for e in seen if e.name == "executed"]) == here.has("executed of cached")
    assert here.heard.ends(again.prompt_id) == ["execution_success"]


def test_pictures_of_the_websocket_node_are_outputs(here: Any) -> None:
    """And the sampler's previews before them are not."""
    seen: list[Any] = []
    graph = here.workflow("txt2img_websocket", seed=time.time_ns() % 2**32)
    result = here.api.run(graph, timeout=90, on_preview=seen.append)
    assert [(e.node_id, e.mime) for e in seen if e.final] == [("9", "image/png")] * 2
    assert len([e for e in seen if not e.final]) == 6
    pictures = [picture.bytes() for picture in result["Send over the websocket"].images]
    assert [picture[:8] for picture in pictures] == [PNG] * 2
    assert [path.read_bytes() for path in result.save(here.tmp)] == pictures
    assert result.complete
    assert here.heard.ends(result.prompt_id) == ["execution_success"]


def test_a_node_that_raises_is_a_failure_with_its_traceback(here: Any) -> None:
    """By the event, and by history when there is no socket."""
    with pytest.raises(JobFailed, match=r"node 2 'Fail' \(TestFail\).*failed as told") as failed:
        here.api.run(here.workflow("fail"), timeout=60)
    error = failed.value
    assert (error.node_id, error.title, error.class_type) == ("2", "Fail", "TestFail")
    assert (error.exception_type, error.exception_message) == ("ValueError", "failed as told")
    assert error.inputs["message"] == ["failed as told"]
    assert not error.is_oom
    assert "raise ValueError(message)" in error.traceback
    until(lambda: here.heard.ends(error.prompt_id))
    assert here.heard.ends(error.prompt_id) == ["execution_error"]
    with (
        ComfyApi(here.url, transport="poll") as polling,
        pytest.raises(JobFailed, match="failed as told") as failed,
    ):
        polling.run(here.workflow("fail"), timeout=60)
    assert failed.value.traceback == error.traceback


def test_a_workflow_that_does_not_pass_is_refused_in_words(here: Any) -> None:
    """A value out of range and an unknown class, on the oldest from a mere 500."""
    with pytest.raises(PromptRejected, match=r"KSampler.*steps.*0.*\b1\b") as refused:
        here.api.run(here.workflow("invalid_values"), timeout=60)
    assert "no_such_model.ckpt" in str(refused.value)
    assert refused.value.node_errors
    graph = here.workflow("image_ops")
    graph["3"]["class_type"] = "ImageInvertt"
    with pytest.raises(PromptRejected, match=r"ImageInvertt(?s:.)*ImageInvert\b") as refused:
        here.api.run(graph, timeout=60)
    assert refused.value.status == (400 if here.has("unknown class") else 500)
    graph = here.workflow("image_ops")
    del graph["4"], graph["5"]
    with pytest.raises(PromptRejected, match=r"no output|outputs"):
        here.api.run(graph, timeout=60)
    graph = here.workflow("txt2img_tiny")
    graph["9"]["inputs"]["images"] = ["3", 0]
    with pytest.raises(PromptRejected, match=r"SaveImage.*images(?s:.)*LATENT"):
        here.api.run(graph, timeout=60)
    until(lambda: len(here.heard("queue_error")) == 4)
    assert not here.heard(*ENDS)


def test_an_interrupt_in_the_middle_of_sampling_ends_the_job(here: Any) -> None:
    """From a callback, at the first step."""
    stop = {"progress": here.api.interrupt}
    graph = here.workflow("txt2img_slow", seed=time.time_ns() % 2**32, steps=1000)
    with pytest.raises(JobInterrupted, match="Sampler") as stopped:
        here.api.run(graph, timeout=90, on_event=lambda e: stop.pop(e.name, lambda: None)())
    assert stopped.value.node_id == "3"
    assert here.heard.ends(stopped.value.prompt_id) == ["execution_interrupted"]


def test_an_interrupt_by_id_stops_only_that_prompt(here: Any) -> None:
    """Also where the server would stop whatever runs."""
    api = here.api
    running = api.submit(text(here, seconds=60.0, ticks=1000))
    waiting = api.submit(text(here))
    until(lambda: running.progress.step)
    api.interrupt(waiting.prompt_id)
    api.interrupt("unknown")
    if here.has("interrupt by id"):
        for other in (waiting.prompt_id, "unknown"):  # of which interrupt() would not ask
            api.fetch_api("/interrupt", "POST", json={"prompt_id": other})
            assert goes_on(running)
    assert goes_on(running)
    assert {running.prompt_id, waiting.prompt_id} == {
        item.prompt_id for item in (*api.get_queue().running, *api.get_queue().pending)
    }
    api.interrupt(running.prompt_id)
    with pytest.raises(JobInterrupted):
        running.result(60)
    waiting.result(60)
    assert here.heard.ends(running.prompt_id) == ["execution_interrupted"]
    assert here.heard.ends(waiting.prompt_id) == ["execution_success"]


@pytest.mark.timing(silence=0.5, lost=0.5)
@pytest.mark.parametrize("whose", ["own", "foreign"])
def test_a_prompt_that_is_deleted_from_the_queue_is_interrupted_or_lost(
    here: Any, whose: str
) -> None:
    """Which no server tells; who has deleted it knows."""
    running = here.api.submit(text(here, seconds=60.0, ticks=1000))
    waiting = here.api.submit(text(here))
    until(lambda: running.status == "running")  # else an interrupt of it does nothing
    with ComfyApi(here.api.host) as other:
        (here.api if whose == "own" else other).delete_from_queue(waiting.prompt_id)
    with pytest.raises(JobInterrupted if whose == "own" else JobLost):
        waiting.result(60)
    end = "execution_interrupted" if whose == "own" else "job_lost"
    until(lambda: here.heard.ends(waiting.prompt_id) == [end])
    here.api.interrupt(running.prompt_id)
    with pytest.raises(JobInterrupted):
        running.result(60)


def test_a_job_survives_a_new_socket_in_its_middle(here: Any) -> None:
    """Its result is whole, and its end is told once."""
    job = here.api.submit(text(here, seconds=3.0, ticks=30))
    until(lambda: here.heard("progress", prompt_id=job.prompt_id))
    here.api.parts.connection.redial("the test wants a new one")
    assert job.result(60).texts == ("slept",)
    until(lambda: here.heard("reconnected"))
    assert len(here.heard("reconnected")) == 1
    assert here.heard.ends(job.prompt_id) == ["execution_success"]
    # The new socket is not deaf: later jobs end by events.
    result = here.api.run(text(here), timeout=60)
    assert [e.recovered for e in here.heard(*ENDS, prompt_id=result.prompt_id)] == [False]


def test_a_job_ends_without_any_socket(here: Any) -> None:
    """By queue and history alone."""
    with ComfyApi(here.url, transport="poll") as polling:
        heard = Heard(polling)
        for _ in range(2):
            result = polling.run(here.workflow("image_ops"), timeout=60)
            assert len(result.images) == 2
            assert [e.recovered for e in heard(*ENDS, prompt_id=result.prompt_id)] == [True]
        assert len(result.cached_nodes) == 5 or may_forget(here.server)
        job = polling.submit(text(here, seconds=60.0, ticks=1000))
        until(lambda: job.prompt_id in [item.prompt_id for item in polling.get_queue().running])
        # One that is about to begin does not heed it.
        until(lambda: polling.interrupt(job.prompt_id) or job.done())
        with pytest.raises(JobInterrupted) as stopped:
            job.result(60)
        assert stopped.value.node_id == "1"
        until(lambda: heard.ends(job.prompt_id))
        assert heard.ends(job.prompt_id) == ["execution_interrupted"]


def test_two_clients_hear_of_their_own_jobs_only(here: Any) -> None:
    """Each of its own, and once of each end; both see the queue change."""
    with ComfyApi(here.url) as other:
        work = {here.api: here.heard, other: Heard(other)}
        jobs = {}
        for client, heard in work.items():
            client.on("b_preview", heard.events.append)
            sampled = here.workflow("txt2img_tiny", seed=time.time_ns() % 2**32)
            shown = (text(here, text=f"{client.client_id} {n}") for n in range(2))
            jobs[client] = [client.submit(graph) for graph in (sampled, *shown)]
        for client, heard in work.items():
            pictures, *texts = (job.result(60) for job in jobs[client])
            assert [one.texts for one in texts] == [(f"{client.client_id} {n}",) for n in range(2)]
            assert len(pictures.images) == 1
            ids = [job.prompt_id for job in jobs[client]]
            assert {e.prompt_id for e in heard("executed", "executing", *ENDS)} == {*ids}
            assert {e.prompt_id for e in heard("b_preview")} == {ids[0]}
            assert all(heard.ends(prompt_id) == ["execution_success"] for prompt_id in ids)
            assert heard("status")


def test_a_prompt_has_our_id_or_bears_it(here: Any) -> None:
    """Whichever the server chose, it is the job's and the result's."""
    ours = str(uuid.uuid4())
    receipt = here.api.queue_prompt(None, text(here), prompt_id=ours)
    assert not receipt.node_errors
    assert (receipt.prompt_id == ours) == here.has("own prompt_id")
    assert ended(here, receipt.prompt_id).extra_data[EXTRA_DATA_KEY] == ours
    job = here.api.submit(text(here))
    assert job.result(60).prompt_id == job.prompt_id
    assert ended(here, job.prompt_id).extra_data[EXTRA_DATA_KEY]


def test_options_that_a_server_does_not_know_do_no_harm(here: Any) -> None:
    """They count where they are known."""
    graph = {**text(here), "2": text(here, text="two")["1"]}
    result = here.api.run(graph, timeout=60, partial_execution_targets=["2"])
    assert sorted(result.texts) == (["two"] if here.has("targets") else ["slept", "two"])
    method = "none" if here.has("preview method") else "taesd"
    seen: list[Any] = []
    sampled = here.workflow("txt2img_tiny", seed=time.time_ns() % 2**32, steps=2)
    here.api.run(sampled, timeout=90, preview_method=method, on_preview=seen.append)
    assert len(seen) == (0 if here.has("preview method") else 2)


def test_a_node_that_is_blocked_is_no_end(here: Any) -> None:
    """Where there are such nodes, the rest runs on."""
    if not here.has("blocked"):
        with pytest.raises(JobFailed, match="No module named 'comfy_execution'"):
            here.api.run(here.workflow("blocked"), timeout=60)
        return
    result = here.api.run(here.workflow("blocked"), timeout=60)
    assert result["Beside it"].texts == ("ran",)
    assert "Behind the block" not in result
    (told,) = here.heard("execution_error")
    assert (told.exception_type, told.is_end) == ("ExecutionBlocked", False)
    assert [e.name for e in here.heard(*ENDS) if e.name != "execution_error"] == [
        "execution_success"
    ]


DANGLING: dict[str, tuple[str, dict[str, Any]]] = {
    "required": ("ImageInvert", {"image": ["99", 0]}),
    "optional": (
        "ImageCompositeMasked",
        {"destination": ["3", 0], "source": ["3", 0], "x": 0, "y": 0, "resize_source": False}
        | {"mask": ["99", 0]},
    ),
    "unknown": ("ImageInvert", {"image": ["3", 0], "other": ["99", 0]}),
}


@pytest.mark.parametrize("kind", DANGLING)
def test_nodes_behind_a_missing_node_are_left_out_of_the_prompt(
    here: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest runs; the worker of a server that was sent it all could end in it."""
    class_type, inputs = DANGLING[kind]
    graph = here.workflow("image_ops")
    graph["97"] = {"class_type": class_type, "inputs": inputs}
    save = {"filename_prefix": "left out", "images": ["97", 0]}
    graph["98"] = {"class_type": "SaveImage", "inputs": save}
    with pytest.raises(WorkflowError, match="links to node '99', which does not exist"):
        here.api.submit(graph, strict=True)
    result = here.api.run(graph, timeout=60)
    assert set(result.nodes) == {"4", "5"}
    assert "links to node '99', which does not exist" in caplog.text
    receipt = here.api.append_prompt(graph)
    assert ended(here, receipt.prompt_id).succeeded
    for errors in (result.node_errors, receipt.node_errors):
        assert {key: entry["dependent_outputs"] for key, entry in errors.items()} == {"97": ["98"]}


def test_texts_of_a_running_node(here: Any) -> None:
    """Where the server has them."""
    if not here.has("progress_text"):
        with pytest.raises(JobFailed, match="send_progress_text"):
            here.api.run(here.workflow("progress_text"), timeout=60)
        return
    result = here.api.run(here.workflow("progress_text", text="half way"), timeout=60)
    (event,) = here.heard("progress_text")
    assert (event.node, event.text, event.prompt_id) == ("1", "half way", result.prompt_id)

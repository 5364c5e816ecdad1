"""What the embedded server does as 0.28 and 0.33."""

from __future__ import annotations

import io
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from comfy_client import ComfyApi
from comfy_client.errors import (
    JobFailed,
    JobInterrupted,
    PromptRejected,
)
from comfy_client.testing import (
    ComfyServer,
)
from tests.helpers.bare import (
    LIMIT,
    Socket,
    ask,
)
from tests.helpers.clients import until
from tests.helpers.graphs import canvas, node, picture, png, txt2img

STATUSES = "pending, in_progress, completed, failed, cancelled"
OLD = node("T2IAdapterLoader", t2i_adapter_name="a.safetensors")
SAVED = ("application/octet-stream", "attachment")
TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"


# -- other versions ---------------------------------------------------------------------


@pytest.fixture(scope="module", params=["0.28", "0.33"])
def newer(request: pytest.FixtureRequest) -> Iterator[ComfyServer]:
    with ComfyServer(version=request.param, previews=False) as running:
        yield running


@pytest.fixture(scope="module")
def older() -> Iterator[ComfyServer]:
    with ComfyServer(version="0.3.75") as running:
        yield running


def test_a_newer_server_says_so(newer, older):
    """Version, system and features; an unknown one is refused."""
    with ComfyApi(newer.url) as api:
        stats = api.get_system_stats()
        release = {"0.28": "0.28.1", "0.33": "0.33.0"}[newer.version]
        assert (stats.comfyui_version, stats.os) == (release, sys.platform)
        assert api.get_features()["extension"] == {"manager": {"supports_v4": True}}
    with pytest.raises(ValueError, match=r"one of 0\.3\.75, 0\.28, 0\.33, not '9'"):
        ComfyServer(version="9")  # type: ignore[arg-type]
    for url, status in ((newer.url, 404), (older.url, 404)):
        assert requests.get(f"{url}/jobs", timeout=LIMIT).status_code == status
    assert ask(newer, "POST", "/api/jobs/cancel", json={}).status_code == 400
    assert ask(older, "POST", "/api/jobs/cancel", json={}).status_code == 405


def test_a_newer_server_lists_jobs(newer):
    """What runs, waits, has ended well or badly; as pages."""
    with ComfyApi(newer.url) as api:
        good = api.run(picture(), timeout=LIMIT, workflow_ui={"id": "wf", "nodes": []})
        with pytest.raises(JobFailed) as failed:
            api.run(picture(prefix="../out"), timeout=LIMIT)
        running = api.submit(txt2img(steps=10000))
        until(lambda: api.get_queue().running)
        waiting = api.submit(picture(1))
        until(lambda: api.get_queue().pending)
        page = api.get_jobs()
        assert [(job.id, job.status) for job in page.jobs] == [
            (waiting.prompt_id, "pending"),
            (running.prompt_id, "in_progress"),
            (failed.value.prompt_id, "failed"),
            (good.prompt_id, "completed"),
        ]
        assert page.total == 4
        page = api.get_jobs(["pending", "failed"], limit=1, sort_order="asc")
        assert [job.id for job in page.jobs] == [failed.value.prompt_id]
        assert page.has_more
        longest = api.get_jobs(["completed", "failed"], sort_by="execution_duration")
        assert len(longest.jobs) == 2
        assert [job.id for job in api.get_jobs(workflow_id="wf").jobs] == [good.prompt_id]
        job = api.get_job(good.prompt_id)
        assert (job.outputs_count, job.workflow_id) == (1, "wf")
        assert job.preview_output["nodeId"] == "9"
        assert job.execution_status.completed
        assert job.workflow["prompt"].keys() == picture().keys()
        assert api.get_job(failed.value.prompt_id).execution_error["node_id"] == "9"
        api.clear_queue()
        api.interrupt()
        with pytest.raises(JobInterrupted):
            running.result(LIMIT)
        stopped = until(lambda: api.get_job(running.prompt_id).execution_status and True)
        assert stopped
        job = api.get_job(running.prompt_id)
        assert (job.status, job.execution_error) == ("cancelled", None)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (
            "status=bogus",
            f"Invalid status value(s): bogus. Valid values: {STATUSES}",
        ),
        ("sort_by=bogus", "sort_by must be 'created_at' or 'execution_duration'"),
        ("sort_order=up", "sort_order must be 'asc' or 'desc'"),
        ("limit=x", "limit must be an integer"),
        ("limit=0", "limit must be a positive integer"),
        ("limit=-1", "limit must be a positive integer"),
        ("offset=x", "offset must be an integer"),
    ],
)
def test_a_newer_server_refuses_what_it_cannot_list(newer, query, words):
    """In words."""
    answer = ask(newer, "GET", f"/api/jobs?{query}")
    assert (answer.status_code, answer.json()) == (400, {"error": words})
    gone = ask(newer, "GET", "/api/jobs/unknown")
    assert (gone.status_code, gone.json()) == (404, {"error": "Job not found"})


@pytest.mark.parametrize(
    "query",
    [
        "offset=-1",
        "status=COMPLETED,Failed",
        "sort_by=Created_At",
        "sort_order=DESC",
        "workflow_id=",
    ],
)
def test_a_newer_server_lists_what_is_asked_for_in_any_case(newer, query):
    """Nor does it mind an offset that is none."""
    with ComfyApi(newer.url) as api:
        run = api.run(picture(7), timeout=LIMIT)
    answer = ask(newer, "GET", f"/api/jobs?{query}")
    assert answer.status_code == 200
    assert run.prompt_id in [job["id"] for job in answer.json()["jobs"]]
    assert answer.json()["pagination"]["offset"] == 0


def test_jobs_count_files_and_show_texts(newer):
    """Pictures come before texts, and what is kept before what is temporary."""
    texts = {"1": node("PreviewAny", source="x" * 2000)}
    mixed = {**picture(), "2": node("PreviewAny", source="y"), "3": canvas(1)}
    mixed["4"] = node("PreviewImage", images=["3", 0])
    with ComfyApi(newer.url) as api:
        ids = [api.run(graph, timeout=LIMIT).prompt_id for graph in (texts, mixed)]
        assert all(api.get_history(one) for one in ids)  # the last record may be on its way
        listed = {job["id"]: job for job in ask(newer, "GET", "/api/jobs").json()["jobs"]}
        text, both = (listed[one] for one in ids)
    assert (text["outputs_count"], both["outputs_count"]) == (0, 2)
    excerpt = {"content": "x" * 1024, "truncated": True, "nodeId": "1", "mediaType": "text"}
    assert text["preview_output"] == excerpt
    assert (both["preview_output"]["nodeId"], both["preview_output"]["type"]) == ("9", "output")


@pytest.mark.parametrize(
    ("output", "count", "shown"),
    [
        ({"latents": [{"filename": "a.latent"}]}, 1, None),
        ({"files": [{"filename": "a.glb"}]}, 1, "a.glb"),
        ({"files": [{"filename": "a.usdz"}]}, 1, "a.usdz"),
        ({"files": [{"filename": "a.TXT", "type": "output"}]}, 1, "a.TXT"),
        ({"gifs": [{"filename": "a", "format": "video/mp4"}]}, 1, "a"),
        ({"text": [{"filename": "b.txt"}], "images": [{"filename": "a.png"}]}, 2, "b.txt"),
        ({"images": [{"filename": "a.png"}], "animated": [True]}, 1, "a.png"),
        ({"images": None, "text": [5]}, 0, None),
    ],
    ids=str,
)
def test_a_job_is_stood_for_by_what_can_be_shown(output, count, shown):
    """By kind, format or ending; all files count."""
    with ComfyServer(version="0.28") as server:
        server.finish("a", {"9": output})
        [job] = ask(server, "GET", "/api/jobs").json()["jobs"]
    assert job["outputs_count"] == count
    assert job.get("preview_output", {}).get("filename") == shown


def test_a_prompt_may_choose_its_previews_on_newer_servers(newer, older):
    """On others they come as the server was told."""
    for where, method, count in (
        (newer, "none", 0),
        (newer, "auto", 3),
        (newer, "default", 0),
        (newer, "bogus", 0),
        (older, "none", 3),
    ):
        with ComfyApi(where.url) as api:
            seen: list[Any] = []
            api.run(
                txt2img(seed=uuid.uuid4().int % 2**32),
                timeout=LIMIT,
                preview_method=method,
                on_preview=seen.append,
            )
            assert len(seen) == count


def test_a_newer_server_checks_the_choices_of_combo_inputs(newer):
    """Which an older one does not."""
    blend = node(
        "ImageBlend", image1=["1", 0], image2=["1", 0], blend_factor=0.5, blend_mode="bogus"
    )
    graph = {"1": canvas(), "2": blend, "3": node("PreviewImage", images=["2", 0])}
    with ComfyApi(newer.url) as api, pytest.raises(PromptRejected, match="blend_mode"):
        api.run(graph, timeout=LIMIT)


def test_a_newer_server_takes_only_uuids(newer, older):
    """Canonical ones; null is none, which others take for a name."""
    for prompt_id in ("mine", str(uuid.uuid4()).upper(), f"urn:uuid:{uuid.uuid4()}", 7):
        body = {"prompt": picture(), "prompt_id": prompt_id}
        answer = ask(newer, "POST", "/prompt", json=body)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["type"] == "invalid_prompt_id"
        assert error["message"] == "prompt_id must be a valid UUID"
    error = ask(newer, "POST", "/prompt", json={"prompt_id": "mine"}).json()["error"]
    assert error["type"] == "no_prompt"
    mine = str(uuid.uuid4())
    answer = ask(newer, "POST", "/prompt", json={"prompt": picture(), "prompt_id": mine})
    assert answer.json()["prompt_id"] == mine
    answer = ask(newer, "POST", "/prompt", json={"prompt": picture(), "prompt_id": None})
    assert str(uuid.UUID(answer.json()["prompt_id"])) == answer.json()["prompt_id"]
    answer = ask(older, "POST", "/prompt", json={"prompt": picture(), "prompt_id": None})
    assert answer.json()["prompt_id"] == "None"


def test_a_newer_server_keeps_where_a_prompt_comes_from(newer, older):
    """From a header, unless the request says so itself."""
    header = {"Comfy-Usage-Source": "a tool"}
    for where, extra, kept in (
        (newer, {}, "a tool"),
        (newer, {"comfy_usage_source": "mine"}, "mine"),
        (older, {}, None),
    ):
        body = {"prompt": picture(), "extra_data": extra}
        prompt_id = ask(where, "POST", "/prompt", json=body, headers=header).json()["prompt_id"]
        where.until(lambda where=where, one=prompt_id: one in where.history, LIMIT)
        assert where.history[prompt_id]["prompt"][3].get("comfy_usage_source") == kept


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"{", {"error": "Request body must be valid JSON"}),
        (b"{}", {"error": "job_ids must be a list"}),
        (b"[]", {"error": "job_ids must be a list"}),
        (b'{"job_ids": "ab"}', {"error": "job_ids must be a list"}),
        (
            b'{"job_ids": ["ab", 5, null]}',
            {"error": "job_ids contains invalid id(s)", "invalid_ids": ["ab", "5", "None"]},
        ),
    ],
)
def test_a_newer_server_says_what_it_cannot_cancel(newer, body, answer):
    """In upstream's words."""
    headers = {"Content-Type": "application/json"}
    told = ask(newer, "POST", "/api/jobs/cancel", data=body, headers=headers)
    assert (told.status_code, told.json()) == (400, answer)


def test_a_newer_server_cancels_jobs_by_id(newer):
    """What runs and what waits; what it stopped was cancelled, not failed."""
    with ComfyApi(newer.url) as api:
        running = api.submit(txt2img(steps=10000))
        until(lambda: api.get_queue().running)
        waiting = [api.submit(picture(number)) for number in range(3)]
        until(lambda: len(api.get_queue().pending) == 3)
        assert api.get_job(waiting[0].prompt_id).workflow is None
        assert api.cancel_job(waiting[0].prompt_id)
        assert not api.cancel_job(waiting[0].prompt_id)
        assert api.cancel_jobs(*(job.prompt_id for job in waiting))
        assert not api.get_queue().pending
        refused = ask(newer, "POST", "/api/jobs/cancel", json={"job_ids": ["x"]})
        assert (refused.status_code, refused.json()["invalid_ids"]) == (400, ["x"])
        assert api.cancel_job(running.prompt_id)
        with pytest.raises(JobInterrupted):
            running.result(LIMIT)
        until(lambda: api.get_job(running.prompt_id).status == "cancelled")
        assert running.prompt_id in [job.id for job in api.get_jobs("cancelled").jobs]
        assert api.get_job(running.prompt_id).workflow["prompt"]["3"]["inputs"]["steps"] == 10000
    gone = ask(newer, "POST", f"/api/jobs/{uuid.uuid4()}/cancel")
    assert (gone.status_code, gone.json()) == (200, {"cancelled": False})


@pytest.mark.parametrize(("version", "told"), [("0.3.75", False), ("0.28", True)])
def test_a_cached_run_of_nobody_has_outputs_in_history_on_newer_servers(version, told):
    """Others leave them out."""
    with ComfyServer(version=version) as server:
        for number in range(2):
            answer = ask(server, "POST", "/prompt", json={"prompt": picture(), "number": number})
            path = f"/history/{answer.json()['prompt_id']}"
            until(lambda path=path: ask(server, "GET", path).json())
        [entry] = ask(server, "GET", path).json().values()
        assert entry["status"]["status_str"] == "success"
        assert bool(entry["outputs"]) == told


def test_a_newer_server_has_other_words_and_refuses_other_sites(newer, older):
    """``missing_node_type``, and a 403 to what a browser calls cross-site, whoever may ask."""
    graph = {"1": node("Unknown")}
    for where, word in ((newer, "missing_node_type"), (older, "invalid_prompt")):
        error = ask(where, "POST", "/prompt", json={"prompt": graph}).json()["error"]
        assert error["type"] == word
    headers = {"Sec-Fetch-Site": "cross-site"}
    for version, status in (("0.3.75", 200), ("0.28", 403)):
        with ComfyServer(version=version, allowed_hosts=["*"]) as strict:
            assert ask(strict, "GET", "/prompt", headers=headers).status_code == status
    assert ask(newer, "GET", "/node_replacements").json()["ImageBatch"]
    assert ask(older, "GET", "/node_replacements").status_code == 404


def test_a_refusal_of_an_unknown_class_says_which_there_are(server, api):
    """And how to have one more; a node of one's own among them."""

    class Mine:
        RETURN_TYPES = ()
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {}

        def run(self) -> tuple[()]:
            return ()

    server.add_node(Mine)
    with pytest.raises(PromptRejected, match=r"no node class 'VAELoader'") as caught:
        api.run({"1": node("VAELoader")}, timeout=LIMIT)
    assert "custom node" not in str(caught.value)
    for words in ("embedded server", "CheckpointLoaderSimple", "Mine", "server.add_node"):
        assert words in str(caught.value)


def test_several_errors_of_one_node_come_in_the_order_of_its_definition(server):
    """ComfyUI has another at each start, so nobody can rely on the first one there."""
    inputs = {"color": -1, "batch_size": 0, "height": "tall", "width": 0}
    graph = {"1": node("EmptyImage", **inputs), "2": node("PreviewImage", images=["1", 0])}
    answer = ask(server, "POST", "/prompt", json={"prompt": graph})
    errors = answer.json()["node_errors"]["1"]["errors"]
    names = [error["extra_info"]["input_name"] for error in errors]
    assert names == ["width", "height", "batch_size", "color"]


def test_a_message_that_cannot_be_sent_is_lost_alone_and_raised_at_the_end():
    """ComfyUI ends over it."""

    def use() -> None:
        with ComfyServer() as server:
            ask(server, "POST", "/prompt", json={"prompt": picture(), "client_id": [1]})
            until(lambda: server.history)
            assert ask(server, "GET", "/prompt").status_code == 200

    with pytest.raises(TypeError, match="unhashable"):
        use()


def test_a_node_that_returns_its_batch_and_no_tuple_does_not_pass_for_a_right_one(server, api):
    """As on ComfyUI: its first picture is taken for a batch, of which most nodes cannot work."""

    class Bare:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"image": ("IMAGE",)}}

        def run(self, image: Any) -> Any:
            return image

    server.add_node(Bare)
    graph = {"1": canvas(width=6), "2": node("Bare", image=["1", 0])}
    saved = {"9": node("SaveImage", images=["2", 0], filename_prefix="bare")}
    rows = api.run({**graph, **saved}, timeout=LIMIT).images
    opened = [Image.open(io.BytesIO(row.bytes())) for row in rows]
    assert [(row.mode, row.size) for row in opened] == [("L", (3, 6))] * 8
    crop = node("ImageCrop", image=["2", 0], width=1, height=1, x=0, y=0)
    shown = {"3": crop, "9": node("PreviewImage", images=["3", 0])}
    with pytest.raises(JobFailed, match="returns a tuple"):
        api.run({**graph, **shown}, timeout=LIMIT)


def test_attributes_of_a_node_class_stand_in_its_definition(server):
    """As of ComfyUI's own: only what it says."""

    class Told:
        RETURN_TYPES = ("INT",)
        FUNCTION = "run"
        OUTPUT_TOOLTIPS = ("How many.",)
        DEPRECATED = True
        EXPERIMENTAL = True
        API_NODE = False
        RELATIVE_PYTHON_MODULE = "custom_nodes.mine"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {}

        def run(self) -> tuple[int]:
            return (1,)

    class Silent(Told):
        DEPRECATED = EXPERIMENTAL = False

    keys = ("output_tooltips", "deprecated", "experimental", "api_node", "python_module")
    for cls, words in (
        (Told, (["How many."], True, True, False, "custom_nodes.mine")),
        (Silent, (["How many."], None, None, False, "custom_nodes.mine")),
    ):
        server.add_node(cls)
        definition = ask(server, "GET", f"/object_info/{cls.__name__}").json()[cls.__name__]
        assert tuple(definition.get(key) for key in keys) == words


def test_files_of_the_user_outlive_a_restart():
    """Also where they took the place of ours."""
    with ComfyServer() as server:
        (server.root / "web" / "index.html").write_text("an editor")
        (server.root / "models" / "configs" / "v1-inference.yaml").unlink()
        server.restart()
        assert ask(server, "GET", "/").text == "an editor"
        assert len(ask(server, "GET", "/models/configs").json()) == 10


@pytest.mark.parametrize("extra", [None, [], {"workflow": None}, {"workflow": "text"}], ids=str)
def test_an_odd_prompt_spoils_the_list_of_jobs_of_a_newer_server(extra):
    """For everybody, until it leaves the history; as recorded."""
    with ComfyServer(version="0.28") as server:

        def job(path: str) -> int:
            return ask(server, "GET", f"/api/jobs{path}").status_code

        good, odd = (
            ask(server, "POST", "/prompt", json={"prompt": picture(), "extra_data": data}).json()
            for data in ({"extra_pnginfo": {}}, {"extra_pnginfo": extra})
        )
        until(lambda: odd["prompt_id"] in server.history)
        assert [job(""), job(f"/{odd['prompt_id']}")] == [500, 500]
        assert [job("?status=pending"), job(f"/{good['prompt_id']}")] == [200, 200]
        ask(server, "POST", "/history", json={"delete": [odd["prompt_id"]]})
        assert job("") == 200


def test_a_newer_server_shows_what_nodes_in_the_middle_show_also_when_they_are_cached():
    """Then after the others, and to history without a client, too."""

    class Middle:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "run"
        HAS_INTERMEDIATE_OUTPUT = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"image": ("IMAGE",)}}

        def run(self, image: Any) -> dict[str, Any]:
            return {"ui": {"text": ["seen"]}, "result": (image,)}

    last = node("SaveImage", images=["2", 0], filename_prefix="m")
    graph = {"1": canvas(), "2": node("Middle", image=["1", 0]), "3": last}
    with ComfyServer(version="0.28") as server:
        server.add_node(Middle)
        with Socket(server, "a") as socket:
            for order in (["2", "3"], ["3", "2"]):
                body = {"prompt": graph, "client_id": "a"}
                ask(server, "POST", "/prompt", json=body)
                heard = socket.until("execution_success")
                executed = [one["data"]["node"] for one in heard if one["type"] == "executed"]
                assert executed == order
        ask(server, "POST", "/prompt", json={"prompt": graph})
        server.until(lambda: len(server.history) == 3)
        assert [list(entry["outputs"]) for entry in server.history.values()] == [
            ["2", "3"],
            ["3", "2"],
            ["3", "2"],
        ]
        definition = ask(server, "GET", "/object_info/Middle").json()["Middle"]
        assert (definition["has_intermediate_output"], definition["is_input_list"]) == (True, False)


def test_a_newer_server_has_files_saved_that_could_run_scripts(newer):
    """And says of all that they are what they are called; names of files tell their folder."""
    for name, shown in (("a.svg", False), ("a.html", False), ("a.png", True)):
        ask(newer, "POST", "/upload/image", files={"image": (name, png())})
        answer = ask(newer, "GET", "/view", params={"filename": name, "type": "input"})
        mark = "" if shown else "attachment; "
        assert answer.headers["Content-Disposition"] == f'{mark}filename="{name}"'
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "a.svg [input]" in ask(newer, "GET", "/internal/files/input").json()


@pytest.mark.parametrize(
    ("name", "use", "kind"),
    [
        ("b.svg", "image", "image/svg+xml"),
        ("b.svg", "document", None),
        ("b.html", "image", None),
        ("b.xsl", "image", None),
    ],
)
def test_a_picture_in_a_page_may_be_an_svg_since_0_33(newer, name, use, kind):
    """There it runs no scripts.  Caches are told on what the answer depends."""
    (newer.root / "input" / name).write_bytes(b"<svg/>")
    is_newest = newer.version == "0.33"
    params, headers = {"filename": name, "type": "input"}, {"Sec-Fetch-Dest": use}
    answer = ask(newer, "GET", "/view", params=params, headers=headers)
    told = [answer.headers.get(one) for one in ("Vary", "Cache-Control")]
    assert told == (["Sec-Fetch-Dest", "no-store"] if is_newest else [None, None])
    wanted = (kind, f'filename="{name}"') if kind and is_newest else SAVED
    assert answer.headers["Content-Type"] == wanted[0]
    assert answer.headers["Content-Disposition"].startswith(wanted[1])


def test_a_quote_in_a_file_name_does_not_end_it_in_a_header(newer):
    """Nor does a backslash."""
    (newer.root / "input" / 'a"b\\c.png').write_bytes(png())
    params = {"filename": 'a"b\\c.png', "type": "input"}
    answer = ask(newer, "GET", "/view", params=params)
    assert answer.headers["Content-Disposition"] == r'filename="a\"b\\c.png"'


def test_files_of_users_are_saved_and_0_33_lets_pages_use_their_style(newer):
    """What could run scripts has no type that a browser knows."""
    for name, kind, disposition in (
        ("user.css", *(("text/css", "inline") if newer.version == "0.33" else SAVED)),
        ("other.css", *SAVED),
        ("a.html", *SAVED),
        ("a.rss", *SAVED),
        ("a.json", "application/json", "attachment"),
    ):
        ask(newer, "POST", f"/userdata/{name}", data=b"a {}")
        headers = ask(newer, "GET", f"/userdata/{name}").headers
        assert (headers["Content-Type"], headers["Content-Disposition"]) == (kind, disposition)
        assert headers["X-Content-Type-Options"] == "nosniff"


TEMPORARY = {"images": [{"filename": "a.png", "type": "temp"}]}
TEXT_FILE = {"files": [{"filename": "a.md", "type": "output"}]}


@pytest.mark.parametrize(
    ("outputs", "counts", "before", "after"),
    [
        ([{"text": ["a"]}, TEMPORARY], (1, 1), "a", "a.png"),
        ([TEXT_FILE, TEMPORARY], (2, 2), "a.md", "a.png"),
        ([{"text": ["a"]}, TEXT_FILE], (1, 1), "a.md", "a.md"),
        ([{"text": ["a"]}, {"3d": [{"filename": "a.ply"}]}], (1, 1), "a", "a.ply"),
        ([{"latents": [{"filename": "a.latent", "type": "output"}]}], (1, 0), None, None),
        ([{"result": ["a.GLB", None, "camera"]}], (1, 1), "a.GLB", "a.GLB"),
    ],
    ids=str,
)
def test_jobs_count_what_can_be_shown_since_0_33_and_prefer_pictures(
    outputs, counts, before, after
):
    """Before, the first saved output represented a job, or the first that can be shown."""
    for version, wanted in (("0.28", before), ("0.33", after)):
        with ComfyServer(version=version) as server:
            server.finish("a", {str(number): one for number, one in enumerate(outputs)})
            [job] = ask(server, "GET", "/api/jobs").json()["jobs"]
        shown = counts[1] if version == "0.33" else None
        assert (job["outputs_count"], job.get("previewable_outputs_count")) == (counts[0], shown)
        preview = job.get("preview_output", {})
        assert preview.get("filename", preview.get("content")) == wanted


def test_a_job_has_files_in_place_of_the_names_of_3d_models(newer):
    """Of what a node shows; all else is as it was."""
    prompt_id = f"3d of {newer.version}"
    newer.finish(prompt_id, {"1": {"result": ["a.glb", None, "camera"], "other": None}})
    job = ask(newer, "GET", f"/api/jobs/{prompt_id}").json()
    file = {"filename": "a.glb", "type": "output", "subfolder": "", "mediaType": "3d"}
    assert job["outputs"] == {"1": {"result": [file, "camera"], "other": None}}
    assert job["preview_output"] == {**file, "nodeId": "1"}


def test_jobs_that_wait_or_run_can_show_nothing(newer):
    """And say so in numbers."""
    with ComfyApi(newer.url) as api:
        running = api.submit(txt2img(steps=10000))
        until(lambda: api.get_queue().running)
        job = ask(newer, "GET", f"/api/jobs/{running.prompt_id}").json()
        running.cancel()
    assert job["outputs_count"] == 0
    assert job.get("previewable_outputs_count") == (0 if newer.version == "0.33" else None)


def test_a_value_is_shown_with_its_letters_since_0_33(newer):
    """Others escape those that are not English."""

    class Says:
        RETURN_TYPES = ("*",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {}

        def run(self) -> tuple[Any]:
            return (["ä"],)

    newer.add_node(Says)
    with ComfyApi(newer.url) as api:
        run = api.run({"1": node("Says"), "2": node("PreviewAny", source=["1", 0])}, timeout=LIMIT)
    letter = "ä" if newer.version == "0.33" else "\\u00e4"
    assert run["2"].texts == (f'[\n    "{letter}"\n]',)


def test_folders_of_data_sets_are_listed_since_0_33(newer):
    """As folders of models."""
    names = [one["name"] for one in ask(newer, "GET", "/experiment/models").json()]
    assert ("datasets" in names) == (newer.version == "0.33")
    assert ("datasets" in ask(newer, "GET", "/models").json()) == (newer.version == "0.33")


def test_a_picture_outside_the_outputs_is_refused_with_fewer_words_since_0_33(newer):
    """The path that both have in common is no longer told."""
    with ComfyApi(newer.url) as api, pytest.raises(JobFailed) as failed:
        api.run(picture(prefix="../out"), timeout=LIMIT)
    assert ("commonpath:" in str(failed.value.exception_message)) == (newer.version == "0.28")


@pytest.mark.parametrize(
    ("graph", "status"),
    [
        pytest.param({**OLD, "_meta": {"title": "Old"}}, 200, id="replaced"),
        pytest.param(OLD, 500, id="fails without _meta"),
        pytest.param(
            {"class_type": "T2IAdapterLoader", "inputs": {}, "_meta": {}}, 500, id="without input"
        ),
    ],
)
def test_removed_classes_are_replaced_before_a_prompt_is_checked(graph, status):
    """Since 0.14; those that the server has stay, and so do those for which it has no other."""
    with ComfyServer(object_info="0.28.1") as server:
        whole = {"1": graph, "2": node("PreviewAny", source=["1", 0])}
        answer = ask(server, "POST", "/prompt", json={"prompt": whole})
        assert answer.status_code == status, answer.text
        if status == 500:
            assert answer.text == TROUBLE
            return
        prompt_id = answer.json()["prompt_id"]
        server.until(lambda: prompt_id in server.history, LIMIT)
        queued = server.history[prompt_id]["prompt"][2]
        assert (queued["1"]["class_type"], queued["1"]["inputs"]) == (
            "ControlNetLoader",
            {"control_net_name": "a.safetensors"},
        )
    with ComfyServer(version="0.28") as server:  # which has no ControlNetLoader
        answer = ask(server, "POST", "/prompt", json={"prompt": whole})
        assert answer.json()["error"]["type"] == "missing_node_type"

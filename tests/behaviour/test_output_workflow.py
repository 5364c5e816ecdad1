"""The workflow and the seed of an output, and whatever else leads back to a workflow."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.errors import NotFound, TransportError, UnexpectedResponse, WorkflowError
from comfy_client.jobs.result import make_result
from comfy_client.testing import ComfyServer, Request
from tests.conftest import WORKFLOWS
from tests.helpers.graphs import canvas, node, picture, txt2img, with_metadata
from tests.helpers.http import raw
from tests.helpers.media import ALL, MEDIA

LIMIT = 60.0
MB = 1 << 20


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(step_seconds=0) as server:
        yield server


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as api:
        yield api


def test_an_output_gives_the_workflow_and_the_seed_that_made_it(api: ComfyApi) -> None:
    """The one in the file: also of an output that comes from the cache of the server."""
    graph = txt2img(seed=7)
    result = api.run(graph, timeout=LIMIT)
    assert result.images[0].workflow().to_dict() == graph
    assert Workflow.load(result.images[0]).to_dict() == graph
    assert result.images[0].seed == 7
    cached = api.run({**graph, "99": canvas()}, timeout=LIMIT)
    assert cached.fully_cached
    assert cached.images[0].workflow().to_dict() == graph
    assert cached.images[0].seed == 7


def test_a_job_a_result_and_the_history_give_the_workflow_of_the_prompt(api: ComfyApi) -> None:
    """Before the end, too; all of them may be run again."""
    graph = txt2img(seed=8)
    job = api.submit(graph)
    assert Workflow.load(job).to_dict() == graph
    result = job.result(LIMIT)
    entry = api.get_history(job.prompt_id)
    assert entry is not None
    for source in (result, entry, api.job(job.prompt_id), pickle.loads(pickle.dumps(result))):
        assert Workflow.load(source).to_dict() == graph
        assert api.run(source, timeout=LIMIT).seeds == {"3": 8}


def test_a_frame_has_the_workflow_and_the_seed_of_its_prompt() -> None:
    """No file carries it; it is in the pickle, too."""
    graph = txt2img(seed=9)
    graph["9"] = node("SaveImageWebsocket", images=["8", 0])
    frames = [("9", "image/png", memoryview(b"data"))]
    (frame,) = make_result("id", graph, {}, frames=frames).images
    for one in (frame, pickle.loads(pickle.dumps(frame))):
        assert one.workflow().to_dict() == graph
        assert one.seed == 9


SEED = {"seed": 5}
LATE = {"1": node("A", seed=1), "2": node("B", x=["1", 0], noise_seed=2)}


@pytest.mark.parametrize(
    ("graph", "seed"),
    [
        ({"9": node("Save")}, None),
        ({"9": node("Save", seed=3)}, 3),
        ({**LATE, "9": node("Save", x=["2", 0])}, 2),
        ({**LATE, "9": node("Save", x=["2", 0], y=["1", 0])}, None),
        (
            {
                "1": node("A", **SEED),
                "2": node("B", **SEED),
                "9": node("S", x=["1", 0], y=["2", 0]),
            },
            5,
        ),
        (
            {
                "1": node("PrimitiveInt", value=4),
                "2": node("A", seed=["1", 0]),
                "9": node("S", x=["2", 0]),
            },
            4,
        ),
        ({"1": node("A", seed=6), "2": node("B", seed=["1", 0]), "9": node("S", x=["2", 0])}, 6),
        ({"1": node("A", seed=-1), "9": node("S", x=["1", 0])}, None),
        ({"1": node("A", seed="random"), "9": node("S", x=["1", 0])}, None),
        ({"9": node("Save", x=["8", 0]), "8": node("A", x=["9", 0])}, None),
        ({"1": node("A", seed=True), "9": node("Save", x=["1", 0])}, None),
        ({"8": node("Save", seed=3)}, None),
    ],
)
def test_the_seed_is_the_nearest_one_before_the_output(
    graph: dict[str, Any], seed: int | None
) -> None:
    """None where that is not clear, or where there is none."""
    outputs = {"9": {"images": [{"filename": "a.png"}]}, "9:1": {"images": [{"filename": "b.png"}]}}
    for image in make_result("id", graph, outputs).images:
        assert image.seed == seed


def test_rows_of_a_journal_have_workflow_and_seed(api: ComfyApi, tmp_path: Any) -> None:
    """Also a seed that was drawn when the prompt was submitted."""
    for seeds in ([3], [-1]):
        rows = [
            api.sweep(txt2img(), {"KSampler.seed": seeds}, journal=tmp_path / f"{seeds}.db")[0]
            for _ in range(2)
        ]
        first, again = (row.result for row in rows)
        assert rows[1].from_journal
        assert first.images[0].seed == again.images[0].seed == first.seeds["3"]
        assert Workflow.load(again)["3"]["seed"] == first.seeds["3"]
        assert again.images[0].workflow() == first.images[0].workflow()


def test_a_url_of_the_server_is_read_by_its_client_alone(
    server: ComfyServer, api: ComfyApi
) -> None:
    """As a browser has it; also with a preview, which carries no workflow itself."""
    graph = picture(prefix="folder & more/a")
    image = api.run(graph, timeout=LIMIT).images[0]
    assert image.url is not None
    for url in (image.url, api.get_path_image(image, preview="webp;50")):
        assert Workflow.load(url, api).to_dict() == graph
        assert api.run(url, timeout=LIMIT).fully_cached
    assert Workflow.load(image.url.replace("/api/", "/"), definitions=api).to_dict() == graph


@pytest.mark.parametrize(
    "change",
    [
        ("http://", "https://"),
        ("http://", "http://user:secret@"),
        ("127.0.0.1", "127.0.0.2"),
        ("127.0.0.1", "localhost"),
        ("127.0.0.1:", "127.0.0.1:1"),
        ("/view", "/history"),
        ("/view", "/view/.."),
        ("/api/view", "/api/../view"),
        ("/api/view", "/other/view"),
        ("/api/view", "//api/view@"),
    ],
)
def test_urls_of_other_servers_are_refused_and_nothing_is_sent(
    server: ComfyServer, api: ComfyApi, change: tuple[str, str]
) -> None:
    """Neither a request nor a credential goes anywhere else."""
    image = api.run(picture(), timeout=LIMIT).images[0]
    url = str(image.url).replace(*change) + "&token=secret"
    before = len(server.requests)
    with pytest.raises(WorkflowError, match="this client downloads from nowhere else") as caught:
        Workflow.load(url, api)
    assert "secret" not in str(caught.value)
    assert len(server.requests) == before


def test_a_missing_or_plain_file_of_the_server_is_a_clear_error(api: ComfyApi) -> None:
    """It is gone, it carries no workflow, the URL names none."""
    image = api.run(picture(), timeout=LIMIT).images[0]
    with pytest.raises(NotFound):
        Workflow.load(str(image.url).replace("a_0", "b_0"), api)
    plain = api.upload_image(b"fLaC\x80\0\0\0", "plain.flac")
    with pytest.raises(WorkflowError, match=r"plain\.flac: no workflow in this FLAC file"):
        Workflow.load(api.get_path_image(plain), api)
    with pytest.raises(WorkflowError, match="no filename"):
        Workflow.load(f"{api.host}/view?type=output&token=secret", api)


@pytest.mark.parametrize(
    ("name", "ranges"), [("SaveImage.png", 0), ("SaveVideo.mp4", 1), ("SaveAnimatedWEBP.webp", 1)]
)
def test_little_is_read_of_a_large_file(
    api: ComfyApi, server: ComfyServer, name: str, ranges: int
) -> None:
    """What stands before the pixels comes first, what is behind them by a Range."""
    stored = api.upload_image(large((MEDIA / name).read_bytes(), 40 * MB), name)
    before = len(server.requests)
    url = api.get_path_image(stored)
    assert Workflow.load(url, api).to_dict() == ALL[name]
    asked = [one.headers.get("Range") for one in server.requests[before:]]
    assert asked[0] is None
    assert len(asked) == 1 + ranges
    assert all(int(str(one)[6:-1]) > 40 * MB for one in asked[1:])


def test_a_file_of_the_server_is_read_like_a_local_one(api: ComfyApi, server: ComfyServer) -> None:
    """From any position, forwards and backwards; closing it twice is no harm."""
    content = bytes(range(256)) * 4096
    stored = api.upload_image(content, "bytes.bin")
    with api.open_image(stored) as file:
        local = io.BytesIO(content)
        assert file.read(5) == local.read(5)
        for offset, whence, size in (
            (700_000, 0, 9),
            (-900_000, 2, 3),
            (10, 1, 70_000),
            (-4, 2, 9),
        ):
            assert file.seek(offset, whence) == local.seek(offset, whence)
            assert file.read(size) == local.read(size)
        file.seek(len(content) + 5)
        assert file.read(1) == b""
        file.seek(0)
        assert file.read() == content
    file.close()
    assert file.closed


def test_a_file_that_is_replaced_while_it_is_read_is_an_error(
    api: ComfyApi, server: ComfyServer
) -> None:
    """Never the beginning of one and the end of another."""
    stored = api.upload_image(b"A" * MB, "a.bin")
    with api.open_image(stored) as file:
        assert file.read(10) == b"A" * 10
        (server.root / "input" / "a.bin").write_bytes(b"B" * MB)
        file.seek(-10, 2)
        with pytest.raises(TransportError, match="replaced"):
            file.read()


def test_a_server_that_sends_all_of_a_file_is_read_in_order(
    api: ComfyApi, server: ComfyServer
) -> None:
    """It may know no Range, and may not say how long the file is."""
    content = large((MEDIA / "SaveVideo.mp4").read_bytes(), 3 * MB)
    answers: list[Any] = [(200, {"Content-Type": "video/mp4"}, content), raw_chunks(content)]
    for answer in answers:
        server.on("GET", "/view", answer)
        url = f"{api.host}/view?filename=a.mp4"
        assert Workflow.load(url, api).to_dict() == ALL["SaveVideo.mp4"]


def raw_chunks(content: bytes) -> Any:
    parts = [content[at : at + MB] for at in range(0, len(content), MB)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return raw(b"Transfer-Encoding: chunked\r\n", chunks + b"0\r\n\r\n")


def test_a_part_that_was_not_asked_for_is_refused(api: ComfyApi, server: ComfyServer) -> None:
    """A proxy that answers another range would have us read at the wrong place."""
    content = large((MEDIA / "SaveVideo.mp4").read_bytes(), 3 * MB)

    def answer(request: Request) -> Any:
        if "Range" in request.headers:
            return 206, {"Content-Range": "bytes 5-9/10"}, content[5:10]
        return 200, {"Content-Type": "video/mp4", "ETag": '"one"'}, content

    server.on("GET", "/view", answer)
    with pytest.raises(
        UnexpectedResponse, match="206, other bytes of the file than were requested"
    ):
        Workflow.load(f"{api.host}/view?filename=a.mp4", api)


def large(content: bytes, size: int) -> bytes:
    """With that many bytes of pixels more."""
    filled = bytes(size)
    if content[:4] == b"RIFF":
        return content[:30] + b"JUNK" + size.to_bytes(4, "little") + filled + content[30:]
    if content[4:8] == b"ftyp":
        start = content.index(b"moov") - 4
        return content[:start] + (size + 8).to_bytes(4, "big") + b"mdat" + filled + content[start:]
    start = content.index(b"IDAT") - 4
    return content[:start] + size.to_bytes(4, "big") + b"IDAT" + filled + bytes(4) + content[start:]


def test_a_file_with_the_graph_of_the_page_alone_is_converted(api: ComfyApi) -> None:
    """With the definitions of the server; its own client fetches them."""
    ui = json.loads((WORKFLOWS / "txt2img_ui.json").read_text(encoding="utf-8"))
    content = with_metadata((MEDIA / "SaveImage.png").read_bytes(), {"workflow": ui, "prompt": 1})
    stored = api.upload_image(content, "page.png")
    with pytest.raises(WorkflowError, match="UI format"):
        Workflow.load(content)
    workflow = Workflow.load(content, api)
    assert workflow == Workflow.load(api.get_path_image(stored), api) == Workflow.load(ui, api)
    assert workflow["KSampler"]["steps"] > 0


def test_a_pickle_of_a_result_carries_no_key_of_its_workflow(api: ComfyApi) -> None:
    """A copy does: it stays in this process."""
    graph = txt2img()
    graph["6"]["inputs"]["api_key"] = "a secret"
    result = api.run(graph, timeout=LIMIT)
    assert (
        Workflow.load(result).to_dict() == Workflow.load(copy.deepcopy(result)).to_dict() == graph
    )
    stored = pickle.dumps((result, result.images))
    assert b"a secret" not in stored
    (loaded, (image,)) = pickle.loads(stored)
    graph["6"]["inputs"]["api_key"] = "***"
    assert Workflow.load(loaded).to_dict() == graph
    assert image.seed == 1

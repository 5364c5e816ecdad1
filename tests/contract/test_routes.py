"""Every route group on a real ComfyUI."""

from __future__ import annotations

import io
import json
import struct
import time
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfy_client import ComfyApi
from comfy_client.errors import (
    ApiError,
    AuthenticationError,
    JobFailed,
    NotFound,
    NotSupported,
    PromptRejected,
    UploadTooLarge,
)
from comfy_client.models import HistoryEntry, UploadedImage
from tests.contract.conftest import Server
from tests.helpers.clients import until
from tests.versions import has

# Space, query and fragment signs, percent with and without digits, other scripts.
ODD_NAMES = [
    "a b",
    "a&b=c",
    "a#b",
    "a?b",
    "50%",
    "a%20b",
    "a%2Fb",
    "a+b",
    "Bild \u00e4 \u4f60\u597d",
    "'\"`",
]


def png(width: int = 8, height: int = 8, pixel: bytes = b"\xff\x00\x00\xff") -> bytes:
    """An RGBA picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    rows = zlib.compress((b"\0" + pixel * width) * height)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def safetensors(metadata: dict[str, str] | None) -> bytes:
    """A file with nothing but a header."""
    head = json.dumps({} if metadata is None else {"__metadata__": metadata}).encode()
    return struct.pack("<Q", len(head)) + head


def unique(suffix: str = "") -> str:
    """A name that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}{suffix}"


def submit(api: ComfyApi, graph: dict[str, Any], **fields: Any) -> str:
    """Queue a prompt and return its id."""
    body = {"prompt": graph, "client_id": unique(), **fields}
    return str(api.fetch_api("/prompt", "POST", json=body).json()["prompt_id"])


def upload_mask(api: ComfyApi, fields: dict[str, str], mask: bytes, name: str) -> Any:
    """The bare answer, which the client's own method looks into."""
    return api.parts.http.upload("/upload/mask", fields, mask, name)


def finished(api: ComfyApi, prompt_id: str) -> HistoryEntry:
    """The history entry of a prompt, once it is there."""
    entry = until(lambda: api.get_history(prompt_id))
    assert isinstance(entry, HistoryEntry)
    return entry


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def pictured(data: bytes) -> Image.Image:
    """A file as a picture."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def answered(
    server: Server, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, str, bytes]:
    """Status, content type and body of an answer, without a client in between."""
    answer = requests.request(method, f"{server.url}{path}", json=body, headers=headers, timeout=60)
    return answer.status_code, answer.headers.get("Content-Type", ""), answer.content


@pytest.fixture
def idle(api: ComfyApi) -> Iterator[ComfyApi]:
    """A client of a server that has nothing to do, before and after."""

    def stop() -> None:
        def empty() -> bool:
            api.clear_queue()
            api.interrupt()
            queue = api.get_queue()
            return not (queue.running or queue.pending)

        until(empty)

    stop()
    yield api
    stop()


@pytest.fixture
def crowd(crowded: Server) -> Iterator[ComfyApi]:
    """A client of the second server, without a user."""
    with ComfyApi(crowded.url) as api:
        yield api


# -- queue --------------------------------------------------------------------------------


def test_the_queue_shows_what_runs_and_what_waits_in_order(idle, workflow):
    """By number, which the server's own list is not."""
    running = submit(idle, workflow("sleep", seconds=60.0))
    until(lambda: idle.get_queue().running)
    numbers = [5005, 5001, 5004, 5002, 5003]
    ids = {number: submit(idle, workflow("sleep"), number=number) for number in numbers}
    queue = idle.get_queue()
    assert [item.prompt_id for item in queue.running] == [running]
    assert [item.number for item in queue.pending] == sorted(numbers)
    assert [item.prompt_id for item in queue.pending] == [ids[n] for n in sorted(numbers)]
    item = queue.running[0]
    assert item.workflow["1"]["inputs"]["seconds"] == 60.0
    assert item.outputs == ("1",)
    assert item.extra_data["client_id"]


# -- history ------------------------------------------------------------------------------


def test_history_has_outputs_times_and_error_of_an_ended_prompt(idle, workflow):
    """Success with outputs and times, failure with its error."""
    before = time.time()
    good = finished(idle, submit(idle, workflow("sleep", seconds=0.1)))
    assert good.succeeded
    assert not good.interrupted
    assert good.outputs == {"1": {"text": ["slept"]}}
    assert before - 5 < good.started <= good.ended < before + 60
    assert good.meta["1"]["display_node"] == "1"
    assert good.workflow["1"]["class_type"] == "TestSleepOutput"
    bad = finished(idle, submit(idle, workflow("fail")))
    assert not bad.succeeded
    assert bad.execution_error["node_id"] == "2"
    assert bad.execution_error["exception_message"].strip() == "failed as told"


@pytest.mark.needs("own prompt_id")
@pytest.mark.parametrize("name", [*ODD_NAMES, "a/b", "../prompt", "..."])
def test_any_id_finds_its_history(idle, comfyui, workflow, name):
    """Where the server takes any text as an id; it is one segment of the path."""
    prompt_id = f"{unique()} {name}"
    assert idle.get_history(name) is None
    if has(comfyui.version, "canonical ids only"):
        with pytest.raises(PromptRejected, match="UUID"):
            idle.queue_prompt(None, workflow("sleep"), prompt_id=prompt_id)
        prompt_id = str(uuid.uuid4())
    assert submit(idle, workflow("sleep", seconds=0.0), prompt_id=prompt_id) == prompt_id
    assert finished(idle, prompt_id).prompt_id == prompt_id
    idle.delete_history(prompt_id)
    assert idle.get_history(prompt_id) is None


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_an_id_that_means_another_route_is_refused(api, name):
    """Before anything is asked."""
    for ask in (
        api.get_history,
        api.get_job,
        api.cancel_job,
        api.get_node_defs,
        api.get_models,
        api.get_model_files,
        api.get_setting,
        api.get_global_subgraph,
        api.get_internal_files,
        api.get_user_data,
        api.delete_user_data,
    ):
        with pytest.raises(ValueError, match=r"path|leads out"):
            ask(name)


# -- jobs ---------------------------------------------------------------------------------


# -- nodes --------------------------------------------------------------------------------


@pytest.mark.needs("get_features")
def test_node_definitions_of_all_and_of_one(api):
    """One is what it is among all; an unknown one is nothing."""
    everything = api.get_node_defs()
    assert len(everything) > 20
    one = api.get_node_defs("KSampler")
    assert list(one) == ["KSampler"]
    assert one["KSampler"].raw == everything["KSampler"].raw
    sampler = one["KSampler"]
    assert sampler.display_name == "KSampler"
    assert sampler.output == ("LATENT",)
    assert sampler.inputs()["steps"][0] == "INT"
    assert next(iter(sampler.inputs())) == sampler.input_order["required"][0]
    assert everything["SaveImage"].output_node
    # Both shapes occur on this server.
    assert "bilinear" in everything["ImageScale"].options("upscale_method")
    assert any(
        spec[0] == "COMBO" and node.options(name) is not None
        for node in everything.values()
        for name, spec in node.inputs().items()
    )


@pytest.mark.parametrize("name", [*ODD_NAMES, "a/b c", "../queue"])
def test_an_unknown_node_class_has_no_definition(api, name):
    """Whatever its name."""
    assert api.get_node_defs(name) == {}


def test_checkpoints_loras_and_samplers_are_lists_of_names(api, comfyui):
    """What the loaders and KSampler take."""
    name = unique(".safetensors")
    lora = comfyui.root / "models" / "loras" / name
    lora.write_bytes(safetensors(None))
    try:
        assert "tiny.ckpt" in api.get_checkpoints()
        assert name in api.get_loras()
    finally:
        lora.unlink()
    info = api.get_sampler_info()
    assert "euler" in info.samplers
    assert "karras" in info.schedulers


def test_extensions_and_embeddings_are_lists_of_names(api, comfyui):
    """Embeddings without their endings."""
    name = unique()
    embedding = comfyui.root / "models" / "embeddings" / f"{name}.safetensors"
    embedding.write_bytes(safetensors(None))
    try:
        assert name in api.get_embeddings()
    finally:
        embedding.unlink()
    assert all(path.endswith(".js") for path in api.get_extensions())


@pytest.mark.needs("get_global_subgraphs")
def test_a_server_without_packs_brings_nothing_along(api, comfyui):
    """Empty, but no error; newer ones have subgraphs of their own."""
    assert api.get_workflow_templates() == {}
    if not has(comfyui.version, "subgraphs of its own"):
        assert api.get_global_subgraphs() == {}
        assert api.get_i18n() == {}


@pytest.mark.needs("get_features")
def test_scripts_of_the_editor_and_of_packs_are_listed_and_served(crowd, crowded):
    """Of a pack those in the folder that it names, in one way or the other."""
    scripts = crowd.get_extensions()
    core = next(path for path in scripts if path.startswith("/extensions/core/"))
    assert {"/extensions/a_pack/a/b.js", "/extensions/a-pack/c.js"} <= set(scripts)
    assert answered(crowded, "GET", core)[0] == 200
    assert answered(crowded, "GET", "/extensions/a_pack/a/b.js")[2] == b"// b"
    assert answered(crowded, "GET", "/extensions/a-pack/c.js")[2] == b"// c"
    assert answered(crowded, "GET", "/extensions/a_pack/a")[0] == 403
    outside = ("a_pack/..%2F__init__.py", "..%2F..%2F..%2Fmodels%2F..%2Fmain.py", "a_pack/x\0.js")
    for path in ("a_pack/none.js", "none/a.js", "..%2F..%2Fnone.js", *outside):
        assert answered(crowded, "GET", f"/extensions/{path}".replace("\0", "%00"))[0] == 404


@pytest.mark.needs("get_global_subgraphs")
def test_templates_subgraphs_and_translations_of_a_pack(crowd):
    """Each by the name under which it is listed."""
    assert crowd.get_workflow_templates() == {"a_pack": ["first & best"]}
    assert crowd.get_workflow_template("a_pack", "first & best") == {"nodes": []}
    found = crowd.get_global_subgraphs()
    [subgraph_id] = [key for key, one in found.items() if one.name == "blur"]
    listed = found[subgraph_id]
    assert (listed.id, listed.name, listed.data) == (subgraph_id, "blur", None)
    assert listed.info == {"node_pack": "custom_nodes.a_pack"}
    found = crowd.get_global_subgraph(subgraph_id)
    assert (found.id, found.name) == (subgraph_id, "blur")
    assert json.loads(found.data) == {"definitions": {}}
    assert crowd.get_i18n()["en"]["hello"] == "world"


@pytest.mark.needs("get_global_subgraphs")
def test_templates_and_subgraphs_that_are_not_there(crowd):
    """NotFound, though the server says 404 as for a missing route, or 200 with null."""
    with pytest.raises(NotFound, match="get_workflow_templates"):
        crowd.get_workflow_template("a_pack", "second")
    for module in ("no pack", *ODD_NAMES, "../a_pack"):
        with pytest.raises(NotFound):
            crowd.get_workflow_template(module, "first & best")
    for subgraph_id in ("unknown", *ODD_NAMES):
        with pytest.raises(NotFound, match="get_global_subgraphs"):
            crowd.get_global_subgraph(subgraph_id)


# -- models -------------------------------------------------------------------------------


def test_files_that_a_server_brings_along_are_listed(api):
    """Some of them no models."""
    configs = api.get_models("configs")
    assert (len(configs), configs[0]) == (11, "anything_v3.yaml")
    brought = {"example_node.py.example", "websocket_image_save.py"}
    assert brought <= set(api.get_models("custom_nodes"))
    assert api.get_model_files("configs") == []


@pytest.mark.needs("get_features")
def test_models_by_kind(api):
    """The kinds, the names, and the files with sizes."""
    assert {"checkpoints", "loras", "embeddings"} <= set(api.get_model_types())
    assert "tiny.ckpt" in api.get_models("checkpoints")
    folders = {folder.name: folder.folders for folder in api.get_model_folders()}
    [file] = [one for one in api.get_model_files("checkpoints") if one.name == "tiny.ckpt"]
    path = Path(folders["checkpoints"][file.path_index], file.name)
    assert file.size == path.stat().st_size
    assert file.modified == pytest.approx(path.stat().st_mtime)
    assert api.get_folder_paths()["checkpoints"] == list(folders["checkpoints"])


@pytest.mark.parametrize("folder", ["unknown", *ODD_NAMES, "../queue", "a/b"])
def test_an_unknown_kind_of_model_is_not_found(api, folder):
    """The route is there, the kind is not."""
    with pytest.raises(NotFound):
        api.get_models(folder)
    with pytest.raises(NotFound):
        api.get_model_files(folder)
    with pytest.raises(NotFound):
        api.get_model_preview(folder, 0, "tiny.ckpt")
    assert api.view_metadata(folder, "a.safetensors") is None


@pytest.mark.parametrize("name", ["model", *ODD_NAMES])
def test_preview_and_metadata_of_a_model(api, comfyui, name):
    """In a subfolder, under any name."""
    sub = unique()
    folder = comfyui.root / "models" / "loras" / sub
    path = folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(safetensors({"ss_tag": "x", "steps": "7"}))
    path.with_suffix(".png").write_bytes(png())
    relative = f"{sub}/{path.name}"
    listed = {file.name: file for file in api.get_model_files("loras")}
    preview = api.get_model_preview("loras", listed[relative].path_index, relative)
    assert preview[:4] == b"RIFF"
    assert preview[8:12] == b"WEBP"
    assert api.view_metadata("loras", relative) == {"ss_tag": "x", "steps": "7"}
    assert api.get_view_metadata("loras", relative) == {"ss_tag": "x", "steps": "7"}


def test_preview_and_metadata_that_are_not_there(api, comfyui):
    """NotFound, None, and the server's own stumbling over an index (until ComfyUI 0.28)."""
    with pytest.raises(NotFound):
        api.get_model_preview("checkpoints", 0, "tiny.ckpt")
    with pytest.raises(NotFound):
        api.get_model_preview("checkpoints", 0, "unknown.ckpt")
    with pytest.raises(ApiError) as caught:
        api.get_model_preview("checkpoints", 99, "tiny.ckpt")
    assert caught.value.status in (404, 500)
    for wrong in ("", "/a", "a//b", "../a", "a/.."):
        with pytest.raises(ValueError, match="path"):
            api.get_model_preview("checkpoints", 0, wrong)
    bare = comfyui.root / "models" / "loras" / unique(".safetensors")
    bare.write_bytes(safetensors(None))
    for name in ("tiny.ckpt", "unknown.safetensors", "", "../tiny.ckpt"):
        assert api.view_metadata("checkpoints", name) is None
    assert api.view_metadata("loras", bare.name) is None
    bare.unlink()


# -- files: upload ------------------------------------------------------------------------


def test_an_upload_from_path_bytes_and_file(api, comfyui, tmp_path):
    """Each arrives whole, under its own name or the one given."""
    content = png()
    path = tmp_path / unique(".png")
    path.write_bytes(content)
    assert api.upload_image(path) == UploadedImage(path.name, "", "input")
    assert (comfyui.root / "input" / path.name).read_bytes() == content
    assert api.upload_image(str(path), other := unique(".png")).name == other
    assert api.upload_image(content, third := unique(".png")).name == third
    with path.open("rb") as file:
        file.seek(8)
        assert api.upload_image(file, fourth := unique(".png")).name == fourth
    assert (comfyui.root / "input" / fourth).read_bytes() == content[8:]
    assert api.upload_image(io.BytesIO(b"any \x00 kind"), fifth := unique(".bin")).name == fifth
    assert (comfyui.root / "input" / fifth).read_bytes() == b"any \x00 kind"
    with path.open("rb") as file:
        assert api.upload_image(file).name == path.name
    assert api.upload_image(b"", empty := unique(".txt")).name == empty
    assert (comfyui.root / "input" / empty).read_bytes() == b""


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_upload_under_any_name_comes_back(api, name, tmp_path):
    """In a folder of the same name, by every way of reading it."""
    content = png()
    uploaded = api.upload_image(content, f"{name}.png", subfolder=f"{unique()}/{name}")
    assert api.get_image(uploaded) == content
    saved = api.download_image(uploaded, tmp_path)
    assert saved.read_bytes() == content
    with api.stream_image(uploaded) as download:
        assert download.length == len(content)
        assert b"".join(download) == content


def test_a_taken_name_is_numbered_reused_or_replaced(api):
    """The server decides by content, unless told to overwrite."""
    name, folder = unique(".png"), unique()
    first, second = png(pixel=b"\1\2\3\xff"), png(pixel=b"\4\5\6\xff")
    assert api.upload_image(first, name, subfolder=folder).name == name
    assert api.upload_image(first, name, subfolder=folder).name == name
    numbered = api.upload_image(second, name, subfolder=folder)
    assert numbered.name == name.replace(".png", " (1).png")
    assert api.get_image(numbered) == second
    replaced = api.upload_image(second, name, subfolder=folder, overwrite=True)
    assert replaced.name == name
    assert api.get_image(replaced) == second


@pytest.mark.parametrize("kind", ["input", "temp", "output"])
def test_an_upload_of_each_type_is_usable_by_its_ref(idle, workflow, kind):
    """LoadImage takes it, with its folder."""
    uploaded = idle.upload_image(png(), unique(".png"), subfolder="sub folder", type=kind)
    assert uploaded.type == kind
    graph = workflow("image_ops")
    graph["1"]["inputs"]["image"] = uploaded.ref
    entry = finished(idle, submit(idle, graph))
    assert entry.succeeded, entry.execution_error


def test_values_that_name_no_file_or_prompt_are_a_type_error(api):
    """A name alone, an object of another kind; before anything is asked."""
    for wrong in ("x.png", None, 7):
        with pytest.raises(TypeError, match="a file must be an output"):
            api.get_image(wrong)
        with pytest.raises(TypeError, match="its prompt_id, a string"):
            api.job(None if wrong == "x.png" else wrong)
    with pytest.raises(TypeError, match="must be a string"):
        api.get_history(7)
    with pytest.raises(ValueError, match="cannot be part of a path"):
        api.job("")


def test_impossible_uploads_are_refused_in_one_line(api, tmp_path):
    """A missing file, a folder, a name with folders, an unknown type."""
    with pytest.raises(FileNotFoundError, match=r"no such file to upload: .*nope\.png"):
        api.upload_image(tmp_path / "nope.png")
    with pytest.raises(IsADirectoryError, match="cannot upload a folder"):
        api.upload_image(tmp_path)
    for name in ("a/b.png", "a\\b.png", "..", "."):
        with pytest.raises(ValueError, match="use subfolder"):
            api.upload_image(b"x", name)
    with pytest.raises(ValueError, match="'input', 'output' or 'temp'"):
        api.upload_image(b"x", "a.png", type="other")
    for subfolder in ("../..", "a/../..", "/etc"):
        with pytest.raises(ValueError, match="leads out of the folder"):
            api.upload_image(b"x", "a.png", subfolder=subfolder)


@pytest.mark.needs("get_features")
def test_an_upload_that_is_too_large_says_what_is_allowed(crowd):
    """1 MiB on this server, as its features say too."""
    assert crowd.get_features().max_upload_size == 1 << 20
    with pytest.raises(UploadTooLarge) as caught:
        crowd.upload_image(bytes(2 << 20), unique(".bin"))
    assert caught.value.limit == 1 << 20
    assert caught.value.size > 2 << 20


# -- files: mask --------------------------------------------------------------------------


def test_a_mask_gives_the_original_its_alpha(api):
    """Whatever names the original: an upload, an output's mapping, an object."""
    original = api.upload_image(png(pixel=b"\x0a\x0b\x0c\xff"), unique(".png"))
    mask = png(pixel=b"\0\0\0\x40")
    for ref in (
        original,
        {"filename": original.name, "subfolder": "", "type": "input"},
        {"filename": f"{original.name} [input]"},
        SimpleNamespace(filename=original.name, subfolder=None, type="input"),
    ):
        made = api.upload_mask(mask, ref, unique(".png"), subfolder="clipspace")
        assert made.subfolder == "clipspace"
        # The alpha channel alone, then the colours alone, against pictures made here.
        alpha = api.get_image(made, channel="a")
        wanted = api.upload_image(mask, unique(".png"))
        assert alpha == api.get_image(wanted, channel="a")
        assert api.get_image(made, channel="rgb") == api.get_image(original, channel="rgb")


def test_a_mask_finds_an_original_whose_folder_stands_in_its_name(comfyui, api):
    """As that of nodes, and unlike a file that is viewed."""
    folder, name = unique(), unique(".png")
    original = api.upload_image(png(pixel=b"\x0a\x0b\x0c\xff"), name, subfolder=folder)
    ref = {"filename": f"{folder}/{original.name}", "type": "input"}
    fields = {"original_ref": json.dumps(ref), "type": "input"}
    made = upload_mask(api, fields, png(pixel=b"\0\0\0\x40"), unique(".png"))
    stored = pictured(api.get_image(UploadedImage.from_json(made)))
    assert stored.getpixel((0, 0)) == (0x0A, 0x0B, 0x0C, 0x40)


def test_a_masked_picture_has_all_texts_of_its_original(api):
    """Whatever they are, and in whichever form."""
    texts = {"prompt": '{"1": "\u00e4"}', "Software": "a pencil", "": "none", "k" * 100: "long"}
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text, zip=key == "Software")
    info.add_itxt("Title", "\u4f60\u597d", "en", "Title")
    data = encoded(Image.new("RGB", (8, 8)), pnginfo=info)
    original = api.upload_image(data, unique(".png"))
    made = api.upload_mask(png(), original, unique(".png"))
    found = pictured(api.get_image(made)).text
    assert found == pictured(data).text
    assert found["Title"] == "\u4f60\u597d"


def test_a_mask_for_a_missing_original_is_not_found(api, comfyui):
    """The server would say 200 and write nothing, or leave an older file of that name."""
    mask, name = png(), unique(".png")
    older = api.upload_image(png(pixel=b"\7\7\7\7"), name)
    for overwrite in (False, True):
        with pytest.raises(NotFound, match=r"has no original input/gone\.png"):
            api.upload_mask(
                mask, {"filename": "gone.png", "type": "input"}, name, overwrite=overwrite
            )
    with pytest.raises(NotFound):  # a missing type is output
        api.upload_mask(mask, {"filename": name}, name)
    with pytest.raises(ApiError):
        api.upload_mask(mask, {"filename": "../gone.png"}, name)
    assert api.get_image(older) == png(pixel=b"\7\7\7\7")
    assert not (comfyui.root / "input" / name.replace(".png", " (1).png")).exists()


def test_the_server_itself_says_200_to_a_mask_for_nothing(api):
    """The trap that is looked out for; a version without it may do with less asking."""
    name = unique(".png")
    fields = {"original_ref": '{"filename": "gone.png"}', "type": "input"}
    answer = upload_mask(api, fields, png(), name)
    assert answer["name"] == name
    with pytest.raises(NotFound):
        api.get_image(UploadedImage.from_json(answer))


def test_a_mask_of_another_size_is_an_error(api):
    """And of what is no picture."""
    original = api.upload_image(png(8, 8), unique(".png"))
    for wrong in (png(4, 4), b"not a picture"):
        with pytest.raises(ApiError, match="500"):
            api.upload_mask(wrong, original, unique(".png"))


# -- files: read and written by nodes ------------------------------------------------------

ORANGE = Image.new("RGB", (8, 8), (255, 128, 0))
PICTURES = {
    "palette.png": encoded(ORANGE.quantize(2), transparency=0),
    "palette.gif": encoded(ORANGE.quantize(2), "GIF", transparency=0),
    "colour.png": encoded(ORANGE, transparency=(255, 128, 0)),
    "grey.png": encoded(Image.new("L", (8, 8), 77), transparency=77),
    "alpha.png": encoded(Image.new("RGBA", (8, 8), (255, 128, 0, 0))),
    "cut.png": encoded(Image.effect_noise((64, 64), 50).convert("RGB"))[:-900],
}


def loading(name: str) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_loaded_with_three_channels(idle, comfyui, name):
    """Also one that has a transparent colour, or ends early: the rest of that is black.

    Newer servers have libav read it, which may keep a fourth channel, and takes nothing that is
    cut; that is not for a client to say.
    """
    uploaded = idle.upload_image(PICTURES[name], unique(name))
    if has(comfyui.version, "pictures by libav"):
        job = idle.submit(loading(uploaded.name))
        assert isinstance(job.exception(60), JobFailed) or job.result(0).images
        return
    [image] = idle.run(loading(uploaded.name), timeout=60).images
    loaded = pictured(image.bytes())
    assert loaded.mode == "RGB"
    if name == "cut.png":
        assert loaded.size == (64, 64)
        assert loaded.getpixel((63, 63)) == (0, 0, 0)
    else:
        wanted = (77, 77, 77) if name == "grey.png" else (255, 128, 0)
        assert loaded.getpixel((7, 7)) == wanted


def test_failures_of_nodes_have_the_same_type_and_words(idle):
    """By type and words: a folder outside, a mode of blending that is none.

    Newer servers check such a mode before anything runs.
    """
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 1}
    image = {"class_type": "EmptyImage", "inputs": size}
    save = {"images": ["1", 0], "filename_prefix": "../outside/a"}
    with pytest.raises(JobFailed) as failed:
        idle.run({"1": image, "2": {"class_type": "SaveImage", "inputs": save}}, timeout=60)
    assert failed.value.exception_type == "Exception"
    words = failed.value.exception_message.split()
    assert " ".join(words[:11]) == (
        "**** ERROR: Saving image outside the output folder is not allowed."
    )
    told = [word for word in words[11:] if "/" not in word]
    assert told[:2] == ["full_output_folder:", "output_dir:"]
    assert told[2:] in (["commonpath:"], [])  # not in 0.33
    inputs = {"image1": ["1", 0], "image2": ["1", 0], "blend_factor": 0.5, "blend_mode": "x"}
    graph = {"1": image, "2": {"class_type": "ImageBlend", "inputs": inputs}}
    graph["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    with pytest.raises((JobFailed, PromptRejected), match=r"blend.mode.*\bx\b") as failed:
        idle.run(graph, timeout=60)
    if isinstance(failed.value, JobFailed):
        assert "Unsupported blend mode: x" in str(failed.value)
        assert failed.value.exception_type == "ValueError"


def test_texts_of_a_picture_may_have_keys_that_png_forbids(idle):
    """They are written, as any others are."""
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 1}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    extra = {"extra_pnginfo": {"": [1], "k" * 100: {"a": 2}, "\u00e4": 3}}
    entry = finished(idle, submit(idle, graph, extra_data=extra))
    assert entry.status.status_str == "success"
    picture = pictured(idle.get_image(entry.outputs["2"]["images"][0]))
    assert json.loads(picture.text["k" * 100]) == {"a": 2}
    assert json.loads(picture.text["\u00e4"]) == 3
    assert json.loads(picture.text["prompt"])["1"]["inputs"] == size


# -- files: download ----------------------------------------------------------------------


def test_the_url_of_a_file_says_all_and_escapes_it(api, comfyui):
    """For other programs; without asking the server."""
    url = api.get_path_image(
        {"filename": "a b&c#d.png", "subfolder": "x\\y", "type": "temp"}, preview="webp;50"
    )
    assert url.startswith(f"{comfyui.url}/")
    assert url.endswith(
        "/view?filename=a%20b%26c%23d.png&subfolder=x%2Fy&type=temp&preview=webp%3B50"
    )
    assert "type=output" in api.get_path_image({"filename": "a.png"})
    with pytest.raises(ValueError, match="no filename"):
        api.get_path_image({"subfolder": "x"})


def test_previews_and_channels(api, tmp_path):
    """Each is what it says, and a download is called so."""
    picture = api.upload_image(png(pixel=b"\1\2\3\x80"), f"{unique()}.png")
    stem = picture.name.removesuffix(".png")
    for preview, channel, start, ending in (
        ("webp", None, b"RIFF", ".webp"),
        ("jpeg;50", None, b"\xff\xd8", ".jpg"),
        ("jpeg", "rgba", b"RIFF", ".webp"),
        ("bogus", None, b"RIFF", ".webp"),
        (None, "rgb", b"\x89PNG", ".png"),
        (None, "a", b"\x89PNG", ".png"),
        (None, "rgba", png(pixel=b"\1\2\3\x80"), ".png"),
    ):
        assert api.get_image(picture, preview=preview, channel=channel).startswith(start)
        saved = api.download_image(
            picture, tmp_path, preview=preview, channel=channel, if_exists="overwrite"
        )
        assert saved.name == stem + ending
        assert saved.read_bytes().startswith(start)


def test_a_name_of_a_file_that_is_too_long_is_none(comfyui):
    """In all that looks for one."""
    name = "x" * 300
    assert answered(comfyui, "GET", f"/view?filename={name}.png&type=input")[0] == 404
    path = f"/view_metadata/loras?filename={name}.safetensors"
    assert answered(comfyui, "GET", path)[0] == 404
    status, _, body = answered(comfyui, "POST", "/prompt", {"prompt": loading(f"{name}.png")})
    errors = json.loads(body)["node_errors"]["1"]["errors"]
    assert (status, errors[0]["type"]) == (400, "custom_validation_failed")


def test_files_that_cannot_be_read(api, tmp_path):
    """Not there, outside, of no type, no picture."""
    with pytest.raises(NotFound):
        api.get_image({"filename": "gone.png"})
    with pytest.raises(ApiError) as caught:
        api.get_image({"filename": "../gone.png"})
    assert caught.value.status == 400
    with pytest.raises(ApiError) as caught:
        api.get_image({"filename": "gone.png", "type": "other"})
    assert caught.value.status == 400
    with pytest.raises(AuthenticationError):
        api.get_image({"filename": "gone.png", "subfolder": "../.."})
    text = api.upload_image(b"text", unique(".txt"))
    with pytest.raises(ApiError, match="500"):
        api.get_image(text, preview="webp")
    with pytest.raises(NotFound):
        api.download_image({"filename": "gone.png"}, tmp_path)
    with pytest.raises(NotFound), api.stream_image({"filename": "gone.png"}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_html_file_is_a_file_like_any_other(api):
    """No login page."""
    page = api.upload_image(b"<html></html>", unique(".html"))
    assert api.get_image(page) == b"<html></html>"
    with api.stream_image(page) as download:
        assert b"".join(download) == b"<html></html>"


def test_downloads_are_numbered_skipped_or_replaced(api, tmp_path):
    """In a folder numbered, as an exact file replaced, unless told otherwise."""
    first = api.upload_image(b"first", "d.txt", subfolder=unique())
    second = api.upload_image(b"second", "d.txt", subfolder=unique())
    folder = f"{tmp_path}/new/folder/"
    assert api.download_image(first, folder) == Path(folder, "d.txt")
    assert api.download_image(second, folder) == Path(folder, "d (1).txt")
    assert Path(folder, "d.txt").read_bytes() == b"first"
    exact = tmp_path / "exact.txt"
    api.download_image(first, exact)
    api.download_image(second, exact)
    assert exact.read_bytes() == b"second"
    assert api.download_image(first, exact, if_exists="skip") == exact
    assert exact.read_bytes() == b"second"
    assert api.download_image({"filename": "gone.png"}, exact, if_exists="skip") == exact
    assert api.download_image(first, exact, if_exists="number").name == "exact (1).txt"


def test_outputs_of_a_prompt_can_be_passed_as_they_are(idle, workflow, tmp_path):
    """A mapping from the history."""
    entry = finished(idle, submit(idle, workflow("image_ops")))
    images = [image for output in entry.outputs.values() for image in output["images"]]
    for image in images:
        assert idle.get_image(image).startswith(b"\x89PNG")
        assert idle.download_image(image, tmp_path).name == image["filename"]


def test_a_large_file_goes_both_ways(api, comfyui, tmp_path):
    """30 MB, in chunks."""
    path = tmp_path / unique(".bin")
    path.write_bytes(bytes(range(256)) * (30 << 12))
    uploaded = api.upload_image(path)
    assert (comfyui.root / "input" / path.name).stat().st_size == path.stat().st_size
    saved = api.download_image(uploaded, tmp_path / "back.bin")
    assert saved.read_bytes() == path.read_bytes()


# -- users and settings -------------------------------------------------------------------


@pytest.mark.needs("list_user_data_v2")
def test_users_of_a_server_for_many(crowd, crowded):
    """Each has own settings and files; nobody and strangers have none."""
    name = f"J\u00fcrgen {unique()}"
    user_id = crowd.create_user(name)
    config = crowd.get_user_config()
    assert config.users[user_id] == name
    assert config.migrated is None
    other_id = crowd.create_user(unique())
    with ComfyApi(crowded.url, user=user_id) as one, ComfyApi(crowded.url, user=other_id) as two:
        one.store_setting("a", 1)
        assert (one.get_setting("a"), two.get_setting("a")) == (1, None)
        one.store_user_data("a.txt", "mine")
        assert two.list_user_data() == []
        with pytest.raises(NotFound):
            two.get_user_data("a.txt")
        with pytest.raises(UploadTooLarge):
            one.store_user_data("a.bin", bytes(2 << 20))
    for stranger in ("unknown", "__system"):
        with ComfyApi(crowded.url, user=stranger) as nobody:
            for ask in (nobody.get_settings, nobody.list_user_data_v2):
                with pytest.raises(AuthenticationError):
                    ask()
            with pytest.raises(ApiError):
                nobody.list_user_data()


@pytest.mark.needs("words about users")
@pytest.mark.parametrize(
    ("name", "words"), [("", "not provided"), ("  ", "not provided"), ("__a", "not allowed")]
)
def test_a_user_that_cannot_be_is_refused_in_words(crowd, name, words):
    """The server's own."""
    with pytest.raises(ApiError, match=words):
        crowd.create_user(name)


@pytest.mark.parametrize(
    "value", [0, False, "", "text \u00e4", 1.5, [1, None], {"a": {"b": 1}}, None]
)
def test_a_setting_keeps_any_json_value(api, value):
    """False and 0 are no default; null is."""
    name = f"Test.{unique()}"
    assert api.get_setting(name) is None
    assert api.get_setting(name, "default") == "default"
    api.store_setting(name, value)
    assert api.get_setting(name, "default") == ("default" if value is None else value)
    assert api.get_settings()[name] == value


@pytest.mark.parametrize("name", [*ODD_NAMES, "a/b", "../settings", "..."])
def test_a_setting_of_any_name_is_found(api, name):
    """One segment of the path."""
    api.store_setting(name, name)
    assert api.get_setting(name) == name
    assert api.get_settings()[name] == name


def test_storing_settings_leaves_the_others(api):
    """Merged by id."""
    one, two = unique(), unique()
    api.store_settings({one: 1, two: {"a": 1}})
    api.store_settings({two: {"b": 2}})
    settings = api.get_settings()
    assert settings[one] == 1
    assert settings[two] == {"b": 2}
    with pytest.raises(ValueError, match="JSON compliant"):
        api.store_setting(one, float("nan"))


def test_settings_stored_at_once_are_all_kept(api, comfyui):
    """By several threads and clients; the server alone would lose some."""
    prefix = unique()
    with ComfyApi(comfyui.url) as other:

        def store(client: ComfyApi, part: str) -> None:
            for number in range(60):
                client.store_setting(f"{prefix}.{part}.{number}", number)

        clients = {"a": api, "b": api, "c": other, "d": other}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(store, clients.values(), clients))
    assert sum(name.startswith(prefix) for name in api.get_settings()) == 4 * 60


# -- user data ----------------------------------------------------------------------------


@pytest.mark.needs("list_user_data_v2")
@pytest.mark.parametrize("name", [*ODD_NAMES, "a..b", "...", ".hidden"])
def test_user_data_under_any_path_comes_back(api, name):
    """Stored, read, listed, moved, deleted: also where the server decodes twice."""
    folder = unique()
    path = f"{folder}/{name}/{name}.json"
    assert api.store_user_data(path, {"a": 1}) == path
    assert json.loads(api.get_user_data(path)) == {"a": 1}
    # The server hides what begins with a dot from this list, not from the newer one.
    listed = [] if name.startswith(".") else [f"{name}.json"]
    assert api.list_user_data(f"{folder}/{name}") == listed
    assert path in [e.path for e in api.list_user_data_v2(f"{folder}/{name}")]
    moved = f"{folder}/to {name}.json"
    assert api.move_user_data(path, moved) == moved
    assert json.loads(api.get_user_data(moved)) == {"a": 1}
    with pytest.raises(NotFound):
        api.get_user_data(path)
    api.delete_user_data(moved)
    with pytest.raises(NotFound):
        api.get_user_data(moved)


def test_user_data_is_stored_as_it_is_or_as_json(api):
    """Bytes and text as they are, all else as JSON, or as told."""
    path = unique(".dat")

    def stored(data: Any, **options: Any) -> bytes:
        api.store_user_data(path, data, **options)
        return api.get_user_data(path)

    assert stored(b"\x00\xff") == b"\x00\xff"
    assert stored(b"") == b""
    assert stored("\u00e4") == "\u00e4".encode()
    assert stored({"a": [1, None]}) == b'{"a": [1, null]}'
    assert stored(None) == b"null"
    assert stored("text", stringify=True) == b'"text"'
    assert stored("text", stringify=False) == b"text"
    with pytest.raises(TypeError, match="stringify=False stores bytes or str, not dict"):
        stored({}, stringify=False)
    with pytest.raises(ValueError, match="JSON compliant"):
        stored([float("inf")])


def test_user_data_with_full_info(api):
    """Size and times, wherever it is asked for."""
    folder = unique()
    now = time.time()
    stored = api.store_user_data(f"{folder}/a.txt", "12345", full_info=True)
    assert (stored.path, stored.size) == (f"{folder}/a.txt", 5)
    assert abs(stored.modified - now) < 60
    moved = api.move_user_data(stored.path, f"{folder}/b.txt", full_info=True)
    assert (moved.path, moved.size) == (f"{folder}/b.txt", 5)
    (listed,) = api.list_user_data(folder, full_info=True)
    assert (listed.path, listed.size) == ("b.txt", 5)


@pytest.mark.needs("list_user_data_v2")
def test_user_data_is_listed_flat_deep_and_split(api):
    """Relative to the folder."""
    folder = unique()
    for name in ("a.txt", "x/b.txt", "x/y/c.txt"):
        api.store_user_data(f"{folder}/{name}", "")
    assert api.list_user_data(folder) == ["a.txt"]
    assert sorted(api.list_user_data(folder, recurse=True)) == ["a.txt", "x/b.txt", "x/y/c.txt"]
    split = api.list_user_data(f"{folder}/x", recurse=True, split=True)
    assert sorted(split) == [["b.txt", "b.txt"], ["y/c.txt", "y", "c.txt"]]
    for root in ("", ".", "./"):
        assert f"{folder}/x/b.txt" in api.list_user_data(root, recurse=True)
    tree = api.list_user_data_v2(folder)
    assert [(entry.path.removeprefix(f"{folder}/"), entry.type) for entry in tree] == [
        ("x", "directory"),
        ("x/y", "directory"),
        ("a.txt", "file"),
        ("x/b.txt", "file"),
        ("x/y/c.txt", "file"),
    ]
    assert (tree[0].size, tree[2].size) == (None, 0)
    for root in ("", "."):
        assert f"{folder}/x" in [entry.path for entry in api.list_user_data_v2(root)]


@pytest.mark.needs("list_user_data_v2")
def test_user_data_that_is_not_there(api):
    """An empty list, NotFound, or nothing at all, as told."""
    gone = unique()
    assert api.list_user_data(gone) == []
    assert api.list_user_data_v2(gone) == []
    with pytest.raises(NotFound):
        api.get_user_data(gone)
    with pytest.raises(NotFound):
        api.delete_user_data(gone)
    api.delete_user_data(gone, missing_ok=True)
    folder = unique()
    api.store_user_data(f"{folder}/a.txt", "")
    with pytest.raises(ApiError):
        api.delete_user_data(folder, missing_ok=True)
    with pytest.raises(ApiError) as caught:
        api.list_user_data_v2(f"{folder}/a.txt")
    assert caught.value.status == 400


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b", "..\\a", ".."])
def test_user_data_outside_the_users_folder_is_refused(api, path):
    """Before anything is asked; the server would say a bare 403."""
    for ask in (
        api.get_user_data,
        api.delete_user_data,
        api.list_user_data,
        api.list_user_data_v2,
        lambda path: api.store_user_data(path, ""),
        lambda path: api.move_user_data(path, "a"),
        lambda path: api.move_user_data("a", path),
    ):
        with pytest.raises(ValueError, match="leads out"):
            ask(path)


@pytest.mark.needs("list_user_data_v2")
def test_a_name_of_user_data_that_is_too_long_is_none(comfyui):
    """Nothing is there, and nothing can be put there."""
    name = "x" * 300
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/move/a")):
        assert answered(comfyui, method, f"/userdata/{name}{path}")[0] == 404
    for query in ("", "?overwrite=false"):
        assert answered(comfyui, "POST", f"/userdata/{name}{query}", "x")[0] == 400


def test_a_file_of_settings_that_is_a_list_has_no_settings(crowded):
    """Users can write it themselves."""
    user = json.loads(answered(crowded, "POST", "/users", {"username": unique()})[2])
    head = {"Comfy-User": user}
    path = "/userdata/comfy.settings.json"
    assert answered(crowded, "POST", path, ["b"], **head)[0] == 200
    assert answered(crowded, "GET", "/settings/a", **head)[::2] == (200, b"null")
    assert answered(crowded, "GET", "/settings/b", **head)[0] == 500


def test_a_template_that_is_not_there_is_a_404_without_a_word(crowded):
    """As of any file."""
    for path in ("x/y", "a_pack/y"):
        answer = answered(crowded, "GET", f"/api/workflow_templates/{path}")
        assert answer == (404, "application/octet-stream", b"")


@pytest.mark.needs("offset")
def test_more_histories_can_be_asked_for_than_there_are(comfyui):
    """By any number."""
    large = 10**21
    assert answered(comfyui, "GET", f"/history?max_items={large}")[0] == 200
    assert answered(comfyui, "GET", f"/history?offset={large}")[::2] == (200, b"{}")


@pytest.mark.needs("get_features")
def test_a_limit_of_uploads_that_was_given_is_a_number_with_a_fraction(comfyui, crowded):
    """One that was not is none."""
    for server, told in ((comfyui, b"104857600"), (crowded, b"1048576.0")):
        assert b'"max_upload_size": ' + told in answered(server, "GET", "/features")[2]


# -- system -------------------------------------------------------------------------------


def test_system_stats(api, comfyui):
    """Versions, memory, devices."""
    stats = api.get_system_stats()
    assert stats.comfyui_version in (comfyui.version, "unknown")  # so it was in 2024, without git
    assert stats.python_version.startswith("3.")
    assert 0 < stats.ram_free <= stats.ram_total
    assert stats.devices
    if "--cpu" in stats.argv:  # as on those that the tests start
        assert {device.type for device in stats.devices} == {"cpu"}
        assert stats.devices[0].index is None


@pytest.mark.needs("get_features")
def test_features(api):
    """As a mapping."""
    features = api.get_features()
    assert features.supports_preview_metadata
    assert features.max_upload_size == 100 << 20
    assert features["max_upload_size"] == 100 << 20


def test_logs(api):
    """As one text and as pieces."""
    text = api.get_logs()
    assert text
    raw = api.get_raw_logs()
    assert raw.entries
    assert all(entry.time and entry.time in text for entry in raw.entries[:5])
    assert raw.cols is None or raw.cols > 0


@pytest.mark.needs("get_internal_files")
def test_internal_files(api):
    """Newest first; an unknown folder is an error."""
    names = [unique(".txt"), unique(".txt")]
    for name in names:
        api.upload_image(name.encode(), name)
    listed = api.get_internal_files("input")
    assert set(names) <= set(listed)
    assert isinstance(api.get_internal_files("output"), list)
    for wrong in ("models", *ODD_NAMES):
        with pytest.raises(ApiError):
            api.get_internal_files(wrong)


def test_an_internal_route_that_is_missing_is_not_supported(api):
    """Though the server words it as for a missing thing."""
    with pytest.raises(NotSupported):
        api._internal("nope")

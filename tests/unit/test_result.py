"""What a prompt left, whatever its nodes called it."""

from __future__ import annotations

import pickle

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import NotFound, WorkflowError
from comfy_client.jobs.output import Output, OutputFile, OutputFrame
from comfy_client.jobs.result import make_result

GRAPH = {
    "1": {"class_type": "SaveImage", "inputs": {}, "_meta": {"title": "First"}},
    "2": {"class_type": "SaveImage", "inputs": {}, "_meta": {"title": "Second"}},
    "3": {"class_type": "PreviewAny", "inputs": {}},
    "4": {"class_type": "SaveImageWebsocket", "inputs": {}, "_meta": {"title": "Sent"}},
}


def ref(filename, **more):
    return {"filename": filename, "subfolder": "", "type": "output", **more}


def result_of(outputs, **kw):
    return make_result("the-id", GRAPH, outputs, **kw)


@pytest.fixture
def api(comfy):
    api = ComfyApi(comfy.url)
    yield api
    api.close()


# -- kinds -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "item", "media"),
    [
        ("images", ref("a.png"), "image"),
        ("images", ref("a.WEBP"), "image"),
        ("images", ref("clip.mp4"), "video"),
        ("images", ref("clip.webm"), "video"),
        ("gifs", ref("a.mp4", format="video/h264-mp4", fullpath="/srv/a.mp4"), "video"),
        ("gifs", ref("a.gif"), "image"),
        ("audio", ref("a.flac"), "audio"),
        ("video", ref("a.mkv"), "video"),
        ("latents", ref("a.latent"), "other"),
        ("3d", ref("a.glb"), "other"),
        ("whatever", ref("png"), "other"),
        ("whatever", ref("a.b.PNG"), "image"),
    ],
)
def test_media_of_a_file_come_from_its_ending(key, item, media):
    """Not the key: videos stand under ``images``."""
    result = result_of({"1": {key: [item]}})
    [file] = result.files
    assert file.media == media
    assert file.key == key
    assert file.raw is item
    kinds = {"image": result.images, "video": result.videos, "audio": result.audio}
    for kind, found in kinds.items():
        assert found == ((file,) if kind == media else ())


def test_every_list_of_files_in_an_output_is_read():
    """Flags, numbers, nothing, and what is no file at all are passed over."""
    output = {
        "images": [ref("a.png"), ref("b.png")],
        "animated": [True],
        "text": ["one", "two"],
        "result": ["3d/x.glb", None, {"camera": 1}],
        "odd": [{"filename": None}, {"filename": ""}, {"filename": 5}, [ref("nested.png")], 7],
        "alone": ref("c.wav"),
        "word": "three",
        "nothing": None,
    }
    result = result_of({"1": output})
    assert [f.filename for f in result.files] == ["a.png", "b.png", "c.wav"]
    assert result.texts == ("one", "two", "3d/x.glb", "three")
    assert result["1"].raw is output


def test_missing_parts_of_a_reference_have_the_servers_defaults():
    """Custom nodes leave ``type`` out; nonsense counts as missing."""
    result = result_of(
        {"1": {"images": [{"filename": "a.png"}, ref("b.png", type=3, subfolder=4)]}}
    )
    assert [(f.subfolder, f.type) for f in result.files] == [("", "output")] * 2


def test_the_order_is_the_servers():
    """Of nodes, and within each."""
    outputs = {
        "2": {"images": [ref("z.png"), ref("a.png")]},
        "1": {"images": [ref("m.png")]},
    }
    assert [f.filename for f in result_of(outputs).files] == ["z.png", "a.png", "m.png"]


def test_saved_files_come_before_previews_whichever_ran_first():
    """Nodes amid the graph that show something are told in another place once they are cached."""
    outputs = {
        "1": {"images": [ref("crop.png", type="temp")]},
        "2": {"images": [ref("saved.png"), ref("also.png")]},
    }
    frames = [("4", "image/png", memoryview(b"sent"))]
    for told in (outputs, dict(reversed(outputs.items()))):
        result = result_of(told, frames=frames)
        kept = ["saved.png", "also.png", "Sent_00001_.png"]
        assert [f.filename for f in result.images] == [*kept, "crop.png"]
        assert list(result.nodes) == [*told, "4"]


def test_a_result_is_a_list_of_its_files():
    """Which is not empty when there are texts alone: it is there, and not ``None``."""
    result = result_of({"1": {"images": [ref("a.png"), ref("b.mp4")]}, "3": {"text": ["x"]}})
    assert len(result) == 2
    assert list(result) == list(result.files)
    assert result.files[0] in result
    assert result.files[0] in result["First"]
    assert len(result["PreviewAny"]) == 0
    assert result["PreviewAny"]


def test_the_only_video_too() -> None:
    """Which is said in the same words."""
    assert result_of({"1": {"gifs": [ref("a.mp4"), ref("b.png")]}}).video.filename == "a.mp4"
    with pytest.raises(WorkflowError, match=r"has 2 videos, not one; the first is videos\[0\]"):
        _ = result_of({"1": {"gifs": [ref("a.mp4"), ref("b.webm")]}}).video


def test_the_only_image_has_a_name_of_its_own():
    """Previews do not count beside what is kept: which of them are told depends on the cache."""
    temp = ref("t.png", type="temp")
    assert result_of({"1": {"images": [temp, ref("a.png")]}}).image.filename == "a.png"
    assert result_of({"1": {"images": [temp]}}).image.filename == "t.png"
    assert result_of({"1": {"images": [temp]}})["First"].image.filename == "t.png"
    with pytest.raises(WorkflowError, match="<Result 3 images> has 2 saved images, not one"):
        _ = result_of({"1": {"images": [temp, ref("a.png"), ref("b.png")]}}).image


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a.png", "b.png"], r"<Result 2 images> has 2 images, not one; the first is images\[0\]"),
        (["a.mp4"], "<Result 1 video> has 0 images, not one$"),
        ([], "<Result no outputs> has 0 images"),
    ],
)
def test_image_counts_files_that_are_not_one_image(names, says):
    """Rather than to give any of them."""
    with pytest.raises(WorkflowError, match=says):
        _ = result_of({"1": {"images": list(map(ref, names))}}).image


def test_a_short_text_says_what_there_is():
    """Of results, of nodes and of outputs; what a server writes does nothing to a terminal."""
    outputs = {
        "1": {"images": [ref("a.png"), ref("b.png", type="temp"), ref("c.latent")]},
        "3": {"text": ["x"]},
    }
    graph = {**GRAPH, "1": {**GRAPH["1"], "inputs": {"seed": 7}}}
    facts = {"seconds": 1.634, "fully_cached": True, "complete": False}
    frames = [("4", "image/png", memoryview(b"data"))]
    result = make_result("id", graph, outputs, frames=frames, **facts)
    assert repr(result) == (
        "<Result 3 images, 1 other file, 1 text, seed 7, 1.6 s, from the cache, incomplete>"
    )
    assert repr(result["First"]) == "<NodeOutput 'First', 2 images, 1 other file>"
    assert [repr(item) for item in result] == [
        "<OutputFile 'a.png', seed 7>",
        "<OutputFile 'c.latent', seed 7>",
        "<OutputFrame 'Sent_00001_.png'>",
        "<OutputFile 'b.png', temp, seed 7>",
    ]
    odd = OutputFile("\x1b[31m\u202e" + "x" * 1000, type="\x1b[31m")
    assert repr(odd).isprintable()
    assert len(repr(odd)) < 150
    seeds = dict.fromkeys("abcdef", 1) | {str(n): n for n in range(5)}
    assert repr(make_result("id", {}, {}, seeds=seeds)) == (
        "<Result no outputs, seeds 1, 0, 2, ... (5)>"
    )


def test_temporary_files_say_so():
    """They go at the server's next restart."""
    assert result_of({"1": {"images": [ref("a.png", type="temp")]}}).files[0].type == "temp"


# -- by name -----------------------------------------------------------------------------


def test_a_node_is_found_by_id_title_or_class():
    """In this order."""
    result = result_of({"1": {"images": [ref("a.png")]}, "3": {"text": ["x"]}})
    assert result["1"] is result["First"] is result["SaveImage"]
    assert result["PreviewAny"] is result["3"]
    assert (result["1"].title, result["1"].class_type) == ("First", "SaveImage")
    assert "First" in result
    assert "Second" not in result
    assert None not in result
    assert list(result.nodes) == ["1", "3"]


def test_an_ambiguous_name_is_refused_with_the_ids():
    """Two nodes of one class left something."""
    result = result_of({"1": {"images": []}, "2": {"images": []}})
    with pytest.raises(WorkflowError, match="1, 2") as caught:
        result["SaveImage"]
    assert caught.value.candidates == ("1", "2")


@pytest.mark.parametrize("name", ["Frist", "nothing like it", 5, None])
def test_an_unknown_name_is_refused_with_those_that_there_are(name):
    """Nearest first."""
    result = result_of({"1": {"images": []}, "3": {}})
    with pytest.raises(WorkflowError, match="First, PreviewAny") as caught:
        result[name]
    assert caught.value.candidates[0] == "First"


def test_without_any_output_the_error_says_so():
    """A run may leave nothing."""
    with pytest.raises(WorkflowError, match="none"):
        result_of({})["First"]


def test_a_node_within_a_node_has_the_outer_ones_title():
    """Expanded nodes have ids that are not in the workflow."""
    result = result_of({"1.0.0.1": {"images": [ref("a.png")]}})
    assert result["First"].node_id == "1.0.0.1"


# -- files -------------------------------------------------------------------------------


@pytest.mark.parametrize("subfolder", ["sub/deep", "sub\\deep"])
def test_a_file_is_fetched_from_its_folder(comfy, api, subfolder):
    """Folders of a Windows server too."""
    folder = comfy.root / "temp" / "sub" / "deep"
    folder.mkdir(parents=True)
    (folder / "a b&c.png").write_bytes(b"picture")
    outputs = {"1": {"images": [ref("a b&c.png", subfolder=subfolder, type="temp")]}}
    [file] = result_of(outputs, files=api).files
    assert file.bytes() == b"picture"
    [request] = [r for r in comfy.requests if r.path == "/view"]
    assert request.query["filename"] == "a b&c.png"
    assert request.query["subfolder"].replace("\\", "/") == "sub/deep"
    assert request.query["type"] == "temp"
    assert file.url.startswith(comfy.url)


HOSTILE = [
    "../../evil.png",
    "..\\..\\evil.png",
    "/etc/evil.png",
    "C:\\evil.png",
    "..",
    ".hidden",
    "a\x00b.png",
    "con.png",
    "x" * 400 + ".png",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_in_the_folder(comfy, api, tmp_path, name):
    """Whatever a server calls its files; each way of saving."""
    comfy.on("GET", "/view", (200, {}, b"picture"))
    folder = tmp_path / "inner" / "out"
    result = result_of(
        {"1": {"images": [ref(name, subfolder="../../..")]}},
        files=api,
        frames=[("4", "image/png", memoryview(b"frame"))],
    )
    paths = [*result.save(folder), result.files[0].save(f"{folder}/")]
    for path in paths:
        assert path.parent == folder
        assert path.is_file()
    inside = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert inside == set(paths)
    assert len(inside) == 3


def test_a_file_that_is_gone_is_not_found(comfy, api, tmp_path):
    """And leaves nothing on the disk."""
    [file] = result_of({"1": {"images": [ref("a.png")]}}, files=api).files
    with pytest.raises(NotFound):
        file.bytes()
    with pytest.raises(NotFound):
        file.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_client_says_so():
    """Such as one that was made by hand."""
    with pytest.raises(ValueError, match="belongs to no client"):
        OutputFile("a.png").bytes()


def test_names_that_occur_twice_are_numbered(comfy, api, tmp_path):
    """From different folders of the server; also where old files are replaced or kept."""
    comfy.on("GET", "/view", lambda r: (200, {}, r.query["subfolder"].encode()))
    outputs = {
        "1": {"images": [ref("a.png", subfolder="one")]},
        "2": {"images": [ref("a.png", subfolder="two"), ref("A.png", subfolder="three")]},
    }
    result = result_of(outputs, files=api)
    for rule in ("overwrite", "overwrite", "skip"):
        paths = result.save(tmp_path, if_exists=rule)
        assert [p.name for p in paths] == ["a.png", "a (1).png", "A (2).png"]
        assert [p.read_text() for p in paths] == ["one", "two", "three"]
    again = result.save(tmp_path)
    assert len({*paths, *again}) == 6
    assert [p.read_text() for p in again] == ["one", "two", "three"]


def test_outputs_of_one_node_can_be_saved_alone(comfy, api, tmp_path):
    """As the whole result can."""
    for name in ("a.png", "b.png"):
        (comfy.root / "output" / name).write_bytes(b"1")
    outputs = {"1": {"images": [ref("a.png")]}, "2": {"images": [ref("b.png")]}}
    [path] = result_of(outputs, files=api)["Second"].save(tmp_path / "new")
    assert path == tmp_path / "new" / "b.png"


# -- pictures over the socket ------------------------------------------------------------


def test_frames_are_outputs_of_their_node(tmp_path):
    """In memory, with a name made of the title, in order."""
    frames = [
        ("4", "image/png", memoryview(b"one")),
        ("4", "image/webp", memoryview(b"two")),
        ("7", "image/odd", memoryview(b"three")),
    ]
    result = result_of({"1": {"images": [ref("a.png")]}}, frames=frames)
    assert [type(f) for f in result.files] == [OutputFile, *[OutputFrame] * 3]
    assert [f.filename for f in result["Sent"].images] == ["Sent_00001_.png", "Sent_00002_.webp"]
    assert result["7"].images[0].filename == "image_00003_.jpg"
    [first, second] = result["Sent"].save(tmp_path)
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")
    assert result["Sent"].images[0].bytes() == b"one"


def test_a_picture_is_used_alike_wherever_it_is(comfy, api, tmp_path):
    """As a file of the server, or in memory; only a URL there is none of."""
    (comfy.root / "output" / "a.png").write_bytes(b"file")
    frames = [("4", "image/png", memoryview(b"frame"))]
    pictures = result_of({"1": {"images": [ref("a.png")]}}, files=api, frames=frames).images
    assert all(isinstance(picture, Output) for picture in pictures)
    assert [
        (p.filename, p.subfolder, p.type, p.node_id, p.media, p.bytes(), p.save(tmp_path).name)
        for p in pictures
    ] == [
        ("a.png", "", "output", "1", "image", b"file", "a.png"),
        ("Sent_00001_.png", "", "websocket", "4", "image", b"frame", "Sent_00001_.png"),
    ]
    for picture in pictures:
        with picture.stream() as download, picture.open() as opened:
            assert b"".join(download) == opened.read() == picture.bytes()
        assert picture.path.read_bytes() == picture.bytes()
    [file, frame] = pictures
    assert file.url == api.get_path_image(file)
    assert api.get_image(file) == b"file"
    assert frame.url is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda api, frame, path: api.get_image(frame),
        lambda api, frame, path: api.get_path_image(frame),
        lambda api, frame, path: api.download_image(frame, path),
        lambda api, frame, path: api.stream_image(frame),
        lambda api, frame, path: api.upload_mask(b"mask", frame, "mask.png"),
    ],
)
def test_files_from_the_socket_are_not_asked_of_the_server(comfy, api, tmp_path, ask):
    """One sentence says where it is."""
    [frame] = result_of({}, frames=[("4", "image/png", memoryview(b"data"))]).files
    with pytest.raises(ValueError, match=r"in memory here, not on the server: take its bytes\(\)"):
        ask(api, frame, tmp_path)
    assert not comfy.requests


def test_a_result_goes_to_another_process_with_its_frames(api):
    """Its files without the credentials of the client, as anything that is pickled."""
    frames = [("4", "image/png", memoryview(b"one"))]
    result = result_of({"1": {"images": [ref("a.png")]}}, files=api, frames=frames)
    [file, frame] = pickle.loads(pickle.dumps(result)).files
    assert (file.filename, file.url) == ("a.png", result.files[0].url)
    assert (frame.filename, frame.mime, frame.bytes()) == ("Sent_00001_.png", "image/png", b"one")


def test_a_frame_is_saved_like_a_file(tmp_path):
    """Exact names are replaced, others numbered, and nothing half done is left."""
    [frame] = result_of({}, frames=[("4", "image/png", memoryview(b"data"))]).files
    exact = tmp_path / "x.png"
    exact.write_bytes(b"old")
    assert frame.save(exact) == exact
    assert exact.read_bytes() == b"data"
    assert [frame.save(tmp_path).name for _ in range(2)] == [
        "Sent_00001_.png",
        "Sent_00001_ (1).png",
    ]
    exact.write_bytes(b"old")
    assert frame.save(exact, if_exists="skip").read_bytes() == b"old"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_title_is_no_path(tmp_path):
    """A frame is named after its node, which may be called anything."""
    graph = {"4": {"class_type": "SaveImageWebsocket", "_meta": {"title": "../../up"}}}
    result = make_result("id", graph, {}, frames=[("4", "image/png", memoryview(b"data"))])
    [path] = result.save(tmp_path)
    assert path.parent == tmp_path


def test_facts_are_kept():
    """What else is known of the run."""
    result = result_of({}, cached_nodes=("1",), node_errors={"2": {}}, complete=False)
    assert (result.prompt_id, result.cached_nodes) == ("the-id", ("1",))
    assert dict(result.node_errors) == {"2": {}}
    assert not result.complete

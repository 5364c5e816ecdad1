"""Answers for nodes, scripts with pauses and failures; the same over HTTP, and events."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfy_client import ComfyApi, JobFailed
from comfy_client.testing import PROMPT_ID, ComfyServer, Fail, Finish
from tests.helpers.bare import Socket, ended, get, submit
from tests.helpers.control import PROGRAMS, call
from tests.helpers.graphs import node, picture


@pytest.fixture
def server(reset_server: ComfyServer) -> ComfyServer:
    return reset_server


def encoded(form: str = "PNG", size: tuple[int, int] = (5, 3)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, form)
    return file.getvalue()


def text_of_prompt() -> dict[str, Any]:
    return {
        "1": node("PrimitiveString", value="mine"),
        "2": node("PreviewAny", source=["1", 0]),
    }


def nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


def executed(node_id: Any, output: Any) -> dict[str, Any]:
    return {"type": "executed", "data": {"node": node_id, "output": output}}


def text_shown(api: ComfyApi) -> str:
    [text] = api.run(text_of_prompt()).texts
    return text


# -- of a node -------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "ending"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
def test_an_output_node_saves_the_bytes_of_a_picture(
    server: ComfyServer, api: ComfyApi, form: str, ending: str
) -> None:
    """Under the names that it would give its own."""
    data = encoded(form)
    server.on("SaveImage", image=data)
    [image] = api.run(picture(prefix="sub/cat")).images
    assert (image.filename, image.subfolder) == (f"cat_00001_.{ending}", "sub")
    assert image.bytes() == data


def test_a_picture_is_bytes_a_path_or_a_pillow_image(
    server: ComfyServer, api: ComfyApi, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    server.on("9", image=[encoded("JPEG"), path, str(path), Image.new("L", (4, 4))])
    names = [image.filename for image in api.run(picture()).images]
    assert names == ["a_00001_.jpg", "a_00002_.png", "a_00003_.png", "a_00004_.png"]


def test_nodes_before_others_hand_the_picture_on(server: ComfyServer, api: ComfyApi) -> None:
    server.on("EmptyImage", image=encoded(size=(7, 5)))
    assert api.run(picture()).image.pil().size == (7, 5)


def test_a_text_is_shown_or_handed_on(server: ComfyServer, api: ComfyApi) -> None:
    with server.on("1", text="theirs"):
        assert text_shown(api) == "theirs"
    with server.on("PreviewAny", text="shown"):
        assert text_shown(api) == "shown"
    assert text_shown(api) == "mine"


def test_a_ui_is_shown_as_it_is(server: ComfyServer, api: ComfyApi) -> None:
    server.on("SaveImage", ui={"gifs": [{"filename": "a.gif", "n": 1}], "text": ["a"]})
    outputs = api.run(picture()).outputs["9"].raw
    assert outputs == {"gifs": [{"filename": "a.gif", "n": 1}], "text": ["a"]}


@pytest.mark.parametrize(
    ("error", "kind"), [("no more", "RuntimeError"), (KeyError("no more"), "KeyError")]
)
def test_a_node_raises_the_error_that_is_its_answer(
    server: ComfyServer, api: ComfyApi, error: str | Exception, kind: str
) -> None:
    server.on("9", error=error, times=1)
    with pytest.raises(JobFailed, match="no more") as failed:
        api.run(picture())
    assert (failed.value.node_id, failed.value.exception_type) == ("9", kind)
    assert api.run(picture()).images


def test_the_traceback_of_an_answer_does_not_grow(server: ComfyServer, api: ComfyApi) -> None:
    server.on("9", error="no more")
    found = []
    for _ in range(3):
        with pytest.raises(JobFailed) as failed:
            api.run(picture())
        found.append(len(failed.value.traceback))
    assert len({*found}) == 1


def test_the_newest_answer_of_a_node_wins_until_it_ends(server: ComfyServer, api: ComfyApi) -> None:
    """Cached outputs do not count meanwhile, and are used again afterwards."""
    api.run(text_of_prompt())
    first = server.on("PreviewAny", text="first")
    second = server.on("2", text="second", times=2)
    texts = [text_shown(api) for _ in range(2)]
    assert (texts, second.hits, second.active) == (["second", "second"], 1, True)
    second.end()
    assert text_shown(api) == "first"
    assert first.hits == 1
    server.off("PreviewAny")
    assert text_shown(api) == "mine"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"text": 5},
        {"image": 5},
        {"image": []},
        {"image": b"no picture"},
        {"image": [encoded(), 5]},
        {"image": encoded(size=(5000, 5000))},
        {"ui": {"text": "a"}},
        {"ui": {"text": [object()]}},
        {"error": 5},
        {"error": "a", "text": "b"},
        {"text": "a", "times": 0},
    ],
    ids=lambda given: ", ".join(given) or "nothing",
)
def test_wrong_answers_for_nodes_are_refused(server: ComfyServer, given: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        server.on("SaveImage", **given)
    assert server.faults.active() == []


@pytest.mark.parametrize("image", [5, {"file": "a.png"}, 2.5, True], ids=repr)
def test_values_that_are_no_picture_are_refused_in_plain_words(
    server: ComfyServer, image: Any
) -> None:
    with pytest.raises(ValueError, match="an image is bytes, a path or a Pillow image, not "):
        server.on("SaveImage", image=image)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_that_was_cut_off_is_refused(server: ComfyServer, form: str) -> None:
    """Wherever, also where its head and its pixels are complete."""
    whole = encoded(form, (40, 30))
    server.on("SaveImage", image=whole).end()
    for left in (len(whole) // 2, len(whole) - 20, len(whole) - 5):
        with pytest.raises(ValueError, match="cannot be opened"):
            server.on("SaveImage", image=whole[:left])


def test_answers_of_routes_have_no_picture(server: ComfyServer) -> None:
    with pytest.raises(TypeError, match="takes no image"):
        server.on("GET", "/queue", image=b"")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"imag": b""}, r"on\(\) got an unexpected keyword argument 'imag'"),
        ({"path": "/queue", "imag": b""}, r"on\(\) got an unexpected keyword argument 'imag'"),
        ({"answer": (200, {}, b"")}, "no path"),
    ],
    ids=["misspelt", "misspelt for a route", "answer without a path"],
)
def test_misspelt_arguments_are_named(
    server: ComfyServer, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        server.on("SaveImage", **given)


# -- scripts ---------------------------------------------------------------------------------


def test_a_script_fails_at_a_node_of_the_prompt(server: ComfyServer, api: ComfyApi) -> None:
    start = {"type": "execution_start", "data": {"prompt_id": PROMPT_ID}}
    script = server.script(
        start, Fail("CUDA out of memory", "9", "torch.OutOfMemoryError"), times=1
    )
    with pytest.raises(JobFailed, match="CUDA out of memory") as failed:
        api.run(picture())
    assert failed.value.class_type == "SaveImage"
    assert failed.value.exception_type == "torch.OutOfMemoryError"
    assert (script.hits, script.active) == (1, False)
    assert api.run(picture()).images


def test_a_pause_of_a_script_comes_between_its_events(server: ComfyServer) -> None:
    """A reset ends it."""
    server.script({"type": "a", "data": {}}, 3600, {"type": "b", "data": {}}, Finish())
    with Socket(server, "me") as ws:
        submit(server)
        ws.until("a")
        server.reset()
        server.push({"type": "after it", "data": {}})
        names = [message["type"] for message in ws.until("after it")]
    assert "b" not in names


@pytest.mark.parametrize("step", [-1, True, float("nan"), "x"], ids=repr)
def test_wrong_steps_are_refused(server: ComfyServer, step: Any) -> None:
    with pytest.raises(ValueError, match=r"a pause is|not a step"):
        server.script(step)


# -- over HTTP -------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_programs_of_any_language_answer_for_nodes(
    server: ComfyServer, api: ComfyApi, program: Callable[..., tuple[int, Any]]
) -> None:
    data = encoded("JPEG")
    answer = {"node": "SaveImage", "image": {"base64": base64.b64encode(data).decode()}}
    status, made = program("POST", f"{server.control_url}/answers", answer)
    assert (status, made) == (201, {"id": "1"})
    assert api.run(picture()).image.bytes() == data
    listed = program("GET", f"{server.control_url}/answers")[1]["answers"]
    assert listed == [{"id": "1", "name": "node_answer", "args": {"node": "SaveImage"}, "hits": 1}]
    assert program("DELETE", f"{server.control_url}/answers/1") == (200, {"hits": 1})
    assert program("GET", f"{server.control_url}/answers")[1] == {"answers": []}


def test_texts_outputs_and_errors_are_answers_over_http(server: ComfyServer, api: ComfyApi) -> None:
    for answer in ({"node": "2", "text": "a"}, {"node": "2", "ui": {"text": ["b"]}}):
        assert call(server, "POST", "/answers", answer)[0] == 201
    assert text_shown(api) == "b"
    error = {"type": "torch.OutOfMemoryError", "message": "too large"}
    call(server, "POST", "/answers", {"node": "2", "error": error, "times": 1})
    with pytest.raises(JobFailed, match="too large"):
        api.run(text_of_prompt())
    assert call(server, "DELETE", "/answers") == (200, {"ended": 2})
    assert text_shown(api) == "mine"


def test_a_route_has_a_fixed_answer_over_http(server: ComfyServer) -> None:
    answer = {"method": "GET", "path": "/queue", "answer": {"status": 418, "json": [1]}}
    assert call(server, "POST", "/answers", {**answer, "times": 1})[0] == 201
    assert [get(server, "/queue").status_code for _ in range(2)] == [418, 200]


def test_a_script_over_http_sends_waits_and_finishes(server: ComfyServer) -> None:
    outputs = {"9": {"images": []}}
    steps = [
        {"send": {"type": "execution_start", "data": {"prompt_id": "PROMPT_ID"}}},
        {"wait": 0.01},
        {"send": {"type": "executed", "data": {"node": "9", "output": outputs["9"]}}},
        {"finish": {}},
    ]
    assert call(server, "POST", "/script", {"steps": steps, "times": 1})[0] == 201
    with Socket(server, "me") as ws:
        prompt_id = submit(server)
        heard = ws.until("executed")
        ended(server, prompt_id)
    assert {"prompt_id": prompt_id} in [message["data"] for message in heard]
    assert server.history[prompt_id]["outputs"] == outputs
    assert server.faults.active() == []


def test_a_script_over_http_fails(server: ComfyServer, api: ComfyApi) -> None:
    error = {"message": "no", "node": "1", "type": "ValueError"}
    call(server, "POST", "/script", {"steps": [{"error": error}]})
    with pytest.raises(JobFailed, match="no") as failed:
        api.run(picture())
    assert (failed.value.class_type, failed.value.exception_type) == ("EmptyImage", "ValueError")
    assert call(server, "DELETE", "/script") == (200, {"ended": 1})
    assert api.run(picture()).images


def test_events_go_to_one_client_or_to_all(server: ComfyServer) -> None:
    with Socket(server, "a") as one, Socket(server, "b") as other:
        server.until(lambda: len(server.hellos) == 2)
        for ws in (one, other):
            ws.until("status")
        event = {"type": "mine", "data": {"n": 1}}
        assert call(server, "POST", "/events", event) == (200, {"clients": 2})
        assert (one.next(), other.next()) == (event, event)
        assert call(server, "POST", "/events", {**event, "to": "b"}) == (200, {"clients": 1})
        data = base64.b64encode(b"\0\0\0\1\0\0\0\1x").decode()
        assert call(server, "POST", "/events", {"base64": data}) == (200, {"clients": 2})
        assert isinstance(one.next(), bytes)
        assert other.next() == event
        status, content = call(server, "POST", "/events", {**event, "to": "c"})
        assert (status, content["clients"]) == (404, ["a", "b"])


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/answers", {}),
        ("/answers", {"node": "9"}),
        ("/answers", {"node": 9, "text": "a"}),
        ("/answers", {"node": "9", "image": "no base64!"}),
        ("/answers", {"node": "9", "image": {"file": "/etc/passwd"}}),
        ("/answers", {"node": "9", "image": base64.b64encode(b"x").decode()}),
        ("/answers", {"node": "9", "error": {"type": "no name"}}),
        ("/answers", {"node": "9", "error": {"type": "no name", "message": "a"}}),
        ("/answers", {"node": "9", "text": "a", "method": "GET"}),
        ("/answers", {"node": "9", "error": ["a"]}),
        ("/answers", {"method": "GET", "path": "/queue"}),
        ("/answers", {"method": "GET", "path": "/queue", "answer": 5}),
        ("/answers", {"method": "GET", "path": "/queue", "answer": {"text": 5}}),
        ("/answers", {"method": "GET", "path": "/queue", "answer": {"base64": "?"}}),
        ("/answers", {"method": "GET", "path": "/queue", "answer": {"text": "a", "json": 1}}),
        ("/script", {}),
        ("/script", {"steps": {}}),
        ("/script", {"steps": [{}]}),
        ("/script", {"steps": [{"wait": -1}]}),
        ("/script", {"steps": [{"wait": 1e9}]}),
        ("/script", {"steps": [{"wait": True}]}),
        ("/script", {"steps": [{"send": {"data": {}}}]}),
        ("/script", {"steps": [{"send": {"type": "executed", "data": {"node": "9"}}}]}),
        ("/script", {"steps": [{"send": executed([], {})}]}),
        ("/script", {"steps": [{"send": executed("9", [])}]}),
        ("/script", {"steps": [{"finish": {"status": 5}}]}),
        ("/script", {"steps": [{"finish": {"status": {"messages": 5}}}]}),
        ("/script", {"steps": [{"finish": {"outputs": []}}]}),
        ("/script", {"steps": [{"send": {"type": 5}}]}),
        ("/script", {"steps": [{"send": []}]}),
        ("/script", {"steps": [{"error": 5}]}),
        ("/script", {"steps": [{"error": {"message": "a", "node": 5}}]}),
        ("/script", {"steps": [{"finsh": {}}]}),
        ("/script", {"steps": [{"wait": 0}] * 1001}),
        ("/events", {}),
        ("/events", {"type": "a", "to": 5}),
        ("/events", {"base64": "?"}),
        ("/events", {"base64": "", "type": "a"}),
        ("/events", {"type": "a", "data": nested(101)}),
    ],
    ids=lambda value: json.dumps(value)[:80],
)
def test_wrong_answers_scripts_and_events_are_refused(
    server: ComfyServer, path: str, data: Any
) -> None:
    status, content = call(server, "POST", path, data)
    assert (status, content["error"]["type"]) in [(400, "invalid"), (400, "unknown_member")]
    assert server.faults.active() == []


@pytest.mark.parametrize(
    ("path", "data", "what"),
    [
        ("/events", {"base64": "?"}, "a message"),
        ("/answers", {"node": "9", "image": "?"}, "an image"),
        ("/answers", {"node": "9", "image": {"base64": 5}}, "an image"),
        ("/nodes", {"class_type": "A", "files": [{"name": "a", "base64": "?"}]}, "a file"),
        ("/nodes", {"class_type": "A", "returns": [{"base64": "?"}]}, "an output"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_wrong_base64_is_told_by_what_it_stands_for(
    server: ComfyServer, path: str, data: Any, what: str
) -> None:
    message = call(server, "POST", path, data)[1]["error"]["message"]
    assert message.startswith(f"{what} is not in Base64: ")


def test_a_prompt_is_shown_whatever_a_script_has_sent(server: ComfyServer) -> None:
    sent = [{"type": "execution_start", "data": data} for data in (None, 5, {"timestamp": "now"})]
    steps = [*({"send": one} for one in sent), {"finish": {}}]
    call(server, "POST", "/script", {"steps": steps})
    prompt_id = submit(server)
    ended(server, prompt_id)
    status, told = call(server, "GET", f"/prompts/{prompt_id}")
    assert (status, told["seconds"], len(told["messages"])) == (200, None, 3)

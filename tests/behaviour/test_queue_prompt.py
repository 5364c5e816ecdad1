"""``POST /prompt`` and ``GET /prompt``: what is sent, and what is made of the answer."""

from __future__ import annotations

import copy
import math
import uuid
from pathlib import Path

import blinker
import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.errors import (
    ApiError,
    PromptRejected,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
    UploadTooLarge,
    WorkflowError,
)
from comfy_client.routes.prompts import EXTRA_DATA_KEY
from comfy_client.testing import ComfyServer, never_answer
from tests.helpers.clients import LIMIT

GRAPH = {"1": {"class_type": "SaveImage", "inputs": {"width": 5}, "_meta": {"title": "Save"}}}


LOOP = []
LOOP.append(LOOP)


@pytest.fixture
def api(comfy):
    comfy.script()  # whatever it is, it waits
    api = ComfyApi(comfy.url, "me", namespace=blinker.Namespace(), transport="poll")
    yield api
    api.close()


def sent(comfy):
    """The bodies of all submissions."""
    return [r.json() for r in comfy.requests if (r.method, r.path) == ("POST", "/prompt")]


# -- what is sent ------------------------------------------------------------------------


def test_a_plain_prompt_names_its_client_and_nothing_more(comfy, api):
    """No null, no empty object; the server chooses the id."""
    queued = api.queue_prompt(None, GRAPH)
    assert sent(comfy) == [{"prompt": GRAPH, "client_id": "me"}]
    assert queued.number == 0
    uuid.UUID(queued.prompt_id)


@pytest.mark.parametrize(
    ("number", "front", "wanted"),
    [
        (None, None, {}),
        (0, None, {}),
        (-1, None, {"front": True}),
        (-1, False, {}),
        (5, None, {"number": 5}),
        (0.5, None, {"number": 0.5}),
        (-7, None, {"number": -7}),
        (None, True, {"front": True}),
        (5, True, {"front": True}),
        (None, False, {}),
    ],
)
def test_the_place_in_the_queue(comfy, api, number, front, wanted):
    """-1 is the front, as the reference has it; ``front`` goes before ``number``."""
    api.queue_prompt(number, GRAPH, front=front)
    [body] = sent(comfy)
    assert {k: body[k] for k in ("front", "number") if k in body} == wanted


def test_targets_that_cannot_be_run_are_refused(comfy):
    """An id that no node has, before anything is sent; a node that is no output."""
    with ComfyApi(comfy.url) as api:
        with pytest.raises(WorkflowError, match="no node with the id '11'") as caught:
            api.queue_prompt(None, GRAPH, partial_execution_targets=["11"])
        assert caught.value.candidates == ("1",)
        assert not [r for r in comfy.requests if r.method == "POST"]
        refused = {"error": {"type": "prompt_no_outputs", "message": "", "details": ""}}
        comfy.on("POST", "/prompt", (400, {}, refused))
        with pytest.raises(PromptRejected, match=r"none of .* \['1'\] is an output node"):
            api.queue_prompt(None, GRAPH, partial_execution_targets=["1"])
        with pytest.raises(PromptRejected, match="add one, such as SaveImage"):
            api.queue_prompt(None, GRAPH)


def test_all_options_arrive(comfy, api):
    """Each where the server looks for it; the caller's dicts stay as they are."""
    extra = {"note": 1, "extra_pnginfo": {"author": "me"}}
    mine = api.generate_id()
    api.queue_prompt(
        None,
        Workflow.load(GRAPH),
        prompt_id=mine,
        extra_data=extra,
        workflow_ui={"nodes": []},
        partial_execution_targets=["1", 1],
        preview_method="taesd",
        comfy_api_key="secret",
    )
    [body] = sent(comfy)
    assert body == {
        "prompt": GRAPH,
        "client_id": "me",
        "prompt_id": mine,
        "partial_execution_targets": ["1", "1"],
        "extra_data": {
            "note": 1,
            "extra_pnginfo": {"author": "me", "workflow": {"nodes": []}},
            "preview_method": "taesd",
            "api_key_comfy_org": "secret",
            EXTRA_DATA_KEY: mine,
        },
    }
    assert extra == {"note": 1, "extra_pnginfo": {"author": "me"}}


def test_every_node_is_sent_with_a_meta(comfy, api):
    """Servers since 0.14 may fail at one without, or null; the caller's graph stays as it is."""
    graph = {
        "1": {"class_type": "A", "inputs": {}},
        "2": {"class_type": "B", "inputs": {}, "_meta": None},
        "3": {"class_type": "C", "inputs": {}, "_meta": {"title": "Mine", "more": 1}},
    }
    before = copy.deepcopy(graph)
    api.queue_prompt(None, graph)
    assert graph == before
    [body] = sent(comfy)
    assert [body["prompt"][key].get("_meta") for key in "123"] == [{}, {}, graph["3"]["_meta"]]


@pytest.mark.parametrize(
    ("options", "sent_info"),
    [
        ({"extra_data": {"extra_pnginfo": None}}, None),
        ({"extra_data": {"extra_pnginfo": {"workflow": None}}}, None),
        ({"extra_data": {"extra_pnginfo": {"workflow": None, "a": 1}}}, {"a": 1}),
        (
            {"extra_data": {"extra_pnginfo": None}, "workflow_ui": {"id": "x"}},
            {"workflow": {"id": "x"}},
        ),
        ({"extra_data": {"extra_pnginfo": []}}, "refused"),
        ({"extra_data": {"extra_pnginfo": {"workflow": []}}}, "refused"),
        ({"extra_data": {"extra_pnginfo": {"workflow": "text"}}}, "refused"),
        ({"workflow_ui": "text"}, "refused"),
        ({"extra_data": ["a"]}, "refused"),
    ],
)
def test_extra_data_that_would_break_the_jobs_list_is_not_sent(comfy, api, options, sent_info):
    """ComfyUI 0.6 and newer want objects there, and say 500 as long as they have the prompt."""
    if sent_info == "refused":
        with pytest.raises(TypeError, match="must be a mapping"):
            api.queue_prompt(None, GRAPH, **options)
        assert sent(comfy) == []
        return
    api.queue_prompt(None, GRAPH, **options)
    [body] = sent(comfy)
    assert body.get("extra_data", {}).get("extra_pnginfo") == sent_info


class Scalar:
    """As numpy has them."""

    shape = ()

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value


def test_numbers_of_numpy_in_extra_data_are_numbers(comfy, api):
    """As in the workflow."""
    api.queue_prompt(None, GRAPH, extra_data={"a": [Scalar(1), (Scalar(0.5),)]})
    [body] = sent(comfy)
    assert body["extra_data"] == {"a": [1, [0.5]]}


@pytest.mark.parametrize(
    ("extra", "kind", "words"),
    [
        ({"a": [0, 1, 2, Path("x")]}, TypeError, r"extra_data\['a'\]\[3\]: .*path on this machine"),
        ({"a": {"b": {1, 2}}}, TypeError, r"extra_data\['a'\]\['b'\]: JSON cannot represent"),
        ({"a": {"b": math.nan}}, ValueError, r"extra_data\['a'\]\['b'\]: nan"),
        ({"a": {"b": {5: Scalar(1)}}}, TypeError, r"extra_data\['a'\]\['b'\]: the key 5"),
        ({"a": [LOOP]}, TypeError, r"extra_data\['a'\]: nested too deeply"),
    ],
)
def test_extra_data_that_json_cannot_carry_is_named_by_its_place(comfy, api, extra, kind, words):
    """Before anything is sent."""
    with pytest.raises(kind, match=words):
        api.queue_prompt(None, GRAPH, extra_data=extra)
    assert sent(comfy) == []


def test_targets_are_a_list(comfy, api):
    """A text would be taken apart into letters."""
    with pytest.raises(TypeError, match="list"):
        api.queue_prompt(None, GRAPH, partial_execution_targets="12")
    assert sent(comfy) == []


@pytest.mark.parametrize("method", ["queue_prompt", "run", "submit"])
@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ({"1": {"class_type": "A", "inputs": {"x": math.nan}}}, "node 1.*x"),
        ({"1": {"class_type": "A", "inputs": {"x": ["9", 0]}}}, "9"),
        ({"nodes": [], "links": []}, "no nodes"),
    ],
)
def test_graphs_that_cannot_be_sent_are_a_queue_error(comfy, api, graph, words, method):
    """It is told as a queue_error too."""
    errors = []
    done = api.on("queue_error", errors.append)
    with pytest.raises(WorkflowError, match=words) as caught:
        getattr(api, method)(*([None] if method == "queue_prompt" else []), graph)
    comfy.until(lambda: errors)
    done()
    assert [e.error for e in errors] == [caught.value]
    assert sent(comfy) == []


# -- what is made of the answer ----------------------------------------------------------


def test_outputs_that_were_dropped_stand_in_the_answer(comfy, api):
    """200 does not mean that all of it is valid."""
    answer = {"prompt_id": "x", "number": 3, "node_errors": {"7": {"errors": []}}}
    comfy.on("POST", "/prompt", (200, {}, answer))
    assert set(api.append_prompt(GRAPH).node_errors) == {"7"}


def test_a_refusal_has_a_message_and_fields(comfy, api):
    """Fields for programs, a message for people."""
    error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed"}
    fault = {
        "type": "value_smaller_than_min",
        "message": "Value 0 smaller than min of 1",
        "details": "width",
        "extra_info": {
            "input_name": "width",
            "input_config": ["INT", {"min": 1, "max": 9}],
            "received_value": 0,
        },
    }
    nodes = {"1": {"errors": [fault], "dependent_outputs": ["1"], "class_type": "SaveImage"}}
    comfy.on("POST", "/prompt", (400, {}, {"error": error, "node_errors": nodes}))
    with pytest.raises(PromptRejected, match=r"(?s)node 1.*width.*1.*9") as caught:
        api.append_prompt(GRAPH)
    assert caught.value.error == error
    assert caught.value.node_errors == nodes
    assert (caught.value.method, caught.value.status) == ("POST", 400)


@pytest.mark.parametrize(
    "body",
    [
        {"error": "no prompt", "node_errors": []},
        {"error": None},
        {"error": {"type": None, "message": 5}, "node_errors": {"1": None}},
        {"error": {"type": "x"}, "node_errors": {"1": {"errors": [None, 3, {}]}}},
        [],
        "text",
        None,
    ],
)
def test_a_refusal_of_any_form_is_a_refusal(comfy, api, body):
    """Old servers, and proxies with something to say."""
    comfy.on("POST", "/prompt", (400, {}, body))
    with pytest.raises(PromptRejected) as caught:
        api.append_prompt(GRAPH)
    assert str(caught.value).startswith("the server refused the workflow")


@pytest.mark.parametrize("status", [400, 500])
def test_an_unknown_class_comes_with_the_nearest_names(comfy, api, status):
    """Servers before May 2024 stumble over it: 500."""
    comfy.on("GET", "/object_info*", (200, {}, {"SaveImage": {}, "LoadImage": {}}))
    error = {"type": "invalid_prompt", "message": "no class", "details": "Node ID '#1'"}
    body = {"error": error, "node_errors": {}} if status == 400 else "Internal Server Error"
    comfy.on("POST", "/prompt", (status, {}, body))
    with pytest.raises(PromptRejected, match=r"SaveImag\b.*SaveImage"):
        api.append_prompt({"1": {"class_type": "SaveImag", "inputs": {}}})


def test_a_class_that_the_server_failed_to_replace_says_so(comfy, api):
    """As ``check`` does, and not that the server lacks the class, with names that resemble it."""
    rule = {
        "new_node_id": "ControlNetLoader",
        "input_mapping": [{"new_id": "control_net_name", "old_id": "t2i_adapter_name"}],
    }
    comfy.on("GET", "/object_info", (200, {}, {"LTXVAudioVAELoader": {}}))
    comfy.on("GET", "/node_replacements", (200, {}, {"T2IAdapterLoader": [rule]}))
    comfy.on("POST", "/prompt", (500, {}, "500 Internal Server Error"))
    with pytest.raises(PromptRejected) as caught:
        api.append_prompt({"1": {"class_type": "T2IAdapterLoader", "inputs": {}}})
    assert "cannot put 'ControlNetLoader' in its place" in str(caught.value)
    assert "nearest" not in str(caught.value)
    (problem,) = caught.value.problems
    assert (problem.node_id, problem.input) == ("1", "t2i_adapter_name")
    assert caught.value.status == 500


@pytest.mark.parametrize("info", [(500, {}, None), (200, {}, [1]), (200, {}, {"SaveImage": {}})])
def test_a_500_that_no_class_explains_stays_one(comfy, api, info):
    """Also when the server cannot tell its classes."""
    comfy.on("GET", "/object_info", info)
    comfy.on("POST", "/prompt", (500, {}, "Internal Server Error"))
    with pytest.raises(ApiError) as caught:
        api.append_prompt(GRAPH)
    assert not isinstance(caught.value, PromptRejected)
    assert caught.value.status == 500


def test_a_post_that_became_a_get_is_explained(comfy, api):
    """A redirect on the way: the answer is that of GET."""
    comfy.on("POST", "/prompt", (200, {}, {"exec_info": {"queue_remaining": 0}}))
    with pytest.raises(UnexpectedResponse, match="redirect"):
        api.append_prompt(GRAPH)


@pytest.mark.parametrize("body", [{}, [], None, "fine", {"prompt_id": None}, {"prompt_id": ".."}])
def test_an_answer_without_an_id_is_none(comfy, api, body):
    """Never a prompt called None."""
    comfy.on("POST", "/prompt", (200, {}, body))
    with pytest.raises(UnexpectedResponse):
        api.append_prompt(GRAPH)


def test_a_body_that_is_too_large_is_called_so(comfy, api):
    """413 is no JSON."""
    comfy.on("POST", "/prompt", (413, {}, "Maximum request body size 1048576 exceeded."))
    with pytest.raises(UploadTooLarge):
        api.append_prompt(GRAPH)


def test_a_prompt_without_an_answer_is_not_sent_twice(comfy, api):
    """An answer that does not come may belong to a prompt that was queued."""
    comfy.on("POST", "/prompt", lambda request: None)
    with pytest.raises(TransportError):
        api.append_prompt(GRAPH)
    assert len(sent(comfy)) == 1


# -- is it there? ------------------------------------------------------------------------


def test_the_status_is_the_length_of_the_queue(comfy, api):
    """Of everybody's prompts."""
    assert api.poll_status().queue_remaining == 0
    api.append_prompt(GRAPH)
    assert api.poll_status().queue_remaining == 1


def test_json_of_another_program_is_no_comfyui(comfy, api):
    """JSON, but not this."""
    comfy.on("GET", "/prompt", (200, {}, {"hello": 1}))
    with pytest.raises(UnexpectedResponse, match="not ComfyUI"):
        api.poll_status()


def test_a_ping_says_whether_and_how_fast(comfy, api):
    """True, and seconds."""
    result = api.ping()
    assert result
    assert result.error is None
    assert 0 < result.elapsed < LIMIT


def test_a_ping_never_raises():
    """It says why not."""
    with ComfyServer() as comfy, ComfyApi(comfy.url, transport="poll") as api:
        comfy.on("GET", "/prompt", never_answer)
        slow = api.ping(timeout=0.2)
        comfy.on("GET", "/prompt", (200, {}, "<html>"))
        odd = api.ping()
    gone = ComfyApi(comfy.url)
    results = [slow, odd, gone.ping()]
    gone.close()
    assert not any(results)
    assert isinstance(slow.error, TimeoutError)
    assert isinstance(odd.error, UnexpectedResponse)
    assert isinstance(results[2].error, ServerUnreachable)


@pytest.mark.parametrize("call", ["run", "submit", "queue_prompt"])
def test_a_mistyped_argument_is_refused_before_anything_is_sent(
    comfy: ComfyServer, call: str
) -> None:
    """``timout=1`` must not mean "without limit"."""
    with ComfyApi(comfy.url) as api:
        arguments = (None, GRAPH) if call == "queue_prompt" else (GRAPH,)
        with pytest.raises(TypeError, match="'timout'; nearest: 'timeout'"):
            getattr(api, call)(*arguments, timout=1)
    assert not [request for request in comfy.requests if request.method == "POST"]


@pytest.mark.parametrize("ask", [ComfyApi.append_prompt, ComfyApi.submit])
def test_a_refusal_names_what_was_left_out_too(comfy, api, ask):
    """When nothing else is wrong, it is what is wrong."""
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["99", 0]}},
    }
    comfy.on("POST", "/prompt", (400, {}, {"error": {"type": "prompt_no_outputs"}}))
    with pytest.raises(WorkflowError, match=r"node 2 .* links to node '99', which does not exist"):
        ask(api, graph)
    assert [list(body["prompt"]) for body in sent(comfy)] == [["1"]]
    error = {"type": "value_smaller_than_min", "message": "too small", "details": "width"}
    errors = {"1": {"errors": [error], "class_type": "EmptyImage", "dependent_outputs": ["1"]}}
    comfy.on("POST", "/prompt", (400, {}, {"error": {"type": "x"}, "node_errors": errors}))
    with pytest.raises(PromptRejected, match="node 1 ") as caught:
        ask(api, graph)
    assert "links to node '99'" in caught.value.__notes__[0]
    assert set(caught.value.node_errors) == {"1", "2"}

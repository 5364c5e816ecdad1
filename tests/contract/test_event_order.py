"""Which events a real server sends about a prompt, and in which order."""

from __future__ import annotations

import contextlib
import json
import random
import re

import pytest
import requests
import websocket

from comfy_client import ComfyApi
from comfy_client.errors import JobFailed, JobInterrupted, PromptRejected
from comfy_client.events import (
    ConnectionEvent,
    FeatureFlags,
    PreviewEvent,
    StatusEvent,
    UnknownEvent,
)
from tests.contract.conftest import a_while, forgot
from tests.helpers.clients import Impatient, until
from tests.helpers.graphs import fresh_color
from tests.helpers.proxy import Proxy
from tests.versions import has

pytestmark = pytest.mark.needs("new events", "blocked")

LIMIT = 180.0
SHORT = {
    "status": "S",
    "execution_start": "xs",
    "execution_cached": "xc",
    "progress_state": "ps",
    "progress": "p",
    "executing": "ex",
    "executed": "ed",
    "execution_success": "ok",
    "execution_error": "failed",
    "execution_interrupted": "stopped",
    "b_preview": "B",  # without a name: type 1
    "b_preview_with_metadata": "M",  # type 4
}


class Heard:
    """All that the server said to one client after its greeting."""

    def __init__(self, api):
        self.events = []
        api.on("all", self._take)

    def _take(self, event):
        is_greeting = isinstance(event, StatusEvent) and event.sid is not None
        if not is_greeting and not isinstance(event, ConnectionEvent | FeatureFlags):
            self.events.append(event)

    def until_over(self, prompt_id):
        """Wait for ``executing`` without a node, the last word about a prompt."""

        def is_over():
            return any(
                e.name == "executing" and e.node is None and e.prompt_id == prompt_id
                for e in list(self.events)
            )

        until(is_over)

    def forget(self, prompt_id):
        """Begin anew once all was said about a prompt."""
        self.until_over(prompt_id)
        self.events.clear()

    @property
    def said(self) -> str:
        """The names of the events, in short."""
        words = []
        for event in list(self.events):
            word = SHORT.get(event.name, event.name)
            words.append("end" if word == "ex" and event.node is None else word)
        return " ".join(words)


@pytest.fixture
def api(comfyui):
    """A client of a server that has put earlier prompts away, and told everybody so."""
    client = ComfyApi(comfyui.url)
    until(lambda: not client.poll_status(LIMIT).queue_remaining)
    with client:
        yield client


@pytest.fixture
def heard(api):
    return Heard(api)


def picture(**inputs):
    """A picture of a colour of its own, which no server has in its cache."""
    color = fresh_color()
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": color, **inputs},
        },
        "9": {
            "class_type": "SaveImage",
            "inputs": {"filename_prefix": "order/a", "images": ["1", 0]},
        },
    }


def test_a_normal_run(api, heard):
    """Both nodes run; history is written between the success and the end."""
    result = api.run(picture(), timeout=LIMIT)
    heard.until_over(result.prompt_id)
    assert heard.said == "S S xs xc ps ex ps ps ex ed ps ok S end"
    assert [e.queue_remaining for e in heard.events if e.name == "status"] == [1, 1, 0]
    assert [e.node for e in heard.events if e.name == "executing"] == ["1", "9", None]


def test_a_run_with_sampler_previews(api, heard, workflow):
    """A preview comes before its progress, and after the state that tells of both."""
    result = api.run(workflow("txt2img_tiny", seed=random.randrange(1 << 40)), timeout=LIMIT)
    heard.until_over(result.prompt_id)
    node = r"ps ex( ps( M)? p)*( ed)? ps"
    assert re.fullmatch(rf"S S xs xc( {node})+ ok S end", heard.said)
    assert heard.said.count("ps M p") >= 7
    assert heard.said.count(" p ") == 8


def test_each_preview_is_an_event_of_its_job_once(api, comfyui, workflow):
    """Though it fires two signals; so it is for ``on_event``, too."""
    fired = {"b_preview": [], "b_preview_with_metadata": []}
    for name, events in fired.items():
        api.on(name, events.append)
    graphs = [workflow("txt2img_tiny", seed=random.randrange(1 << 40)) for _ in range(2)]
    # Until somebody reads them, only the newest is kept.
    before = {"seconds": a_while(comfyui, 0.5, 4.0), "ticks": 1, "text": "a mill"}
    graphs[1]["5000"] = {"class_type": "TestSleep", "inputs": before}
    graphs[1]["6"]["inputs"]["text"] = ["5000", 0]
    told = []
    api.run(graphs[0], timeout=LIMIT, on_event=told.append)
    told += api.submit(graphs[1]).events()
    previews = [e for e in told if isinstance(e, PreviewEvent)]
    assert {e.name for e in previews} == {"b_preview"}
    assert all(e.node_id for e in previews)
    until(lambda: [len(events) for events in fired.values()] == [len(previews)] * 2)
    assert len(previews) >= 14


def test_a_fully_cached_run(api, heard, comfyui):
    """No node is executed; the one with outputs tells them again."""
    graph = picture()
    heard.forget(api.run(graph, timeout=LIMIT).prompt_id)
    result = api.run(graph, timeout=LIMIT)
    heard.until_over(result.prompt_id)
    if forgot(comfyui, result, *graph):
        return
    assert heard.said == "S S xs xc ed ps ok S end"
    assert result.cached_nodes == ("1", "9")


def test_a_partly_cached_run(api, heard, comfyui):
    """What is upstream and cached is only listed; outputs that are cached tell theirs."""
    graph = picture()
    heard.forget(api.run(graph, timeout=LIMIT).prompt_id)
    graph["7"] = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    graph["8"] = {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}}
    result = api.run(graph, timeout=LIMIT)
    heard.until_over(result.prompt_id)
    if forgot(comfyui, result, "1", "9"):
        return
    cached, ran = "ed ps", "ps ex ps ps ex ed ps"
    assert heard.said in {
        f"S S xs xc {first} ok S end" for first in (f"{cached} {ran}", f"{ran} {cached}")
    }
    assert set(result.cached_nodes) == {"1", "9"}
    assert set(result.nodes) == {"8", "9"}


def test_pictures_over_the_socket(api, heard):
    """SaveImageWebsocket: a picture comes like a preview, and nothing is said of outputs."""
    graph = picture()
    graph["9"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    result = api.run(graph, timeout=LIMIT)
    heard.until_over(result.prompt_id)
    assert heard.said == "S S xs xc ps ex ps ps ex ps M p ps ok S end"


def test_a_cached_output_node_without_outputs(api, heard, comfyui):
    """It says nothing when it runs, and ``executed`` with nothing when it is cached."""
    graph = {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny.ckpt"}},
        "9": {
            "class_type": "VAESave",
            "inputs": {"filename_prefix": f"order/{random.random()}", "vae": ["4", 2]},
        },
    }
    heard.forget(api.run(graph, timeout=LIMIT).prompt_id)
    result = api.run(graph, timeout=LIMIT)
    heard.until_over(result.prompt_id)
    if forgot(comfyui, result, *graph):
        return
    assert heard.said == "S S xs xc ed ps ok S end"
    assert [e.output for e in heard.events if e.name == "executed"] == [None]
    assert dict(result.nodes) == {}


def test_a_client_that_comes_back_in_the_middle(comfyui, workflow):
    """It is told which node runs, without the prompt's id, and the rest as it comes."""
    with Proxy(comfyui.port) as proxy, Impatient(proxy.url) as api:
        events = []
        api.on("all", events.append)
        seconds = a_while(comfyui, 3.0, 8.0)
        job = api.submit(workflow("sleep", seconds=seconds, text=str(random.random())))
        # Only a node that has begun is told to those who come back.
        until(lambda: [e for e in events if e.name == "executing"])
        proxy.cut()
        assert len(job.result(LIMIT).texts) == 1
        names = [e.name for e in events]
        back = events[names.index("reconnected") :]
        [replay] = [e for e in back if e.name == "executing" and e.prompt_id is None]
        assert replay.node == "1"
        assert [e.recovered for e in back if e.name == "execution_success"] == [False]


def test_a_node_that_fails(api, heard, workflow):
    """No success, no finished state of that node."""
    with pytest.raises(JobFailed) as caught:
        api.run(workflow("fail"), timeout=LIMIT)
    heard.until_over(caught.value.prompt_id)
    assert heard.said == "S S xs xc ps ex ps p ps ps ex failed S end"


def test_an_interrupt_in_the_middle_of_sampling(api, heard, workflow):
    """It ends like a failure, by another name."""
    graph = workflow("txt2img_slow", seed=random.randrange(1 << 40))

    def stop(event):
        if event.value == 3:
            api.interrupt(event.prompt_id)

    with pytest.raises(JobInterrupted) as caught:
        api.run(graph, timeout=LIMIT, on_progress=stop)
    heard.until_over(caught.value.prompt_id)
    node = r"ps ex( ps( M)? p)*"
    assert re.fullmatch(rf"S S xs xc( {node} ps)* {node}( ps( M)?)? stopped S end", heard.said)


def test_a_prompt_deleted_from_the_queue(api, heard, workflow):
    """Its owner hears of the queue's length only, twice if it was the last that waited."""
    running = api.queue_prompt(None, workflow("sleep", seconds=60.0, text=str(random.random())))
    until(lambda: "ex" in heard.said.split())
    waiting = api.queue_prompt(None, picture())
    until(lambda: [e for e in heard.events if e.name == "status"][-1].queue_remaining == 2)
    count = len(heard.events)
    api.delete_from_queue(waiting.prompt_id)
    statuses = lambda: [e for e in heard.events[count:] if e.name == "status"]  # noqa: E731
    until(lambda: len(statuses()) == 2)
    assert [e.queue_remaining for e in statuses()] == [1, 1]
    api.interrupt(running.prompt_id)
    heard.until_over(running.prompt_id)
    assert {getattr(e, "prompt_id", None) for e in heard.events} == {None, running.prompt_id}
    assert waiting.prompt_id not in api.get_histories()


def test_a_workflow_that_is_refused(api, heard):
    """Nothing at all: the next thing that is heard is about the next prompt."""
    with pytest.raises(PromptRejected):
        api.run(picture(width=0), timeout=LIMIT)
    result = api.run(picture(), timeout=LIMIT)
    heard.until_over(result.prompt_id)
    said = heard.said.removeprefix("queue_error ")
    assert said == "S S xs xc ps ex ps ps ex ed ps ok S end"


def test_a_prompt_of_nobody(api, heard, workflow):
    """Queued without a client: everybody hears its steps, and gets pictures without a name."""
    graph = workflow("txt2img_tiny", seed=random.randrange(1 << 40))
    answer = api.fetch_api("/prompt", "POST", json={"prompt": graph}).json()
    until(lambda: api.get_history(answer["prompt_id"]) is not None)
    until(lambda: [e for e in heard.events if e.name == "status"][2:])
    assert re.fullmatch(r"S S( ps| p| B)+ S", heard.said)
    assert heard.said.count("B") >= 7
    assert {e.prompt_id for e in heard.events if e.name == "b_preview"} == {None}


def test_a_prompt_of_somebody_else(api, heard, comfyui):
    """Only the length of the queue is everybody's business."""
    with type(api)(comfyui.url) as other:
        other.run(picture(), timeout=LIMIT)
        if has(comfyui.version, "progress_state for its owner alone"):
            until(lambda: heard.said == "S S S")
        else:
            until(lambda: heard.said.replace("ps", "").split() == ["S"] * 3)


@pytest.mark.parametrize("end", ["failure", "interrupt"])
def test_the_end_of_a_foreign_prompt_is_sent_to_its_owner_only(api, heard, comfyui, workflow, end):
    """Others hear the length of the queue, as of any prompt."""
    with type(api)(comfyui.url) as other:
        told = Heard(other)
        if end == "failure":
            job = other.submit(workflow("fail"))
        else:
            job = other.submit(workflow("sleep", seconds=60.0, text=str(random.random())))
            until(lambda: "ex" in told.said.split())
            other.interrupt(job.prompt_id)
        assert isinstance(job.exception(LIMIT), JobFailed | JobInterrupted)
        told.until_over(job.prompt_id)
    until(lambda: heard.said.count("S") == 3)
    assert heard.said.replace("ps", "").split() == ["S"] * 3


@pytest.mark.parametrize("end", ["failure", "interrupt"])
def test_of_a_prompt_of_nobody_everybody_hears_an_interrupt_and_no_failure(
    api, heard, comfyui, workflow, end
):
    """Whatever of its steps is sent to all clients."""
    graph = workflow("fail") if end == "failure" else workflow("sleep", seconds=60.0, ticks=1200)
    with type(api)(comfyui.url) as other:
        told = Heard(other)
        api.fetch_api("/prompt", "POST", json={"prompt": graph})
        if end == "interrupt":
            until(lambda: "p" in heard.said.split())
            api.interrupt()
        for each in (heard, told):
            until(lambda each=each: each.said.count("S") == 3)
    for each in (heard, told):
        said = [word for word in each.said.split() if word not in ("ps", "p")]
        assert said == ["S", "S", *(["stopped"] if end == "interrupt" else []), "S"]


# -- nodes that change the graph -----------------------------------------------------------


def texts(**nodes):
    """A workflow of nodes for texts; the values are class_type and inputs."""
    return {key: {"class_type": kind, "inputs": dict(ins)} for key, (kind, ins) in nodes.items()}


def expanding(what="text", **inputs):
    return texts(
        outer=("TestExpand", {"depth": 1, "what": what, "text": str(random.random()), **inputs}),
        end=("PreviewAny", {"source": ["outer", 0]}),
    )


def test_a_node_that_expands(api, comfyui, heard):
    """Its nodes run in its place, and are shown in it; it has its outputs from them.

    Newer servers run only one of inner nodes that are equal, and repeat its output for the others.
    """
    once = has(comfyui.version, "equal inner nodes run once")
    result = api.run(expanding("show"), timeout=LIMIT)
    heard.until_over(result.prompt_id)
    expansions = "ps ex ed ps ex ed"  # of the outer and the inner one: both show something
    shown = "ps ex ed ps ed ps" if once else "ps ex ed ps ps ex ed ps"
    rest = "ps ex ps p ps ps ps"  # the innermost; then the two have their outputs
    assert heard.said == f"S S xs xc {expansions} {shown} {rest} ps ex ed ps ok S end"
    executing = [e for e in heard.events if e.name == "executing" and e.node]
    assert [(e.node, e.display_node) for e in executing] == [
        ("outer", "outer"),
        ("outer.inner", "outer"),
        ("outer.shown", "outer"),
        *([] if once else [("outer.inner.shown", "outer")]),
        ("outer.inner.inner", "outer"),
        ("end", "end"),
    ]
    told = api.get_history(result.prompt_id)
    assert told.meta["outer.inner.shown"] == {
        "node_id": "outer.shown" if once else "outer.inner.shown",
        "display_node": "outer",
        "parent_node": "outer" if once else "outer.inner",
        "real_node_id": "outer",
    }


def test_nodes_of_an_expansion_are_cached_with_their_node(api, heard, comfyui):
    """Alone it is not listed as cached, nor executed."""
    graph = expanding("show")
    heard.forget(api.run(graph, timeout=LIMIT).prompt_id)
    result = api.run(graph, timeout=LIMIT)
    heard.until_over(result.prompt_id)
    if forgot(comfyui, result, *graph):
        return
    assert heard.said == "S S xs xc ed ps ed ps ok S end"
    assert set(result.cached_nodes) == {"outer", "end"}


def test_a_failure_inside_is_one_of_the_outer_node(api, heard):
    """Only that is in the workflow; what ran inside is listed."""
    with pytest.raises(JobFailed) as caught:
        api.run(expanding("fail"), timeout=LIMIT)
    heard.until_over(caught.value.prompt_id)
    assert heard.said == "S S xs xc ps ex ed ps ex ed ps ex failed S end"
    assert caught.value.node_id == "outer"
    assert caught.value.class_type == "TestExpand"
    assert caught.value.exception_message == "inside"


def test_lazy_inputs_are_worked_out_when_asked_for(api, heard):
    """The node begins, waits for the one that it chose, and begins anew; the other never runs."""
    graph = texts(
        one=("TestSleep", {"seconds": 0.0, "ticks": 1, "text": "one"}),
        two=("TestSleep", {"seconds": 0.0, "ticks": 1, "text": "two"}),
        switch=("TestSwitch", {"choose": "b", "a": ["one", 0], "b": ["two", 0]}),
        end=("PreviewAny", {"source": ["switch", 0]}),
    )
    result = api.run(graph, timeout=LIMIT)
    heard.until_over(result.prompt_id)
    assert result["end"].texts == ("two",)
    assert heard.said == "S S xs xc ps ex ps ex ps p ps ps ex ps ps ex ed ps ok S end"
    executing = [e.node for e in heard.events if e.name == "executing" and e.node]
    assert executing == ["switch", "two", "switch", "end"]


def test_a_lazy_input_that_is_not_there_is_a_failure(api):
    """In the words of the server."""
    graph = texts(
        switch=("TestSwitch", {"choose": "c"}), end=("PreviewAny", {"source": ["switch", 0]})
    )
    with pytest.raises(JobFailed, match="says it needs input c") as caught:
        api.run(graph, timeout=LIMIT)
    assert caught.value.node_id == "switch"
    assert caught.value.exception_type == "comfy_execution.graph.NodeInputError"


def test_an_event_of_a_custom_node_is_of_the_prompt_that_it_names(api):
    """``on_event`` and ``job.events()`` have it, and nobody else's job does."""
    prompt_id = api.generate_id()
    told = {"prompt_id": prompt_id, "cpu": 3}
    graph = {
        "1": {
            "class_type": "TestCustomEvent",
            "inputs": {"event": "somebodys.monitor", "data": json.dumps(told)},
        }
    }
    job = api.submit(graph, prompt_id=prompt_id)
    named = job.prompt_id == prompt_id  # servers before 0.3.45 choose another
    found = [event for event in job.events() if isinstance(event, UnknownEvent)]
    assert [(event.name, event.data) for event in found] == [("somebodys.monitor", told)] * named
    assert job.result(LIMIT)["1"].texts == ("",)


@pytest.mark.parametrize("flags", ["text", [], None, 5])
def test_flags_that_are_no_object_end_what_has_previews(comfyui, flags):
    """They are taken without a word, and the prompt falls over them later."""
    url = f"{comfyui.url.replace('http', 'ws', 1)}/ws?clientId=flags"
    canvas = {"width": 8, "height": 8, "batch_size": 1, "color": fresh_color()}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": canvas},
        "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    }
    with contextlib.closing(websocket.create_connection(url, LIMIT)) as ws:
        ws.send(json.dumps({"type": "feature_flags", "data": flags}))
        while json.loads(ws.recv())["type"] != "feature_flags":
            pass
        body = {"prompt": graph, "client_id": "flags"}
        requests.post(f"{comfyui.url}/prompt", json=body, timeout=LIMIT).raise_for_status()
        kinds = []
        while (event := json.loads(ws.recv()))["type"] != "execution_error":
            kinds.append(event["type"])
    assert "progress_state" in kinds
    assert "progress" not in kinds
    assert event["data"]["exception_type"] == "AttributeError"
    assert "has no attribute 'get'" in event["data"]["exception_message"]

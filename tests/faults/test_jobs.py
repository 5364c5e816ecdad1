"""Jobs when socket, server or timing are against them, on the scripted server."""

from __future__ import annotations

import _thread
import contextlib
import gc
import logging
import re
import threading
import time
import uuid
import weakref
from collections import Counter
from concurrent.futures import as_completed
from concurrent.futures import wait as wait_for_all

import blinker
import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    ClientClosed,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
    UnexpectedResponse,
)
from comfy_client.events import Event
from comfy_client.jobs import poller
from comfy_client.jobs.cancel import withdrawn
from comfy_client.jobs.job import state_of
from comfy_client.testing import PROMPT_ID, ComfyServer, Finish, cut, frame, never_answer
from comfy_client.timing import Timing
from tests.conftest import load_workflow
from tests.helpers.clients import outstanding, until
from tests.helpers.march_2024 import March2024
from tests.helpers.recordings import recording

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Save"}},
}
OUTPUT = {"images": [{"filename": "a.png", "subfolder": "sub", "type": "output"}]}
LIMIT = 20.0
END_NAMES = {"execution_success", "execution_error", "execution_interrupted", "job_lost"}


def say(kind, **data):
    """A message about the prompt of the script."""
    return {"type": kind, "data": {**data, "prompt_id": PROMPT_ID}}


START = say("execution_start")
CACHED = say("execution_cached", nodes=[])
ALL_CACHED = say("execution_cached", nodes=["1", "9"])
RUNS = say("executing", node="1", display_node="1")
LEFT = say("executed", node="9", display_node="9", output=OUTPUT)
SUCCESS = say("execution_success")
OVER = say("executing", node=None)
ENTRY = {
    "prompt": [0, PROMPT_ID, {}, {}, []],
    "outputs": {"9": OUTPUT},
    "status": {"status_str": "success", "completed": True, "messages": [["execution_success", {}]]},
}
WELL = (START, CACHED, RUNS, LEFT, SUCCESS, Finish(), OVER)


class Impatient(ComfyApi):
    """Patient in the same way, but in less time."""

    timing = Timing(
        pause=0.02,
        cap=0.2,
        poll=0.2,
        silence=0.3,
        silence_cap=0.6,
        job_poll_cap=0.2,
        lost=0.2,
        question_pause=0.1,
        history=0.6,
        settle=2.0,
    )


class Told:
    """Counts the events of a client by name and prompt, as its receivers get them."""

    def __init__(self, api):
        self.events: list[Event] = []
        api.on("all", self.events.append)

    def names(self, *wanted):
        return [e.name for e in list(self.events) if e.name in wanted]

    def ends(self, prompt_id=None):
        found = [e for e in list(self.events) if e.name in END_NAMES]
        return [e for e in found if prompt_id in (None, e.prompt_id)]


@pytest.fixture
def comfy():
    """A scripted server."""
    with ComfyServer() as server:
        server.script()
        yield server


@pytest.fixture
def api(comfy):
    with Impatient(comfy.url, namespace=blinker.Namespace()) as client:
        yield client


def posts(comfy):
    return [r for r in comfy.requests if (r.method, r.path) == ("POST", "/prompt")]


def asked(comfy, path):
    return [r for r in comfy.requests if r.method == "GET" and r.path.startswith(path)]


def check(result):
    """The one picture is there."""
    assert [(f.filename, f.subfolder) for f in result["Save"].images] == [("a.png", "sub")]


# -- the socket is deaf, or comes and goes -----------------------------------------------


@pytest.mark.timing(deaf=LIMIT)
def test_a_job_on_a_deaf_socket_ends_by_asking(comfy, api):
    """F1: nothing comes over the socket, and the result does."""
    told = Told(api)
    comfy.faults.deaf()
    comfy.script(*WELL)
    result = api.run(GRAPH, timeout=LIMIT)
    check(result)
    assert [e.recovered for e in told.ends(result.prompt_id)] == [True]
    assert len(comfy.hellos) == 1


@pytest.mark.timing(deaf=0.2)
def test_a_deaf_socket_is_dialled_again_once(comfy, api):
    """F1: the server forgot our route, so our own submission brings no status."""
    heard = threading.Event()
    comfy.faults.deaf()
    comfy.script(START, heard, *WELL[1:])
    job = api.submit(GRAPH)
    comfy.until(lambda: len(comfy.hellos) == 2, LIMIT)
    comfy.faults.deaf()
    second = api.submit(GRAPH)
    heard.set()
    check(job.result(LIMIT))
    check(second.result(LIMIT))
    assert len(comfy.hellos) == 2


@pytest.mark.timing(deaf=0.05)
def test_a_socket_that_hears_is_left_alone(comfy, api):
    """A job that is silent for long is no reason to dial."""
    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    job = api.submit(GRAPH)
    comfy.until(lambda: len(asked(comfy, "/history")) >= 3, LIMIT)
    assert len(asked(comfy, "/queue")) <= 2  # nothing says that it has changed
    go.set()
    check(job.result(LIMIT))
    assert len(comfy.hellos) == 1


def test_a_prompt_that_the_socket_has_seen_begin_is_asked_for_alone(comfy, api):
    """A queue may hold megabytes of graphs; once in a while it is looked at all the same."""
    comfy.script(START, CACHED, RUNS)
    job = api.submit(GRAPH)
    comfy.until(lambda: len(asked(comfy, "/history")) >= 2, LIMIT)
    before = len(asked(comfy, "/queue")), len(asked(comfy, "/history"))
    for _ in range(3):
        comfy.push_status()
        now = len(asked(comfy, "/history"))
        comfy.until(lambda: len(asked(comfy, "/history")) > now, LIMIT)  # noqa: B023
    assert len(asked(comfy, "/queue")) == before[0] == 1
    comfy.finish(job.prompt_id, {"9": OUTPUT})
    check(job.result(LIMIT))


@pytest.mark.timing(follow=1.0)
def test_what_vanishes_under_an_unbroken_socket_is_lost(comfy, api):
    """At the next of the rare looks."""
    comfy.script(START, CACHED, RUNS)
    job = api.submit(GRAPH)
    comfy.until(lambda: asked(comfy, "/queue"), LIMIT)
    comfy.forget()
    with pytest.raises(JobLost):
        job.result(LIMIT)


def test_a_look_that_another_job_needs_tells_of_all_that_vanished(comfy, api):
    """What the socket has seen begin is not looked for by itself."""
    comfy.script(START, CACHED, RUNS)
    work = [api.submit(GRAPH)]
    comfy.until(lambda: asked(comfy, "/queue"), LIMIT)
    work.append(api.submit(GRAPH))
    comfy.forget()
    for job in work:
        with pytest.raises(JobLost):
            job.result(LIMIT)


@pytest.mark.timing(slow_queue=0.0, slow_queue_rest=1e4)
def test_a_queue_that_takes_long_to_read_is_looked_at_less(comfy, api):
    """Ends are found without it: in the history, of those that are next."""
    comfy.script(START)
    with Impatient(comfy.url, transport="poll", namespace=blinker.Namespace()) as other:
        work = [other.submit(GRAPH) for _ in range(20)]
        comfy.until(lambda: all(job.status != "unknown" for job in work), LIMIT)
        comfy.until(lambda: work[0].status == "running", LIMIT)
        before = len(asked(comfy, "/queue"))
        begun = len(asked(comfy, "/history"))
        comfy.finish(work[0].prompt_id, {"9": OUTPUT})
        check(work[0].result(LIMIT))
        comfy.finish(work[1].prompt_id, {"9": OUTPUT})
        check(work[1].result(LIMIT))
        assert len(asked(comfy, "/queue")) <= before + 1
        assert len(asked(comfy, "/history")) - begun < 60


def test_a_job_that_ends_in_a_gap_has_its_result(comfy, api):
    """F3: dropped in the middle, over when the socket is back."""
    told = Told(api)
    comfy.script(START, CACHED, RUNS, lambda _: comfy.faults.drop(), Finish(ENTRY))
    result = api.run(GRAPH, timeout=LIMIT)
    check(result)
    comfy.until(lambda: told.names("reconnected"), LIMIT)
    assert told.names("disconnected", "reconnected") == ["disconnected", "reconnected"]
    assert [e.recovered for e in told.ends(result.prompt_id)] == [True]


def test_what_a_gap_swallowed_comes_from_history(comfy, api):
    """The end comes on a second socket, the output came on none: events alone may not decide."""

    def gap(_):
        comfy.faults.drop()
        comfy.until(lambda: len(comfy.hellos) == 2 and comfy.sockets, LIMIT)

    comfy.script(START, CACHED, RUNS, gap, SUCCESS, Finish(ENTRY), OVER)
    check(api.run(GRAPH, timeout=LIMIT))


def test_a_job_survives_five_drops(comfy, api):
    """F4: each is followed by another socket, and the end comes over the last."""
    told = Told(api)

    def drop(_):
        before = len(told.names("reconnected"))
        comfy.faults.drop()
        comfy.until(lambda: len(told.names("reconnected")) > before, LIMIT)

    comfy.script(START, CACHED, *[RUNS, drop] * 5, LEFT, SUCCESS, Finish(), OVER)
    result = api.run(GRAPH, timeout=LIMIT)
    check(result)
    assert len(told.ends(result.prompt_id)) == 1
    assert len(told.names("reconnected")) == 5
    assert len(posts(comfy)) == 1


def test_history_may_come_late_after_the_success(comfy, api):
    """F7: outputs of cached nodes are known from history only, which is not there at once."""
    comfy.script(
        START,
        ALL_CACHED,
        SUCCESS,
        lambda prompt: comfy.until(lambda: len(asked(comfy, f"/history/{prompt}")) >= 3, LIMIT),
        Finish(ENTRY),
        OVER,
    )
    check(api.run(GRAPH, timeout=LIMIT))


def test_history_may_come_late_after_the_end_marker(comfy, api):
    """F7: the same after ``executing`` without a node."""
    comfy.script(
        START,
        ALL_CACHED,
        SUCCESS,
        OVER,
        lambda prompt: comfy.until(lambda: len(asked(comfy, f"/history/{prompt}")) >= 3, LIMIT),
        Finish(ENTRY),
    )
    check(api.run(GRAPH, timeout=LIMIT))


@pytest.mark.timing(settle=0.1)
def test_a_job_that_is_over_before_the_socket_is_up_has_its_result(comfy):
    """F9: the handshake is not answered, and the server works all the same."""
    comfy.faults.stall_handshakes()
    comfy.script(*WELL)
    with contextlib.closing(Impatient(comfy.url)) as api:
        check(api.run(GRAPH, timeout=LIMIT))


def test_pictures_that_a_gap_may_have_cost_are_said_to_be_missing(comfy, api, caplog):
    """What SaveImageWebsocket sends is not in history: complete is False, and logged."""
    graph = load_workflow("txt2img_websocket")
    comfy.script(
        START, CACHED, RUNS, lambda _: comfy.faults.drop(), Finish({**ENTRY, "outputs": {}})
    )
    result = api.run(graph, timeout=LIMIT)
    assert not result.complete
    assert "SaveImageWebsocket" in caplog.text


def test_pictures_that_are_still_on_their_way_are_waited_for(comfy, api):
    """On a slow link history knows of the end while a picture still trickles in."""
    head = b'{"node_id": "9", "prompt_id": "%s"}'

    def trickle(prompt_id):
        about = head % prompt_id.encode()
        body = (4).to_bytes(4, "big") + len(about).to_bytes(4, "big") + about + bytes(2000)
        data = frame(2, body)
        for start in range(0, len(data), 100):  # for longer than a silence may last
            comfy.push_raw(data[start : start + 100])
            threading.Event().wait(0.05)

    running = say("executing", node="9", display_node="9")
    done = Finish({**ENTRY, "outputs": {}})
    comfy.script(START, CACHED, running, done, trickle, SUCCESS, OVER)
    result = api.run(load_workflow("txt2img_websocket"), timeout=LIMIT)
    assert len(result.images) == 1
    assert result.complete


def trickle(comfy, prompt_id, *, meanwhile):
    """A picture over a slow line; ``meanwhile(n)`` is called before each of its 40 pieces."""
    about = b'{"node_id": "9", "prompt_id": "%s"}' % prompt_id.encode()
    data = frame(2, (4).to_bytes(4, "big") + len(about).to_bytes(4, "big") + about + bytes(3900))
    for number, start in enumerate(range(0, len(data), 100)):
        meanwhile(number)
        comfy.push_raw(data[start : start + 100])
        threading.Event().wait(0.04)


@pytest.mark.timing(deaf=0.3)
def test_an_end_that_history_knows_first_does_not_make_a_slow_line_deaf(comfy, api):
    """The ``status`` stands in line behind a picture; a new socket would cost that."""

    def late(prompt_id):
        def end_it(number):
            if number == 12:
                comfy.until(lambda: asked(comfy, "/queue"), LIMIT)  # and so was seen to run
                comfy.faults.withhold("status")
                comfy.finish(prompt_id, {})

        trickle(comfy, prompt_id, meanwhile=end_it)

    running = say("executing", node="9", display_node="9")
    comfy.script(START, CACHED, running, late, SUCCESS, OVER)
    result = api.run(load_workflow("txt2img_websocket"), timeout=LIMIT)
    assert len(result.images) == 1
    assert len(comfy.hellos) == 1


@pytest.mark.timing(deaf=1.0)
def test_a_submission_over_a_slow_line_does_not_make_it_deaf(comfy, api):
    """Its ``status`` stands in line behind a picture of another prompt, and is slow to begin."""
    half = threading.Event()
    held = []

    def slow(prompt_id):
        def half_way(number):
            if number == 3:
                held.append(comfy.faults.withhold("status"))
                half.set()

        trickle(comfy, prompt_id, meanwhile=half_way)
        threading.Event().wait(1.2)
        held.pop().end()

    running = say("executing", node="9", display_node="9")
    comfy.script(START, CACHED, running, slow, SUCCESS, Finish({**ENTRY, "outputs": {}}), OVER)
    first = api.submit(load_workflow("txt2img_websocket"))
    assert half.wait(LIMIT)
    comfy.script(*WELL)
    second = api.submit(GRAPH)
    assert len(first.result(LIMIT).images) == 1
    check(second.result(LIMIT))
    assert len(comfy.hellos) == 1


def test_pictures_that_never_come_are_said_to_be_missing(comfy, api, caplog):
    """The socket is up but silent, and history says success: not for ever."""
    comfy.script(START, CACHED, Finish({**ENTRY, "outputs": {}}))
    result = api.run(load_workflow("txt2img_websocket"), timeout=LIMIT)
    assert not result.complete
    assert "SaveImageWebsocket" in caplog.text


def test_a_log_handler_may_ask_the_client(comfy, api):
    """What is logged about a job is logged without a lock held."""
    seen = []

    class Asks(logging.Handler):
        def emit(self, record):
            if "some may be missing" in record.getMessage():
                seen.append(outstanding(api))

    handler = Asks()
    logging.getLogger("comfy_client").addHandler(handler)
    try:
        comfy.script(START, CACHED, Finish({**ENTRY, "outputs": {}}))
        api.run(load_workflow("txt2img_websocket"), timeout=LIMIT)
    finally:
        logging.getLogger("comfy_client").removeHandler(handler)
    assert seen == [[]]


def test_the_callers_time_bounds_the_submission_too(comfy, api):
    """A POST without an answer does not outlast ``timeout`` by more than a look."""
    comfy.on("POST", "/prompt", never_answer)
    begun = time.monotonic()
    with pytest.raises(SubmitUncertain):
        api.run(GRAPH, timeout=0.1)
    assert time.monotonic() - begun < 8  # and not the client's own 60 and 10


# -- order and timing --------------------------------------------------------------------


def early(comfy, **more):
    """The submission is answered when the prompt is over."""

    def handler(request):
        status, headers, answer = comfy.answer(request)
        comfy.until(lambda: answer["prompt_id"] in comfy.history, LIMIT)
        return status, headers, answer | more

    comfy.on("POST", "/prompt", handler)


def test_events_may_come_before_the_answer(comfy, api):
    """F8: nothing is lost, not even what only the answer says."""
    told = Told(api)
    early(comfy, node_errors={"7": {"errors": [], "class_type": "SaveImage"}})
    comfy.script(*WELL)
    result = api.run(GRAPH, timeout=LIMIT)
    check(result)
    assert set(result.node_errors) == {"7"}
    assert len(told.ends()) == 1


@pytest.mark.parametrize("is_early", [True, False], ids=["events first", "answer first"])
@pytest.mark.parametrize("steps", [WELL, WELL[:4] + WELL[5:]], ids=["now", "2024-03"])
def test_the_id_that_the_server_chose_counts(comfy, api, steps, is_early):
    """F22: a server of 2024 ignores ours; its end event, or ours for it, fires once."""
    told = Told(api)
    comfy.faults.other_prompt_ids()
    if is_early:
        early(comfy)
    comfy.script(*steps)
    events = []
    result = api.run(GRAPH, timeout=LIMIT, on_event=events.append)
    check(result)
    assert result.prompt_id in comfy.history
    assert [e.name for e in told.ends()] == ["execution_success"]
    assert [e.name for e in events if e.name in END_NAMES] == ["execution_success"]
    assert {e.prompt_id for e in events} == {result.prompt_id}


@pytest.mark.parametrize("is_early", [True, False], ids=["events first", "answer first"])
def test_pictures_without_a_name_are_outputs_of_the_node_that_ran(comfy, api, is_early):
    """A server of 2024 and SaveImageWebsocket: its two pictures, none of the previews."""
    comfy.faults.other_prompt_ids()
    if is_early:
        early(comfy)
    comfy.script(*recording("2024-03", "save_image_websocket").steps)
    previews = []
    result = api.run(load_workflow("txt2img_websocket"), timeout=LIMIT, on_preview=previews.append)
    assert [f.mime for f in result["SaveImageWebsocket"].images] == ["image/png"] * 2
    assert [p.node_id for p in previews if p.final] == ["9", "9"] or is_early
    assert {p.node_id for p in previews if not p.final} >= {"3"}
    assert result.complete


def test_http_decides_first_and_the_late_event_is_dropped(comfy, api):
    """One end event, and it says that it is recovered."""
    told = Told(api)
    late = threading.Event()
    comfy.script(START, CACHED, RUNS, LEFT, Finish(), late, SUCCESS, OVER)
    result = api.run(GRAPH, timeout=LIMIT)
    check(result)
    late.set()
    comfy.until(lambda: [e for e in told.events if e.name == "executing" and not e.node], LIMIT)
    assert [(e.name, e.recovered) for e in told.ends()] == [("execution_success", True)]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (say("execution_error", node_id="9", exception_type="ValueError"), JobFailed),
        (say("execution_interrupted", node_id="9"), JobInterrupted),
    ],
)
def test_a_late_failure_is_told_once(comfy, api, end, error):
    """HTTP knows first; what the socket brings later fires nothing."""
    told = Told(api)
    late = threading.Event()
    entry = {
        **ENTRY,
        "status": {
            "status_str": "error",
            "completed": False,
            "messages": [[end["type"], end["data"]]],
        },
    }
    comfy.script(START, CACHED, RUNS, Finish(entry), late, end, OVER)
    with pytest.raises(error) as caught:
        api.run(GRAPH, timeout=LIMIT)
    late.set()
    comfy.until(lambda: [e for e in told.events if e.name == "executing" and not e.node], LIMIT)
    assert [(e.name, e.recovered) for e in told.ends()] == [(end["type"], True)]
    assert caught.value.node_id == "9"


def test_foreign_traffic_is_nobodys(comfy, api):
    """F24, F25, F27: other prompts, odd messages, and a replay that names no prompt."""

    def noise(_):
        other = {"prompt_id": "somebody-elses"}
        for message in [
            {"type": "execution_error", "data": {**other, "node_id": "1"}},
            {"type": "executing", "data": {**other, "node": None}},
            {"type": "execution_success", "data": other},
            {"type": "executing", "data": {"node": "1"}},
            {"type": "executing", "data": {"node": None}},
            {"type": "execution_success", "data": {}},
            {"type": "execution_error", "data": None},
            {"type": "executed", "data": [1]},
            {"type": "crystools.monitor", "data": {"cpu": 1}},
            {"type": "progress"},
            "text",
            [],
        ]:
            comfy.push(message)
        comfy.push_raw(b"\x81\x03{{{")

    steps = [part for step in WELL for part in (noise, step)]
    comfy.script(*steps)
    events = []
    result = api.run(GRAPH, timeout=LIMIT, on_event=events.append)
    check(result)
    assert [e.name for e in events] == [
        "execution_start",
        "execution_cached",
        "executing",
        "executed",
        "execution_success",
    ]


def test_two_clients_of_one_id_have_their_results(comfy, caplog):
    """F24: only one of them hears anything, and no storm of dials begins."""
    comfy.script(*WELL)
    with Impatient(comfy.url, "same") as one, Impatient(comfy.url, "same") as two:
        work = [client.submit(GRAPH) for client in (one, two) for _ in range(3)]
        assert {check(job.result(LIMIT)) for job in work} == {None}
        assert len({job.prompt_id for job in work}) == 6
    assert len(comfy.hellos) <= 4


def test_a_blocked_node_is_no_end(comfy, api):
    """An ``execution_error`` of the type ExecutionBlocked; the prompt goes on to its one end."""
    blocked = say("execution_error", node_id="1", exception_type="ExecutionBlocked")
    comfy.script(START, CACHED, blocked, *WELL[2:])
    told, events = Told(api), []
    check(api.run(GRAPH, timeout=LIMIT, on_event=events.append))
    for heard in (told.events, events):
        names = [e.name for e in heard if e.name.startswith("execution_")]
        assert names[-2:] == ["execution_error", "execution_success"]
        assert [e.name for e in heard if e.is_end] == ["execution_success"]


# -- caches and old servers --------------------------------------------------------------


def test_a_fully_cached_run_has_its_outputs(comfy, api):
    """F10: nothing but what was cached, and the end; the outputs stand in history."""
    told = Told(api)
    comfy.script(START, ALL_CACHED, Finish(ENTRY), OVER)
    result = api.run(GRAPH, timeout=LIMIT)
    check(result)
    assert result.cached_nodes == ("1", "9")
    assert [e.name for e in told.ends()] == ["execution_success"]


def test_cached_outputs_that_are_nowhere_end_in_an_empty_result(comfy, api):
    """F11: history without outputs; no wait without end."""
    comfy.script(START, ALL_CACHED, SUCCESS, Finish({**ENTRY, "outputs": {}}), OVER)
    assert api.run(GRAPH, timeout=LIMIT).files == ()


def test_outputs_that_only_events_told_are_kept(comfy, api):
    """F11: history has none of them."""
    cached = say("execution_cached", nodes=["1", "8"])
    comfy.script(START, cached, LEFT, Finish({**ENTRY, "outputs": {}}), OVER)
    check(api.run({**GRAPH, "8": {"class_type": "SaveImage", "inputs": {}}}, timeout=LIMIT))


@pytest.mark.parametrize("name", ["normal_previews", "cached_rerun"])
@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_a_server_of_early_2024_gives_results(comfy, name, transport):
    """It knows no ``execution_success``, and sends no ``executed`` for cached nodes."""
    comfy.faults.other_prompt_ids()
    comfy.script(*recording("2024-03", name).steps)
    with Impatient(comfy.url, transport=transport, namespace=blinker.Namespace()) as api:
        told = Told(api)
        result = api.run(load_workflow("txt2img_tiny"), timeout=LIMIT)
        assert len(result["Save"].images) == 1
        assert result.complete
        assert [e.name for e in told.ends()] == ["execution_success"]


def test_history_that_was_cleared_leaves_what_events_told(comfy, api):
    """F16: complete is False."""
    comfy.script(
        START,
        say("execution_cached", nodes=["1", "8"]),
        LEFT,
        SUCCESS,
        lambda _: comfy.forget(),
        OVER,
    )
    result = api.run({**GRAPH, "8": {"class_type": "SaveImage", "inputs": {}}}, timeout=LIMIT)
    check(result)
    assert not result.complete


# -- ends that only HTTP tells -----------------------------------------------------------


@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_an_interrupt_may_stand_in_history_only(comfy, transport):
    """F12: it is not called a failure."""
    said = {"prompt_id": "x", "node_id": "1", "node_type": "EmptyImage", "executed": []}
    comfy.script(START, lambda p: comfy.finish(p, messages=[["execution_interrupted", {**said}]]))
    with Impatient(comfy.url, transport=transport, namespace=blinker.Namespace()) as api:
        told = Told(api)
        with pytest.raises(JobInterrupted, match=r"node 1 \(EmptyImage\)") as caught:
            api.run(GRAPH, timeout=LIMIT)
        assert caught.value.node_id == "1"
        assert [e.name for e in told.ends()] == ["execution_interrupted"]


@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_a_prompt_that_was_deleted_is_lost(comfy, transport):
    """F13: no event tells; in neither queue nor history, twice."""
    hold = threading.Event()
    comfy.script(START, hold, *WELL[1:])
    with Impatient(comfy.url, transport=transport, namespace=blinker.Namespace()) as api:
        told = Told(api)
        first, second = api.submit(GRAPH), api.submit(GRAPH)
        api.delete_from_queue(second.prompt_id)
        with pytest.raises(JobLost, match="deleted"):
            second.result(LIMIT)
        assert [e.name for e in told.ends(second.prompt_id)] == ["job_lost"]
        hold.set()
        check(first.result(LIMIT))


def test_a_server_that_forgot_everything_lost_the_job(comfy, api):
    """F14: restarted in the middle of it."""
    told = Told(api)

    def restart(_):
        comfy.forget()
        comfy.faults.drop()

    comfy.script(START, CACHED, RUNS, restart)
    with pytest.raises(JobLost, match="restarted"):
        api.run(GRAPH, timeout=LIMIT)
    assert [e.name for e in told.ends()] == ["job_lost"]


@pytest.mark.parametrize(
    ("name", "workflow"), [("runtime_error", "failing_runtime"), ("interrupt", "txt2img_slow")]
)
@pytest.mark.parametrize("version", ["0.28.1", "0.3.75", "0.3.52", "2024-03"])
def test_polling_knows_as_much_of_an_error_as_the_socket(comfy, version, name, workflow):
    """The same class of exception, with the same facts."""
    comfy.script(*recording(version, name).steps)
    facts = []
    for transport in ("auto", "poll"):
        with Impatient(comfy.url, transport=transport, namespace=blinker.Namespace()) as api:
            told = Told(api)
            with pytest.raises((JobFailed, JobInterrupted)) as caught:
                api.run(load_workflow(workflow), timeout=LIMIT)
            assert len(told.ends()) == 1
            known = {k: v for k, v in vars(caught.value).items() if k != "prompt_id"}
            words = str(caught.value).replace(caught.value.prompt_id, "")
            facts.append((caught.type, words, known))
    assert facts[0] == facts[1]


# -- HTTP is in trouble ------------------------------------------------------------------


def test_part_of_a_workflow_may_be_dropped(comfy, api, caplog):
    """F17: told once as a warning, and kept with the result."""
    errors = {
        "9": {
            "errors": [{"type": "required_input_missing", "extra_info": {"input_name": "images"}}],
            "class_type": "SaveImage",
            "dependent_outputs": ["9"],
        }
    }

    def handler(request):
        status, headers, answer = comfy.answer(request)
        return status, headers, answer | {"node_errors": errors}

    comfy.on("POST", "/prompt", handler)
    comfy.script(*WELL)
    result = api.run(GRAPH, timeout=LIMIT)
    assert dict(result.node_errors) == errors
    assert caplog.text.count("without some of its outputs") == 1


LOGIN = (200, {"Content-Type": "text/html"}, "<html>please log in</html>")


def test_a_login_page_ends_a_wait_that_has_no_socket(comfy):
    """F18: a typed error, after a few tries, and one end event."""
    comfy.script(START)
    with Impatient(comfy.url, transport="poll", namespace=blinker.Namespace()) as api:
        told = Told(api)
        job = api.submit(GRAPH)
        comfy.on("GET", "/queue", LOGIN)
        comfy.on("GET", "/history/*", LOGIN)
        with pytest.raises(UnexpectedResponse):
            job.result(LIMIT)
        assert [e.name for e in told.ends(job.prompt_id)] == ["job_lost"]
        comfy.off("GET", "/queue")
        comfy.off("GET", "/history/*")
        comfy.finish(job.prompt_id, {"9": OUTPUT})
        check(api.job(job.prompt_id).result(LIMIT))  # it refused to tell, and may be asked again


@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_a_queue_that_is_refused_ends_no_wait_while_the_history_answers(comfy, transport):
    """It will have the prompt when that has ended; nor does a gap of the socket change this."""
    go = threading.Event()
    comfy.script(START, CACHED, RUNS, go, LEFT, SUCCESS, Finish(ENTRY), OVER)
    comfy.on("GET", "/queue", (403, {}, "not for you"))
    with Impatient(comfy.url, transport=transport, namespace=blinker.Namespace()) as api:
        job = api.submit(GRAPH)
        for _ in range(2):
            before = len(asked(comfy, "/queue"))
            comfy.until(lambda: len(asked(comfy, "/queue")) > before + poller.REFUSALS, LIMIT)  # noqa: B023
            comfy.faults.drop()
        assert not job.done()
        go.set()
        check(job.result(LIMIT))


def test_a_prompt_is_lost_though_the_queue_is_refused(comfy):
    """How many prompts there are is told by another route: none."""
    comfy.script(START)
    with Impatient(comfy.url, transport="poll", namespace=blinker.Namespace()) as api:
        job = api.submit(GRAPH)
        comfy.on("GET", "/queue", (403, {}, "not for you"))
        comfy.until(lambda: len(asked(comfy, "/queue")) > poller.REFUSALS, LIMIT)
        assert not job.done()
        comfy.forget()
        assert isinstance(job.exception(LIMIT), JobLost)


@pytest.mark.parametrize("what", ["get_history", "get_queue"])
def test_an_answer_that_our_code_stumbles_over_stops_no_thread(comfy, monkeypatch, caplog, what):
    """A record is the trouble of its own job, and a queue that makes no sense is one refused."""
    hold = threading.Event()
    comfy.script(START, hold, Finish(ENTRY))
    with Impatient(comfy.url, transport="poll", namespace=blinker.Namespace()) as api:
        read = getattr(api, what)
        bad = api.submit(GRAPH)

        def stumble(*ids):
            return ids[0] < 3 if ids in ((), (bad.prompt_id,)) else read(*ids)

        monkeypatch.setattr(api, what, stumble)
        good = api.submit(GRAPH)
        hold.set()
        check(good.result(LIMIT))
        if what == "get_queue":
            check(bad.result(LIMIT))
        else:
            with pytest.raises(UnexpectedResponse, match="makes no sense: TypeError"):
                bad.result(LIMIT)
    assert "defect" not in caplog.text


def test_each_job_has_an_error_of_its_own(comfy, monkeypatch):
    """Whoever raises it adds a traceback to it, maybe in another thread."""
    comfy.script(START)
    with Impatient(comfy.url, transport="poll", namespace=blinker.Namespace()) as api:
        running = [api.submit(GRAPH) for _ in range(2)]
        monkeypatch.setattr(api._tracker.deafness, "redial_if_deaf", lambda *_: 1 / 0)
        first, second = (job.exception(LIMIT) for job in running)
        assert str(first) == str(second)
        assert first is not second


def test_what_a_client_keeps_of_a_failure_holds_no_frames(comfy, api):
    """Nor, through them, what somebody has let go of."""
    comfy.on("GET", "/queue", LOGIN)
    comfy.script(START)
    api.job(str(uuid.uuid4()))
    comfy.until(lambda: api._poller.trouble, LIMIT)
    assert api._poller.trouble.__traceback__ is None


def test_a_login_page_cannot_hide_a_success(comfy, api):
    """F18: the socket has told it; what events gave has to do."""
    comfy.on("GET", "/history/*", LOGIN)
    comfy.script(START, say("execution_cached", nodes=["1", "8"]), LEFT, SUCCESS, OVER)
    result = api.run({**GRAPH, "8": {"class_type": "SaveImage", "inputs": {}}}, timeout=LIMIT)
    check(result)
    assert not result.complete


def test_a_login_page_ends_what_is_over_though_nobody_said_how(comfy, api):
    """F18: on a server without ``execution_success``, and the history cannot be read."""
    told = Told(api)
    comfy.on("GET", "/history/*", LOGIN)
    comfy.script(START, ALL_CACHED, OVER)
    with pytest.raises(UnexpectedResponse):
        api.run(GRAPH, timeout=LIMIT)
    assert [e.name for e in told.ends()] == ["job_lost"]


def test_a_jobs_api_that_fails_is_done_without():
    """The queue tells the same."""
    with ComfyServer(version="0.8") as server:
        server.script(*WELL)
        server.on("GET", "/api/jobs", (500, {}, "out of order"))
        with Impatient(server.url, transport="poll") as api:
            check(api.run(GRAPH, timeout=LIMIT))


def test_one_record_that_cannot_be_read_does_not_hold_up_others(comfy):
    """Each job is asked about for itself."""
    comfy.script(*WELL)
    with Impatient(comfy.url, transport="poll") as api:
        hold = threading.Event()
        comfy.script(START, hold, Finish())
        bad, good = api.submit(GRAPH), api.submit(GRAPH)
        comfy.on("GET", f"/history/{bad.prompt_id}", LOGIN)
        hold.set()
        good.result(LIMIT)
        with pytest.raises(UnexpectedResponse):
            bad.result(LIMIT)


@pytest.mark.timing(silence_cap=0.2)
def test_polling_outlives_bad_gateways(comfy):
    """F20: five times 502 in the middle of it."""
    left = [5]

    def handler(request):
        left[0] -= 1
        return (502, {}, "<html>bad gateway") if left[0] >= 0 else comfy.answer(request)

    comfy.on("GET", "/queue", handler)
    comfy.script(*WELL)
    with Impatient(comfy.url, transport="poll") as api:
        assert len(api.run(GRAPH, timeout=LIMIT).files) == 1
    assert left[0] < 0


def test_a_server_that_is_away_is_asked_less_and_less(comfy, api):
    """Requests while everything fails are bounded: pauses grow, whatever happens."""
    away = (503, {}, "away")
    times = []

    def handler(request):
        times.append(time.monotonic())
        return away

    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    job = api.submit(GRAPH)
    other = api.submit(GRAPH)
    comfy.on("GET", "/queue", handler)
    comfy.on("GET", "/prompt", away)
    refusal = comfy.faults.refuse_sockets(503)
    comfy.faults.drop()
    comfy.until(lambda: len(times) >= 4, LIMIT)
    assert times[3] - times[0] > 0.4
    comfy.off("GET", "/queue")
    comfy.off("GET", "/prompt")
    refusal.end()
    go.set()
    check(job.result(LIMIT))
    check(other.result(LIMIT))


@pytest.mark.timing(silence_cap=5.0)
def test_many_jobs_ask_no_more_often_than_one_while_the_server_is_away(comfy, api):
    """Forty have ended, says the socket, and HTTP answers 503: each would ask for its record."""
    away = comfy.faults.bad_gateway(503, method="GET", path="/*")
    comfy.script(START, ALL_CACHED, SUCCESS, Finish(ENTRY), OVER)
    work = [api.submit(GRAPH) for _ in range(40)]
    comfy.until(lambda: len(comfy.history) == 40 and away.hits >= 4, LIMIT)
    assert away.hits < 10
    away.end()
    for job in work:
        check(job.result(LIMIT))


@pytest.mark.timing(silence_cap=5.0)
def test_a_busy_queue_does_not_hurry_what_fails(comfy, api):
    """Of a prompt that was attached each change of the queue is news, but not at any price."""
    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    job = api.submit(GRAPH)
    with Impatient(comfy.url, namespace=blinker.Namespace()) as other:
        taken = other.job(job.prompt_id)
        comfy.until(lambda: taken.status == "running", LIMIT)
        away = comfy.faults.bad_gateway(503, method="GET", path="/*")
        for _ in range(60):
            comfy.push_status()
            threading.Event().wait(0.02)
        assert away.hits < 12
        away.end()
        go.set()
        check(taken.result(LIMIT))


# -- a submission without an answer ------------------------------------------------------


@pytest.mark.parametrize("keeps_id", [True, False], ids=["our id", "an id of its own"])
@pytest.mark.parametrize("transport", ["auto", "poll"])
@pytest.mark.parametrize("is_over", [True, False], ids=["in history", "in the queue"])
def test_a_submission_that_was_cut_is_found(comfy, keeps_id, transport, is_over):
    """F21: queued, but the answer was lost: one POST, one result, by our id or our mark."""
    go = threading.Event()

    def handler(request):
        answer = comfy.answer(request)
        if is_over:
            go.set()
            comfy.until(lambda: answer[2]["prompt_id"] in comfy.history, LIMIT)

    comfy.on("POST", "/prompt", handler)
    if not keeps_id:
        comfy.faults.other_prompt_ids()
    comfy.script(lambda _: comfy.faults.deaf(), go, *WELL)
    with Impatient(comfy.url, transport=transport) as api:
        job = api.submit(GRAPH)
        assert (job.prompt_id == posts(comfy)[0].json()["prompt_id"]) == keeps_id
        go.set()
        assert len(job.result(LIMIT).files) == 1
    assert len(posts(comfy)) == 1


def test_a_gateway_that_gave_up_may_have_passed_it_on(comfy, api):
    """504, and the server has it."""

    def handler(request):
        comfy.answer(request)
        return 504, {}, "gateway timeout"

    comfy.on("POST", "/prompt", handler)
    comfy.script(*WELL)
    check(api.run(GRAPH, timeout=LIMIT))
    assert len(posts(comfy)) == 1


@pytest.mark.timing(look_up=0.5)
def test_a_submission_that_is_never_found_is_uncertain(comfy, api):
    """F21: cut, and in no queue and no history within the bound."""
    comfy.on("POST", "/prompt", lambda request: None)
    told = Told(api)
    with pytest.raises(SubmitUncertain) as caught:
        api.run(GRAPH, timeout=LIMIT)
    assert caught.value.prompt_id == posts(comfy)[0].json()["prompt_id"]
    assert len(posts(comfy)) == 1
    comfy.until(lambda: told.names("queue_error"), LIMIT)


@pytest.mark.timing(look_up=0.5)
def test_looking_for_a_submission_is_bounded_when_nobody_answers(comfy, api):
    """F21: even the queue cannot be asked."""
    comfy.on("POST", "/prompt", lambda request: None)
    comfy.on("GET", "/queue", never_answer)
    start = time.monotonic()
    with pytest.raises(SubmitUncertain):
        api.run(GRAPH, timeout=LIMIT)
    assert time.monotonic() - start < 10


def test_a_refused_submission_leaves_nothing_behind(comfy, api):
    """No outstanding job, one ``queue_error``."""
    told = Told(api)
    comfy.on("POST", "/prompt", (400, {}, {"error": {"type": "prompt_no_outputs"}}))
    with pytest.raises(PromptRejected):
        api.run(GRAPH, timeout=LIMIT)
    assert outstanding(api) == []
    comfy.until(lambda: told.names("queue_error"), LIMIT)


def test_a_refused_submission_ends_for_whoever_took_it_up(comfy, api):
    """Another thread knew the id that it was given."""
    entered, go = threading.Event(), threading.Event()
    failures = []

    def refuse(request):
        entered.set()
        go.wait(LIMIT)
        return 400, {}, {"error": {"type": "prompt_no_outputs"}}

    def submit():
        try:
            api.submit(GRAPH, prompt_id=mine)
        except PromptRejected as exc:
            failures.append(exc)

    comfy.on("POST", "/prompt", refuse)
    mine = str(uuid.uuid4())
    thread = threading.Thread(target=submit)
    thread.start()
    assert entered.wait(LIMIT)
    job = api.job(mine)
    go.set()
    thread.join()
    assert str(job.exception(LIMIT)) == str(failures[0])


def test_nobody_there_is_no_uncertainty():
    """Nothing was sent."""
    with ComfyServer() as gone:
        url = gone.url
    with contextlib.closing(ComfyApi(url)) as api, pytest.raises(ServerUnreachable):
        api.run(GRAPH, timeout=LIMIT)


# -- attaching ---------------------------------------------------------------------------


def test_one_prompt_by_two_ids_is_one_job_in_two_hands(comfy, api):
    """By the id that we chose and by that of the server: both end, with one end event."""
    told = Told(api)
    go = threading.Event()
    comfy.faults.other_prompt_ids()
    comfy.script(START, go, *WELL[1:])
    mine = str(uuid.uuid4())
    job = api.submit(GRAPH, prompt_id=mine)
    twin = api.job(mine)
    events = twin.events()
    comfy.until(lambda: twin.prompt_id == job.prompt_id, LIMIT)
    assert twin.status == job.status
    go.set()
    check(job.result(LIMIT))
    check(twin.result(LIMIT))
    assert [e.name for e in events][-1] == "execution_success"
    assert [e.name for e in told.ends()] == ["execution_success"]


def test_what_ends_before_its_id_is_known_is_not_outstanding_by_that_id(comfy, api):
    """Though somebody has attached to it, whose job ends too, with an error of its own."""
    comfy.faults.other_prompt_ids()
    mine = str(uuid.uuid4())
    go, answered = threading.Event(), threading.Event()
    end = {"type": "execution_interrupted", "data": {"prompt_id": mine, "node_id": "1"}}
    comfy.script(START, go, end)

    def late(request):
        answer = comfy.answer(request)
        comfy.until(answered.is_set, LIMIT)
        return answer

    comfy.on("POST", "/prompt", late)
    sent = []
    sender = threading.Thread(target=lambda: sent.append(api.submit(GRAPH, prompt_id=mine)))
    sender.start()
    comfy.until(lambda: comfy.running, LIMIT)
    taken = api.job(api.get_queue().running[0].prompt_id)
    told = Told(api)
    go.set()
    comfy.until(lambda: told.ends(mine), LIMIT)
    answered.set()
    sender.join(LIMIT)
    assert isinstance(taken.exception(LIMIT), JobInterrupted)
    assert taken.exception() is not sent[0].exception()
    assert outstanding(api) == []


def test_a_crowded_queue_is_not_looked_at_for_each_prompt_of_others(comfy, api):
    """One that was attached cannot have ended before those in front of it."""
    comfy.script(START)
    work = [api.submit(GRAPH) for _ in range(3)]
    with Impatient(comfy.url, namespace=blinker.Namespace()) as other:
        taken = other.job(work[2].prompt_id)
        comfy.until(lambda: taken.queue_position == 2, LIMIT)

        told = Told(other)

        def is_due_after(change):
            heard = len(told.names("status"))
            state_of(taken).check_at = float("inf")
            change()
            comfy.until(lambda: len(told.names("status")) > heard, LIMIT)
            return state_of(taken).check_at < float("inf")

        assert not is_due_after(comfy.push_status)
        assert not is_due_after(lambda: api.submit(GRAPH))
        assert not is_due_after(lambda: comfy.finish(work[0].prompt_id))
        comfy.finish(work[1].prompt_id)
        comfy.finish(work[2].prompt_id)
        assert taken.result(LIMIT)


@pytest.mark.parametrize("is_early", [True, False], ids=["events first", "answer first"])
def test_what_is_attached_before_its_submission_is_answered_ends_with_it(comfy, api, is_early):
    """By the id of a server that chooses its own, as seen in the queue; nothing is missing."""
    told = Told(api)
    go, answered = threading.Event(), threading.Event()
    comfy.faults.other_prompt_ids()
    steps = recording("2024-03", "save_image_websocket").steps
    comfy.script(*steps[:2], go, *steps[2:])

    def late(request):
        answer = comfy.answer(request)
        comfy.until(answered.is_set, LIMIT)
        return answer

    comfy.on("POST", "/prompt", late)
    got = []
    graph = load_workflow("txt2img_websocket")
    sender = threading.Thread(target=lambda: got.append(api.submit(graph)))
    sender.start()
    comfy.until(lambda: comfy.running, LIMIT)
    taken = api.job(api.get_queue().running[0].prompt_id)
    events = taken.events()
    if is_early:
        go.set()
        comfy.until(lambda: state_of(taken).ended, LIMIT)
    answered.set()
    sender.join()
    go.set()
    [job] = got
    assert job.prompt_id == taken.prompt_id
    assert len(job.result(LIMIT).images) == 2
    assert taken.result(LIMIT).images
    assert [e.name for e in events if e.is_end] == ["execution_success"]
    assert [e.name for e in told.ends()] == ["execution_success"]
    assert outstanding(api) == []


@pytest.mark.parametrize("server", [March2024, ComfyServer])
@pytest.mark.parametrize("spell", [str.upper, "{{{}}}".format, lambda one: one.replace("-", "")])
def test_a_prompt_is_found_by_any_spelling_of_its_id(server, spell):
    """Here and from elsewhere, while it runs and after; an id that is no UUID is as it is."""
    with server() as comfy:
        go = threading.Event()
        comfy.script(START, go, *WELL[1:])
        with ComfyApi(comfy.url) as api, ComfyApi(comfy.url) as other:
            job = api.submit(GRAPH)
            until(lambda: job.status == "running")
            assert api.job(spell(job.prompt_id)) is job
            comfy.until(lambda: api.get_queue().running)
            taken = other.job(spell(job.prompt_id))
            assert taken.status == "running"
            assert taken.prompt_id == job.prompt_id
            go.set()
            check(taken.result(LIMIT))
            check(api.job(spell(job.prompt_id)).result(LIMIT))
            with ComfyApi(comfy.url) as late:
                check(late.job(spell(job.prompt_id)).result(LIMIT))


# -- an end that was told ----------------------------------------------------------------


def test_an_end_that_was_told_is_not_taken_back(comfy, api):
    """By whom it is asked about, and how soon: here before the server has written its record."""
    go = threading.Event()
    seen = []
    api.on("execution_success", lambda e: seen.append(api.job(e.prompt_id).status))
    comfy.script(*WELL[:5], go, Finish(ENTRY), OVER)
    prompt_id = api.run(GRAPH, timeout=LIMIT).prompt_id
    assert prompt_id not in comfy.history
    gc.collect()
    job = api.job(prompt_id)
    assert seen == [job.status] == ["succeeded"]
    assert api.job(prompt_id) is job
    go.set()
    assert job.result(LIMIT)["9"].images


def test_a_job_that_has_ended_is_given_again_while_it_is_kept(comfy, api):
    """Without asking anybody; its result may be large, so it is not kept for that."""
    comfy.script(*WELL)
    job = api.submit(GRAPH)
    check(job.result(LIMIT))
    before = len(comfy.requests)
    assert api.job(job.prompt_id) is job
    assert len(comfy.requests) == before
    prompt_id = job.prompt_id
    result = weakref.ref(job)
    del job
    gc.collect()
    assert result() is None
    check(api.job(prompt_id, GRAPH).result(LIMIT))


FAILED = say("execution_error", node_id="1", exception_type="ValueError", exception_message="no")
STOPPED = say("execution_interrupted", node_id="1")


@pytest.mark.parametrize(
    ("end", "error", "status"),
    [
        ((FAILED,), JobFailed, "failed"),
        ((STOPPED,), JobInterrupted, "interrupted"),
        ((lambda prompt: None,), JobLost, "lost"),
    ],
)
def test_an_error_that_was_told_stands_though_the_server_has_forgotten_it(
    comfy, api, end, error, status
):
    """And is told to receivers once."""
    told = Told(api)
    comfy.script(START, CACHED, RUNS, *end)
    job = api.submit(GRAPH)
    if error is JobLost:
        comfy.until(lambda: comfy.running, LIMIT)
        comfy.forget()
    assert isinstance(job.exception(LIMIT), error)
    prompt_id = job.prompt_id
    comfy.forget()
    del job
    gc.collect()
    again = api.job(prompt_id)
    assert again.status == status
    assert [e.is_end for e in again.events()] == [True]
    assert isinstance(again.exception(LIMIT), error)
    assert again.exception().prompt_id == prompt_id
    api._receivers.flush(5.0)
    assert len(told.ends()) == 1


@pytest.mark.parametrize("version", ["0.3.75", "0.8"])
def test_a_record_that_is_to_come_is_waited_for(version):
    """The server tells of the end before it writes it: read, listed and deleted afterwards."""
    with ComfyServer(version=version) as comfy, ComfyApi(comfy.url) as api:
        comfy.script(*WELL[:5], lambda _: threading.Event().wait(0.3), *WELL[5:])
        first, second, third = (api.run(GRAPH, timeout=LIMIT).prompt_id for _ in range(3))
        assert api.get_history(third).succeeded
        prompt_id = api.run(GRAPH, timeout=LIMIT).prompt_id
        api.delete_history(prompt_id, second)
        assert set(api.get_histories()) == {first, third}
        begun = time.monotonic()
        assert api.get_history(prompt_id) is None
        assert time.monotonic() - begun < 3
        if version == "0.8":
            assert api.get_job(api.run(GRAPH, timeout=LIMIT).prompt_id).status == "completed"


def test_an_id_that_is_used_again_is_another_prompt(comfy):
    """Its end is told, too."""
    comfy.script(START, Finish(ENTRY))
    with Impatient(comfy.url, transport="poll", namespace=blinker.Namespace()) as api:
        told = Told(api)
        mine = api.generate_id()
        for count in (1, 2):
            check(api.submit(GRAPH, prompt_id=mine).result(LIMIT))
            assert len(told.ends()) == count


# -- waiting -----------------------------------------------------------------------------


def test_receivers_have_had_the_end_when_run_returns(comfy, api):
    """Also a slow one."""
    had = []

    def slow(event):
        time.sleep(0.3)
        had.append(event.name)

    api.on("executed", slow)
    api.on("execution_success", slow)
    comfy.script(*WELL)
    check(api.run(GRAPH, timeout=LIMIT))
    assert had == ["executed", "execution_success"]


def test_receivers_have_had_an_end_that_comes_before_the_answer(comfy, api, monkeypatch):
    """However the threads take turns: the answer comes between the verdict and the telling."""
    told = Told(api)
    answer = threading.Event()
    publish = api._tracker.publish

    def late(request):
        status = comfy.answer(request)
        assert answer.wait(LIMIT)
        return status

    def slow(event):
        if event.name == "execution_success":
            answer.set()
            time.sleep(0.3)
        publish(event)

    monkeypatch.setattr(api._tracker, "publish", slow)
    comfy.on("POST", "/prompt", late)
    comfy.script(*WELL)
    check(api.run(GRAPH, timeout=LIMIT))
    assert len(told.ends()) == 1


def test_waiting_no_longer_does_not_wait_for_receivers(comfy, api):
    """A timeout is the caller's, whatever receivers do."""
    release = threading.Event()
    entered = threading.Event()

    def stuck(event):
        entered.set()
        release.wait(LIMIT)

    api.on("execution_start", stuck)
    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    job = api.submit(GRAPH)
    assert entered.wait(LIMIT)
    start = time.monotonic()
    with pytest.raises(JobTimeout):
        job.result(0)
    assert time.monotonic() - start < 3
    release.set()
    go.set()
    check(job.result(LIMIT))


def test_who_has_a_result_waits_for_receivers_no_longer_than_he_said(comfy, api):
    """``0`` looks once; the wait of five seconds is for those who have the time."""
    release = threading.Event()

    def stuck(event):
        release.wait(LIMIT)

    api.on("executed", stuck)
    comfy.script(*WELL)
    job = api.submit(GRAPH)
    wait_for_all([job], LIMIT)
    for timeout in (0, 0.5):
        start = time.monotonic()
        check(job.result(timeout))
        assert timeout <= time.monotonic() - start < timeout + 2
    start = time.monotonic()
    check(api.run(GRAPH, timeout=1))
    assert time.monotonic() - start < 3
    release.set()


def test_a_receiver_may_run_a_workflow(comfy, api):
    """It waits in the delivery thread, and nothing locks up."""
    results = []
    done = threading.Event()

    def receiver(event):
        results.append(api.run(GRAPH, timeout=LIMIT, on_event=lambda e: None))
        results.append(api.run(GRAPH, timeout=LIMIT))
        done.set()

    api.on("go", receiver)
    comfy.script(*WELL)
    comfy.push({"type": "go", "data": {}})
    assert done.wait(LIMIT)
    for result in results:
        check(result)


def test_callbacks_of_run_are_called_where_it_waits(comfy, api):
    """Each with its own kind only, in this thread, and in order."""
    got = Counter()
    threads = set()

    def note(name):
        def callback(event):
            threads.add(threading.current_thread())
            got[name, event.name] += 1

        return callback

    comfy.script(*recording("0.3.75", "normal_feature_flags").steps)
    api.run(
        load_workflow("txt2img_tiny"),
        timeout=LIMIT,
        on_event=note("event"),
        on_progress=note("progress"),
        on_preview=note("preview"),
    )
    assert threads == {threading.current_thread()}
    assert {key for key in got if key[0] != "event"} == {
        ("progress", "progress"),
        ("preview", "b_preview"),
    }
    assert got["progress", "progress"] == got["event", "progress"] == 8
    assert got["event", "execution_success"] == 1


def test_an_exception_of_a_callback_says_that_the_prompt_goes_on(comfy, api):
    """It comes through as it is, with a note, and a later run is not disturbed."""

    def callback(event):
        raise KeyError("mine")

    comfy.script(*WELL)
    with pytest.raises(KeyError) as caught:
        api.run(GRAPH, timeout=LIMIT, on_event=callback)
    assert "keeps running" in caught.value.__notes__[0]
    check(api.run(GRAPH, timeout=LIMIT))


@pytest.mark.parametrize("callback", [None, lambda event: None])
def test_time_that_runs_out_is_a_timeout_and_the_prompt_goes_on(comfy, api, callback):
    """A TimeoutError that names the prompt; the same job can be waited for again."""
    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    start = time.monotonic()
    with pytest.raises(
        JobTimeout, match=r"within 0\.25 s \(.*\)\. The prompt keeps running: "
    ) as caught:
        api.run(GRAPH, timeout=0.25, on_event=callback)
    assert isinstance(caught.value, TimeoutError)
    assert time.monotonic() - start < 5
    [job] = outstanding(api)
    assert job.prompt_id == caught.value.prompt_id
    go.set()
    check(job.result(LIMIT))


@pytest.mark.parametrize("callback", [None, lambda event: None])
def test_no_news_is_a_timeout_after_the_end_event_too(comfy, api, callback):
    """Success was told, and its outputs cannot be read."""
    comfy.faults.bad_gateway(503, method="GET", path="/history*")
    comfy.script(START, ALL_CACHED, SUCCESS, OVER)
    with pytest.raises(JobTimeout, match="no news"):
        api.run(GRAPH, timeout=LIMIT, stall_timeout=0.5, on_event=callback)


@pytest.mark.parametrize("is_mine", [True, False], ids=["behind mine", "behind others'"])
@pytest.mark.timing(silence=10.0)
def test_a_queue_that_moves_is_news(comfy, api, is_mine):
    """Between two looks at it, which are rare."""
    comfy.script(START, lambda _: threading.Event().wait(0.25), *WELL[1:])
    with Impatient(comfy.url, namespace=blinker.Namespace()) as other:
        for _ in range(8):
            (api if is_mine else other).submit(GRAPH)
        check(api.run(GRAPH, timeout=LIMIT, stall_timeout=1.5))


@pytest.mark.parametrize("callback", [None, lambda event: None])
def test_ctrl_c_leaves_at_once(comfy, api, callback, caplog):
    """Also when only the interpreter is told; it says how to go on, and the client can."""
    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    timer = threading.Timer(0.3, _thread.interrupt_main)
    start = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        api.run(GRAPH, timeout=LIMIT, on_event=callback)
    assert time.monotonic() - start < 5
    timer.join()
    [prompt_id] = re.findall(r"api\.job\('(.*)'\)", caplog.text)
    go.set()
    check(api.job(prompt_id).result(LIMIT))
    check(api.run(GRAPH, timeout=LIMIT))


@pytest.mark.parametrize(
    "wrong", [{"timeout": "5"}, {"stall_timeout": "5"}, {"on_progress": 3}, {"on_event": "print"}]
)
def test_a_wrong_argument_is_told_before_anything_is_sent(comfy, api, wrong):
    """Not by the first event, with the prompt under way."""
    with pytest.raises(TypeError, match=r"number of seconds|called with one event"):
        api.run(GRAPH, **wrong)
    assert posts(comfy) == []


def test_done_callbacks_have_a_thread_of_their_own(comfy, api):
    """Not the socket's; in order, and one that raises does not keep the others."""
    names = []
    done = threading.Event()
    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    job = api.submit(GRAPH)

    def broken(_):
        names.append("broken")
        raise RuntimeError("mine")

    job.add_done_callback(broken)
    job.add_done_callback(lambda _: names.append(threading.current_thread().name))
    job.add_done_callback(lambda _: done.set())
    go.set()
    assert done.wait(LIMIT)
    assert names == ["broken", "comfy-callbacks"]
    job.add_done_callback(lambda _: names.append(threading.current_thread().name))
    assert names[2] == threading.current_thread().name


def test_done_callbacks_never_run_in_threads_of_the_client(comfy, api):
    """Whenever they are added: also at the very moment of the end."""
    comfy.script(*WELL)
    names = Counter()
    called = threading.Semaphore(0)

    def callback(_):
        names[threading.current_thread().name] += 1
        called.release()

    for _ in range(100):
        api.submit(GRAPH).add_done_callback(callback)
    for _ in range(100):
        assert called.acquire(timeout=LIMIT)
    assert set(names) <= {"comfy-callbacks", threading.current_thread().name}


def test_jobs_are_futures(comfy, api):
    """``as_completed`` and ``wait`` of the standard library take them; cancel is refused."""
    comfy.script(*WELL)
    work = [api.submit(GRAPH) for _ in range(5)]
    assert {id(job) for job in as_completed(work, LIMIT)} == {id(job) for job in work}
    assert not wait_for_all(work, LIMIT).not_done
    assert not work[0].cancel()
    assert work[0].exception(0) is None
    check(work[0].result(0))


def test_closing_the_client_ends_all_waits(comfy, api):
    """In ClientClosed, at once."""
    comfy.script(START)
    job = api.submit(GRAPH)
    api.close()
    with pytest.raises(ClientClosed):
        job.result(LIMIT)
    with pytest.raises(ClientClosed):
        api.submit(GRAPH)


def test_ctrl_c_while_the_client_is_closed_leaves_no_wait_without_an_end(comfy, monkeypatch):
    """It comes while one of its jobs is told."""
    comfy.script(START)

    def interrupted(outcome):
        raise KeyboardInterrupt

    with contextlib.closing(Impatient(comfy.url)) as api:
        work = [api.submit(GRAPH) for _ in range(3)]
        monkeypatch.setattr(work[1], "set_exception", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api._tracker.close()
        for job in (work[0], work[2]):
            assert isinstance(job.exception(LIMIT), ClientClosed)


def test_closing_the_client_during_a_submission_ends_it(comfy, api):
    """No job is left without a verdict."""

    def handler(request):
        answer = comfy.answer(request)
        api.close()
        return answer

    comfy.on("POST", "/prompt", handler)
    comfy.script(START)
    with pytest.raises(ClientClosed):
        api.run(GRAPH, timeout=LIMIT)
    assert outstanding(api) == []


@pytest.mark.timing(linger=0.1)
def test_the_thread_that_asks_ends_when_there_is_nothing_to_ask(comfy, api):
    """And comes back with the next job."""

    def running():
        return [t for t in threading.enumerate() if t.name == "comfy-jobs"]

    comfy.script(*WELL)
    for _ in range(2):
        check(api.run(GRAPH, timeout=LIMIT))
        comfy.until(lambda: not running(), LIMIT)


def test_an_iterator_may_be_collected_in_any_thread_at_any_moment(comfy, api):
    """Also where a lock of ours is held: it takes back what waits, and its job's events."""
    comfy.script(*WELL)
    job = api.submit(GRAPH)
    events = job.events()
    next(events)
    ended = threading.Event()

    def collect():
        with api._tracker.lock:
            withdrawn(api._poller, [job.prompt_id])  # what closing the iterator of map() does
            events.close()
        ended.set()

    threading.Thread(target=collect, daemon=True).start()
    assert ended.wait(LIMIT)


def test_a_client_that_is_forgotten_takes_its_thread_along(comfy):
    """Nobody closed it, and its job has not ended."""
    comfy.script(START)
    api = Impatient(comfy.url)
    api.submit(GRAPH)
    mine = [t for t in threading.enumerate() if t.name == "comfy-jobs"]
    assert mine
    del api

    def have_ended():
        gc.collect()  # again and again: a thread holds the client while it works for it
        return not any(thread.is_alive() for thread in mine)

    comfy.until(have_ended, LIMIT)


# -- the hint about previews -------------------------------------------------------------


def test_a_server_without_previews_is_told_of_once(comfy, api, caplog):
    """When someone wants them, and a sampler ran."""
    steps = [
        step for step in recording("0.3.75", "normal_previews").steps if not isinstance(step, bytes)
    ]
    comfy.script(*steps)
    graph = load_workflow("txt2img_tiny")
    api.run(graph, timeout=LIMIT)
    assert "--preview-method" not in caplog.text
    for _ in range(2):
        api.run(graph, timeout=LIMIT, on_preview=lambda event: None)
    assert caplog.text.count("--preview-method") == 1


def test_what_there_is_to_say_of_a_job_is_logged_where_it_is_waited_for(comfy, api, caplog):
    """A slow handler of logs holds up no thread of the client."""
    steps = recording("0.3.75", "normal_previews").steps
    comfy.script(*(step for step in steps if not isinstance(step, bytes)))
    api.run(load_workflow("txt2img_tiny"), timeout=LIMIT, on_preview=lambda event: None)
    [hint] = [record for record in caplog.records if "--preview-method" in record.getMessage()]
    assert hint.thread == threading.get_ident()


def test_progress_of_other_nodes_needs_no_previews(comfy, api, caplog):
    """An upscaler makes steps too, and no server sends previews of them."""
    steps = [say("progress", node="1", value=i, max=5) for i in range(6)]
    comfy.script(*WELL[:3], *steps, *WELL[3:])
    with caplog.at_level(logging.WARNING):
        api.run(GRAPH, timeout=LIMIT, on_preview=lambda event: None)
    assert caplog.text == ""


def test_a_cut_answer_of_the_history_is_asked_again(comfy, api):
    """A broken body is no verdict."""
    comfy.script(START, ALL_CACHED, SUCCESS, Finish(ENTRY), OVER)
    asked_twice = []

    def handler(request):
        asked_twice.append(request)
        answer = comfy.answer(request)
        return cut(answer, 5)(request) if len(asked_twice) == 1 else answer

    comfy.on("GET", "/history/*", handler)
    check(api.run(GRAPH, timeout=LIMIT))

"""Pictures that come over the socket: previews, and outputs that no history has."""

from __future__ import annotations

import logging
import threading

import pytest

from comfy_client.testing import Finish, frame
from tests.conftest import load_workflow
from tests.helpers.clients import (
    LIMIT,
)
from tests.helpers.recordings import recording
from tests.helpers.scripted import (
    CACHED,
    ENTRY,
    GRAPH,
    OVER,
    RUNS,
    START,
    SUCCESS,
    WELL,
    answer_late,
    check,
    looks,
    say,
)


def test_pictures_that_a_reconnect_may_have_cost_are_said_to_be_missing(comfy, fast, caplog):
    """What SaveImageWebsocket sends is not in history: complete is False, and logged."""
    graph = load_workflow("txt2img_websocket")
    comfy.script(
        START, CACHED, RUNS, lambda _: comfy.faults.drop(), Finish({**ENTRY, "outputs": {}})
    )
    result = fast.run(graph, timeout=LIMIT)
    assert not result.complete
    assert "SaveImageWebsocket" in caplog.text


@pytest.mark.timing(silence=1.0)
def test_pictures_that_are_still_on_their_way_are_waited_for(comfy, fast):
    """On a slow link history knows of the end while a picture still trickles in."""
    head = b'{"node_id": "9", "prompt_id": "%s"}'

    def trickle(prompt_id):
        about = head % prompt_id.encode()
        body = (4).to_bytes(4, "big") + len(about).to_bytes(4, "big") + about + bytes(4000)
        data = frame(2, body)
        for start in range(0, len(data), 100):  # for longer than a silence may last
            comfy.push_raw(data[start : start + 100])
            threading.Event().wait(0.05)

    running = say("executing", node="9", display_node="9")
    done = Finish({**ENTRY, "outputs": {}})
    comfy.script(START, CACHED, running, done, trickle, SUCCESS, OVER)
    result = fast.run(load_workflow("txt2img_websocket"), timeout=LIMIT)
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


@pytest.mark.timing(deaf=0.3, silence=1.0)
def test_an_end_that_history_knows_first_does_not_make_a_slow_line_deaf(comfy, fast):
    """The ``status`` stands in line behind a picture; a new socket would cost that."""

    def late(prompt_id):
        def end_it(number):
            if number == 12:
                comfy.until(lambda: looks(comfy), LIMIT)  # and so was seen to run
                comfy.faults.withhold("status")
                comfy.finish(prompt_id, {})

        trickle(comfy, prompt_id, meanwhile=end_it)

    running = say("executing", node="9", display_node="9")
    comfy.script(START, CACHED, running, late, SUCCESS, OVER)
    result = fast.run(load_workflow("txt2img_websocket"), timeout=LIMIT)
    assert len(result.images) == 1
    assert len(comfy.hellos) == 1


@pytest.mark.timing(deaf=1.0)
def test_a_submission_over_a_slow_line_does_not_make_it_deaf(comfy, fast):
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
    first = fast.submit(load_workflow("txt2img_websocket"))
    assert half.wait(LIMIT)
    comfy.script(*WELL)
    second = fast.submit(GRAPH)
    assert len(first.result(LIMIT).images) == 1
    check(second.result(LIMIT))
    assert len(comfy.hellos) == 1


def test_pictures_that_never_come_are_said_to_be_missing(comfy, fast, caplog):
    """The socket is up but silent, and history says success: not for ever."""
    comfy.script(START, CACHED, Finish({**ENTRY, "outputs": {}}))
    result = fast.run(load_workflow("txt2img_websocket"), timeout=LIMIT)
    assert not result.complete
    assert "SaveImageWebsocket" in caplog.text


@pytest.mark.parametrize("is_early", [True, False], ids=["events first", "answer first"])
def test_pictures_without_a_name_are_outputs_of_the_node_that_ran(comfy, fast, is_early):
    """A server of 2024 and SaveImageWebsocket: its two pictures, none of the previews."""
    comfy.faults.other_prompt_ids()
    if is_early:
        answer_late(comfy)
    comfy.script(*recording("2024-03", "save_image_websocket").steps)
    previews = []
    result = fast.run(load_workflow("txt2img_websocket"), timeout=LIMIT, on_preview=previews.append)
    assert [f.mime for f in result["SaveImageWebsocket"].images] == ["image/png"] * 2
    assert [p.node_id for p in previews if p.final] == ["9", "9"] or is_early
    assert {p.node_id for p in previews if not p.final} >= {"3"}
    assert result.complete


def test_progress_of_a_job_is_logged_in_the_waiting_thread(comfy, fast, caplog):
    """A slow handler of logs holds up no thread of the client."""
    steps = recording("0.3.75", "normal_previews").steps
    comfy.script(*(step for step in steps if not isinstance(step, bytes)))
    fast.run(load_workflow("txt2img_tiny"), timeout=LIMIT, on_preview=lambda event: None)
    [hint] = [record for record in caplog.records if "--preview-method" in record.getMessage()]
    assert hint.thread == threading.get_ident()


def test_progress_of_other_nodes_needs_no_previews(comfy, fast, caplog):
    """An upscaler makes steps too, and no server sends previews of them."""
    steps = [say("progress", node="1", value=i, max=5) for i in range(6)]
    comfy.script(*WELL[:3], *steps, *WELL[3:])
    with caplog.at_level(logging.WARNING):
        fast.run(GRAPH, timeout=LIMIT, on_preview=lambda event: None)
    assert caplog.text == ""

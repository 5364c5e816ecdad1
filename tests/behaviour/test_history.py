"""Outputs when the history is late, empty or gone."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    WorkflowError,
)
from comfy_client.testing import ComfyServer, Finish
from tests.helpers.clients import (
    LIMIT,
    Fast,
    Heard,
    quickly,
)
from tests.helpers.gates import check_once, held, saves
from tests.helpers.scripted import (
    CACHED,
    ENTRY,
    GRAPH,
    OVER,
    RUNS,
    START,
    SUCCESS,
    WELL,
    check,
)


def test_events_missed_during_a_reconnect_come_from_history(comfy, fast):
    """The end comes on a second socket, the output came on none: events alone may not decide."""

    def gap(_):
        comfy.faults.drop()
        comfy.until(lambda: len(comfy.hellos) == 2 and comfy.sockets, LIMIT)

    comfy.script(START, CACHED, RUNS, gap, SUCCESS, Finish(ENTRY), OVER)
    check(fast.run(GRAPH, timeout=LIMIT))


@pytest.mark.timing(record=2 * LIMIT)
@pytest.mark.parametrize("version", ["0.3.75", "0.28"])
def test_a_record_that_is_to_come_is_waited_for(version):
    """The server tells of the end before it writes it: read, listed and deleted afterwards."""
    with ComfyServer(version=version) as comfy, ComfyApi(comfy.url) as api:
        comfy.script(*WELL[:5], lambda _: threading.Event().wait(0.3), *WELL[5:])
        first, second, third = (api.run(GRAPH, timeout=LIMIT).prompt_id for _ in range(3))
        assert api.get_history(third).succeeded
        prompt_id = api.run(GRAPH, timeout=LIMIT).prompt_id
        api.delete_history(prompt_id, second)
        assert set(api.get_histories()) == {first, third}
        with quickly():
            assert api.get_history(prompt_id) is None
        if version == "0.28":
            assert api.get_job(api.run(GRAPH, timeout=LIMIT).prompt_id).status == "completed"


def test_history_that_comes_late_is_waited_for(comfy: ComfyServer, fast: ComfyApi) -> None:
    """``execution_success`` is there, and the outputs of cached nodes are not: it waits."""
    told = Heard(fast)
    with comfy.faults.late_history(1.0):
        check_once(comfy, told, fast.run(saves(), timeout=LIMIT))
        again = fast.run(saves(), timeout=LIMIT)
        check_once(comfy, told, again)
        assert again.fully_cached


def test_history_that_comes_late_is_waited_for_without_a_socket(comfy: ComfyServer) -> None:
    """No "no outputs": what has just ended is not lost."""
    with (
        comfy.faults.late_history(0.5),
        contextlib.closing(Fast(comfy.url, transport="poll")) as api,
    ):
        told = Heard(api)
        check_once(comfy, told, api.run(saves(), timeout=LIMIT), recovered=True)


@pytest.mark.timing(settle=0.1)
def test_a_job_that_is_over_before_the_socket_is_up_has_its_result(comfy: ComfyServer) -> None:
    """History has its result."""
    with comfy.faults.stall_handshakes(), contextlib.closing(Fast(comfy.url)) as api:
        told = Heard(api)
        check_once(comfy, told, api.run(saves(), timeout=LIMIT), recovered=True)
        assert comfy.hellos == []


def test_outputs_of_events_count_when_history_has_none(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Those of ``executed`` count; where there were none, to ask for them is a clear error."""

    def emptied(answer: Any) -> Any:
        return {key: {**entry, "outputs": {}} for key, entry in answer.items()}

    fast.run(saves(), timeout=LIMIT)
    comfy.faults.rewrite("GET", "/history*", emptied)
    told = Heard(fast)
    check_once(comfy, told, fast.run(saves(), timeout=LIMIT))
    for fault in (comfy.faults.lose("executed"), comfy.faults.deaf()):
        with fault, quickly():
            result = fast.run(saves(), timeout=2 * LIMIT)
        assert result.files == ()
        with pytest.raises(WorkflowError, match="no output of a node 'Save'"):
            result["Save"]


def test_outputs_of_events_count_when_history_is_gone(
    comfy: ComfyServer, fast: ComfyApi, gate: Any
) -> None:
    """The outputs that events told are used; what a gap may have cost is said."""
    told = Heard(fast)
    graph = held("a")
    graph["8"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "y"},
        "_meta": {"title": "Early"},
    }
    comfy.faults.no_history()
    whole = fast.run(saves(), timeout=LIMIT)
    assert (len(whole.images), whole.complete) == (1, True)
    job = fast.submit(graph)
    comfy.until(lambda: told("executed") and told("executed")[-1].node == "8", LIMIT)
    comfy.faults.drop()
    comfy.until(lambda: told("reconnected"), LIMIT)
    gate("a").set()
    result = job.result(LIMIT)
    assert not result.complete
    assert [f.node_id for f in result.images] == ["8", "9"]
    assert told.end(job.prompt_id).name == "execution_success"


@pytest.mark.timing(record=600.0)
@pytest.mark.parametrize("delete", ["delete_history", "clear_history"])
def test_a_record_that_the_client_itself_deleted_is_not_waited_for(
    comfy: ComfyServer, delete: str
) -> None:
    """It will not come back."""
    with ComfyApi(comfy.url) as api:
        comfy.script(*WELL)
        prompt_id = api.run(GRAPH, timeout=LIMIT).prompt_id
        comfy.until(lambda: prompt_id in comfy.history, LIMIT)
        getattr(api, delete)(*[prompt_id][: delete == "delete_history"])
        assert api.get_history(prompt_id) is None

"""Places in the queue, and how seldom it is read."""

from __future__ import annotations

import gc
import json
import pickle
import threading

import blinker
import pytest

from comfy_client import ComfyApi, UnexpectedResponse
from comfy_client.models import QueueItem
from comfy_client.models.queue import queue_item
from comfy_client.testing import ComfyServer
from tests.helpers.clients import (
    LIMIT,
    Fast,
    Heard,
    client,
    paths_asked,
    until,
)
from tests.helpers.gates import Gates, shows
from tests.helpers.patches import note_decoded
from tests.helpers.scripted import (
    CACHED,
    GRAPH,
    OUTPUT,
    QUEUE_ROUTES,
    RUNS,
    START,
    WELL,
    asked,
    check,
    looks,
    with_and_without_jobs_api,
)


@with_and_without_jobs_api
def test_a_prompt_that_the_socket_has_seen_begin_is_asked_for_alone(comfy, fast):
    """A queue may hold megabytes of graphs; once in a while it is looked at all the same."""
    comfy.script(START, CACHED, RUNS)
    job = fast.submit(GRAPH)
    comfy.until(lambda: len(asked(comfy, "/history")) >= 2, LIMIT)
    before = len(looks(comfy)), len(asked(comfy, "/history"))
    for _ in range(3):
        comfy.push_status()
        now = len(asked(comfy, "/history"))
        comfy.until(lambda: len(asked(comfy, "/history")) > now, LIMIT)  # noqa: B023
    assert len(looks(comfy)) == before[0] == 1
    comfy.finish(job.prompt_id, {"9": OUTPUT})
    check(job.result(LIMIT))


@with_and_without_jobs_api
@pytest.mark.posix("clocks of threads that tick often")
@pytest.mark.timing(slow_queue=0.0, slow_queue_rest=1e4)
def test_a_queue_that_takes_long_to_read_is_read_less(comfy, fast):
    """Ends are found without it: in the history, of those that are next."""
    comfy.script(START)
    with Fast(comfy.url, transport="poll", namespace=blinker.Namespace()) as other:
        work = [other.submit(GRAPH) for _ in range(20)]
        comfy.until(lambda: all(job.status != "unknown" for job in work), LIMIT)
        comfy.until(lambda: work[0].status == "running", LIMIT)
        before = len(looks(comfy))
        begun = len(asked(comfy, "/history"))
        comfy.finish(work[0].prompt_id, {"9": OUTPUT})
        check(work[0].result(LIMIT))
        comfy.finish(work[1].prompt_id, {"9": OUTPUT})
        check(work[1].result(LIMIT))
        assert len(looks(comfy)) <= before + 1
        assert len(asked(comfy, "/history")) - begun < 60


@pytest.mark.timing(job_poll_cap=2.0, silence_cap=2.0)  # between two looks
def test_a_crowded_queue_is_not_read_for_each_prompt_of_others(comfy, fast):
    """One that was attached cannot have ended before those in front of it."""
    comfy.script(START)
    work = [fast.submit(GRAPH) for _ in range(3)]
    with Fast(comfy.url, namespace=blinker.Namespace()) as other:
        other.init(LIMIT)  # a socket that comes is a reason to look
        taken = other.job(work[2].prompt_id)
        comfy.until(lambda: taken.queue_position == 2, LIMIT)

        told = Heard(other)

        def is_due_after(change):
            heard = len(told.names("status"))
            taken.handle.state.check_at = float("inf")
            change()
            comfy.until(lambda: len(told.names("status")) > heard, LIMIT)
            return taken.handle.state.check_at < float("inf")

        # A look may be under way, after which it is due again; then each time is like the next.
        until(lambda: not is_due_after(comfy.push_status), LIMIT)
        until(lambda: not is_due_after(lambda: fast.submit(GRAPH)), LIMIT)
        comfy.finish(work[0].prompt_id)
        until(lambda: not is_due_after(comfy.push_status), LIMIT)
        comfy.finish(work[1].prompt_id)
        comfy.finish(work[2].prompt_id)
        assert taken.result(LIMIT)


@pytest.mark.parametrize("is_mine", [True, False], ids=["behind mine", "behind others'"])
@pytest.mark.timing(silence=10.0)
def test_a_queue_that_moves_is_news(comfy, fast, is_mine):
    """Between two looks at it, which are rare."""
    comfy.script(START, lambda _: threading.Event().wait(0.4), *WELL[1:])
    with Fast(comfy.url, namespace=blinker.Namespace()) as other:
        for _ in range(10):
            (fast if is_mine else other).submit(GRAPH)
        check(fast.run(GRAPH, timeout=LIMIT, stall_timeout=3.9))


def test_a_prompt_at_the_front_is_behind_what_runs(
    comfy: ComfyServer, fast: ComfyApi, gate: threading.Event
) -> None:
    """And before all others, the last one first; as the queue says it."""
    first = fast.submit(shows("0", waits=True))
    until(lambda: first.status == "running")
    waiting = [fast.submit(shows(str(number))) for number in (1, 2)]
    front = [fast.submit(shows(f"front {number}"), front=True) for number in (1, 2)]
    until(lambda: fast.parts.tracker.monitor.remaining == 5)
    places = [job.queue_position for job in (first, *front, *waiting)]
    until(lambda: [job.queue_position for job in (first, *front, *waiting)] == [0, 2, 1, 3, 4])
    assert places[0] == 0
    assert "1 ahead; running: Gated" in front[1].why()
    with client(comfy) as other:
        assert [other.job(job.prompt_id).queue_position for job in front] == [2, 1]
    gate.set()


def test_attaching_to_what_has_ended_does_not_ask_for_everybodys_graphs(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """One small question each."""
    ids = [fast.run(shows(str(number)), timeout=LIMIT).prompt_id for number in range(20)]
    with client(comfy) as other:
        asked = paths_asked(comfy, lambda: [other.job(each).result(LIMIT) for each in ids] and None)
    assert not {*QUEUE_ROUTES} & {*asked}
    assert len(asked) <= 22


def test_the_places_of_many_jobs_cost_one_look(
    comfy: ComfyServer, fast: ComfyApi, gate: Gates
) -> None:
    """They are sorted once, not for each job, until something changes."""
    first = fast.submit(shows("0", waits=True))
    until(lambda: first.status == "running")
    jobs = [fast.submit(shows(str(number))) for number in range(1, 60)]
    until(lambda: fast.parts.tracker.monitor.remaining == 60)
    assert jobs[0].queue_position == 1
    sorted_once = fast.parts.tracker.ledger.order
    for _ in range(3):
        assert [job.queue_position for job in jobs] == [*range(1, 60)]
        assert all("ahead; running: Gated" in job.why() for job in jobs)
    assert fast.parts.tracker.ledger.order is sorted_once
    jobs[0].cancel()
    jobs[0].exception(LIMIT)
    until(lambda: jobs[-1].queue_position == 58)
    gate.set()
    jobs[-1].result(LIMIT)
    assert jobs[-1].queue_position is None


@pytest.mark.parametrize("attaches", [False, True])
def test_a_look_at_a_large_queue_decodes_one_prompt_at_a_time(
    comfy: ComfyServer,
    fast: ComfyApi,
    gate: Gates,
    monkeypatch: pytest.MonkeyPatch,
    attaches: bool,
) -> None:
    """No thread waits for all of it, and other people's workflows are not kept."""
    fast.submit(shows(waits=True))
    mine = fast.submit(shows("mine")).prompt_id
    with client(comfy) as other:
        for number in range(60):
            other.queue_prompt(None, shows(str(number)), extra_data={"junk": "x" * 20_000})
    lengths = note_decoded(monkeypatch)
    with client(comfy) as third:
        job = third.job(mine) if attaches else fast.job(mine)
        snapshot = third.parts.tracker.monitor.refresh(third, [mine])
        assert len(snapshot.pending) == 61
        assert {*snapshot.graphs} == {mine}
        assert job.graph["1"]["inputs"] == snapshot.graphs[mine]["1"]["inputs"]
    assert len(lengths) > 61
    assert max(lengths) < 25_000
    gate.set()


def test_get_queue_holds_up_no_other_thread(
    comfy: ComfyServer, fast: ComfyApi, gate: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It decodes one prompt at a time.

    A workflow is decoded when it is used, as each pass of the garbage collector stops all threads
    while it visits what is there.
    """
    fast.submit(shows(waits=True))
    with client(comfy) as other:
        for number in range(60):
            junk = {"junk": [[n] for n in range(2000)]}
            other.queue_prompt(None, shows(str(number)), extra_data=junk)
    until(lambda: fast.poll_status().queue_remaining == 61)
    lengths = note_decoded(monkeypatch)
    gc.collect()
    before = len(gc.get_objects())
    queue = fast.get_queue()

    def kept() -> int:
        gc.collect()
        return len(gc.get_objects()) - before

    # The server is in this process, too, and may hold its answer for a moment.
    until(lambda: kept() < 60 * 2000 / 2, 10.0)
    assert (len(queue.running), len(queue.pending)) == (1, 60)
    assert len(lengths) > 61
    assert max(lengths) < 25_000
    answer = fast.fetch_api("/queue").json()
    assert queue.raw == answer
    by_id = {record[1]: record for record in answer["queue_pending"]}
    for item in queue.pending:
        whole = QueueItem.from_json(by_id[item.prompt_id])
        assert pickle.loads(pickle.dumps(item)) == item == whole
        assert (item.raw, item.to_dict()) == (whole.raw, whole.to_dict())
    assert not hasattr(queue.pending[0], "workflows")
    gate.set()


@pytest.mark.parametrize("size", [10, 300_000], ids=["short", "long"])
def test_lists_that_are_unknown_in_a_queue_are_left_alone(
    comfy: ComfyServer, fast: ComfyApi, size: int
) -> None:
    record = [1, "an id", shows(), {"junk": "x" * size}, ["1"]]
    answer = {"queue_running": [record], "queue_pending": [], "queue_paused": ["a", [2]]}
    comfy.on("GET", "/queue", (200, {}, answer))
    queue = fast.get_queue()
    assert [item.prompt_id for item in queue.running] == ["an id"]
    assert queue.raw == answer
    comfy.on("GET", "/queue", (200, {}, answer | {"queue_pending": ["b"]}))
    with pytest.raises(UnexpectedResponse, match="QueueItem"):
        fast.get_queue()


def test_a_prompt_of_a_long_queue_that_nobody_looks_at_is_decoded_once() -> None:
    text = json.dumps([1, "an id", shows(), {"client_id": "c"}, ["1"]])
    item = queue_item(json.loads(text), text)
    assert (item.number, item.prompt_id, item.outputs) == (1, "an id", ("1",))
    assert item.workflow is item.workflow
    assert item.workflow == shows()
    assert item.raw[2] is item.workflow
    assert queue_item(json.loads(text), None) == item  # of an answer in UTF-16

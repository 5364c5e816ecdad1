"""Prompts are cancelled where they are, without any server."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    NotSupported,
    PromptRejected,
    ServerUnreachable,
)
from comfy_client.events import Executing
from comfy_client.jobs.stopping import Stops, stop
from comfy_client.jobs.submit import warn_or_refuse
from comfy_client.models import Queue
from tests.helpers.ctrl_c import at_each_point
from tests.helpers.patches import tell_time

GRAPH = {"9": {"class_type": "SaveImage", "inputs": {}}}


class Queued:
    """A server whose queue goes through these states, one at each look."""

    def __init__(self, *states, version="0.3.75"):
        self.states = list(states)
        self.version = version
        self.done = []

    def get_queue(self, *, workflows_of):
        state = self.states.pop(0)
        item = [[0, "the-id", {}, {}, []]]
        return Queue.from_json(
            {
                "queue_running": item if state == "runs" else [],
                "queue_pending": item if state == "waits" else [],
            }
        )

    def get_system_stats(self):
        return SimpleNamespace(comfyui_version=self.version)

    def delete_from_queue(self, prompt_id):
        self.done.append(f"delete {prompt_id}")

    def send_command(self, method, route, json):
        self.done.append(f"{route} {json['prompt_id']}")


@pytest.mark.parametrize(
    ("states", "done"),
    [
        (["gone"], []),
        (["waits", "gone"], ["delete the-id"]),
        (["runs"], ["/interrupt the-id"]),
        (["waits", "runs"], ["delete the-id", "/interrupt the-id"]),
    ],
)
def test_a_prompt_is_cancelled_where_it_is(states, done):
    """It may begin between look and act."""
    server = Queued(*states)
    assert stop(server, server, "the-id", force=False) is bool(done)
    assert server.done == done


def test_cancel_needs_force_where_the_interrupt_may_hit_another_prompt():
    """And what merely waits is deleted on any server."""
    server = Queued("runs", version="0.3.50")
    with pytest.raises(NotSupported, match="force=True"):
        stop(server, server, "the-id", force=False)
    assert server.done == []
    server = Queued("runs", version="0.3.50")
    assert stop(server, server, "the-id", force=True)
    server = Queued("waits", "gone", version="0.3.50")
    assert stop(server, server, "the-id", force=False)


@pytest.mark.parametrize(
    ("cancel", "note"),
    [
        (lambda: True, None),
        (lambda: False, "had ended"),
        (ServerUnreachable("gone"), "may keep running: gone"),
    ],
)
def test_a_partly_valid_prompt_is_refused_with_a_note_of_its_cancel(cancel, note):
    """A note of the error that is raised either way."""

    def act():
        if isinstance(cancel, Exception):
            raise cancel
        return cancel()

    node_errors = {"7": {"errors": [], "class_type": "SaveImage"}}
    job = SimpleNamespace(prompt_id="the-id", graph=GRAPH, node_errors=node_errors, cancel=act)
    http = SimpleNamespace(identity=SimpleNamespace(hide=lambda said: said))
    with pytest.raises(PromptRejected) as caught:
        warn_or_refuse(job, http, strict=True)
    notes = getattr(caught.value, "__notes__", [])
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_prompts_may_be_stopped_at_any_moment_of_the_look_at_those_stopped_before():
    """The poller's thread looks at them, and any other thread may stop one meanwhile."""
    with closing(ComfyApi("http://127.0.0.1:9")) as api:
        tracker = api.parts.tracker
        stops = Stops(tracker)

        def stop_another():
            stops.watch(tracker.new("an-id", {}))

        stop_another()
        at_each_point(stops.repeat, stop_another)


@pytest.mark.parametrize(
    "remove",
    [
        lambda api: api.delete_from_queue("an-id"),
        lambda api: api.clear_queue(),
        lambda api: api.parts.poller.delete_pending(["an-id"]),
    ],
)
def test_a_job_missed_before_its_deletion_is_answered_was_deleted(remove):
    """The poller may look meanwhile, and the job is interrupted then, not lost."""
    with closing(ComfyApi("http://127.0.0.1:9")) as api:
        one = api.parts.tracker.new("an-id", {})
        one.state.accepted_at = 1.0
        api.parts.tracker.add(one)

        def send(*_, **__):
            one.state.missed_at = 2.0

        api.parts.http.send_command = send
        remove(api)
        assert one.state.cancelled


@pytest.mark.parametrize("forced", [(True, False), (False, True), (False, False)])
def test_a_job_cancelled_by_force_once_is_cancelled_by_force_again(monkeypatch, forced):
    """Whoever asked for it first; the server is one that needs force."""
    server = Queued("runs", version="0.3.50")
    with closing(ComfyApi("http://127.0.0.1:9")) as api:
        real = api.parts.tracker
        one = real.new("an-id", {})
        one.state.prompt_id = "the-id"
        tracker = SimpleNamespace(
            routes=lambda: server,
            http=server,
            cancels_jobs=False,
            log=real.log,
            timing=real.timing,
            wake=real.wake,
        )
        stops = Stops(tracker)
        for force in forced:
            stops.watch(one, force=force)
        one.events.receive(Executing(name="executing", prompt_id="the-id", node="1"))
        tell_time(monkeypatch, lambda: 1e9)
        stops.repeat()
    assert server.done == (["/interrupt the-id"] if any(forced) else [])

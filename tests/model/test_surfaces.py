"""The model of Comfy API v2 has the traps of comfy-api-proxy, and those of services."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from comfy_client import runtime
from tests.model.hosted import ApiProxy, Service
from tests.model.kernel import Kernel
from tests.model.plain_client import PlainApi
from tests.model.server import Server, graph_of
from tests.model.wire import Network, Trouble


class Place:
    """A surface in front of a ComfyUI, and a client."""

    def __init__(self, kernel: Kernel, version: str, kind: str, shy: float) -> None:
        self.kernel = kernel
        self.network = Network(kernel)
        self.comfy = Server(kernel, version=version)
        is_proxy = kind in ("proxy", "state")
        self.proxy: ApiProxy = (
            ApiProxy(self.network, self.comfy, has_state=kind == "state")
            if is_proxy
            else Service(self.network, self.comfy, kind, shy=shy, has_events=True)
        )
        self.network.add(self.comfy)
        self.network.add(self.proxy)
        self.api: Any = None

    def post(self, key: str, label: Any = None, **does: Any) -> tuple[int, Any]:
        """Submit; return the status, and the id or the code."""
        graph = graph_of(**does)
        status, said = self.api.ask("POST", "/jobs", {"workflow": graph, "metadata": label}, key)
        return status, said["id"] if status == 201 else said["error"]["code"]

    def status(self, job_id: str) -> Any:
        """Return what the surface calls the state of a job, or the status of a refusal."""
        status, said = self.api.ask("GET", f"/jobs/{job_id}")
        return said["status"] if status == 200 else status

    def labels(self, query: str = "") -> list[Any]:
        """Return the labels of the jobs that are listed, the newest first."""
        status, said = self.api.ask("GET", f"/jobs{query}")
        return [job.get("metadata") for job in said["jobs"]] if status == 200 else [status]

    def listen(self, job_id: str) -> tuple[list[str], float]:
        """Return the names of a stream's events, with statuses, and when it ended."""
        stream = self.proxy.handle("GET", f"/api/v2/jobs/{job_id}/events", "", b"", {}).body
        stream.begin(_Cord(), 60.0)
        text = b""
        while piece := stream.read1():
            text += piece
        frames = [one.partition(b"\ndata: ") for one in text.split(b"\n\n") if b"data: " in one]
        names = [
            json.loads(data).get("status", name[7:].decode())
            for name, _, data in frames
            if name != b"event: preview"
        ]
        return names, self.kernel.now()


class _Cord:
    """A cord that nobody shuts."""

    changed: Any = None
    is_shut = False


def within(
    does: Callable[[Place], None],
    *,
    version: str = "0.28.1",
    kind: str = "proxy",
    shy: float = 0.0,
    seed: int = 1,
) -> None:
    """Call a function in a world of its own."""
    kernel = Kernel(seed)

    def main() -> None:
        place = Place(kernel, version, kind, shy)
        with place.network:
            place.api = PlainApi(place.proxy.host, patience=40.0)
            does(place)

    kernel.run(main)


def test_a_key_is_used_once_and_freed_by_a_refusal() -> None:
    def does(place: Place) -> None:
        assert place.post("key")[0] == 201
        assert place.post("key") == (422, "idempotency_key_reuse")
        assert place.post("other", refused=True) == (422, "invalid_workflow")
        assert place.post("other")[0] == 201

    within(does)


def test_a_key_is_kept_though_comfyui_was_down() -> None:
    def does(place: Place) -> None:
        place.comfy.kill()
        assert place.post("key") == (503, "upstream_unreachable")
        place.comfy.revive()
        assert place.post("key") == (422, "idempotency_key_reuse")
        assert not place.comfy.taken

    within(does)


@pytest.mark.parametrize("kind", ["proxy", "state"])
def test_a_restart_forgets_keys_and_list_without_state(kind: str) -> None:
    def does(place: Place) -> None:
        _, job_id = place.post("key", "label")
        place.proxy.kill()
        place.proxy.revive()
        assert place.status(job_id) in ("queued", "running")
        assert place.labels() == ([] if kind == "proxy" else ["label"])
        assert place.post("key")[0] == (201 if kind == "proxy" else 422)

    within(does, kind=kind)


def test_a_job_that_moves_to_the_history_is_called_expired() -> None:
    seen = set()

    def does(place: Place) -> None:
        _, job_id = place.post("key", seconds=0.05)
        states = []
        while states[-1:] != ["succeeded"]:
            states.append(place.status(job_id))
        seen.update(states)

    for seed in range(40):
        within(does, seed=seed)
    assert seen >= {"running", "expired", "succeeded"}


def test_a_prompt_whose_answer_is_lost_behind_the_proxy_runs_and_is_not_listed() -> None:
    def does(place: Place) -> None:
        until = place.kernel.now() + 1.0
        trouble = Trouble("drop", until, "POST /prompt")
        place.network.troubles[place.comfy.host].append(trouble)
        assert place.post("key", "label") == (503, "upstream_unreachable")
        assert [one.end for one in place.comfy.taken] == [""]
        runtime.sleep(1.0)
        assert place.labels() == []
        assert place.status(place.comfy.taken[0].prompt_id) == "succeeded"

    within(does)


@pytest.mark.parametrize(
    ("version", "first", "second"),
    [("0.3.75", "succeeded", "succeeded"), ("0.28.1", "canceled", "expired")],
)
def test_a_cancellation_does_what_comfyui_can(version: str, first: str, second: str) -> None:
    def does(place: Place) -> None:
        ids = [place.post(key, seconds=2.0, ticks=20)[1] for key in ("a", "b")]
        runtime.sleep(0.5)
        said = [place.api.ask("POST", f"/jobs/{one}/cancel")[1]["status"] for one in ids[::-1]]
        assert said == ["queued" if version == "0.3.75" else "expired", "canceling"]
        runtime.sleep(8.0)
        assert [place.status(one) for one in ids] == [first, second]

    within(does, version=version)


@pytest.mark.parametrize(
    ("kind", "text", "mapping", "listed"),
    [
        ("proxy", 201, 422, ["label"]),
        ("serverless", 422, 201, [{"key": "a"}]),
        ("old", 422, 201, [{}]),
        ("cloud", 422, 422, [501]),
    ],
)
def test_each_surface_has_its_labels(kind: str, text: int, mapping: int, listed: Any) -> None:
    def does(place: Place) -> None:
        assert place.post("a", "label")[0] == text
        assert place.post("b", {"key": "a"})[0] == mapping
        assert place.labels() == listed
        if kind == "serverless":
            assert place.labels("?metadata[key]=b") == []

    within(does, kind=kind)


def test_a_new_job_of_a_service_is_not_found_for_a_while() -> None:
    def does(place: Place) -> None:
        _, job_id = place.post("key", seconds=0.05)
        assert place.status(job_id) == 404
        runtime.sleep(3.0)
        assert place.status(job_id) == "succeeded"

    within(does, kind="serverless", shy=2.0)


def test_outputs_come_before_the_end_of_a_stream() -> None:
    def does(place: Place) -> None:
        _, job_id = place.post("key", seconds=1.0, ticks=4)
        names, _ = place.listen(job_id)
        assert names[0] in ("queued", "running")
        assert "progress" in names
        assert names[-1] in ("output", "succeeded", "running")  # the history may be late
        assert place.listen(job_id)[0] == ["succeeded", "output"]

    within(does)


def test_a_second_stream_starves_the_first() -> None:
    def does(place: Place) -> None:
        began = place.kernel.now()
        _, job_id = place.post("key", seconds=3.0)
        ends: list[float] = []
        for _ in range(2):
            place.kernel.spawn(lambda: ends.append(place.listen(job_id)[1]), "listener")
            runtime.sleep(0.3)
        runtime.sleep(30.0)
        assert sorted(round(end - began) // 10 for end in ends) == [0, 1]

    within(does)


def test_a_stream_too_many_is_refused() -> None:
    def does(place: Place) -> None:
        _, job_id = place.post("key", seconds=60.0)
        path = f"/api/v2/jobs/{job_id}/events"
        statuses = [place.proxy.handle("GET", path, "", b"", {}).status for _ in range(9)]
        assert statuses == [200] * 8 + [429]

    within(does)

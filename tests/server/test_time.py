"""The time of a server: its speed, pauses and steps."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Any

import pytest
import requests

from comfy_client import ComfyApi, JobFailed, JobInterrupted, JobLost
from comfy_client.testing import PROMPT_ID, ComfyServer, Fail, Finish, ProgressBar
from comfy_client.testing.server_clock import ServerClock
from tests.helpers.bare import LIMIT, Socket, post, submit
from tests.helpers.control import call
from tests.helpers.graphs import picture, txt2img
from tests.helpers.patches import tell_time


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    """One whose times would outlast any test."""
    with ComfyServer(step_seconds=600, node_seconds={"VAEDecode": 600}, control=True) as running:
        yield running


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as client:
        yield client


def told(server: ComfyServer, ws: Socket, count: int = 1) -> list[Any]:
    """What a socket hears of some steps: the names of events, and the progress."""
    assert server.step(count) == count
    server.push({"type": "that is all", "data": None})
    heard = [one for one in ws.until("that is all") if isinstance(one, dict)][:-1]
    return [
        one["data"]["value"] if one["type"] == "progress" else one["type"]
        for one in heard
        if one["type"] not in ("progress_state", "status")
    ]


# -- speed ----------------------------------------------------------------------------------


def test_speed_divides_the_times_of_steps_nodes_and_slow_nodes() -> None:
    slow = {"VAEDecode": 5000.0}
    with ComfyServer(step_seconds=1000, node_seconds=slow, speed=1e6) as server:
        server.faults.slow_node("SaveImage", 5000.0)
        with ComfyApi(server.url) as api:
            assert api.run(txt2img(), timeout=LIMIT).images
    with ComfyServer(step_seconds=1, speed=10) as server, ComfyApi(server.url) as api:
        start = time.monotonic()
        assert api.run(txt2img(steps=3), timeout=LIMIT).images
        assert time.monotonic() - start >= 0.3


def test_speed_changes_for_a_node_that_waits(server: ComfyServer, api: ComfyApi) -> None:
    job = api.submit(txt2img())
    server.until(lambda: server.ran)
    assert server.speed == 1.0
    server.speed = 1e6
    assert job.result(LIMIT).images


SPEEDS = [0, -1, 1.1e9, pytest.param(10**400, id="huge"), float("nan"), True, "2", None]


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_speed_is_above_0_and_has_a_limit(server: ComfyServer, speed: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="speed must be"):
        server.speed = speed
    with pytest.raises((ValueError, TypeError), match="speed must be"):
        ComfyServer(speed=speed)
    assert server.speed == 1.0


# -- pause and step -------------------------------------------------------------------------


def test_a_step_is_a_node_or_a_step_of_the_sampler(server: ComfyServer) -> None:
    """The first prompt begins, but none of its nodes; nothing takes its time."""
    server.pause()
    with Socket(server, "me") as ws:
        post(server, "/prompt", {"prompt": txt2img(steps=3), "client_id": "me"})
        server.pause()  # waits until it has begun
        assert [one["type"] for one in ws.until("execution_cached")][-2:] == [
            "execution_start",
            "execution_cached",
        ]
        assert server.paused
        assert told(server, ws, 4) == ["executing"] * 4  # checkpoint, texts and latent
        assert told(server, ws) == ["executing", 1]
        assert told(server, ws) == [2]
        assert told(server, ws) == [3]
        assert told(server, ws) == ["executing"]
        assert told(server, ws) == ["executing", "executed", "execution_success", "executing"]
    assert server.step() == 0
    assert len(server.history) == 1


def test_steps_run_all_prompts_to_their_end(server: ComfyServer, api: ComfyApi) -> None:
    server.pause()
    jobs = [api.submit(picture(color=color)) for color in (1, 2)]
    made = 0
    while count := server.step(10):
        made += count
    assert made == 4
    assert all(job.result(LIMIT).images for job in jobs)


def test_a_server_that_stands_still_goes_on_when_told(server: ComfyServer, api: ComfyApi) -> None:
    server.pause()
    job = api.submit(picture())
    server.step()
    assert not job.done()
    server.resume()
    assert job.result(LIMIT).images
    with pytest.raises(RuntimeError, match="pause"):
        server.step()


def test_a_pause_stops_a_node_that_waits(server: ComfyServer, api: ComfyApi) -> None:
    """A step ends its wait; the speed does not matter."""
    job = api.submit(txt2img(steps=2))
    server.until(lambda: server.ran)
    server.pause()
    server.speed = 1e9
    assert server.step(3) == 3  # up to the first of the sampler's, to its second, to its end
    assert server.running
    server.resume()
    assert job.result(LIMIT).images


def test_an_interrupt_ends_a_prompt_that_stands_still(server: ComfyServer, api: ComfyApi) -> None:
    server.pause()
    job = api.submit(picture())
    server.step()
    api.interrupt(job.prompt_id)
    assert isinstance(job.exception(LIMIT), JobInterrupted)
    assert server.step() == 0


def test_a_pause_outlasts_a_restart(server: ComfyServer, api: ComfyApi) -> None:
    server.pause()
    job = api.submit(picture())
    server.step()
    server.restart()
    assert isinstance(job.exception(LIMIT), JobLost)
    assert server.paused
    assert server.step() == 0
    again = api.submit(picture())
    assert server.step(2) == 2
    assert again.result(LIMIT).images


def test_a_server_may_be_paused_before_it_starts() -> None:
    server = ComfyServer()
    server.pause()
    with server:
        submit(server)
        assert server.step(5) == 2


def test_a_reset_ends_a_pause_and_brings_the_first_speed_back() -> None:
    with ComfyServer(step_seconds=1e6, speed=1e9) as server:
        server.pause()
        post(server, "/prompt", {"prompt": txt2img()})
        server.step(5)
        server.speed = 2
        server.reset()
        assert (server.paused, server.speed) == (False, 1e9)
        with ComfyApi(server.url) as api:
            assert api.run(txt2img(), timeout=LIMIT).images


def test_a_failing_node_ends_a_step(server: ComfyServer, api: ComfyApi) -> None:
    server.faults.node_fails("EmptyImage")
    server.pause()
    job = api.submit(picture())
    assert server.step(5) == 1
    assert isinstance(job.exception(LIMIT), JobFailed)


def test_scripts_go_on_by_a_step(server: ComfyServer, api: ComfyApi) -> None:
    played: list[str] = []
    message = {"type": "execution_start", "data": {"prompt_id": PROMPT_ID}}
    server.script(lambda _: played.append("a"), message, lambda _: played.append("b"), Finish())
    server.pause()
    job = api.submit(picture())
    for wanted in (["a"], ["a"], ["a", "b"]):
        assert server.step() == 1
        assert played == wanted
        assert server.history == {}
    assert server.step(5) == 1
    assert job.prompt_id in server.history


class Held:
    """A node that reports progress as often as it is told, or holds up its server."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    server: ComfyServer
    errors: list[str]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"count": ("INT", {})}}

    def run(self, count: int) -> dict[str, Any]:
        bar = ProgressBar(count)
        for _ in range(count):
            bar.update(1)
        if not count:
            self.server.pause()
            try:
                self.server.step()
            except RuntimeError as exc:
                self.errors.append(str(exc))
        return {}


def test_nodes_of_ones_own_take_as_many_steps_as_they_have_progress(server: ComfyServer) -> None:
    server.add_node(Held)
    server.pause()
    post(server, "/prompt", {"prompt": {"1": {"class_type": "Held", "inputs": {"count": 7}}}})
    assert server.step(100) == 7


def test_a_node_may_pause_its_server_but_not_wait_for_itself(server: ComfyServer) -> None:
    Held.server, Held.errors = server, []
    server.add_node(Held)
    graph: dict[str, Any] = {"1": {"class_type": "Held", "inputs": {"count": 0}}}
    graph["2"] = {"class_type": "Held", "inputs": {"count": 1}}
    post(server, "/prompt", {"prompt": graph})
    server.until(lambda: Held.errors)
    assert "its own step" in Held.errors[0]
    assert server.step(5) == 1


def test_a_step_that_takes_too_long_is_a_timeout(server: ComfyServer) -> None:
    server.pause()
    submit(server)
    with server.faults.hang_worker(), pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        server.step(timeout=0.05)
    assert server.step() == 1


def test_progress_of_each_step_is_sent_while_the_server_is_paused() -> None:
    """Also where newer versions leave it out."""
    with ComfyServer(version="0.28", previews=False) as server, Socket(server, "me") as ws:
        server.pause()
        post(server, "/prompt", {"prompt": txt2img(steps=5), "client_id": "me"})
        progress = [one for one in told(server, ws, 9) if isinstance(one, float | int)]
        assert progress == [1, 2, 3, 4, 5]


# -- the same in each run -------------------------------------------------------------------


def test_a_prompt_runs_for_its_lead_before_it_starts() -> None:
    """It can be interrupted meanwhile, and a step passes over it."""
    with ComfyServer(lead=600) as server, Socket(server, "me") as ws:
        submit(server)
        server.until(lambda: server.running)
        ws.until("status")
        assert server.history == {}
        requests.post(f"{server.url}/interrupt", timeout=LIMIT)
        names = [one["type"] for one in ws.until("execution_interrupted")]
        assert "execution_start" in names
        assert "executed" not in names
        server.until(lambda: server.history)
        server.pause()
        submit(server)
        assert told(server, ws)[-2:] == ["execution_start", "execution_cached"]
        assert server.step(5) == 2
    with ComfyServer(lead=0.3) as server:
        start = time.monotonic()
        submit(server)
        server.until(lambda: server.history)
        assert time.monotonic() - start >= 0.3


def recorded(count: int) -> tuple[list[Any], Any, list[tuple[str, bytes]]]:
    """The events, the history and the files of some prompts on a new server."""
    options: dict[str, Any] = {"step_seconds": 60, "node_seconds": {"VAEDecode": 3600.0}}
    with (
        ComfyServer(clock="2026-12-01T23:30:00+01:00", ids="counter", speed=1e9, **options) as one,
        Socket(one) as ws,
    ):
        heard = [ws.next()]
        client_id = heard[0]["data"]["sid"]
        for number in range(count):
            graph = txt2img(seed=number)
            graph["9"]["inputs"]["filename_prefix"] = "%year%-%month%-%day%-%hour%"
            graph["10"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
            post(one, "/prompt", {"prompt": graph, "client_id": client_id})
            heard += ws.until("execution_success")
            one.until(lambda: not one.pending and not one.running)
        files = sorted(one.root.rglob("*.png"))
        return heard, one.history, [(path.name, path.read_bytes()) for path in files]


def test_ids_times_and_files_are_the_same_in_each_run() -> None:
    """Times begin where told, in UTC, and go on by what is simulated."""
    events, history, files = recorded(2)
    assert recorded(2) == (events, history, files)
    assert [*history] == [str(uuid.uuid5(uuid.NAMESPACE_OID, str(n))) for n in (1, 2)]
    assert [name for name, _ in files if "temp" not in name] == [
        "2026-12-01-23_00001_.png",
        "2026-12-02-00_00001_.png",
    ]
    times = [
        data["timestamp"] / 1000
        for entry in history.values()
        for _, data in entry["status"]["messages"]
    ]
    begin = datetime(2026, 12, 1, 22, 30, tzinfo=UTC).timestamp()
    assert times == sorted({*times})
    assert begin < times[0] < begin + 1
    assert begin + 2 * 3600 < times[-1] < begin + 3 * 3600


def test_a_reset_begins_to_count_again() -> None:
    with ComfyServer(clock="2026-12-01T00:00:00Z", ids="counter") as server:
        found = []
        for _ in range(2):
            prompt_id = submit(server, client_id=None)
            server.until(lambda: server.history)
            found.append((prompt_id, server.history[prompt_id]["prompt"][3]["create_time"]))
            server.reset()
        assert found[0] == found[1]
        with server.script(Fail("no")):
            failed = submit(server, client_id=None)
            server.until(lambda: server.history)
        [[_, error]] = server.history[failed]["status"]["messages"]
        assert error["timestamp"] == found[0][1] + 1
        server.reset()
        first = submit(server, client_id=None)
        server.restart()
        assert submit(server, client_id=None) != first  # a client may still wait for that one


class Nowhere(tzinfo):
    """A time zone that does not know how far it is from UTC."""

    def utcoffset(self, when: datetime | None) -> None:
        return None


def created(server: ComfyServer, prompt_id: str) -> int:
    """When a prompt was submitted, in milliseconds after the start of the clock."""
    server.until(lambda: not server.pending, LIMIT)
    [item] = [*server.running, *(entry["prompt"] for entry in server.history.values())]
    assert item[1] == prompt_id
    return int(item[3]["create_time"] - datetime.fromisoformat(START).timestamp() * 1000)


START = "2026-12-01T00:00:00Z"


def test_a_wait_that_is_cut_short_takes_no_time_of_day() -> None:
    """By an interrupt, or by a reset, after which the first prompt is as early as ever."""
    with ComfyServer(clock=START, lead=600) as server:
        for _ in range(2):
            assert created(server, submit(server)) == 1
            requests.post(f"{server.url}/interrupt", timeout=LIMIT)
            server.until(lambda: server.history)
            server.faults.evict()
            assert 1 < created(server, submit(server)) < 1000
            server.reset()


def test_time_of_day_goes_on_for_900_years_at_most() -> None:
    """What takes longer still ends, and files have names."""
    slow = {"EmptyImage": 9e9, "SaveImage": 9e9}
    with ComfyServer(clock="8999-12-31T23:59:59-12:00", node_seconds=slow) as server:
        server.pause()
        for color in (1, 2):
            post(server, "/prompt", {"prompt": picture(color, prefix="%year%")})
        assert server.step(10) == 4
        assert len(server.history) == 2
        assert {path.name for path in (server.root / "output").glob("*.png")} == {
            "9570_00001_.png",
            "9899_00001_.png",
        }


def test_a_reset_sets_simulated_time_back_and_lengthens_no_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = slept = 1000.0
    tell_time(monkeypatch, lambda: now)
    clock = ServerClock()
    now += 1000
    for number, pause in enumerate(clock.pauses(1.0)):
        now, slept = now + pause, slept + pause
        if number == 3:
            assert clock.seconds() > 1000
            clock.reset()
            assert clock.seconds() == 0.0
    assert 1001 <= slept < 1001.1


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("clock", "yesterday", ValueError),
        ("clock", "2026-12-01T09:30:00", ValueError),
        ("clock", datetime(2026, 12, 1), ValueError),
        ("clock", 5, TypeError),
        ("clock", "1969-12-31T23:59:59Z", ValueError),
        ("clock", "0001-01-01T00:00:00+14:00", ValueError),
        ("clock", "9999-12-31T23:59:59Z", ValueError),
        ("clock", datetime(2026, 12, 1, tzinfo=Nowhere()), ValueError),
        ("lead", -1, ValueError),
        ("lead", float("inf"), ValueError),
        pytest.param("lead", 10**400, ValueError, id="lead-huge"),
        ("lead", "1", ValueError),
        ("ids", "words", ValueError),
    ],
)
def test_wrong_clocks_leads_and_ids_are_refused(
    option: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=option):
        ComfyServer(**{option: value})


# -- over HTTP ------------------------------------------------------------------------------


def test_speed_pause_and_step_over_http(server: ComfyServer) -> None:
    assert call(server, "GET", "/speed") == (200, {"speed": 1.0})
    assert call(server, "POST", "/speed", {"speed": 2.5}) == (200, {"speed": 2.5})
    assert server.speed == 2.5
    assert call(server, "POST", "/pause") == (200, {"paused": True})
    submit(server)
    assert call(server, "POST", "/step") == (200, {"steps": 1})
    health = call(server, "GET", "/health")[1]
    assert (health["paused"], health["speed"], health["queue"]["running"]) == (True, 2.5, 1)
    assert call(server, "POST", "/step", {"count": 10}) == (200, {"steps": 1})
    assert call(server, "POST", "/resume") == (200, {"paused": False})
    assert not server.paused


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("/speed", {}, 400),
        ("/speed", {"speed": 0}, 400),
        ("/speed", {"speed": "2"}, 400),
        pytest.param("/speed", {"speed": 10**400}, 400, id="huge"),
        ("/step", {"count": 0}, 400),
        ("/step", {"count": 10**9}, 400),
        ("/step", {"count": 1}, 409),
        ("/pause", {"seconds": 1}, 400),
        ("/resume", {"seconds": 1}, 400),
    ],
)
def test_wrong_speeds_and_steps_are_refused_over_http(
    server: ComfyServer, path: str, data: dict[str, Any], status: int
) -> None:
    assert call(server, "POST", path, data)[0] == status
    assert (server.speed, server.paused) == (1.0, False)


def test_a_step_over_http_says_that_it_takes_too_long(server: ComfyServer) -> None:
    call(server, "POST", "/pause")
    submit(server)
    with server.faults.hang_worker():
        status, answer = call(server, "POST", "/step", {"timeout": 0.05})
    assert (status, answer["error"]["type"]) == (409, "not_possible_now")
    assert "0.05 s" in answer["error"]["message"]

"""Links that break and servers that die, on a real ComfyUI: every wait ends, and in the truth.

The real end of a prompt is what a second client sees, whose way to the server is sound.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blinker
import pytest

from comfy_client import ComfyApi, Job
from comfy_client.errors import (
    ClientClosed,
    JobFailed,
    JobInterrupted,
    JobLost,
    RequestTimeout,
)
from comfy_client.events import Event
from tests.comfyui import ComfyUI
from tests.helpers.clients import Heard, Impatient, Requests, until
from tests.helpers.graphs import fresh_color
from tests.helpers.proxy import Proxy

pytestmark = pytest.mark.real

LIMIT = 60.0
#: Seconds after a job's end within which its wait is over: after cuts, and when the link is
#: dark (the longest pause between two questions).
AFTER_CUTS = 2.0
IN_THE_DARK = 15.0
#: For a busy machine, and for the second client's looks.
SLACK = 10.0


def sleeper(seconds: float = 3600.0, ticks: int = 36_000) -> dict[str, Any]:
    inputs = {"seconds": seconds, "ticks": ticks, "text": str(random.random())}
    return {"1": {"class_type": "TestSleepOutput", "inputs": inputs}}


def picture(side: int = 32) -> dict[str, Any]:
    """A workflow that no server has in its cache."""
    color = fresh_color()
    size = {"width": side, "height": side, "batch_size": 1, "color": color}
    save = {"filename_prefix": "real", "images": ["1", 0]}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "9": {"class_type": "SaveImage", "inputs": save},
    }


@contextlib.contextmanager
def client(url: str, cls: type[ComfyApi] = Impatient, **kw: Any) -> Iterator[tuple[Any, Heard]]:
    """A client, and what it hears."""
    with cls(url, namespace=blinker.Namespace(), **kw) as api:
        yield api, Heard(api)


class Clock:
    """Sees when a prompt really ends, and when its job does."""

    def __init__(self, api: ComfyApi, job: Job) -> None:
        self._over_at: list[float] = []
        self._known_at: list[float] = []
        self._thread = threading.Thread(target=self._look, args=(api, job.prompt_id), daemon=True)
        self._thread.start()
        job.add_done_callback(lambda _: self._known_at.append(time.monotonic()))

    def _look(self, api: ComfyApi, prompt_id: str) -> None:
        until(lambda: api.get_history(prompt_id) is not None, 100.0)
        self._over_at.append(time.monotonic())

    def late(self) -> float:
        """Seconds between the two; to be asked when a wait has ended."""
        self._thread.join(LIMIT)
        until(lambda: self._known_at)
        return self._known_at[0] - self._over_at[0]


def ended(heard: Heard, job: Job) -> list[str]:
    """The ends that were told of a job."""
    return [event.name for event in heard.ends(job.prompt_id)]


def _idle(api: ComfyApi) -> None:
    def is_idle() -> bool:
        api.clear_queue()
        api.interrupt()
        queue = api.get_queue()
        return not (queue.running or queue.pending)

    until(is_idle, LIMIT)


@pytest.fixture
def sure(comfyui: ComfyUI) -> Iterator[ComfyApi]:
    """A client whose way to the server is sound; nothing runs before and after the test."""
    with ComfyApi(comfyui.url, transport="poll", namespace=blinker.Namespace()) as api:
        _idle(api)
        yield api
        _idle(api)


@pytest.fixture
def link(comfyui: ComfyUI) -> Iterator[Proxy]:
    """The way of a client that has a hard time."""
    with Proxy(comfyui.port) as proxy:
        yield proxy


# -- cuts --------------------------------------------------------------------------------


def test_a_cut_before_the_submission_costs_nothing(sure: ComfyApi, link: Proxy) -> None:
    """The socket has just gone, and the kept HTTP connections are dead."""
    with client(link.url) as (api, heard):
        for _ in range(5):
            link.cut()
            job = api.submit(sleeper(0.2, 2))
            clock = Clock(sure, job)
            assert len(job.result(LIMIT).texts) == 1
            assert clock.late() <= AFTER_CUTS + SLACK
            assert ended(heard, job) == ["execution_success"]


def test_a_cut_between_submission_and_start_costs_nothing(sure: ComfyApi, link: Proxy) -> None:
    """It waits behind another, which ends in the gap, and begins in it."""
    first = sure.submit(sleeper())
    with client(link.url) as (api, heard):
        job = api.submit(sleeper(0.5, 5))
        clock = Clock(sure, job)
        until(lambda: first.status == "running")
        link.cut()
        assert first.cancel()
        assert len(job.result(LIMIT).texts) == 1
        assert clock.late() <= AFTER_CUTS + SLACK
        assert ended(heard, job) == ["execution_success"]


@pytest.mark.parametrize("reset", [True, False], ids=["rst", "fin"])
def test_a_cut_while_it_runs_costs_nothing(sure: ComfyApi, link: Proxy, reset: bool) -> None:
    """Progress goes on afterwards, and the end comes by the new socket."""
    with client(link.url) as (api, heard):
        job = api.submit(sleeper(5.0, 100))
        clock = Clock(sure, job)
        until(lambda: job.progress.step)
        link.cut(reset=reset)
        assert len(job.result(LIMIT).texts) == 1
        assert clock.late() <= AFTER_CUTS + SLACK
        assert ended(heard, job) == ["execution_success"]
        until(lambda: heard.links == ["disconnected", "reconnected"])


def test_a_cut_between_success_and_history_costs_nothing(sure: ComfyApi, link: Proxy) -> None:
    """After an earlier gap, success has to be looked up; the link goes in that moment."""
    with client(link.url) as (api, heard):
        handle = api.parts.tracker.handle

        def cut_at_the_end(event: Event) -> None:
            if event.name == "execution_success":
                link.cut()
            handle(event)

        api.parts.tracker.handle = cut_at_the_end
        job = api.submit(sleeper(6.0, 100))
        clock = Clock(sure, job)
        until(lambda: job.progress.step)
        link.cut()
        until(lambda: heard.links == ["disconnected", "reconnected"])
        assert len(job.result(LIMIT).texts) == 1
        assert clock.late() <= AFTER_CUTS + SLACK
        assert ended(heard, job) == ["execution_success"]
        until(lambda: heard.links == ["disconnected", "reconnected"] * 2)


def test_a_download_goes_on_after_a_cut(comfyui: ComfyUI, sure: ComfyApi, tmp_path: Path) -> None:
    """The file is whole, and there is no other."""
    noise = comfyui.root / "input" / "noise.bmp"
    side = 512
    head = b"BM" + (54 + 3 * side * side).to_bytes(4, "little") + bytes(4) + b"\x36\0\0\0"
    head += b"\x28\0\0\0" + side.to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24)
    noise.write_bytes(head + random.randbytes(3 * side * side))
    with Proxy(comfyui.port, rate=300_000) as link, client(link.url) as (api, _):
        graph = picture()
        graph["1"] = {"class_type": "LoadImage", "inputs": {"image": noise.name}}
        [image] = api.run(graph, timeout=LIMIT).images

        def cut_in_the_middle() -> None:
            until(lambda: any(path.stat().st_size for path in tmp_path.iterdir()))
            link.cut()

        cutting = threading.Thread(target=cut_in_the_middle)
        cutting.start()
        image.save(tmp_path / "whole.png")
        cutting.join()
        assert [path.name for path in tmp_path.iterdir()] == ["whole.png"]
        sent = sure.get_image(image)
        assert (tmp_path / "whole.png").read_bytes() == sent
        assert len(sent) > 500_000


@pytest.mark.parametrize("cuts", [2, 20])
def test_many_cuts_in_one_job_cost_nothing(sure: ComfyApi, link: Proxy, cuts: int) -> None:
    """The client comes back each time, the result is whole, and the end is told once."""
    with client(link.url) as (api, heard):
        job = api.submit(sleeper(0.5 * cuts + 4.0, 1000))
        clock = Clock(sure, job)
        until(lambda: job.progress.step)
        for count in range(cuts):
            link.cut(reset=count % 3 > 0)
            until(lambda n=count: heard.links == ["disconnected", "reconnected"] * (n + 1), LIMIT)
        assert len(job.result(LIMIT).texts) == 1
        assert clock.late() <= AFTER_CUTS + SLACK
        assert ended(heard, job) == ["execution_success"]
        assert heard.links == ["disconnected", "reconnected"] * cuts


@pytest.mark.parametrize("how", ["fails", "is interrupted"])
def test_a_failure_in_a_gap_of_the_socket_is_known_in_full(
    sure: ComfyApi, link: Proxy, how: str
) -> None:
    """As when the socket had told it."""
    with client(link.url) as (api, heard):
        graph = sleeper() if how == "is interrupted" else sleeper(5.0, 100)
        if how == "fails":
            graph["2"] = {
                "class_type": "TestFail",
                "inputs": {"message": "as told", "text": ["1", 0]},
            }
        job = api.submit(graph)
        clock = Clock(sure, job)
        until(lambda: job.progress.step)
        link.dark()
        if how == "is interrupted":
            sure.interrupt(job.prompt_id)
        until(lambda: sure.get_history(job.prompt_id), LIMIT)
        link.cut()
        link.light()
        with pytest.raises(JobFailed if how == "fails" else JobInterrupted) as caught:
            job.result(LIMIT)
        assert clock.late() <= AFTER_CUTS + SLACK
        assert caught.value.node_id == ("2" if how == "fails" else "1")
        if isinstance(caught.value, JobFailed):
            assert caught.value.exception_type == "ValueError"
            assert caught.value.traceback
        until(lambda: ended(heard, job))
        assert len(ended(heard, job)) == 1


# -- darkness ----------------------------------------------------------------------------


def test_a_dark_link_ends_the_wait_within_one_interval(sure: ComfyApi, link: Proxy) -> None:
    """whatever was connected is dead and nobody says so; the limit of pings is far away."""
    with client(link.url, ComfyApi) as (api, heard):
        api.get_queue()
        job = api.submit(sleeper(4.0, 100))
        clock = Clock(sure, job)
        until(lambda: job.progress.step)
        link.dark(old_only=True)
        assert len(job.result(LIMIT).texts) == 1
        assert clock.late() <= IN_THE_DARK + SLACK
        assert ended(heard, job) == ["execution_success"]
        assert heard.links == []


def test_a_link_that_was_dark_for_long_ends_the_wait_when_it_is_back(
    sure: ComfyApi, link: Proxy
) -> None:
    """All of it, HTTP too, while the job ends."""
    with client(link.url) as (api, heard):
        job = api.submit(sleeper(6.0, 100))
        until(lambda: job.progress.step)
        link.dark()
        until(lambda: sure.get_history(job.prompt_id), LIMIT)
        time.sleep(7.0)
        assert not job.done()
        assert "last news" in job.why()
        link.light()
        lit = time.monotonic()
        assert len(job.result(LIMIT).texts) == 1
        assert time.monotonic() - lit <= IN_THE_DARK + SLACK
        assert ended(heard, job) == ["execution_success"]


def test_a_socket_that_the_server_forgot_is_noticed_and_replaced(
    sure: ComfyApi, link: Proxy
) -> None:
    """the old socket's late end takes the route of the new one; pings are answered."""
    with client(link.url) as (api, heard):
        link.dark(old_only=True)
        api.parts.connection.redial("a test")  # the server does not see the old socket end
        until(lambda: heard.links == ["disconnected", "reconnected"])
        link.light()  # now it does
        job = api.submit(sleeper(1.0, 10))
        clock = Clock(sure, job)
        assert len(job.result(LIMIT).texts) == 1
        assert clock.late() <= IN_THE_DARK + SLACK
        assert ended(heard, job) == ["execution_success"]
        later = api.submit(sleeper(8.0, 100))
        assert len(later.result(LIMIT).texts) == 1
        assert ended(heard, later) == ["execution_success"]
        until(lambda: heard.links == ["disconnected", "reconnected"] * 2)
        last = api.submit(sleeper(2.0, 20))
        last.result(LIMIT)
        [end] = [e for e in heard("execution_success") if e.prompt_id == last.prompt_id]
        assert not end.recovered


# -- a slow link -------------------------------------------------------------------------


def test_a_slow_link_with_previews_brings_all(
    comfyui: ComfyUI, sure: ComfyApi, workflow: Callable[..., Any]
) -> None:
    """60 kB a second: late, whole, and no reason to dial again."""
    with Proxy(comfyui.port, rate=60_000) as link, client(link.url) as (api, heard):
        previews: list[Any] = []
        api.on("b_preview", previews.append)
        job = api.submit(workflow("txt2img_slow", seed=random.randrange(1 << 40), steps=15))
        clock = Clock(sure, job)
        [image] = job.result(LIMIT).images
        assert clock.late() <= IN_THE_DARK + SLACK
        assert image.bytes() == sure.get_image(image)
        assert previews
        assert ended(heard, job) == ["execution_success"]
        assert heard.links == []


def test_a_slow_link_brings_the_pictures_of_the_socket(
    comfyui: ComfyUI, sure: ComfyApi, workflow: Callable[..., Any]
) -> None:
    """History knows of the end long before they are there; they are waited for."""
    with Proxy(comfyui.port, rate=20_000) as link, client(link.url) as (api, heard):
        result = api.run(workflow("txt2img_websocket", seed=random.randrange(1 << 40)), timeout=90)
        assert result.complete
        assert len(result.images) >= 1
        assert all(image.bytes().startswith(b"\x89PNG") for image in result.images)
        assert heard.links == []


# -- servers that die or stop ------------------------------------------------------------


def test_a_server_that_is_killed_loses_its_jobs_soon_after_its_return(
    comfyui: ComfyUI, sure: ComfyApi
) -> None:
    """JobLost within a few polls, for what ran and for what waited; few questions meanwhile."""
    with client(comfyui.url, ComfyApi) as (api, heard):
        api.get_queue()
        jobs = [api.submit(sleeper()), api.submit(picture())]
        until(lambda: jobs[0].progress.step)
        asked = Requests(api)
        tries = []
        try:
            comfyui.kill()
            for _ in range(2):
                before = sum(asked.values()) + len(heard("reconnecting"))
                time.sleep(8.0)
                tries.append(sum(asked.values()) + len(heard("reconnecting")) - before)
            assert not any(job.done() for job in jobs)
            assert "does not answer" in jobs[0].why()
        finally:
            comfyui.start()
        back = time.monotonic()
        for job in jobs:
            with pytest.raises(JobLost, match="restarted"):
                job.result(LIMIT)
        late = time.monotonic() - back
        print(f"lost {late:.1f} s after the return; tries in twice 8 s of absence: {tries}")
        # After so long, questions are up to 10 s apart; and what is lost is looked for twice.
        assert late <= IN_THE_DARK + SLACK
        assert tries[1] <= tries[0] <= 2 * 8
        for job in jobs:
            assert ended(heard, job) == ["job_lost"]
        assert len(api.run(picture(), timeout=LIMIT).images) == 1


def test_a_server_that_is_stopped_and_goes_on_costs_nothing(
    comfyui: ComfyUI, sure: ComfyApi
) -> None:
    """SIGSTOP for a minute; nothing is wrong with the link, and the job ends after it."""
    seconds = 60
    assert comfyui.pid is not None
    with client(comfyui.url, ComfyApi) as (api, heard):
        asked = Requests(api)
        job = api.submit(sleeper(6.0, 100))
        until(lambda: job.progress.step)
        os.kill(comfyui.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
            assert not job.done()
            why = job.why()
            count = sum(asked.values())
        finally:
            os.kill(comfyui.pid, signal.SIGCONT)
        clock = Clock(sure, job)
        assert len(job.result(LIMIT).texts) == 1
        print(f"{count} requests in {seconds} s; {why}")
        assert clock.late() <= AFTER_CUTS + SLACK
        assert ended(heard, job) == ["execution_success"]
        assert heard.links == []


# -- what it costs -----------------------------------------------------------------------


def test_a_job_that_is_silent_for_long_costs_few_questions(
    sure: ComfyApi, comfyui: ComfyUI
) -> None:
    """The whole queue, with everybody's graphs, is asked for once."""
    with client(comfyui.url, ComfyApi) as (api, heard):
        asked = Requests(api)
        job = api.submit(sleeper(18.0, 1))
        clock = Clock(sure, job)
        assert len(job.result(LIMIT).texts) == 1
        print(f"18 s of silence: {dict(asked)}")
        assert clock.late() <= AFTER_CUTS + SLACK
        assert asked["/queue"] <= 2
        assert sum(asked.values()) <= 10
        assert ended(heard, job) == ["execution_success"]


def test_a_transfer_over_a_link_that_goes_dark_ends_at_the_timeout_of_the_client(
    comfyui: ComfyUI,
) -> None:
    """An upload, too, of which all was sent; or at once, when the client is closed."""
    ended: list[BaseException] = []

    def send(api: ComfyApi) -> None:
        try:
            api.upload_image(bytes(100), "dark.bin")
        except ClientClosed as exc:
            ended.append(exc)

    with Proxy(comfyui.port) as proxy, client(proxy.url, timeout=(5, 4)) as (api, _):
        ref = api.upload_image(bytes(100), "light.bin")
        assert api.get_image(ref) == bytes(100)
        proxy.dark()
        for ask in (lambda: api.upload_image(bytes(100), "dark.bin"), lambda: api.get_image(ref)):
            start = time.perf_counter()
            with pytest.raises(RequestTimeout):
                ask()
            assert 3.9 < time.perf_counter() - start < 4 + SLACK
        thread = threading.Thread(target=send, args=(api,))
        thread.start()
        until(lambda: api.parts.http.busy)
        time.sleep(0.2)  # it has sent all
        api.close()
        thread.join(LIMIT)
        assert ended  # and not at the timeout

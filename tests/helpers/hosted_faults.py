"""What goes wrong on the way to a hosted ComfyUI, as the bench and the tests play it.

Each of :data:`FAULTS` is played around one run of a client: it sets its rules before the client
begins, and does the rest meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from comfy_client.testing.hosted.traps import PROXY
from tests.comfy_api_proxy import ComfyApiProxy
from tests.comfyui import ComfyUI
from tests.helpers.clients import until
from tests.helpers.graphs import canvas, node
from tests.helpers.hosted import Graph, Hosted, embedded, picture
from tests.helpers.middle import Middle, answer, late, lost, lost_after, lost_as
from tests.helpers.proxy import Proxy

JOBS = "/api/v2/jobs"
#: Seconds of an answer that is late.
LATE = 6.0
AWAY = 1.5


@attrs.frozen
class Scene:
    """A place, and the ways to it and behind it that can be broken.

    A client goes by ``link``, then ``middle``; the real proxy reaches its ComfyUI by ``behind``.
    """

    place: Hosted
    link: Proxy
    middle: Middle
    behind: tuple[Proxy, Middle] | None = None

    @property
    def url(self) -> str:
        return self.link.url

    def next_job(self, *, is_known: bool = True) -> Callable[[], object]:
        """Return what waits until ComfyUI runs, or has run, a job that it does not have now.

        The client knows its id then, and asks about it, unless ``is_known`` is false.
        """
        before = self._seen({"queue_running", "queue_pending"})

        def is_there() -> bool:
            new = self._seen({"queue_running"}) - before
            paths = [one.path for one in list(self.middle.asked)]
            return any(not is_known or any(one in path for path in paths) for one in new)

        return lambda: until(is_there)

    def _seen(self, kinds: set[str]) -> set[str]:
        queue = self._of_comfyui("/queue")
        ids = {str(item[1]) for kind in kinds for item in queue[kind]}
        return ids | {str(one) for one in self._of_comfyui("/history?max_items=4")}

    def _of_comfyui(self, path: str) -> Any:
        with urllib.request.urlopen(self.place.comfyui_url + path, timeout=60) as found:
            return json.load(found)

    def submit_as_somebody(self, graph: Graph) -> str:
        """Submit a job past the client; return its id."""
        data = json.dumps({"workflow": graph}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.place.url + JOBS, data, headers)
        with urllib.request.urlopen(request, timeout=60) as found:
            return str(json.load(found)["id"])

    def until_idle(self) -> None:
        """Wait until nothing runs or waits, whoever submitted it."""
        until(lambda: not any(self._of_comfyui("/queue").values()))


@contextlib.contextmanager
def real_scene(comfyui: ComfyUI, state_dir: Path | None = None) -> Iterator[Scene]:
    """Put a proxy in front of a real ComfyUI, with everything between that can break."""
    with ExitStack() as stack:
        lower = stack.enter_context(Middle(comfyui.port))
        upstream = stack.enter_context(Proxy(lower.port))
        proxy = stack.enter_context(ComfyApiProxy(upstream.url, state_dir=state_dir))
        place = Hosted(proxy.url, comfyui, proxy)
        with scene_of(place) as scene:
            yield attrs.evolve(scene, behind=(upstream, lower))


@contextlib.contextmanager
def scene_of(place: Hosted) -> Iterator[Scene]:
    """Put everything that can break between a client and a place."""
    with Middle(int(place.url.rpartition(":")[2])) as middle, Proxy(middle.port) as link:
        yield Scene(place, link, middle)


@contextlib.contextmanager
def embedded_scene(*, keeps_state: bool = False) -> Iterator[Scene]:
    """Put everything that can break around an embedded proxy."""
    traps = attrs.evolve(PROXY, keeps_state=keeps_state)
    with embedded(traps=traps) as place, scene_of(place) as scene:
        yield scene


# -- the faults -----------------------------------------------------------------------------

Meanwhile = Callable[[], object]
Fault = Callable[[Scene, ExitStack], Meanwhile | None]


def nothing(scene: Scene, stack: ExitStack) -> Meanwhile | None:
    return None


def cut(scene: Scene, stack: ExitStack) -> Meanwhile:
    """All connections break while the job runs."""

    it_runs = scene.next_job()

    def meanwhile() -> None:
        it_runs()
        scene.link.cut()

    return meanwhile


def away(scene: Scene, stack: ExitStack) -> Meanwhile:
    """For 1.5 s nobody is there."""

    it_runs = scene.next_job()

    def meanwhile() -> None:
        it_runs()
        scene.link.away()
        time.sleep(AWAY)
        scene.link.back()

    return meanwhile


def dark(scene: Scene, stack: ExitStack) -> Meanwhile:
    """The connections that are there fall silent, and stay open; new ones work."""

    it_runs = scene.next_job()

    def meanwhile() -> None:
        it_runs()
        scene.link.dark(old_only=True)

    return meanwhile


def bad_gateway(scene: Scene, stack: ExitStack) -> Meanwhile:
    """A gateway answers 502 to everything for 1.5 s while the job runs."""

    it_runs = scene.next_job()

    def meanwhile() -> None:
        it_runs()
        with scene.middle.rule("*", "*", answer(502)):
            time.sleep(AWAY)

    return meanwhile


def bad_submit(scene: Scene, stack: ExitStack) -> None:
    """A gateway answers 502 to the submission, which never arrives."""
    stack.enter_context(scene.middle.rule("POST", JOBS, answer(502), times=1))


def bad_answer(scene: Scene, stack: ExitStack) -> None:
    """A gateway answers 502 to the submission, which has arrived."""
    stack.enter_context(scene.middle.rule("POST", JOBS, lost_as(502), times=1))


def lost_answer(scene: Scene, stack: ExitStack) -> None:
    """The connection breaks before the answer to the submission."""
    stack.enter_context(scene.middle.rule("POST", JOBS, lost, times=1))


def late_answer(scene: Scene, stack: ExitStack) -> None:
    """The answer to the submission takes six seconds."""
    stack.enter_context(scene.middle.rule("POST", JOBS, late(LATE), times=1))


def lost_behind(scene: Scene, stack: ExitStack) -> Meanwhile | None:
    """ComfyUI's answer never reaches the proxy, which says 503 and does not know the job."""
    if scene.behind is None:
        trap = stack.enter_context(ExitStack())
        trap.enter_context(scene.place.gateway.trap(upstream="lost"))

        it_runs = scene.next_job(is_known=False)

        def meanwhile() -> None:
            it_runs()
            trap.close()

        return meanwhile
    stack.enter_context(scene.behind[1].rule("POST", "*/prompt", lost, times=1))
    return None


def server_away(scene: Scene, stack: ExitStack) -> Meanwhile:
    """The proxy does not reach its ComfyUI for 1.5 s, and says 503."""

    it_runs = scene.next_job()

    def meanwhile() -> None:
        it_runs()
        if scene.behind:
            scene.behind[0].away()
            time.sleep(AWAY)
            scene.behind[0].back()
        else:
            with scene.place.gateway.trap(upstream="down"):
                time.sleep(AWAY)

    return meanwhile


def killed(scene: Scene, stack: ExitStack) -> Meanwhile:
    """The proxy is killed while the job runs, and started again."""

    it_runs = scene.next_job()

    def meanwhile() -> None:
        it_runs()
        restart(scene)

    return meanwhile


def lost_and_killed(scene: Scene, stack: ExitStack) -> Meanwhile:
    """The answer to the submission is lost, and the proxy is killed before it is asked again."""
    hold = stack.enter_context(ExitStack())
    is_lost = threading.Event()

    def hold_back() -> None:
        hold.enter_context(scene.middle.rule("*", "*", answer(502)))
        is_lost.set()

    stack.enter_context(scene.middle.rule("POST", JOBS, lost_after(hold_back), times=1))
    it_runs = scene.next_job(is_known=False)

    def meanwhile() -> None:
        it_runs()
        until(is_lost.is_set)  # the proxy has answered, and so has kept the job if it keeps any
        restart(scene)
        hold.close()

    return meanwhile


def restart(scene: Scene) -> None:
    """Kill the proxy, and start it again."""
    one = scene.place.proxy or scene.place.gateway
    one.kill()
    one.start()


# -- graphs that end in other ways ----------------------------------------------------------


def partly_valid(name: str, color: int) -> Graph:
    """A good output, and one that ComfyUI refuses, which the proxy never mentions."""
    return picture(name, color=color) | {
        "20": canvas(color, width=-5),
        "21": node("SaveImage", images=["20", 0], filename_prefix=f"{name}bad"),
    }


def failing(name: str, color: int) -> Graph:
    """A picture, saved before another node fails."""
    # ComfyUI prefers nodes next to an output, and so begins with the picture.
    return picture(name, color=color) | {
        "29": node("TestSleep", seconds=0.3, ticks=5, text=name),
        "30": node("TestSleep", seconds=0.2, ticks=5, text=["29", 0]),
        "31": node("TestFail", message="failed as told", text=["30", 0]),
    }

"""Many prompts from many threads: none lost, none twice, and every event with the right job."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import blinker
import pytest

from comfy_client import ComfyApi
from comfy_client.errors import SubmitUncertain
from comfy_client.events import Executed
from comfy_client.jobs.result import Result
from comfy_client.testing import ComfyServer
from tests.comfyui import ComfyUI
from tests.helpers.clients import Heard, Impatient, Requests, flush, outstanding, until
from tests.helpers.long import few
from tests.helpers.proxy import Proxy

THREADS = 8
LIMIT = 120.0
SEED = 5


class Show:
    """For the embedded server: shows its text."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"text": ("STRING", {}), "seconds": ("FLOAT", {}), "ticks": ("INT", {})}
        }

    def run(self, text, **_):
        return {"ui": {"text": [text]}}


@attrs.define
class Told:
    """What one caller was told."""

    result: Result
    events: list[Any]
    uncertain: int = 0  #: How often a submission was not found, and made again.


@contextlib.contextmanager
def cutting(proxy: Proxy, least: float, most: float) -> Iterator[list[float]]:
    """Cuts all connections, again and again; gives the moments."""
    rng = random.Random(SEED)
    stop = threading.Event()
    cuts: list[float] = []

    def cut() -> None:
        while not stop.wait(rng.uniform(least, most)):
            cuts.append(time.monotonic())
            proxy.cut(reset=rng.random() < 0.5)

    thread = threading.Thread(target=cut, daemon=True)
    thread.start()
    yield cuts
    stop.set()
    thread.join()


def crowd(
    url: str, count: int, was_sent: Callable[[str], bool], *, seconds_each: float = 0.0
) -> str:
    """All of them through one client; checks what callers are told, and gives figures.

    ``was_sent(text)`` says whether the server has a prompt of that text: who is uncertain, asks
    it before submitting again.
    """
    with Impatient(url, namespace=blinker.Namespace()) as api:
        heard = Heard(api)
        asked = Requests(api)

        def one(number: int) -> Told:
            text = f"prompt {number}"
            inputs = {"text": text, "seconds": seconds_each, "ticks": 1}
            graph = {"1": {"class_type": "TestSleepOutput", "inputs": inputs}}
            for uncertain in range(100):
                events: list[Any] = []
                try:
                    result = api.run(
                        graph, timeout=LIMIT, on_event=events.append, extra_data={"text": text}
                    )
                except SubmitUncertain:
                    assert not was_sent(text), f"{text} is there, and was not found"
                    continue
                return Told(result, events, uncertain)
            raise AssertionError("never sent")

        begun = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            told = list(pool.map(one, range(count)))
        seconds = time.monotonic() - begun
        assert outstanding(api) == []
        flush(api)

    ids = [each.result.prompt_id for each in told]
    assert len(set(ids)) == count
    ended = Counter(e.prompt_id for e in heard.events if e.is_end)
    assert ended == Counter(ids)
    for number, each in enumerate(told):
        prompt_id = each.result.prompt_id
        assert each.result.texts == (f"prompt {number}",)
        assert each.result.complete
        assert {e.prompt_id for e in each.events if hasattr(e, "prompt_id")} == {prompt_id}
        assert [e for e in each.events if e.is_end] == each.events[-1:]
        shown = [e.output["text"] for e in each.events if isinstance(e, Executed)]
        assert shown in ([], [[f"prompt {number}"]])
    total = sum(asked.values())
    return (
        f"{count} prompts in {seconds:.1f} s; {len(heard.events)} events, "
        f"{heard.links.count('reconnected')} reconnects, {total / count:.2f} requests a prompt "
        f"({asked['/queue'] / count:.3f} of the whole queue), "
        f"{sum(each.uncertain for each in told)} submitted again"
    )


# -- embedded ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", few(["0.3.75", "0.33"], 1))
@pytest.mark.parametrize("link", few(["sound", "cut"], 1))
def test_two_hundred_prompts_of_eight_threads(link: str, version: Any) -> None:
    """By the record of the embedded server, each ran once."""
    with ComfyServer(version=version) as server, contextlib.ExitStack() as stack:
        server.add_node(Show, "TestSleepOutput")
        url = server.url

        def was_sent(text: str) -> bool:
            return any(ran.extra_data["text"] == text for ran in list(server.ran))

        if link == "cut":
            proxy = stack.enter_context(Proxy(server.port))
            url = proxy.url
            stack.enter_context(cutting(proxy, 0.1, 0.4))
        print(crowd(url, 200, was_sent))
        ran = Counter(ran.extra_data["text"] for ran in server.ran)
        assert ran == Counter(f"prompt {number}" for number in range(200))


# -- real --------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.timeout(600)
@pytest.mark.parametrize("link", ["sound", "cut"])
def test_a_thousand_prompts_of_eight_threads_on_a_real_server(comfyui: ComfyUI, link: str) -> None:
    """By its history and its log each ran once; the second time the link is cut all the while."""
    with ComfyApi(comfyui.url, transport="poll", namespace=blinker.Namespace()) as sure:
        sure.clear_history()
        executed = comfyui.log_text().count("Prompt executed")

        def was_sent(text: str) -> bool:
            queue = sure.get_queue()
            records = [*queue.running, *queue.pending, *sure.get_histories(None).values()]
            return any(record.extra_data.get("text") == text for record in records)

        with contextlib.ExitStack() as stack:
            url = comfyui.url
            cuts: list[float] = []
            seconds = 0.0
            if link == "cut":
                proxy = stack.enter_context(Proxy(comfyui.port))
                url = proxy.url
                cuts = stack.enter_context(cutting(proxy, 0.5, 2.0))
                seconds = 0.03  # so that it takes long enough to be cut often
            figures = crowd(url, 1000, was_sent, seconds_each=seconds)
            print(f"{link}: {figures}; {len(cuts)} cuts")
        entries = sure.get_histories(None)
        ran = Counter(entry.extra_data["text"] for entry in entries.values())
        assert ran == Counter(f"prompt {number}" for number in range(1000))
        assert all(entry.succeeded for entry in entries.values())
        # The same id twice is one entry of the history.
        until(lambda: comfyui.log_text().count("Prompt executed") - executed >= 1000)
        assert comfyui.log_text().count("Prompt executed") - executed == 1000

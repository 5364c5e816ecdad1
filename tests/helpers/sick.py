"""Servers of a pool that fail or refuse whatever they get, each in its own way."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from comfy_client import ComfyApi, ComfyPool
from comfy_client.testing import ComfyServer, check_interrupted
from tests.helpers.clients import Fast, until

#: Refuses a model that it had, as its list says yet.
_GONE: Final = {
    "error": {"type": "prompt_outputs_failed_validation", "message": "no", "details": ""},
    "node_errors": {
        "1": {
            "errors": [
                {
                    "type": "value_not_in_list",
                    "message": "Value not in list",
                    "details": "ckpt_name: 'a.safetensors' not in []",
                    "extra_info": {},
                }
            ],
            "dependent_outputs": ["1"],
            "class_type": "Work",
        }
    },
}


def _raises(error: Exception) -> Callable[[ComfyServer, Work], object]:
    def make(_: ComfyServer, work: Work) -> None:
        work.error = error

    return make


def _answers(status: int, headers: dict[str, str], body: Any) -> Callable[..., object]:
    return lambda server, _: server.faults.answer("POST", "/prompt", (status, headers, body))


#: How a server can be sick, though it answers.
KINDS: Final[dict[str, Callable[[ComfyServer, Work], object]]] = {
    "CUDA error": _raises(RuntimeError("CUDA error: an illegal memory access was encountered")),
    "full disk": _raises(OSError(28, "No space left on device")),
    "500": _answers(500, {}, "500 Internal Server Error"),
    "429": _answers(429, {"Retry-After": "1"}, "slow down"),
    "503": _answers(503, {}, "no healthy upstream"),
    "garbage": _answers(200, {"Content-Type": "application/json"}, b'{"prompt_id": '),
    "HTML": _answers(200, {"Content-Type": "text/html"}, "<html>welcome</html>"),
    "no id": _answers(200, {}, {"number": 1, "node_errors": {}}),
    "404": _answers(404, {}, "404: Not Found"),
    "413": lambda server, _: server.faults.too_large("/prompt"),
    "models gone": _answers(400, {}, _GONE),
}
#: Those of which a prompt runs, and fails.
FAILING: Final = ("CUDA error", "full disk")


class Work:
    """What a server does with a prompt: it shows its number, or raises.

    Attributes:
        error: What it raises; ``None``: nothing.
        seconds: How long it takes.
        gate: It waits until this is set.
        begun: The numbers of the prompts that it has begun.
    """

    def __init__(self, server: ComfyServer, seconds: float = 0.02) -> None:
        self.error: Exception | None = None
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()
        self.begun: Counter[int] = Counter()
        self._lock = threading.Lock()
        work = self

        def run(_: object, number: int) -> dict[str, Any]:
            with work._lock:
                work.begun[number] += 1
            if work.error is not None:
                raise work.error
            time.sleep(work.seconds)
            while not work.gate.wait(0.01):
                check_interrupted()
            return {"ui": {"text": [str(number)]}}

        inputs = {"required": {"number": ("INT", {"default": 0, "max": 10**6})}}
        members = {
            "INPUT_TYPES": classmethod(lambda cls: inputs),
            "RETURN_TYPES": (),
            "FUNCTION": "run",
            "OUTPUT_NODE": True,
            "run": run,
        }
        server.add_node(type("Work", (), members))


def work(number: int = 0) -> dict[str, Any]:
    """A workflow of the node that a :class:`Work` gives a server."""
    return {"1": {"class_type": "Work", "inputs": {"number": number}}}


class Brief(ComfyApi):
    """Does not look long for a submission that got no answer."""

    timing = attrs.evolve(Fast.timing, look_up=1.0, look_up_sure=0.1)


class Resting(ComfyPool):
    """A suspect rests for as long as the test lasts."""

    intervals = attrs.evolve(ComfyPool.intervals, rest=1e6, longest_rest=1e6, ask_again=0.0)


@contextlib.contextmanager
def pool_of(
    servers: list[ComfyServer], cls: type[ComfyPool] = Resting, **options: Any
) -> Iterator[ComfyPool]:
    """A pool of servers that are all ready."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Brief(server.url)) for server in servers]
        pool = stack.enter_context(cls(clients, **options))
        until(lambda: all(one.state == "ready" for one in pool.status().servers))
        yield pool

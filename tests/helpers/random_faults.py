"""What runs and what goes wrong in rounds of random faults, and the server's own record of it."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar, NoReturn
from unittest import mock

import attrs

from comfy_client.testing import (
    ComfyServer,
    Faults,
    ProgressBar,
    Request,
    prompt_queue,
    server_state,
)
from comfy_client.testing.wire import decode

#: Seconds that no wait of a worker may take, whatever goes wrong meanwhile.
HANG = 90.0
TASK = "task"  # key of a job's name in its extra_data

SUCCESS, ERROR, INTERRUPTED = "execution_success", "execution_error", "execution_interrupted"


# -- what runs ----------------------------------------------------------------------------


class Work:
    """Takes its time, tells how far it is, and shows its text or fails with it."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "text": ("STRING", {}),
                "seconds": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 3600.0}),
                "fails": ("BOOLEAN", {"default": False}),
            }
        }

    def run(self, text, seconds, fails):
        ticks = max(1, int(seconds / 0.02))
        bar = ProgressBar(ticks)
        for tick in range(ticks):
            time.sleep(seconds / ticks)
            bar.update_absolute(tick + 1)
        if fails:
            raise ValueError(text)
        return {"ui": {"text": [text]}, "result": (text,)}


@attrs.frozen
class Task:
    """One job of a round."""

    number: int
    kind: str
    way: str
    client: int
    other: int  #: Another client, that attaches to it.
    seconds: float  #: How long it runs.
    after: float  #: Seconds until someone interferes.

    @property
    def text(self) -> str:
        return f"cached {self.number % 3}" if self.kind == "cached" else f"job {self.number}"

    @property
    def color(self) -> int:
        return 0x010203 * (self.number % 80 + 1)

    def graph(self) -> dict[str, Any]:
        inputs = {"text": self.text, "seconds": self.seconds, "fails": self.kind == "failing"}
        graph: dict[str, Any] = {"1": {"class_type": "Work", "inputs": inputs}}
        if self.kind == "pictures":
            size = {"width": 8, "height": 8, "batch_size": 2, "color": self.color}
            graph["2"] = {"class_type": "EmptyImage", "inputs": size}
            graph["3"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["2", 0]}}
        return graph


KINDS = {
    "instant": 30,
    "slow": 15,
    "failing": 12,
    "interrupted": 10,  # by somebody else, while it runs
    "cached": 10,
    "deleted": 8,  # by somebody else, if it has not begun
    "pictures": 15,
}
WAYS = {
    "run": 4,
    "submit": 4,
    "events": 3,
    "attach": 3,
    "cancel": 2,
    "resubmit": 1,
    "ask early": 2,  # another client asks for the id from before the submission on
    "ask again": 2,  # the same client asks for the id after the end
    "alarm": 2,  # in the main thread; an alarm ends the wait, and it is attached
}


def draw(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def plan(rng: random.Random, clients: int, count: int) -> list[Task]:
    tasks = []
    for number in range(count):
        kind, way = draw(rng, KINDS), draw(rng, WAYS)
        if way == "cancel":
            kind = "slow"
        client = rng.randrange(clients)
        other = (client + rng.randrange(1, clients)) % clients
        seconds = rng.uniform(0.05, 0.25) if kind in ("slow", "failing") else 0.0
        if kind == "interrupted" or way == "cancel":
            seconds = 3600.0
        tasks.append(Task(number, kind, way, client, other, seconds, rng.uniform(0.0, 0.2)))
    return tasks


# -- the server's own record --------------------------------------------------------------


@attrs.define
class Fact:
    """What the server did with one submission."""

    puts: int = 0
    put_at: float = float("inf")  #: When it came first.
    ends: list[str] = attrs.field(factory=list)
    over_at: float = 0.0  #: When the last of it was ended, deleted or lost.
    gone_at: float = float("inf")  #: When it was lost or deleted, or its history was.


class Record:
    """What happened to all submissions, by their names."""

    def __init__(self) -> None:
        self.facts: dict[str, Fact] = {}
        self._lock = threading.RLock()  # guards the facts

    def of(self, name: str) -> Fact:
        with self._lock:
            return self.facts.setdefault(name, Fact())

    def put(self, item: Any) -> None:
        with self._lock:
            fact = self.of(item[3][TASK])
            fact.puts += 1
            fact.put_at = min(fact.put_at, time.monotonic())

    def ended(self, item: Any, messages: list[Any]) -> None:
        with self._lock:
            fact = self.of(item[3][TASK])
            fact.ends.append(messages[-1][0])
            fact.over_at = time.monotonic()

    def gone(self, items: Any, *, died: bool = False) -> None:
        """Waiting, running or remembered before, and now unknown."""
        with self._lock:
            for item in items:
                fact = self.of(item[3][TASK])
                fact.gone_at = min(fact.gone_at, time.monotonic())
                if len(fact.ends) < fact.puts or died:
                    fact.over_at = time.monotonic()


def _recorded(record: Record) -> type[prompt_queue.PromptQueue]:
    class Recorded(prompt_queue.PromptQueue):
        """Writes down what happens, in the moment in which it happens."""

        ending: ClassVar[dict[str, list[Any]]] = {}

        def put(self, item):
            with self._news:
                record.put(item)
                if self.closed:  # taken by a server that is about to end
                    record.gone([item])
                super().put(item)

        def done(self, result):
            with self._news:
                item = self._running
                if item is not None and self.closed:
                    record.gone([item])
                elif item is not None:
                    record.ended(item, self.ending[item[1]])
                    if result is None:
                        record.gone([item])
                super().done(result)

        def delete(self, prompt_id):
            with self._news:
                record.gone([item for item in self._pending if item[1] == prompt_id][:1])
                return super().delete(prompt_id)

        def lose(self):
            with self._news:
                record.gone([*self._pending, *([self._running] if self._running else [])])
                return super().lose()

        def forget(self, prompt_id=None):
            with self._news:
                known = self._history.values()
                record.gone(e["prompt"] for e in known if prompt_id in (None, e["prompt"][1]))
                super().forget(prompt_id)

        def close(self):
            with self._news:
                if not self.closed:
                    running = [self._running] if self._running else []
                    record.gone([*self._pending, *running], died=True)
                    record.gone([e["prompt"] for e in self._history.values()], died=True)
                super().close()

    return Recorded


@contextlib.contextmanager
def recorded() -> Iterator[Record]:
    """Servers that are made in here keep a record."""
    record = Record()
    queue = _recorded(record)

    class Executor(prompt_queue.Executor):
        def _end(self, prompt_id, result):
            queue.ending[prompt_id] = result["status"]["messages"]
            super()._end(prompt_id, result)

    with mock.patch.multiple(server_state, PromptQueue=queue, Executor=Executor):
        yield record


# -- what goes wrong ----------------------------------------------------------------------

#: Events that a socket may lose.  Not an output alone: what is between two messages that came
#: over one socket has come, too.
LOSABLE = (
    ("execution_success", "execution_error", "execution_interrupted", "executing null"),
    ("execution_start",),
    ("execution_cached",),
    ("executing", "progress*"),
    ("status",),
)
#: Faults of which one at a time is enough: each ends the answer in its own way.
ON_ANSWERS = (
    "cut before the server acts",
    "cut after it acted",
    "cut submissions",
    "cut bodies",
    "dripping answers",
)
#: Faults at whose end the sockets are dropped, since for them they never end.
UNTIL_DIALLED = ("deaf", "dark")

Fault = Callable[[Any, random.Random, float], Any]

#: Faults that last, with how likely they are; each gets the switches and how long it will be.
LASTING: dict[str, tuple[int, Fault]] = {
    "deaf": (4, lambda f, r, s: f.deaf()),
    "dark": (4, lambda f, r, s: f.go_dark()),
    "stale handlers": (4, lambda f, r, s: f.stale_handlers()),
    "freeze": (4, lambda f, r, s: f.freeze()),
    "no pongs": (2, lambda f, r, s: f.swallow_pings()),
    "refused sockets": (3, lambda f, r, s: f.refuse_sockets(r.choice((403, 404, 502)))),
    "stalled handshakes": (2, lambda f, r, s: f.stall_handshakes()),
    "slow handshakes": (2, lambda f, r, s: f.slow_handshakes(s / 2)),
    "lost events": (4, lambda f, r, s: f.lose(*r.choice(LOSABLE))),
    "late events": (2, lambda f, r, s: f.withhold("*")),
    "junk": (2, lambda f, r, s: f.junk()),
    "foreign traffic": (2, lambda f, r, s: f.foreign_traffic()),
    "fragments": (2, lambda f, r, s: f.fragments(r.randint(2, 5))),
    "pauses in frames": (2, lambda f, r, s: f.pause_in_frames(0.01)),
    "late history": (3, lambda f, r, s: f.late_history(s / 4)),
    "no history": (1, lambda f, r, s: f.no_history()),
    "worker hangs": (2, lambda f, r, s: f.hang_worker()),
    "other ids": (3, lambda f, r, s: f.other_prompt_ids()),
    "events before the reply": (3, lambda f, r, s: f.events_before_reply(times=5)),
    "slow answers": (3, lambda f, r, s: f.delay("*", "*", s / 4, ran=r.random() < 0.5)),
    "no answers": (2, lambda f, r, s: f.delay("GET", "*", None)),
    "cut before the server acts": (3, lambda f, r, s: f.cut("*", "*", reset=r.random() < 0.5)),
    "cut after it acted": (4, lambda f, r, s: f.cut("*", "*", ran=True, times=r.randint(1, 4))),
    "cut submissions": (4, lambda f, r, s: f.cut("POST", "/prompt", ran=True, times=3)),
    "cut bodies": (3, lambda f, r, s: f.cut("*", "*", sent=r.randint(0, 40))),
    "dripping answers": (2, lambda f, r, s: f.drip("GET", "*", size=200, pause=0.01)),
    "bad gateway": (4, lambda f, r, s: f.bad_gateway(r.choice((502, 503, 504)))),
    "login page": (2, lambda f, r, s: f.login_page(r.choice((200, 302, 401)), times=2)),
    "wrong type": (1, lambda f, r, s: f.wrong_mime("GET", "*", times=4)),
    "no names": (3, lambda f, r, s: NoNames()),
    "queue refused": (3, lambda f, r, s: f.answer("GET", "/queue", (r.choice((403, 500)), {}, ""))),
    "interim answers": (3, lambda f, r, s: interim(f, r)),
}
#: Requests that may be answered in another way than the rest.
REQUESTS = (("POST", "/prompt"), ("GET", "/queue"), ("GET", "/history/*"), ("GET", "/prompt"))


def interim(faults: Faults, rng: random.Random) -> Any:
    """Some requests get answers that are none before their answer."""
    heads = b"".join(
        b"HTTP/1.1 %d Wait\r\nLink: <x>\r\n\r\n" % rng.choice((100, 102, 103))
        for _ in range(rng.randint(1, 3))
    )

    def respond(request: Request) -> None:
        state = faults._running()
        told = state.loop.wait(state.connections.ask(request))
        status, _, body = decode(told, request.method)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        with contextlib.suppress(OSError):  # the client may have left
            request.socket.sendall(heads + head.encode() + data)

    return faults.answer(*rng.choice(REQUESTS), respond)


class NoNames:
    """While it lasts no name or address is found; for now, says the resolver."""

    def __init__(self) -> None:
        self._true = socket.getaddrinfo
        socket.getaddrinfo = self._fail

    def _fail(self, *_: Any, **__: Any) -> NoReturn:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def end(self) -> None:
        socket.getaddrinfo = self._true


#: Those that leave nothing to undo.
SUDDEN: dict[str, tuple[int, Callable[[ComfyServer, random.Random], Any]]] = {
    "drop": (6, lambda s, r: s.faults.drop(reset=r.random() < 0.5)),
    "close frame": (3, lambda s, r: s.faults.close_politely(r.choice((1000, 1001, 1011)))),
    "oversized frame": (1, lambda s, r: s.faults.oversized_frame()),
    "evict": (1, lambda s, r: s.faults.evict()),
    "lose queue": (1, lambda s, r: s.faults.lose_queue()),
    "restart": (1, lambda s, r: s.restart()),
    "kill": (1, lambda s, r: (s.kill(), time.sleep(r.uniform(0.0, 0.8)), s.start())),
}


class Trouble:
    """Makes faults until it is told to stop, and remembers when there were any."""

    def __init__(
        self,
        server: ComfyServer,
        rng: random.Random,
        longest: float,
        *,
        without: Collection[str] = (),
        more: Mapping[str, tuple[int, Fault]] = {},
    ) -> None:
        self._faults = {name: one for name, one in LASTING.items() if name not in without}
        self._faults |= more
        self._lasting = {name: weight for name, (weight, _) in self._faults.items()}
        self._server = server
        self._rng = rng
        self._longest = longest
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trouble", daemon=True)
        self.log: list[tuple[float, float, str]] = []  # from, to, what
        self.errors: list[BaseException] = []

    def __enter__(self) -> Trouble:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(HANG)
        self._server.faults.clear()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._rng.uniform(0.05, self._longest / 2)):
                self._one()
        except BaseException as exc:
            self.errors.append(exc)
            raise

    def _one(self) -> None:
        rng, faults = self._rng, self._server.faults
        sudden = {name: weight for name, (weight, _) in SUDDEN.items()}
        begun, seconds = time.monotonic(), rng.uniform(0.05, self._longest)
        if rng.random() < 0.25:
            names = [draw(rng, sudden)]
            SUDDEN[names[0]][1](self._server, rng)
        else:
            names = list({draw(rng, self._lasting) for _ in range(rng.choice((1, 1, 2)))})
            if "freeze" in names:
                names = ["freeze"]  # who waits for the server would wait with it
            if set(names) <= set(ON_ANSWERS):
                names = names[:1]
            mine = [self._faults[name][1](faults, rng, seconds) for name in sorted(names)]
            self._stop.wait(seconds)
            if set(names) & set(UNTIL_DIALLED):
                faults.drop()
            for fault in mine:
                fault.end()
        self.log.append((begun, time.monotonic(), " + ".join(sorted(names))))

    def free(self, start: float, end: float) -> float:
        """Seconds between two moments in which nothing was wrong."""
        wrong = sum(max(0.0, min(end, b) - max(start, a)) for a, b, _ in list(self.log))
        return end - start - wrong

    def between(self, start: float, end: float) -> str:
        """What went wrong then."""
        return ", ".join(what for a, b, what in list(self.log) if b > start and a < end) or "-"


class Operator:
    """Somebody at the server itself, who deletes and interrupts what is meant for that."""

    def __init__(self, server: ComfyServer, tasks: list[Task]) -> None:
        self._server = server
        self._tasks = tasks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)
        self._since: dict[str, float] = {}

    def __enter__(self) -> Operator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(HANG)

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            core = self._server._state
            if core is None:
                continue
            shown = core.queue.shown()
            for item in shown["queue_pending"]:
                if self._task(item).kind == "deleted":
                    core.queue.delete(item[1])
            for item in shown["queue_running"]:
                task = self._task(item)
                since = self._since.setdefault(item[1], time.monotonic())
                if task.kind == "interrupted" and time.monotonic() > since + task.after:
                    with core.queue._news:  # so that it cannot end in between
                        if core.queue.running_id == item[1]:
                            core.executor.interrupt()

    def _task(self, item: list[Any]) -> Task:
        return self._tasks[int(item[3][TASK].partition(".")[0])]

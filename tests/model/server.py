"""A small model of ComfyUI: its queue, its history and its events, as clients see them.

What a prompt does stands in its graph (:func:`graph_of`).  The executor is a simulated thread, so
nodes take simulated time.  Each prompt that the server takes is remembered in ``taken``, with its
end, whatever the server itself forgets: that is what tests compare with what the client says.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qs, unquote
from uuid import UUID

import attrs

from comfy_client import Timing
from comfy_client.routes.prompts import EXTRA_DATA_KEY
from tests.model.kernel import Kernel


class Answer(NamedTuple):
    """The answer to a request; its body may be a ``wire.Stream``."""

    status: int
    kind: str
    body: Any
    headers: Mapping[str, str] = MappingProxyType({})


#: Seconds of a processor for a long queue, after which a client leaves the server alone.
LONG: Final = Timing().slow_queue
_JSON = "application/json"
_encode = json.JSONEncoder(separators=(",", ":")).encode
_EMPTY = Answer(200, "", b"")
_TROUBLE = Answer(500, "text/plain", b"500 Internal Server Error\n\nServer got itself in trouble")


@attrs.frozen
class Version:
    """What a ComfyUI can do."""

    name: str | None  #: As ``/system_stats`` tells it.
    has_api: bool = True  #: Routes are below ``/api`` too.
    takes_ids: bool = True  #: It keeps the id that a client chose.
    heeds_id: bool = True  #: Its interrupt respects the id.
    says_success: bool = True  #: It sends ``execution_success``.
    tells_cached: bool = True  #: It sends ``executed`` for cached output nodes.
    has_jobs: bool = False  #: It lists and cancels jobs.


VERSIONS: Mapping[str, Version] = {
    "0.28.1": Version("0.28.1", has_jobs=True),
    "0.3.75": Version("0.3.75"),
    "0.3.40": Version("0.3.40", takes_ids=False, heeds_id=False),
    "2024-03": Version(
        None,
        has_api=False,
        takes_ids=False,
        heeds_id=False,
        says_success=False,
        tells_cached=False,
    ),
}


def graph_of(
    seconds: float = 0.5,
    *,
    ticks: int = 1,
    fails: bool = False,
    cached: bool = False,
    refused: bool = False,
    partly: bool = False,
) -> dict[str, Any]:
    """A workflow of one node that works and one that saves.

    Args:
        seconds: How long the first node takes.
        ticks: How often it tells its progress, and looks whether it was interrupted.
        fails: Whether it raises an exception at last.
        cached: Whether both nodes ran before.
        refused: Whether the server refuses it.
        partly: Whether the server leaves a third node out.
    """
    work = {"seconds": seconds, "ticks": ticks, "fails": fails, "cached": cached}
    graph: dict[str, Any] = {
        "1": {"class_type": "Unknown" if refused else "Work", "inputs": work},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "cached": cached}},
    }
    if partly:
        graph["8"] = {"class_type": "Broken", "inputs": {"images": ["1", 0]}}
    return graph


class Peer(Protocol):
    """The server's end of a socket."""

    client_id: str

    def deliver(self, text: str) -> None:
        """Send a message to the client."""

    def garble(self) -> None:
        """Make the next message one that cannot be read."""

    def end(self, code: int | None) -> None:
        """End the socket, with that code of a close frame or without one."""


@attrs.define(eq=False)
class Taken:
    """A prompt that a server took, and what became of it."""

    prompt_id: str
    mark: str | None  #: The id that the client chose.
    client_id: str | None
    number: float
    graph: dict[str, Any]
    extra_data: dict[str, Any]
    at: float
    life: int  #: Of the server.
    is_late: bool = False  #: Its client had given up waiting for an answer.
    began_at: float | None = None
    end: str = ""  #: Its end event, ``deleted`` or ``forgotten``; empty: it waits or runs.
    ended_at: float = 0.0
    outputs: dict[str, Any] = attrs.field(factory=dict)
    messages: list[Any] = attrs.field(factory=list)

    def __lt__(self, other: Taken) -> bool:
        return self.number < other.number

    @property
    def item(self) -> list[Any]:
        """As the queue and the history show it."""
        return [self.number, self.prompt_id, self.graph, self.extra_data, ["9"]]


class Stopped(Exception):
    """The process of the server was killed."""


class _Interrupted(Exception):
    """The prompt that runs was told to stop."""


class Server:
    """One ComfyUI; ``host`` is where clients find it.

    Attributes:
        takes_time: Whether ``handle`` waits, and so may not return in its client's time.
        taken: All prompts that it ever took, also before it was killed.
        life: How often it was started.
        is_down: Whether its process is gone.
        frozen_until: Until when its process stands still.
        banned: Client ids whose sockets it closes.
        says_twice: Whether it sends each end event twice.
        is_busy: Whether its queue is never empty, as other people's prompts wait.
        is_long: Whether its queue is so long that it takes a client long to read.
        is_sick: Whether all that it runs fails.
        peers: The open sockets, older ones first.
    """

    takes_time = False

    def __init__(
        self, kernel: Kernel, host: str = "127.0.0.1:8188", version: str = "0.3.75"
    ) -> None:
        self.kernel = kernel
        self.host = host
        self.version = VERSIONS[version]
        self.taken: list[Taken] = []
        self.counts: Counter[str] = Counter()  #: Of requests, by method and route.
        self.life = 0
        self.is_down = False
        self.frozen_until = 0.0
        self.banned: set[str] = set()
        self.says_twice = False
        self.is_busy = False
        self.is_long = False
        self.is_sick = False
        self.peers: list[Peer] = []
        self._start()

    def _start(self) -> None:
        self.life += 1
        self._pending: list[Taken] = []
        self._running: Taken | None = None
        self._node: str | None = None  # which runs, as a new socket is told
        self._history: dict[str, Taken] = {}
        self._routes: dict[str, Peer] = {}
        self._number = 0
        self._works = False
        self._is_interrupted = False

    # -- the process -----------------------------------------------------------------------

    def kill(self) -> None:
        """End the process: what waits, what runs and the history are forgotten."""
        for one in (*self._pending, *([self._running] if self._running else ())):
            if not one.end:
                self._ends(one, "forgotten")
        self.is_down = True
        self._start()
        peers, self.peers = self.peers, []
        for peer in peers:
            peer.end(None)

    def revive(self) -> None:
        """Start the process again."""
        self.is_down, self.frozen_until = False, 0.0

    def freeze(self, seconds: float) -> None:
        """Have the process stand still for so long."""
        self.frozen_until = max(self.frozen_until, self.kernel.now() + seconds)

    def wait_thawed(self) -> None:
        """Wait while it stands still."""
        while (left := self.frozen_until - self.kernel.now()) > 0:
            self.kernel.sleep(left)

    def has(self, prompt_id: str | None) -> bool:
        """Whether it remembers a prompt, by the client's id or its own."""
        known = (*self._pending, self._running, *self._history.values())
        return any(one and prompt_id in (one.prompt_id, one.mark) for one in known)

    def hears(self, client_id: str) -> bool:
        """Whether events of that client go to a socket."""
        return client_id in self._routes

    # -- sockets ---------------------------------------------------------------------------

    def connect(self, peer: Peer) -> None:
        """Take a new socket."""
        if peer.client_id in self.banned:
            peer.end(1008)
            return
        self.peers.append(peer)
        self._routes[peer.client_id] = peer
        status = {"status": {"exec_info": {"queue_remaining": self.remaining}}}
        peer.deliver(_message("status", {**status, "sid": peer.client_id}))
        running = self._running
        if running is not None and running.client_id == peer.client_id and self._node:
            peer.deliver(_message("executing", {"node": self._node}))

    def disconnect(self, peer: Peer) -> None:
        """Notice that a socket has ended: the route of its client id goes, whosever it is now."""
        if peer in self.peers:
            self.peers.remove(peer)
            self._routes.pop(peer.client_id, None)

    def close(self, code: int) -> None:
        """Close all sockets with that code."""
        for peer in list(self.peers):
            self.disconnect(peer)
            peer.end(code)

    def expel(self) -> None:
        """Close all sockets, and let nobody in by these client ids any more."""
        self.banned |= {peer.client_id for peer in self.peers}
        self.close(1008)

    def deafen(self) -> None:
        """Forget the routes, as when an older socket of the same client id ends."""
        self._routes.clear()

    def _send(self, one: Taken, event: str, **data: Any) -> None:
        peer = self._routes.get(one.client_id or "")
        if peer is not None:
            peer.deliver(_message(event, {**data, "prompt_id": one.prompt_id}))

    def _say_status(self) -> None:
        text = _message("status", {"status": {"exec_info": {"queue_remaining": self.remaining}}})
        for peer in list(self._routes.values()):
            peer.deliver(text)

    @property
    def remaining(self) -> int:
        """How many prompts wait or run."""
        return len(self._pending) + (self._running is not None) + self.is_busy

    # -- the executor ----------------------------------------------------------------------

    def _work(self) -> None:
        """Run what waits, one after the other; a simulated thread."""
        life = self.life
        try:
            while self._pending:
                one = self._running = heapq.heappop(self._pending)
                self._say_status()
                self._pass(self._gap(), life)
                self._execute(one, life)
                self._pass(self._gap(), life)
                self._running, self._node = None, None
                self._history[one.prompt_id] = one
                self._say_status()
                self._pass(self._gap(), life)
                self._send(one, "executing", node=None)
            self._works = False
        except Stopped:
            return

    def _gap(self) -> float:
        """A moment between two steps, seldom a long one."""
        random = self.kernel.random.random()
        return 0.3 if random > 0.97 else 0.002 * random

    def _pass(self, seconds: float, life: int) -> None:
        """Let time pass; raises :class:`Stopped` if the process was killed meanwhile."""
        self.kernel.sleep(seconds)
        self.wait_thawed()
        if self.life != life:
            raise Stopped

    def _execute(self, one: Taken, life: int) -> None:
        self._is_interrupted = False  # what came before is forgotten
        one.began_at = self.kernel.now()
        self._report(one, "execution_start")
        work = one.graph["1"]["inputs"]
        cached = ["1", "9"] if work["cached"] else []
        self._report(one, "execution_cached", nodes=cached)
        picture = {"filename": f"{one.prompt_id}.png", "subfolder": "", "type": "output"}
        output = {"images": [picture]}
        try:
            if not cached:
                self._begin(one, "1")
                for tick in range(work["ticks"]):
                    self._pass(work["seconds"] / work["ticks"], life)
                    self._check_interrupted()
                    self._send(one, "progress", node="1", value=tick + 1, max=work["ticks"])
                if work["fails"] or self.is_sick:
                    what = {"exception_type": "ValueError", "exception_message": "no\n"}
                    self._fail(one, "execution_error", what)
                    return
                self._check_interrupted()
                self._begin(one, "9")
                self._pass(self._gap(), life)
        except _Interrupted:
            self._fail(one, "execution_interrupted", {})
            return
        one.outputs["9"] = output
        if not cached or self.version.tells_cached:
            self._send(one, "executed", node="9", display_node="9", output=output)
        self._ends(one, "execution_success")
        if self.version.says_success:
            self._report(one, "execution_success")

    def _begin(self, one: Taken, node: str) -> None:
        self._node = node
        self._send(one, "executing", node=node, display_node=node)

    def _check_interrupted(self) -> None:
        if self._is_interrupted:
            self._is_interrupted = False
            raise _Interrupted

    def _fail(self, one: Taken, event: str, what: Mapping[str, Any]) -> None:
        self._ends(one, event)
        said = {"node_id": "1", "node_type": "Work", "executed": []}
        self._report(one, event, **said, **what)

    def _report(self, one: Taken, event: str, **data: Any) -> None:
        """Add an event to the record, and send it."""
        data["timestamp"] = int((1.7e9 + self.kernel.now()) * 1000)
        one.messages.append([event, {**data, "prompt_id": one.prompt_id}])
        for _ in range(2 if self.says_twice and event == one.end else 1):
            self._send(one, event, **data)

    def _ends(self, one: Taken, end: str) -> None:
        one.end, one.ended_at = end, self.kernel.now()

    # -- HTTP ------------------------------------------------------------------------------

    def handle(
        self, method: str, path: str, query: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        """Answer a request at once."""
        route = path
        if path.startswith("/api/") and self.version.has_api:
            route = path[4:]
        name, _, rest = route[1:].partition("/")
        self.counts[f"{method} /{name}"] += 1
        if self.is_long and method == "GET" and name in ("queue", "jobs") and not rest:
            self.kernel.worked += LONG
        route_of: Callable[..., Answer] | None = _ROUTES.get((method, name))
        if route_of is None or (name == "jobs" and not (self.version.has_jobs and route != path)):
            found = 404 if method in ("GET", "HEAD") else 405
            return Answer(found, "application/octet-stream", b"")
        try:
            said = json.loads(body) if body else None
        except ValueError:
            return _TROUBLE
        return route_of(self, unquote(rest), query, said)

    def _get_prompt(self, rest: str, query: str, said: Any) -> Answer:
        return as_json({"exec_info": {"queue_remaining": self.remaining}})

    def _post_prompt(self, rest: str, query: str, said: Any) -> Answer:
        graph, extra = said["prompt"], dict(said.get("extra_data", {}))
        if any(node["class_type"] == "Unknown" for node in graph.values()):
            why = "Cannot execute because node Unknown does not exist."
            error = {"type": "invalid_prompt", "message": why, "details": "Node ID '#1'"}
            return as_json({"error": {**error, "extra_info": {}}, "node_errors": {}}, 400)
        broken = [node for node, what in graph.items() if what["class_type"] == "Broken"]
        errors = {
            node: {
                "errors": [{"type": "required_input_missing", "message": "", "details": "x"}],
                "dependent_outputs": [node],
                "class_type": "Broken",
            }
            for node in broken
        }
        if "client_id" in said:
            extra["client_id"] = said["client_id"]
        self._number += 1
        number = said.get("number", -self._number if said.get("front") else self._number)
        mark = extra.get(EXTRA_DATA_KEY)
        prompt_id = said.get("prompt_id") if self.version.takes_ids else None
        prompt_id = prompt_id or str(UUID(int=self.kernel.random.getrandbits(128), version=4))
        one = Taken(
            prompt_id,
            mark,
            said.get("client_id"),
            number,
            graph,
            extra,
            self.kernel.now(),
            self.life,
        )
        self.taken.append(one)
        heapq.heappush(self._pending, one)
        self._say_status()
        if not self._works:
            self._works = True
            self.kernel.spawn(self._work, f"executor of {self.host}")
        return as_json({"prompt_id": prompt_id, "number": number, "node_errors": errors})

    def _get_queue(self, rest: str, query: str, said: Any) -> Answer:
        running = [self._running.item] if self._running else []
        pending = [one.item for one in self._pending]
        if self.is_busy:
            pending.append([1e6, "a stranger's", {}, {}, []])
        return as_json({"queue_running": running, "queue_pending": pending})

    def _post_queue(self, rest: str, query: str, said: Any) -> Answer:
        if said.get("clear"):
            for one in list(self._pending):
                self._delete(one.prompt_id)
        for prompt_id in said.get("delete", ()):
            self._delete(prompt_id)
        return _EMPTY

    def _delete(self, prompt_id: str) -> bool:
        """Drop what waits under an id; whether there was one."""
        one = next((one for one in self._pending if one.prompt_id == prompt_id), None)
        if one is None:
            return False
        self._pending.remove(one)
        heapq.heapify(self._pending)
        self._ends(one, "deleted")
        self._say_status()
        return True

    def _interrupt(self, rest: str, query: str, said: Any) -> Answer:
        prompt_id = (said or {}).get("prompt_id") if self.version.heeds_id else None
        if prompt_id is None or (self._running and self._running.prompt_id == prompt_id):
            self._is_interrupted = True
        return _EMPTY

    def _get_history(self, rest: str, query: str, said: Any) -> Answer:
        if rest:
            found = self._history.get(rest)
            return as_json({rest: self._record(found)} if found else {})
        most = int(parse_qs(query).get("max_items", ["1000"])[0])
        newest = [*self._history.values()][-most:]
        return as_json({one.prompt_id: self._record(one) for one in newest})

    def _post_history(self, rest: str, query: str, said: Any) -> Answer:
        for prompt_id in [*self._history] if said.get("clear") else said.get("delete", ()):
            self._history.pop(prompt_id, None)
        return _EMPTY

    def _record(self, one: Taken) -> dict[str, Any]:
        is_success = one.end == "execution_success"
        status = {
            "status_str": "success" if is_success else "error",
            "completed": is_success,
            "messages": one.messages,
        }
        return {"prompt": one.item, "outputs": one.outputs, "status": status, "meta": {}}

    def _get_jobs(self, rest: str, query: str, said: Any) -> Answer:
        wanted = parse_qs(query).get("status", [",".join(_STATUSES)])[0].split(",")
        jobs = [self._job(one) for one in (*self._pending, *self._history.values())]
        if self._running:
            jobs.append({**self._job(self._running), "status": "in_progress"})
        if self.is_busy:
            jobs.append({"id": "a stranger's", "status": "pending", "priority": 1e6})
        if rest:
            found = [job for job in jobs if job["id"] == rest]
            return as_json(found[0]) if found else as_json({"error": "Job not found"}, 404)
        shown = [job for job in jobs if job["status"] in wanted]
        page = {"offset": 0, "limit": None, "total": len(shown), "has_more": False}
        return as_json({"jobs": shown, "pagination": page})

    def _job(self, one: Taken) -> dict[str, Any]:
        status = _STATUSES.get(one.end, "pending")
        return {"id": one.prompt_id, "status": status, "priority": one.number, "create_time": 0}

    def _post_jobs(self, rest: str, query: str, said: Any) -> Answer:
        prompt_id = rest.removesuffix("/cancel")
        running = self._running is not None and self._running.prompt_id == prompt_id
        self._is_interrupted = self._is_interrupted or running
        return as_json({"cancelled": self._delete(prompt_id) or running})

    def _get_system_stats(self, rest: str, query: str, said: Any) -> Answer:
        version = {"comfyui_version": self.version.name} if self.version.name else {}
        return as_json({"system": {"os": "posix", "ram_free": 1, **version}, "devices": []})

    def _get_object_info(self, rest: str, query: str, said: Any) -> Answer:
        info = {"input": {"required": {}}, "output": [], "name": "", "output_node": True}
        known = dict.fromkeys(("Work", "SaveImage", "Broken"), info)
        return as_json({rest: info} if rest in known else {} if rest else known)

    def _empty(self, rest: str, query: str, said: Any) -> Answer:
        return as_json({})


#: What the jobs API calls an end.
_STATUSES = {
    "": "pending",
    "running": "in_progress",
    "execution_success": "completed",
    "execution_error": "failed",
    "execution_interrupted": "cancelled",
}

_ROUTES: Mapping[tuple[str, str], Callable[..., Answer]] = {
    ("GET", "prompt"): Server._get_prompt,
    ("POST", "prompt"): Server._post_prompt,
    ("GET", "queue"): Server._get_queue,
    ("POST", "queue"): Server._post_queue,
    ("POST", "interrupt"): Server._interrupt,
    ("GET", "history"): Server._get_history,
    ("POST", "history"): Server._post_history,
    ("GET", "jobs"): Server._get_jobs,
    ("POST", "jobs"): Server._post_jobs,
    ("GET", "system_stats"): Server._get_system_stats,
    ("GET", "object_info"): Server._get_object_info,
    ("GET", "features"): Server._empty,
    ("POST", "free"): Server._empty,
}


def as_json(found: Any, status: int = 200, **headers: str) -> Answer:
    """Return an answer in JSON; underscores in the names of headers stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, _JSON, _encode(found).encode(), named)


def _message(event: str, data: Mapping[str, Any]) -> str:
    return _encode({"type": event, "data": data})

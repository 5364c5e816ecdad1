"""A small model of ComfyUI: its queue, its worker, its history, its sockets; and its faults.

It does what the real one does in the order in which that does it, one step at a time: see
``execution.py``, ``main.py`` and ``server.py`` of ComfyUI.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any, Literal, get_args

import attrs

from comfy_client.errors import (
    RequestTimeout,
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
)
from comfy_client.routes.prompts import EXTRA_DATA_KEY
from comfy_client.transport.http import Http
from comfy_client.transport.response import Asker, Response, refusal
from comfy_client.transport.url import parse_host
from tests.helpers.scripted import GRAPH, OUTPUT

from .one_thread import Stage

#: What becomes of a prompt that nobody stops: it leaves a picture, it fails in its second node,
#: or an earlier prompt was the same.
Fate = Literal["ok", "fails", "cached"]
End = Literal["success", "error", "interrupted", "deleted", "forgotten"]

#: What a request meets.  Without an answer it may have been heard, or not.
Fault = Literal["401", "403", "500", "502", "page", "refused", "unheard", "unanswered", "timeout"]
FAULTS: tuple[Fault, ...] = get_args(Fault)


#: Seconds that a submission may be late.
LATE = 2.0

_ASKER = Asker(base="", user=None, has_credentials=False, left_behind=False, is_foreign=False)


@attrs.frozen
class Version:
    """What a server can do; as :class:`comfy_client.testing.active_faults` has it, in short."""

    takes_ids: bool = True  # ours, not only its own
    tells_success: bool = True
    tells_cached: bool = True  # ``executed`` for cached outputs
    heeds_id: bool = True  # of an interrupt
    lists_jobs: bool = True
    cancels_jobs: bool = True


VERSIONS: dict[str, Version] = {
    "2024-03": Version(False, False, False, False, False, False),
    "0.2": Version(False, True, True, False, False, False),
    "0.3.75": Version(lists_jobs=False, cancels_jobs=False),
    "0.28.1": Version(),
}


@attrs.define(eq=False)
class Run:
    """A prompt that the server has taken."""

    id: str
    mark: str | None  # our id for it
    client_id: str
    fate: Fate
    number: int
    end: End | None = None
    is_forgotten: bool = False  # no record of it is left, or ever will be
    was_cancelled: bool = False  # by us
    told: list[str] = attrs.field(factory=list)  # names of its events

    def record(self) -> list[Any]:
        extra = {"client_id": self.client_id}
        if self.mark is not None:
            extra[EXTRA_DATA_KEY] = self.mark
        return [self.number, self.id, GRAPH, extra, ["9"]]


class Socket:
    """One connection; what was sent on it and not heard yet."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.inbox: deque[dict[str, Any]] = deque()


@attrs.define(eq=False)
class LittleServer:
    """A ComfyUI that goes on by :meth:`step`."""

    version: Version = attrs.field(factory=Version)
    pending: list[Run] = attrs.field(factory=list)
    running: Run | None = None
    history: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    runs: list[Run] = attrs.field(factory=list)  # all that there ever were
    sockets: dict[str, Socket] = attrs.field(factory=dict)
    half_dead: list[str] = attrs.field(factory=list)  # ids of sockets whose end it has not noticed
    faults: deque[Fault] = attrs.field(factory=deque)  # of the next requests
    refused: int = 0  # requests so far
    posts: list[str] = attrs.field(factory=list)  # marks of the submissions it has heard
    fate: Fate = "ok"  # of the next submission
    post_fault: str | None = None  # of the next submission
    on_its_way: dict[str, Any] | None = None  # a submission that is late ...
    comes_at: float = 0.0  # ... but not later than this
    said_last: tuple[Run, str, dict[str, Any]] | None = None
    _interrupt: bool = False
    _execution: Iterator[None] | None = None

    # -- its worker --------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        return bool(self.pending or self._execution)

    @property
    def remaining(self) -> int:
        return len(self.pending) + (self.running is not None)

    def step(self) -> None:
        """Do the next thing, if there is one to do."""
        if self._execution is None and self.pending:
            self.running = self.pending.pop(0)
            self._tell_status()
            self._execution = self._execute(self.running)
        elif self._execution is not None and next(self._execution, self) is self:
            self._execution = None

    def _execute(self, run: Run) -> Generator[None]:
        self._interrupt = False
        self.say(run, "execution_start")
        yield
        messages: list[Any] = []
        end: End | None = None
        cached = list(GRAPH) if run.fate == "cached" else []
        messages.append(["execution_cached", {"nodes": cached}])
        self.say(run, "execution_cached", nodes=cached)
        yield
        if cached:
            if self.version.tells_cached:
                self.say(run, "executed", node="9", display_node="9", output=OUTPUT)
                yield
        else:
            for node in GRAPH:
                if self._interrupt:
                    self._interrupt, end = False, "interrupted"
                    break
                self.say(run, "executing", node=node, display_node=node)
                yield
                if run.fate == "fails" and node == "9":
                    end = "error"
                    break
                if node == "9":
                    self.say(run, "executed", node=node, display_node=node, output=OUTPUT)
                    yield
        run.end = end or "success"
        if end is not None or self.version.tells_success:
            facts = {"node_id": "9", "exception_type": "ValueError", "exception_message": "no"}
            facts = facts if end else {}
            messages.append([f"execution_{run.end}", facts])
            self.say(run, f"execution_{run.end}", **facts)
            yield
        self.running = None
        self.history[run.id] = {
            "prompt": run.record(),
            "outputs": {} if end else {"9": OUTPUT},
            "status": {
                "status_str": "error" if end else "success",
                "completed": not end,
                "messages": messages,
            },
        }
        self._tell_status()
        yield
        self.say(run, "executing", node=None)

    # -- its sockets -------------------------------------------------------------------------

    def say(self, run: Run, kind: str, **data: Any) -> None:
        """Tell it to the client of a prompt, if it is there."""
        run.told.append(kind)
        self.said_last = run, kind, data
        socket = self.sockets.get(run.client_id)
        if socket is not None:
            socket.inbox.append({"type": kind, "data": {**data, "prompt_id": run.id}})

    def _tell_status(self) -> None:
        for socket in self.sockets.values():
            socket.inbox.append(self._status())

    def _status(self, **more: str) -> dict[str, Any]:
        status = {"exec_info": {"queue_remaining": self.remaining}}
        return {"type": "status", "data": {"status": status, **more}}

    def connect(self, client_id: str) -> Socket:
        """A new socket, which takes the place of an older one of that id."""
        socket = self.sockets[client_id] = Socket(client_id)
        socket.inbox.append(self._status(sid=client_id))
        if self.running is not None and self.running.client_id == client_id:
            nodes = [node for node in GRAPH if "executing" in self.running.told][:1]
            if nodes:
                socket.inbox.append({"type": "executing", "data": {"node": nodes[0]}})
        return socket

    def disconnect(self, client_id: str, *, notices: bool) -> None:
        """A socket of a client has ended; until it is noticed, what is sent to it is lost."""
        if notices:
            self.sockets.pop(client_id, None)
        else:
            self.half_dead.append(client_id)

    def notice(self) -> None:
        """Notice the end of old sockets, which ends the route of newer ones by their ids, too."""
        for client_id in self.half_dead:
            self.sockets.pop(client_id, None)
        self.half_dead.clear()

    # -- what happens to it ------------------------------------------------------------------

    def restart(self) -> None:
        """It dies, and comes back with nothing."""
        for run in self.runs:
            run.is_forgotten = True
            run.end = run.end or "forgotten"
        self.pending, self.running, self._execution = [], None, None
        self.history.clear()
        self.sockets.clear()
        self.half_dead.clear()

    def arrive(self) -> None:
        """What is late comes."""
        late, self.on_its_way = self.on_its_way, None
        if late is not None:
            self.answer("POST", "/prompt", late)

    def take(self, client_id: str, mark: str | None, fate: Fate) -> Run:
        """Put a prompt into the queue."""
        number = len(self.runs)
        own = f"5e54e500-0000-4000-8000-{number:012}"
        prompt_id = mark if self.version.takes_ids and mark is not None else own
        run = Run(prompt_id, mark, client_id, fate, number)
        self.runs.append(run)
        self.pending.append(run)
        self._tell_status()
        return run

    def delete(self, prompt_id: str) -> bool:
        """Take a prompt that waits out of the queue."""
        run = next((one for one in self.pending if one.id == prompt_id), None)
        if run is None:
            return False
        self.pending.remove(run)
        run.end, run.is_forgotten = "deleted", True
        self._tell_status()
        return True

    # -- its routes --------------------------------------------------------------------------

    def answer(self, method: str, route: str, body: Any) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        match method, route.strip("/").split("/"):
            case "GET", ["prompt"]:
                return 200, {"exec_info": {"queue_remaining": self.remaining}}
            case "POST", ["prompt"]:
                mark = body["extra_data"][EXTRA_DATA_KEY]
                self.posts.append(mark)
                run = self.take(body["client_id"], mark, self.fate)
                return 200, {"prompt_id": run.id, "number": run.number, "node_errors": {}}
            case "GET", ["queue"]:
                running = [] if self.running is None else [self.running.record()]
                waiting = [run.record() for run in self.pending]
                return 200, {"queue_running": running, "queue_pending": waiting}
            case "POST", ["queue"]:
                for prompt_id in body["delete"]:
                    self.delete(prompt_id)
                return 200, None
            case "POST", ["interrupt"]:
                is_meant = self.running is not None and self.running.id == body["prompt_id"]
                self._interrupt = self._interrupt or is_meant or not self.version.heeds_id
                return 200, None
            case "GET", ["history"]:
                return 200, self.history
            case "GET", ["history", prompt_id]:
                found = self.history.get(prompt_id)
                return 200, {} if found is None else {prompt_id: found}
            case "GET", ["system_stats"]:
                version = "0.3.75" if self.version.heeds_id else None
                return 200, {"system": {"comfyui_version": version}, "devices": []}
            case "GET", ["api", "jobs"] if self.version.lists_jobs:
                runs = [] if self.running is None else [(self.running, "in_progress")]
                runs += [(run, "pending") for run in self.pending]
                jobs = [
                    {"id": run.id, "status": status, "priority": run.number} for run, status in runs
                ]
                pages = {"offset": 0, "limit": None, "total": len(jobs), "has_more": False}
                return 200, {"jobs": jobs, "pagination": pages}
            case "POST", ["api", "jobs", prompt_id, "cancel"] if self.version.cancels_jobs:
                runs_now = self.running is not None and self.running.id == prompt_id
                self._interrupt = self._interrupt or runs_now
                return 200, {"cancelled": runs_now or self.delete(prompt_id)}
        return (404 if method == "GET" else 405), None


class LittleHttp(Http):
    """The requests of one client to such a server.

    ``late`` is called when an answer is on its way.
    """

    def __init__(self, server: LittleServer, stage: Stage) -> None:
        super().__init__(parse_host("http://127.0.0.1:9")[0])
        self._server = server
        self._stage = stage

    def request(self, method: str, route: str, **asked: Any) -> Response:
        """Ask the server, between two points."""
        stage, server = self._stage, self._server
        stage.check_free(f"{method} {route}")
        stage.point()
        stage.now += 0.001
        if stage.now > server.comes_at:
            server.arrive()
        nothing = Response(method, route, 200, {}, b"", self.url(route))
        fault: Any = server.faults.popleft() if server.faults else None
        if (method, route) == ("POST", "/prompt"):
            fault, server.post_fault = server.post_fault, None
        if fault is not None:
            if fault in ("unanswered", "timeout", "ctrl-c"):
                server.answer(method, route, asked.get("json"))
            elif fault in ("late", "ctrl-c late"):
                server.on_its_way, server.comes_at = asked["json"], stage.now + LATE
            stage.now += 5.0 if fault == "timeout" else 0.0
            stage.point()
            server.refused += fault in ("401", "403", "500", "page")
            raise _trouble(fault, nothing)
        status, answer = server.answer(method, route, asked.get("json"))
        stage.point()
        if status >= 300:
            raise refusal(attrs.evolve(nothing, status=status), None, _ASKER)
        content = b"" if answer is None else json.dumps(answer).encode()
        return attrs.evolve(nothing, content=content)


def _trouble(fault: str, answer: Response) -> BaseException:
    match fault:
        case "ctrl-c" | "ctrl-c unheard" | "ctrl-c late":
            return KeyboardInterrupt()
        case "refused":
            return ServerUnreachable("connection refused")
        case "unheard" | "unanswered" | "late":
            return TransportError("the connection was cut")
        case "timeout":
            return RequestTimeout("no answer in time")
        case "page":
            return UnexpectedResponse("a page", method=answer.method, path=answer.path, status=200)
    return refusal(attrs.evolve(answer, status=int(fault)), None, _ASKER)

"""A small model of Comfy API v2: the proxy in front of a ComfyUI, a deployment, and the cloud.

:class:`ApiProxy` does what comfy-api-proxy 0.1.6 does, in its order, with its traps; each question
to ComfyUI takes time, and may fail on its own.  :class:`Service` stands for what Comfy runs: its
records are true, but new ones appear late, and labels, list and events depend on the kind.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl
from uuid import UUID

import attrs
import requests

from comfy_client import runtime
from tests.model.server import Answer, Server, Stopped, Taken, as_json
from tests.model.wire import Cord, Network, Stream, Way

_TERMINAL: Final = ("succeeded", "failed", "canceled", "expired")
_ENDS: Final = {
    "execution_success": "succeeded",
    "execution_error": "failed",
    "execution_interrupted": "canceled",
}
_NOTHING: Final = {"value": 0.0, "nodes_done": 0, "nodes_total": 0}
#: Seconds between two pieces of progress, of keepalives, and until a stream without socket ends.
_THROTTLE, _KEEPALIVE, _LAST = 0.5, 15.0, 600.0


class _Unreachable(Exception):
    """ComfyUI gave the proxy no answer."""


def _error(status: int, code: str, details: Any = None, **headers: str) -> Answer:
    error = {"code": code, "message": f"{code}, says the model.", "details": details}
    return as_json({"error": error}, status, **headers)


def _frame(event: str, data: Mapping[str, Any]) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


@attrs.define
class Memory:
    """What a process of the proxy remembers.

    Attributes:
        keys: The idempotency keys that are used.
        jobs: What it recorded of each submission that it saw accepted, by id.
    """

    keys: set[str] = attrs.field(factory=set)
    jobs: dict[str, dict[str, Any]] = attrs.field(factory=dict)


class ApiProxy:
    """comfy-api-proxy in front of a ComfyUI.

    Attributes:
        comfy: The ComfyUI behind it.
        has_state: Whether it still knows keys and jobs after a restart (``--state-dir``).
        memory: What it knows.
        life: How often it was started.
        asked: Each request that it took, with its life: method and route, then key or query.
        keys: The keys that it heard, each with the tag of its workflow.
        peers: The open streams, older ones first.
    """

    takes_time = True
    dialect = "string"  #: Of labels.
    lists = True  #: Whether it lists jobs.
    most_streams: ClassVar[int] = 8

    def __init__(
        self,
        network: Network,
        comfy: Server,
        *,
        has_state: bool = False,
        host: str = "127.0.0.1:8189",
    ) -> None:
        self.network = network
        self.kernel = network.kernel
        self.comfy = comfy
        self.has_state = has_state
        self.host = host
        self.memory = Memory()
        self.life = 1
        self.is_down = False
        self.frozen_until = 0.0
        self.asked: list[tuple[int, str, str]] = []
        self.keys: list[tuple[str, Any]] = []
        self.peers: list[Stream] = []

    @property
    def taken(self) -> list[Taken]:
        """What ComfyUI took."""
        return self.comfy.taken

    # -- the process -----------------------------------------------------------------------

    def kill(self) -> None:
        """End the process; without state, all that it knows is forgotten."""
        self.is_down, self.life = True, self.life + 1
        if not self.has_state:
            self.memory = Memory()
        peers, self.peers = self.peers, []
        for peer in peers:
            peer.end()

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

    def check_alive(self, life: int) -> None:
        """Wait while it stands still; raises :class:`Stopped` if the process was killed."""
        self.wait_thawed()
        if self.life != life:
            raise Stopped

    # -- ComfyUI ---------------------------------------------------------------------------

    def ask(self, life: int, method: str, path: str, said: Any = None) -> Answer:
        """Ask ComfyUI, without any limit of time."""
        self.check_alive(life)
        body, headers = json.dumps(said).encode() if said is not None else b"", {}
        network, comfy = self.network, self.comfy
        trouble = network.trouble(comfy.host, f"{method} {path}")
        way = Way(network, comfy, Cord(self.kernel), (10.0, math.inf), trouble)
        try:
            network.travel()
            answer, length = way.answer(lambda: comfy.handle(method, path, "", body, headers))
            network.travel()
        except requests.RequestException as exc:
            raise _Unreachable from exc
        finally:
            self.check_alive(life)
        if length is not None and method == "GET":
            raise _Unreachable  # half an answer
        return answer

    def state_of(self, life: int, job_id: str) -> dict[str, Any]:
        """Look for a job in the history, then in the queue; what moves in between is in neither."""
        found = json.loads(self.ask(life, "GET", f"/history/{job_id}").body).get(job_id)
        if found is not None:
            return self._ended(job_id, found)
        queue = json.loads(self.ask(life, "GET", "/queue").body)
        if job_id in [item[1] for item in queue["queue_running"]]:
            return {"status": "running", "progress": _NOTHING}
        waiting = [item[1] for item in queue["queue_pending"]]
        if job_id in waiting:
            return {"status": "queued", "queue_position": waiting.index(job_id) + 1}
        return {"status": "unknown"}

    def _ended(self, job_id: str, found: Mapping[str, Any]) -> dict[str, Any]:
        names = [event for event, _ in found["status"]["messages"]]
        outputs = self.outputs_of(job_id, found["outputs"])
        if "execution_interrupted" in names:
            return {"status": "canceled", "outputs": outputs}
        if found["status"]["status_str"] == "success":
            return {"status": "succeeded", "outputs": outputs}
        return {"status": "failed", "outputs": outputs, "error": failure()}

    def outputs_of(self, job_id: str, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the outputs of a job as the API shows them."""
        return [
            {
                "node_id": node,
                "name": one["filename"],
                "type": "image",
                "content_type": "image/png",
                "size_bytes": 0,
                "id": f"token-of-{one['filename']}",
                "hash": None,
                "url": f"http://{self.host}/api/v2/assets/token-of-{one['filename']}/content",
                "url_expires_at": _time(self.kernel.now() + 86400),
                "job_id": job_id,
            }
            for node, output in outputs.items()
            for one in output["images"]
        ]

    def job(self, job_id: str, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return a job as the API shows it."""
        known = self.memory.jobs.get(job_id, {})
        base = f"http://{self.host}/api/v2/jobs/{job_id}"
        created = known.get("created_at", self.kernel.now())
        status = state["status"]
        return {
            "id": job_id,
            "status": "expired" if status == "unknown" else status,
            "created_at": _time(created),
            "started_at": None,
            "completed_at": None,
            "expires_at": _time(created + 86400),
            "queue_position": state.get("queue_position"),
            "progress": state.get("progress"),
            "outputs": state.get("outputs", []),
            "error": state.get("error"),
            "outputs_reused": False,
            "urls": {"self": base, "events": f"{base}/events", "cancel": f"{base}/cancel"},
            **({"metadata": known["metadata"]} if known.get("metadata") is not None else {}),
        }

    # -- requests --------------------------------------------------------------------------

    def handle(
        self, method: str, path: str, query: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        """Answer a request, in its time."""
        given = {name.lower(): _text(value) for name, value in headers.items()}
        route = next(
            (
                (kind, take, found)
                for kind, pattern, take in _ROUTES
                if kind == method and (found := re.fullmatch(pattern, path))
            ),
            None,
        )
        name = re.sub(r"/[0-9a-f-]{36}", "/ID", path)
        self.asked.append((self.life, f"{method} {name}", given.get("idempotency-key", query)))
        if route is None:
            return Answer(404, "text/plain", b"404: Not Found")
        _, take, found = route
        job_id = (found.groupdict().get("id") or "").lower()
        try:
            said = json.loads(body) if body and take is ApiProxy.submit else None
            return take(self, _Visit(self.life, job_id, query, said, given))
        except Stopped:
            return Answer(500, "", b"")  # nobody hears it
        except _Unreachable:
            return _error(503, "upstream_unreachable")

    def submit(self, visit: _Visit) -> Answer:
        """``POST /jobs``."""
        workflow, label = visit.said["workflow"], visit.said.get("metadata")
        if set(visit.said.get("extra_data") or {}) - {"api_key_comfy_org"}:
            return _error(400, "invalid_request")
        if (refusal := self.label_refusal(label)) is not None:
            return refusal
        key = visit.headers.get("idempotency-key")
        self.keys.append((key or "", workflow["1"]["inputs"].get("tag")))
        if key in self.memory.keys:
            return _error(422, "idempotency_key_reuse")
        if key:
            self.memory.keys.add(key)
        job_id = str(UUID(int=self.kernel.random.getrandbits(128), version=4))
        prompt = {"prompt": workflow, "prompt_id": job_id, "client_id": job_id}
        answer = self.ask(visit.life, "POST", "/prompt", prompt)
        if answer.status != 200:
            self.memory.keys.discard(key or "")
            errors = {"node_errors": json.loads(answer.body).get("node_errors") or {}}
            return _error(422, "invalid_workflow", errors)
        self.memory.jobs[job_id] = {
            "created_at": self.kernel.now(),
            "workflow": workflow,
            "metadata": self.kept(label),
        }
        return as_json(self.job(job_id, {"status": "queued"}), 201)

    def label_refusal(self, label: Any) -> Answer | None:
        """Refuse a label in another dialect."""
        return _error(422, "invalid_request") if isinstance(label, dict) else None

    def kept(self, label: Any) -> Any:
        """Return what is kept of a label."""
        return label

    def check_known(self, visit: _Visit) -> dict[str, Any] | None:
        """Return the state of a job, or ``None`` if nobody knows it."""
        state = self.state_of(visit.life, visit.job_id)
        is_known = state["status"] != "unknown" or visit.job_id in self.memory.jobs
        return state if is_known else None

    def get_job(self, visit: _Visit) -> Answer:
        """``GET /jobs/{id}``."""
        state = self.check_known(visit)
        return _error(404, "not_found") if state is None else as_json(self.job(visit.job_id, state))

    def get_workflow(self, visit: _Visit) -> Answer:
        """``GET /jobs/{id}/workflow``."""
        known = self.memory.jobs.get(visit.job_id)
        if known is None:
            return _error(404, "not_found")
        return as_json({"workflow": known["workflow"], "format": "api"})

    def list_jobs(self, visit: _Visit) -> Answer:
        """``GET /jobs``."""
        asked = dict(parse_qsl(visit.query))
        limit = int(asked.get("limit", "50"))
        if not 1 <= limit <= 100:
            return _error(400, "invalid_request")
        wanted = set(filter(None, asked.get("status", "").split(",")))
        shown: list[dict[str, Any]] = []
        for job_id in reversed([*self.memory.jobs]):
            if len(shown) >= limit:
                break
            job = self.job(job_id, self.state_of(visit.life, job_id))
            if not wanted or job["status"] in wanted:
                shown.append(job)
        return as_json({"jobs": shown, "truncated": False})

    def cancel(self, visit: _Visit) -> Answer:
        """``POST /jobs/{id}/cancel``; what ComfyUI answers is thrown away."""
        if visit.job_id not in self.memory.jobs and self.check_known(visit) is None:
            return _error(404, "not_found")
        self.ask(visit.life, "POST", f"/api/jobs/{visit.job_id}/cancel")
        state = self.state_of(visit.life, visit.job_id)
        if state["status"] == "running":
            state["status"] = "canceling"
        return as_json(self.job(visit.job_id, state))

    def health(self, visit: _Visit) -> Answer:
        """``GET /health``."""
        return as_json({"status": "healthy"})

    def events(self, visit: _Visit) -> Answer:
        """``GET /jobs/{id}/events``."""
        if self.check_known(visit) is None:
            return _error(404, "not_found")
        if len(self.peers) >= self.most_streams:
            return _error(429, "too_many_streams", Retry_After="5")
        stream = Stream(self.network, visit.job_id)
        self.peers.append(stream)
        bridge = _Bridge(self, visit, stream)
        self.kernel.spawn(bridge.run, f"a stream of {self.host}")
        return Answer(200, "text/event-stream", stream, {"Cache-Control": "no-cache"})

    def frames_of(self, bridge: _Bridge) -> Iterator[bytes]:
        """Yield the events of a job."""
        return bridge.frames()


@attrs.frozen
class _Visit:
    """A request, as its handler sees it."""

    life: int
    job_id: str
    query: str
    said: Any
    headers: Mapping[str, str]


@attrs.define(eq=False)
class _Bridge:
    """A stream of a job; the socket of ComfyUI has the job's id, so a second one starves it."""

    proxy: ApiProxy
    visit: _Visit
    stream: Stream
    client_id: str = ""
    _texts: deque[str | None] = attrs.field(factory=deque)
    _came: Any = attrs.field(factory=lambda: runtime.Condition())
    _seen: set[str] = attrs.field(factory=set)
    _told_at: float = -math.inf

    def run(self) -> None:
        """Send all there is; a simulated thread."""
        proxy, is_whole = self.proxy, False
        try:
            for piece in proxy.frames_of(self):
                proxy.check_alive(self.visit.life)
                self.stream.put(piece)
            is_whole = True
        except _Unreachable:
            is_whole = True
        except (Stopped, ConnectionError):
            pass
        finally:
            if self.stream in proxy.peers:
                proxy.peers.remove(self.stream)
            self.stream.end(well=is_whole)

    def look(self) -> dict[str, Any]:
        """Return the job as it is now."""
        proxy = self.proxy
        return proxy.job(self.visit.job_id, proxy.state_of(self.visit.life, self.visit.job_id))

    def status(self, job: Mapping[str, Any]) -> bytes:
        position = job["queue_position"]
        more = {} if position is None else {"queue_position": position}
        return _frame("status", {"status": job["status"], **more})

    def outputs(self, job: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield the outputs that were not sent yet."""
        for output in job["outputs"]:
            if output["id"] not in self._seen:
                self._seen.add(output["id"])
                yield _frame("output", output)

    def frames(self) -> Iterator[bytes]:
        """Yield what the proxy sends: first the state, then what ComfyUI's socket brings."""
        job = self.look()
        yield self.status(job)
        if job["status"] in _TERMINAL:
            yield from self.outputs(job)
            return
        if job["progress"]:
            yield _frame("progress", job["progress"])
        comfy, self.client_id = self.proxy.comfy, self.visit.job_id
        if not comfy.is_down:
            comfy.connect(self)
            try:
                if (yield from self._pump()):
                    return
            finally:
                comfy.disconnect(self)
        yield from self._poll()

    def _pump(self) -> Iterator[bytes]:
        """Yield what the socket brings; return whether the end came."""
        while True:
            with self._came:
                self._came.wait_for(lambda: self._texts, _KEEPALIVE)
                text = self._texts.popleft() if self._texts else ""
            if text is None:
                return False
            if not text:
                yield b": keepalive\n\n"
                job = self.look()
                if job["status"] in _TERMINAL:
                    yield self.status(job)
                    yield from self.outputs(job)
                    return True
                continue
            try:
                message = json.loads(text)
            except ValueError:
                continue
            kind, data = message["type"], message["data"]
            if data.get("prompt_id", self.visit.job_id) != self.visit.job_id:
                continue
            now = self.proxy.kernel.now()
            if kind == "progress" and now - self._told_at >= _THROTTLE:
                self._told_at = now
                said = {"value": data["value"] / data["max"], "nodes_done": 0, "nodes_total": 0}
                steps = {"step": data["value"], "steps": data["max"], "current_node": data["node"]}
                yield _frame("progress", {**said, **steps})
                picture = {"node_id": data["node"], "content_type": "image/jpeg"}
                yield _frame("preview", {**picture, "data_base64": "/9j/2Q=="})
            elif kind == "executed":
                yield from self.outputs(self.look())
            elif kind in _ENDS:
                job = self.look()  # it may not be in the history yet
                yield self.status(job)
                yield from self.outputs(job)
                return True

    def _poll(self) -> Iterator[bytes]:
        until = self.proxy.kernel.now() + _LAST
        while self.proxy.kernel.now() < until:
            job = self.look()
            if job["status"] in _TERMINAL:
                yield self.status(job)
                yield from self.outputs(job)
                return
            self.proxy.kernel.sleep(1.0)
            yield b": keepalive\n\n"

    # -- ComfyUI's end of the socket ---------------------------------------------------------

    def deliver(self, text: str) -> None:
        """Take a message."""
        with self._came:
            self._texts.append(text)
            self._came.notify_all()

    def garble(self) -> None:
        """Nothing is garbled between two processes of one machine."""

    def end(self, code: int | None) -> None:
        """Notice the end of the socket."""
        with self._came:
            self._texts.append(None)
            self._came.notify_all()


class Service(ApiProxy):
    """A deployment, or the cloud: it remembers all, and knows the state of each job.

    Args:
        kind: ``serverless``; ``old``, whose gateway drops labels silently; ``cloud``, without list.
        shy: Seconds for which a new job is not found.
        has_events: Whether it has event streams.
    """

    def __init__(
        self, network: Network, comfy: Server, kind: str, *, shy: float, has_events: bool
    ) -> None:
        super().__init__(network, comfy, has_state=True, host="127.0.0.1:8190")
        self.kind = kind
        self.dialect = {"serverless": "map", "old": "dropped", "cloud": "none"}[kind]
        self.lists = kind != "cloud"
        self.shy = shy
        self.has_events = has_events

    def label_refusal(self, label: Any) -> Answer | None:
        """Refuse a label in another dialect."""
        if label is None:
            return None
        if self.dialect == "none":
            return _error(422, "metadata_not_supported")
        return None if isinstance(label, dict) else _error(422, "metadata_invalid")

    def kept(self, label: Any) -> Any:
        """Return what is kept of a label."""
        return None if self.dialect == "dropped" else label

    def state_of(self, life: int, job_id: str) -> dict[str, Any]:
        """Return the state of a job from the service's own record."""
        self.network.travel()
        self.check_alive(life)
        one = next((one for one in self.comfy.taken if one.prompt_id == job_id), None)
        if one is None:
            return {"status": "unknown"}
        outputs = self.outputs_of(job_id, one.outputs)
        if one.end in ("deleted", "execution_interrupted"):
            return {"status": "canceled", "outputs": outputs}
        if one.end in _ENDS:
            error = failure() if one.end == "execution_error" else None
            return {"status": _ENDS[one.end], "outputs": outputs, "error": error}
        if one.end:
            return {"status": "expired"}
        return {"status": "queued" if one.began_at is None else "running", "progress": None}

    def check_known(self, visit: _Visit) -> dict[str, Any] | None:
        """Return the state of a job, or ``None`` while it is new."""
        known = self.memory.jobs.get(visit.job_id)
        if known is None or self.kernel.now() - known["created_at"] < self.shy:
            return None
        return self.state_of(visit.life, visit.job_id)

    def list_jobs(self, visit: _Visit) -> Answer:
        """``GET /jobs``: records without outputs, whose labels match."""
        if not self.lists:
            return _error(501, "not_implemented")
        asked = parse_qsl(visit.query)
        wanted = {k[9:-1]: v for k, v in asked if k.startswith("metadata[")}
        shown = []
        for job_id, known in reversed([*self.memory.jobs.items()]):
            label = known["metadata"] or {}
            is_new = self.kernel.now() - known["created_at"] < self.shy
            if not is_new and wanted.items() <= label.items():
                created = _time(known["created_at"])
                record = {"id": job_id, "create_time": created, "update_time": created}
                status = self.state_of(visit.life, job_id)["status"]
                shown.append({**record, "status": status, "metadata": label})
        return as_json({"jobs": shown[: int(dict(asked).get("limit", "50"))]})

    def events(self, visit: _Visit) -> Answer:
        """``GET /jobs/{id}/events``."""
        return super().events(visit) if self.has_events else _error(501, "not_implemented")

    def frames_of(self, bridge: _Bridge) -> Iterator[bytes]:
        """Yield each change of the state, and the outputs after the last."""
        told = None
        while told not in _TERMINAL:
            job = bridge.look()
            if job["status"] != told:
                told = job["status"]
                yield bridge.status(job)
            if told == "running":
                yield _frame("progress", {**_NOTHING, "value": 0.5})
            if told not in _TERMINAL:
                self.kernel.sleep(0.5)
        yield from bridge.outputs(job)


def failure() -> dict[str, Any]:
    """Return the error of a failed job."""
    node = {"node_id": "1", "class_type": "Work", "traceback": None}
    return {"code": "node_execution_error", "message": "no", **node}


def _time(moment: float) -> str:
    return datetime.fromtimestamp(1.7e9 + moment, UTC).isoformat()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


_JOB = r"/api/v2/jobs/(?P<id>[0-9a-fA-F-]{36})"
_ROUTES: Final[Iterable[tuple[str, str, Callable[[Any, _Visit], Answer]]]] = (
    ("POST", r"/api/v2/jobs", ApiProxy.submit),
    ("GET", r"/api/v2/jobs", lambda proxy, visit: proxy.list_jobs(visit)),
    ("GET", _JOB, ApiProxy.get_job),
    ("GET", f"{_JOB}/workflow", ApiProxy.get_workflow),
    ("POST", f"{_JOB}/cancel", ApiProxy.cancel),
    ("GET", f"{_JOB}/events", lambda proxy, visit: proxy.events(visit)),
    ("GET", r"/api/v2/health", ApiProxy.health),
)

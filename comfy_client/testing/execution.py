"""Queue and executor: one prompt after the other, in one thread, as ComfyUI does it.

Nodes are classes after ComfyUI's V1 conventions, see :class:`comfy_client.testing.nodes.Nodes`.
While one runs, it may use :class:`ProgressBar`, :func:`send_event` and :func:`send_text`.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import inspect
import io
import itertools
import json
import struct
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from .nodes import Nodes

#: number, prompt_id, graph, extra_data, outputs to execute, secrets of extra_data.  A tuple,
#: since the order of equal numbers, and the crash over equal ids, is that of tuples.
Item = tuple[float, str, dict[str, Any], dict[str, Any], list[str], dict[str, Any]]
#: Format ("JPEG" or "PNG"), picture, and the box in pixels that it is fitted into.
Preview = tuple[str, Image.Image, int | None]

SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4  # kinds of binary frames
_HISTORY_LIMIT = 10_000


class Interrupted(Exception):
    """Raised in a node that was interrupted."""


class ExecutionBlocker:
    """Returned by a node in place of an output: the nodes behind it do not run.

    With a message, the client gets an ``execution_error`` of type ``ExecutionBlocked``; the
    prompt goes on and succeeds either way.
    """

    def __init__(self, message: str | None = None) -> None:
        self.message = message


class Outlet(Protocol):
    """Where the executor's messages go."""

    def send(self, event: str | int, data: Any, client_id: str | None = None) -> None:
        """To one client, or to all; an event of a number is a binary frame."""

    def knows_metadata(self, client_id: str | None) -> bool:
        """Whether this client asked for previews with metadata."""

    def log(self, text: str) -> None:
        """A line for the server's log."""


# -- for nodes --------------------------------------------------------------------------


class ProgressBar:
    """Tells how far the running node is: ``progress`` and ``progress_state``, and a preview.

    As ``comfy.utils.ProgressBar``.  Each update raises :class:`Interrupted` if the prompt was
    interrupted, which ends the node.
    """

    def __init__(self, total: float) -> None:
        self.total = total
        self.current: float = 0

    def update(self, value: float) -> None:
        """So many steps more."""
        self.update_absolute(self.current + value)

    def update_absolute(
        self, value: float, total: float | None = None, preview: Preview | None = None
    ) -> None:
        """So many steps so far."""
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        run = _here.get()
        check_interrupted()
        run.progress(self.current, self.total, preview)


def check_interrupted() -> None:
    """Raise :class:`Interrupted` if the running prompt was; for nodes that take long."""
    _here.get().executor.check_interrupted()


def wants_previews(default: bool) -> bool:
    """Whether the running prompt is to have previews, if it may say so itself."""
    run = _here.get()
    known = run.executor.preview_methods
    method = run.extra_data.get("preview_method", "default") if known else "default"
    return default if method == "default" else method != "none"


def send_event(event: str, data: Any) -> None:
    """Send an event of any name and JSON data to all clients, from a running node."""
    _here.get().executor.outlet.send(event, data)


def send_text(text: str) -> None:
    """Send the progress text of the running node to its client."""
    run = _here.get()
    node = run.node_id.encode()
    frame = struct.pack(">I", len(node)) + node + text.encode()
    run.executor.outlet.send(TEXT, frame, run.client_id)


# -- the queue --------------------------------------------------------------------------


class Queue:
    """What waits, what runs, and what has ended; for several threads."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._news = threading.Condition(threading.RLock())
        self._pending: list[Item] = []
        self._running: Item | None = None
        self._history: dict[str, Any] = {}
        self._flags: dict[str, Any] = {}
        self._closed = False

    def put(self, item: Item) -> None:
        """Add a prompt; TypeError, and yet it is added, if number and id are taken."""
        with self._news:
            heapq.heappush(self._pending, item)
            self._changed()
            self._news.notify()

    def get(self) -> Item | None:
        """Wait for the next prompt, which runs from now on; ``None`` for flags or the end."""
        with self._news:
            self._news.wait_for(lambda: self._pending or self._flags or self._closed)
            if self._closed or not self._pending:
                return None
            item = heapq.heappop(self._pending)
            # The executor marks its own; queue and history show what was sent.
            self._running = copy.deepcopy(item)
            self._changed()
            return item

    def done(self, result: dict[str, Any]) -> None:
        """The running prompt has ended."""
        with self._news:
            item, self._running = self._running, None
            if item is None:
                return
            if len(self._history) > _HISTORY_LIMIT:
                del self._history[next(iter(self._history))]
            self._history[item[1]] = {"prompt": item[:5], **result}
            self._changed()

    def shown(self) -> dict[str, list[Any]]:
        """The answer to ``GET /queue``."""
        with self._news:
            running = [self._running[:5]] if self._running else []
            return {
                "queue_running": running,
                "queue_pending": [item[:5] for item in self._pending],
            }

    @property
    def running_id(self) -> str | None:
        """The id of the prompt that runs."""
        with self._news:
            return self._running[1] if self._running else None

    def remaining(self) -> int:
        """How many wait or run."""
        with self._news:
            return len(self._pending) + (self._running is not None)

    def clear(self) -> None:
        """Drop all that wait."""
        with self._news:
            self._pending.clear()
            self._changed()

    def delete(self, prompt_id: Any) -> bool:
        """Drop the first that waits under this id; whether there was one."""
        with self._news:
            for index, item in enumerate(self._pending):
                if item[1] == prompt_id:
                    del self._pending[index]
                    heapq.heapify(self._pending)
                    if not self._pending:
                        self._changed()  # clients hear of the last one twice
                    self._changed()
                    return True
        return False

    def history(self, max_items: int | None = None, offset: int = -1) -> dict[str, Any]:
        """Oldest first; without an offset the last ones."""
        with self._news:
            if offset < 0 and max_items is not None:
                offset = len(self._history) - max_items
            end = None if max_items is None else max(offset, 0) + max(max_items, 1)
            return dict(itertools.islice(self._history.items(), max(offset, 0), end))

    def entry(self, prompt_id: str) -> dict[str, Any]:
        """The history of one prompt by its id; empty if there is none."""
        with self._news:
            found = self._history.get(prompt_id)
            return {} if found is None else {prompt_id: found}

    def forget(self, prompt_id: Any = None) -> None:
        """Drop one prompt from history, or all."""
        with self._news:
            if prompt_id is None:
                self._history.clear()
            else:
                self._history.pop(prompt_id, None)

    def flag(self, name: str, value: Any) -> None:
        """Ask the worker for something, for when it is idle."""
        with self._news:
            self._flags[name] = value
            self._news.notify()

    def take_flags(self) -> dict[str, Any]:
        """What it was asked for."""
        with self._news:
            flags, self._flags = self._flags, {}
            return flags

    def close(self) -> None:
        """No prompt runs from now on."""
        with self._news:
            self._closed = True
            self._news.notify()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed


# -- the executor -----------------------------------------------------------------------


@attrs.frozen
class _Cached:
    """What is kept of a node that ran."""

    ui: dict[str, Any] | None
    outputs: list[Any]


@attrs.frozen
class _Failure:
    """Why a prompt ended early."""

    node_id: str
    error: BaseException
    inputs: Any

    @property
    def details(self) -> dict[str, Any]:
        error = self.error
        cls = type(error)
        module = "" if cls.__module__ == "builtins" else f"{cls.__module__}."
        return {
            "exception_message": f"{error}\n",
            "exception_type": f"{module}{cls.__qualname__}",
            "traceback": traceback.format_tb(error.__traceback__),
            "current_inputs": self.inputs,
        }


class DependencyCycleError(Exception):
    """Nodes wait for each other."""


class Executor:
    """Runs prompts, and remembers the outputs of the last one."""

    def __init__(
        self,
        nodes: Nodes,
        queue: Queue,
        outlet: Outlet,
        *,
        preview_methods: bool,
        tells_cached: bool,
    ) -> None:
        self.nodes = nodes
        # Older servers leave them out of history when the prompt has no client.
        self._tells_cached = tells_cached
        #: Whether prompts may say how they want their previews.
        self.preview_methods = preview_methods
        self.outlet = outlet
        #: Whose prompt runs, or ran last.
        self.client_id: str | None = None
        #: The node that runs, if a client was told of it.
        self.node_id: str | None = None
        self._queue = queue
        self._interrupted = threading.Event()
        self._numbers = itertools.count()
        self.reset()

    def reset(self) -> None:
        """Forget all outputs and node objects."""
        self._cache: dict[int, _Cached] = {}
        self._signatures: dict[object, int] = {}
        self._objects: dict[tuple[str, str], Any] = {}

    def interrupt(self) -> None:
        """Stop the prompt that runs, at its next step."""
        self._interrupted.set()

    def check_interrupted(self) -> None:
        """Raise :class:`Interrupted` once for each interrupt, and when the server stops."""
        if self._interrupted.is_set() or self._queue.closed:
            self._interrupted.clear()
            raise Interrupted

    def work(self) -> None:
        """Run what is queued until the queue is closed."""
        while not self._queue.closed:
            item = self._queue.get()
            if item is not None:
                start = time.perf_counter()
                self._queue.done(self._execute(item))
                if self.client_id is not None:
                    end = {"node": None, "prompt_id": item[1]}
                    self.outlet.send("executing", end, self.client_id)
                seconds = time.perf_counter() - start
                self.outlet.log(f"Prompt executed in {seconds:.2f} seconds")
            if self._queue.take_flags().get("free_memory"):
                self.reset()

    def _execute(self, item: Item) -> dict[str, Any]:
        """One prompt; returns what history has of it, beside the prompt itself."""
        _, prompt_id, graph, extra_data, outputs, secrets = item
        self._interrupted.clear()
        self.client_id = extra_data.get("client_id")
        run = _Run(self, prompt_id, graph, {**extra_data, **secrets}, self.client_id)
        token = _here.set(run)
        try:
            failure = self._run(run, outputs)
        finally:
            _here.reset(token)
            self.node_id = None
        status = "error" if failure else "success"
        return {
            "outputs": {node_id: ui["output"] for node_id, ui in run.ui.items()},
            "status": {
                "status_str": status,
                "completed": failure is None,
                "messages": run.messages,
            },
            "meta": {node_id: ui["meta"] for node_id, ui in run.ui.items()},
        }

    def _run(self, run: _Run, outputs: Sequence[str]) -> _Failure | None:
        run.say("execution_start", {"prompt_id": run.prompt_id})
        executed: set[str] = set()
        try:
            failure = self._steps(run, outputs, executed)
        except Exception as exc:  # noqa: BLE001  a class that fell over; the next prompt is due
            failure = _Failure(next(iter(run.graph)), exc, {})
        if failure is None:
            run.say("execution_success", {"prompt_id": run.prompt_id})
            return None
        node_id = failure.node_id
        message: dict[str, Any] = {
            "prompt_id": run.prompt_id,
            "node_id": node_id,
            "node_type": run.graph[node_id]["class_type"],
            "executed": list(executed),
        }
        if isinstance(failure.error, Interrupted):
            self.outlet.log("Processing interrupted")
            run.say("execution_interrupted", message, to_all=True)
        else:
            self.outlet.log(f"!!! Exception during processing !!! {failure.error}")
            message |= {**failure.details, "current_outputs": list(run.graph)}
            run.say("execution_error", message)
        return failure

    def _steps(self, run: _Run, outputs: Sequence[str], executed: set[str]) -> _Failure | None:
        """All nodes that must run, up to the first that fails."""
        self._clean(run)
        cached = [node_id for node_id in run.graph if run.cached(node_id)]
        run.say("execution_cached", {"nodes": cached, "prompt_id": run.prompt_id})
        plan = _Plan(run)
        for node_id in outputs:
            plan.add(node_id)
        while plan.pending:
            picked = plan.pick()
            if picked is None:
                error = DependencyCycleError("Dependency cycle detected")
                return _Failure(next(iter(plan.pending)), error, [])
            failure = self._step(run, picked, executed)
            if failure:
                return failure
            plan.complete(picked)
        return None

    def _clean(self, run: _Run) -> None:
        """Sign the nodes of a prompt, and forget what it does not use."""
        run.sign(self._signatures, self._numbers)
        used = set(run.signatures.values())
        self._signatures = {key: n for key, n in self._signatures.items() if n in used}
        self._cache = {n: entry for n, entry in self._cache.items() if n in used}
        keys = {(node_id, node["class_type"]) for node_id, node in run.graph.items()}
        self._objects = {key: node for key, node in self._objects.items() if key in keys}

    def cached(self, signature: int) -> _Cached | None:
        """The outputs of a node of this signature."""
        return self._cache.get(signature)

    def _step(self, run: _Run, node_id: str, executed: set[str]) -> _Failure | None:
        """One node: from the cache, or really."""
        cached = run.cached(node_id)
        if cached is not None:
            if run.client_id is not None:
                run.tell_executed(node_id, (cached.ui or {}).get("output"))
            if cached.ui is not None and (self._tells_cached or run.client_id is not None):
                run.ui[node_id] = cached.ui
            run.finish(node_id)
            return None
        run.node_id = node_id
        inputs: dict[str, list[Any]] = {}
        try:
            run.start(node_id)
            node = run.graph[node_id]
            inputs |= run.inputs(node_id)
            if run.client_id is not None:
                self.node_id = node_id
                data = {"node": node_id, "display_node": node_id, "prompt_id": run.prompt_id}
                self.outlet.send("executing", data, run.client_id)
            key = (node_id, node["class_type"])
            if key not in self._objects:
                self._objects[key] = self.nodes.classes[node["class_type"]]()
            ui, outputs = run.call(self._objects[key], inputs, executed)
            if ui:
                meta = {
                    "node_id": node_id,
                    "display_node": node_id,
                    "parent_node": None,
                    "real_node_id": node_id,
                }
                run.ui[node_id] = {"meta": meta, "output": ui}
                if run.client_id is not None:
                    run.tell_executed(node_id, ui)
            self._cache[run.signatures[node_id]] = _Cached(run.ui.get(node_id), outputs)
        except Exception as exc:  # noqa: BLE001  whatever a node raises ends the prompt only
            shown = {name: [_shown(value) for value in values] for name, values in inputs.items()}
            return _Failure(node_id, exc, shown)
        run.finish(node_id)
        executed.add(node_id)
        return None


@attrs.define
class _Run:
    """One prompt, from its start to its end."""

    executor: Executor
    prompt_id: str
    graph: dict[str, Any]
    extra_data: Mapping[str, Any]
    client_id: str | None
    node_id: str = ""
    signatures: dict[str, int] = attrs.field(factory=dict, init=False)
    ui: dict[str, Any] = attrs.field(factory=dict, init=False)
    messages: list[Any] = attrs.field(factory=list, init=False)
    _states: dict[str, Any] = attrs.field(factory=dict, init=False)

    def cached(self, node_id: str) -> _Cached | None:
        return self.executor.cached(self.signatures[node_id])

    # -- messages -----------------------------------------------------------------------

    def say(self, event: str, data: dict[str, Any], *, to_all: bool = False) -> None:
        """To history, and to the client."""
        data = {**data, "timestamp": int(time.time() * 1000)}
        self.messages.append([event, data])
        if self.client_id is not None or to_all:
            self.executor.outlet.send(event, data, self.client_id)

    def tell_executed(self, node_id: str, output: Any) -> None:
        data = {
            "node": node_id,
            "display_node": node_id,
            "output": output,
            "prompt_id": self.prompt_id,
        }
        self.executor.outlet.send("executed", data, self.client_id)

    def start(self, node_id: str) -> None:
        self._states[node_id] = {"value": 0.0, "max": 1.0, "state": "running"}
        self._tell_states()

    def finish(self, node_id: str) -> None:
        total = self._states.get(node_id, {"max": 1})["max"]
        self._states[node_id] = {"value": total, "max": total, "state": "finished"}
        self._tell_states()

    def progress(self, value: float, total: float, preview: Preview | None) -> None:
        outlet, client_id = self.executor.outlet, self.client_id
        self._states[self.node_id] = {"value": value, "max": total, "state": "running"}
        self._tell_states()
        with_metadata = outlet.knows_metadata(client_id)
        if preview and with_metadata:
            outlet.send(PREVIEW_WITH_METADATA, self._with_metadata(preview), client_id)
        data = {
            "value": value,
            "max": total,
            "prompt_id": self.prompt_id,
            "node": self.node_id,
        }
        outlet.send("progress", data, client_id)
        if preview and not with_metadata:
            number = 2 if preview[0] == "PNG" else 1
            outlet.send(PREVIEW, struct.pack(">I", number) + _encoded(preview), client_id)

    def _tell_states(self) -> None:
        nodes = {node_id: {**s, **self._identity(node_id)} for node_id, s in self._states.items()}
        data = {"prompt_id": self.prompt_id, "nodes": nodes}
        self.executor.outlet.send("progress_state", data, self.client_id)

    def _identity(self, node_id: str) -> dict[str, Any]:
        return {
            "node_id": node_id,
            "prompt_id": self.prompt_id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
        }

    def _with_metadata(self, preview: Preview) -> bytes:
        kind = "image/png" if preview[0] == "PNG" else "image/jpeg"
        metadata = json.dumps({**self._identity(self.node_id), "image_type": kind}).encode()
        return struct.pack(">I", len(metadata)) + metadata + _encoded(preview)

    # -- signatures: equal ones have equal outputs --------------------------------------

    def sign(self, known: dict[object, int], numbers: itertools.count[int]) -> None:
        """Give each node the number of its class, inputs, and whatever they come from."""
        for first in self.graph:
            waiting = [first]
            path: set[str] = set()
            while waiting:
                node_id = waiting[-1]
                unsigned = [
                    source
                    for source, _ in _links(self.graph, node_id)
                    if source not in self.signatures and source not in path
                ]
                path.add(node_id)
                if unsigned and node_id not in self.signatures:
                    waiting += unsigned
                    continue
                waiting.pop()
                if node_id not in self.signatures:
                    key = self._key(node_id)
                    if key not in known:
                        known[key] = next(numbers)
                    self.signatures[node_id] = known[key]

    def _key(self, node_id: str) -> object:
        node = self.graph[node_id]
        cls = self.executor.nodes.classes[node["class_type"]]
        definition = self.executor.nodes.definition(node["class_type"])
        inputs = []
        for name, value in sorted(_inputs(node).items()):
            if is_link(value) and value[0] in self.graph:
                inputs.append((name, self.signatures.get(value[0], object()), value[1]))
            else:
                inputs.append((name, _hashable(value), None))
        personal = "UNIQUE_ID" in definition["input"].get("hidden", {}).values()
        personal = personal or bool(getattr(cls, "NOT_IDEMPOTENT", False))
        changed = _hashable(self._changed(node_id, cls))
        return node["class_type"], changed, node_id if personal else None, tuple(inputs)

    def _changed(self, node_id: str, cls: Any) -> Any:
        """What ``IS_CHANGED`` says, if there is one; also marked in the graph, as it is there."""
        if not hasattr(cls, "IS_CHANGED"):
            return False
        node = self.graph[node_id]
        if "is_changed" not in node:
            try:
                values = self.inputs(node_id, constants_only=True)
                node["is_changed"] = [_called(cls.IS_CHANGED, v) for v in _slices(values, cls)]
            except Exception as exc:  # noqa: BLE001  the server takes it for a change
                self.executor.outlet.log(f"WARNING: {exc}")
                node["is_changed"] = float("nan")
        return node["is_changed"]

    # -- one node -----------------------------------------------------------------------

    def inputs(self, node_id: str, *, constants_only: bool = False) -> dict[str, list[Any]]:
        """What a node is called with: for each input the values of one or more calls."""
        node = self.graph[node_id]
        types = self.executor.nodes.definition(node["class_type"])["input"]
        known = {**types.get("optional", {}), **types.get("required", {})}
        hidden = types.get("hidden", {})
        values: dict[str, list[Any]] = {}
        for name, value in _inputs(node).items():
            config = known.get(name)
            raw = bool(config and len(config) > 1 and config[1].get("rawLink"))
            if is_link(value) and not raw:
                source = None
                if not constants_only and value[0] in self.graph:
                    source = self.cached(value[0])
                found = source is not None and value[1] < len(source.outputs)
                values[name] = source.outputs[value[1]] if source and found else [None]
            elif config is not None or name in hidden:
                values[name] = [value]
        offered = {
            "PROMPT": {} if constants_only else self.graph,
            "DYNPROMPT": None,
            "EXTRA_PNGINFO": None if constants_only else self.extra_data.get("extra_pnginfo"),
            "UNIQUE_ID": node_id,
            "AUTH_TOKEN_COMFY_ORG": self.extra_data.get(SECRETS[0]),
            "API_KEY_COMFY_ORG": self.extra_data.get(SECRETS[1]),
        }
        values |= {name: [offered[kind]] for name, kind in hidden.items() if kind in offered}
        return values

    def call(
        self, node: Any, inputs: dict[str, list[Any]], executed: set[str]
    ) -> tuple[dict[str, Any], list[Any]]:
        """What a node shows, and its outputs: for each slot the values of all calls."""
        results: list[Any] = []
        shown: list[dict[str, Any]] = []
        for arguments in _slices(inputs, node):
            self.executor.check_interrupted()
            block = next(filter(None, map(_block_in, arguments.values())), None)
            if block:
                returned: Any = self._blocked(block, executed)
            else:
                returned = _called(getattr(node, node.FUNCTION), arguments)
            if isinstance(returned, dict):
                if "expand" in returned:
                    raise NotImplementedError("the embedded server does not expand nodes")
                if "ui" in returned:
                    shown.append(returned["ui"])
                if "result" not in returned:
                    continue
                returned = returned["result"]
            if isinstance(returned, ExecutionBlocker):
                returned = (returned,) * len(node.RETURN_TYPES)
            results.append(returned)
        ui = (
            {key: [one for part in shown for one in part[key]] for key in shown[0]} if shown else {}
        )
        return ui, _merged(results, node) if results else []

    def _blocked(self, block: ExecutionBlocker, executed: set[str]) -> ExecutionBlocker:
        if block.message is None:
            return block
        data = {
            "prompt_id": self.prompt_id,
            "node_id": self.node_id,
            "node_type": self.graph[self.node_id]["class_type"],
            "executed": list(executed),
            "exception_message": f"Execution Blocked: {block.message}",
            "exception_type": "ExecutionBlocked",
            "traceback": [],
            "current_inputs": [],
            "current_outputs": [],
        }
        self.executor.outlet.send("execution_error", data, self.client_id)
        return ExecutionBlocker(None)


class _Plan:
    """The order of nodes: what is ready, and nearest to an output."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self.pending: dict[str, set[str]] = {}  # what each still waits for
        self._behind: dict[str, list[str]] = {}

    def add(self, node_id: str) -> None:
        """Add a node, and all that it needs and that is not cached."""
        waiting = [node_id]
        while waiting:
            node_id = waiting.pop()
            if node_id in self.pending:
                continue
            graph = self._run.graph
            needed = [source for source, _ in _links(graph, node_id)]
            needed = [source for source in needed if not self._run.cached(source)]
            self.pending[node_id] = set(needed)
            for source in needed:
                self._behind.setdefault(source, []).append(node_id)
            waiting += needed

    def pick(self) -> str | None:
        """The next node; ``None`` if all wait for each other."""
        ready = [node_id for node_id, needed in self.pending.items() if not needed]
        near = [self._behind.get(node_id, []) for node_id in ready]
        far = [[b for a in nodes for b in self._behind.get(a, [])] for nodes in near]
        for groups in ([[node_id] for node_id in ready], near, far):
            for node_id, group in zip(ready, groups, strict=True):
                if any(map(self._is_output, group)):
                    return node_id
        return ready[0] if ready else None

    def complete(self, node_id: str) -> None:
        """A node has run."""
        del self.pending[node_id]
        for other in self._behind.pop(node_id, ()):
            self.pending[other].discard(node_id)

    def _is_output(self, node_id: str) -> bool:
        class_type = self._run.graph[node_id]["class_type"]
        return bool(getattr(self._run.executor.nodes.classes[class_type], "OUTPUT_NODE", False))


_here: ContextVar[_Run] = ContextVar("the prompt that runs in this thread")


def is_link(value: Any) -> bool:
    """Whether an input's value is ``[node_id, slot]``."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
    )


def _inputs(node: Mapping[str, Any]) -> dict[str, Any]:
    """Of a node that no output needs, nobody has asked whether it has any."""
    inputs: dict[str, Any] = node.get("inputs", {})
    return inputs


def _links(graph: Mapping[str, Any], node_id: str) -> list[tuple[str, int]]:
    values = _inputs(graph[node_id]).values()
    return [(value[0], value[1]) for value in values if is_link(value) and value[0] in graph]


def _hashable(value: Any) -> object:
    """Equal for equal JSON; what has no equal (NaN, objects) gives something new each time."""
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        return object()


def _slices(inputs: dict[str, list[Any]], node: Any) -> list[dict[str, Any]]:
    """The arguments of each call: short lists are continued with their last value."""
    if getattr(node, "INPUT_IS_LIST", False):
        return [dict(inputs)]
    calls = max(map(len, inputs.values()), default=1)
    return [
        {name: values[min(index, len(values) - 1)] for name, values in inputs.items()}
        for index in range(calls)
    ]


def _called(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    result = function(**arguments)
    return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result


async def _awaited(result: Any) -> Any:
    return await result


def _block_in(value: Any) -> ExecutionBlocker | None:
    values = value if isinstance(value, list) else [value]
    return next((one for one in values if isinstance(one, ExecutionBlocker)), None)


def _merged(results: list[Any], node: Any) -> list[Any]:
    is_list = getattr(node, "OUTPUT_IS_LIST", [False] * len(results[0]))
    merged: list[Any] = []
    for slot, spread in zip(range(len(results[0])), is_list, strict=False):
        values: list[Any] = []
        for result in results:
            if spread and not isinstance(result[slot], ExecutionBlocker):
                values.extend(result[slot])
            else:
                values.append(result[slot])
        merged.append(values)
    return merged


def _shown(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else str(value)


def _encoded(preview: Preview) -> bytes:
    kind, picture, box = preview
    if box is not None:
        picture = ImageOps.contain(picture, (box, box), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    picture.save(file, format=kind, quality=95, compress_level=1)
    return file.getvalue()

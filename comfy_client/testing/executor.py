"""The executor: one prompt after the other, in one thread, as ComfyUI does it.

Nodes are classes after ComfyUI's V1 conventions, see :mod:`comfy_client.testing.nodes`.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import io
import json
import math
import struct
import threading
import time
import traceback
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs
from PIL import Image, ImageOps

from .node_api import ExecutionBlocker, Interrupted, Preview, context
from .nodes import Nodes
from .prompt_queue import Item, Queue

#: What one call of a node gave: the nodes that it expands into or ``None``, and its outputs.
_Result = tuple[dict[str, Any] | None, Any]

SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4  # kinds of binary frames
_PREVIEW_METHODS = ("none", "auto", "latent2rgb", "taesd")


class MessageSink(Protocol):
    """Takes the executor's messages."""

    def send(self, event: str | int, data: Any, client_id: str | None = None) -> None:
        """To one client, or to all; an event of a number is a binary frame."""

    def knows_metadata(self, client_id: str | None) -> bool:
        """Whether this client wants previews with metadata."""

    def log(self, text: str) -> None:
        """Add a line to the server's log."""


class ExecutionHooks(Protocol):
    """Changes what happens to prompts; called in the worker's thread."""

    def plays(self, item: Item) -> bool:
        """A prompt starts: whether something else has played it in place of the executor."""

    def before_step(self) -> None:
        """Wait, if no node may start or continue."""

    def before_history(self) -> None:
        """Wait, if the end of a prompt may not be known yet."""

    @property
    def keeps_history(self) -> bool:
        """Whether prompts that ended are remembered."""

    def ended(self, prompt_id: str, status: str) -> None:
        """A prompt is about to leave the queue, with success or an error."""

    def keep_error(self, error: BaseException) -> None:
        """Keep an error that is more than a node's failure, for the test."""


# -- the nodes of a prompt --------------------------------------------------------------


class NodeNotFoundError(Exception):
    """A link or a node's question leads to a node that is not there."""


class NodeInputError(Exception):
    """A node asks for an input that cannot be worked out."""


class DependencyCycleError(Exception):
    """Nodes wait for each other."""


# Clients are told these names.
NodeNotFoundError.__module__ = NodeInputError.__module__ = "comfy_execution.graph"
DependencyCycleError.__module__ = "graph"


class Graph:
    """A prompt, and the nodes that its nodes expanded into; what ``DYNPROMPT`` brings.

    As ``comfy_execution.graph.DynamicPrompt``.
    """

    def __init__(self, prompt: dict[str, Any]) -> None:
        self._prompt = prompt
        self._added: dict[str, dict[str, Any]] = {}
        self._parents: dict[str, str] = {}
        self._shown_as: dict[str, str] = {}

    def add(self, node_id: str, node: dict[str, Any], parent: str) -> None:
        """Add a node that `parent` expanded into."""
        self._added[node_id] = node
        self._parents[node_id] = parent
        self._shown_as[node_id] = node.get("override_display_id", parent)

    def get_node(self, node_id: str) -> dict[str, Any]:
        """Class and inputs of a node."""
        found = self._added.get(node_id, self._prompt.get(node_id))
        if found is None:
            raise NodeNotFoundError(f"Node {node_id} not found")
        return found

    def has_node(self, node_id: str) -> bool:
        """Whether there is such a node."""
        return node_id in self._added or node_id in self._prompt

    def get_parent_node_id(self, node_id: str) -> str | None:
        """Who expanded into it; ``None`` for a node of the prompt."""
        return self._parents.get(node_id)

    def get_real_node_id(self, node_id: str) -> str:
        """The node of the prompt that it comes from in the end."""
        while node_id in self._parents:
            node_id = self._parents[node_id]
        return node_id

    def get_display_node_id(self, node_id: str) -> str:
        """The node that shows what it does."""
        while node_id in self._shown_as:
            node_id = self._shown_as[node_id]
        return node_id

    def all_node_ids(self) -> set[str]:
        """Of the prompt, and all that came of it."""
        return {*self._prompt, *self._added}

    def get_original_prompt(self) -> dict[str, Any]:
        """The prompt alone."""
        return self._prompt


@attrs.frozen
class _Cached:
    """What is kept of a node that ran."""

    ui: dict[str, Any] | None
    outputs: list[Any]


@attrs.define
class _Store:
    """What is kept of one graph: a prompt's, or one that a node expanded into."""

    keys: dict[str, str] = attrs.field(factory=dict)  # by node id; see _Keys
    outputs: dict[str, _Cached] = attrs.field(factory=dict)  # by key
    objects: dict[tuple[str, str], Any] = attrs.field(factory=dict)  # by id and class
    inner: dict[tuple[str, str], _Store] = attrs.field(factory=dict)  # the same

    def serve(self, graph: Graph, keys: dict[str, str]) -> None:
        """Forget all that is not about these nodes."""
        self.keys = keys
        used = set(keys.values())
        names = {(node_id, graph.get_node(node_id)["class_type"]) for node_id in keys}
        self.outputs = {key: kept for key, kept in self.outputs.items() if key in used}
        self.objects = {name: node for name, node in self.objects.items() if name in names}
        self.inner = {name: store for name, store in self.inner.items() if name in names}

    def node_ids(self) -> Iterator[str]:
        """Here and in all that is inside."""
        yield from self.keys
        for store in self.inner.values():
            yield from store.node_ids()


class _Failure(Exception):
    """Why a prompt ends early."""

    def __init__(self, node_id: str, error: BaseException, inputs: Any) -> None:
        super().__init__(node_id, error)
        self.node_id = node_id
        self.error = error
        self.inputs = inputs

    @property
    def exception_type(self) -> str:
        cls = type(self.error)
        module = "" if cls.__module__ == "builtins" else f"{cls.__module__}."
        return f"{module}{cls.__qualname__}"


# -- the executor -----------------------------------------------------------------------


class Executor:
    """Runs prompts, and remembers the outputs of the last one."""

    def __init__(
        self,
        nodes: Nodes,
        queue: Queue,
        sink: MessageSink,
        *,
        preview_methods: bool,
        newest: bool,
    ) -> None:
        self.nodes = nodes
        # Older servers leave what is cached out of history when the prompt has no client, and
        # know no outputs but those of output nodes.
        self._newest = newest
        #: Whether prompts may say how they want their previews.
        self.preview_methods = preview_methods
        self.sink = sink
        #: Whose prompt runs, or ran last.
        self.client_id: str | None = None
        #: The node that runs, if a client was told of it.
        self.node_id: str | None = None
        self.hooks: ExecutionHooks | None = None
        self._queue = queue
        self._interrupted = threading.Event()
        self._replaced = nodes.replaced
        self.reset()

    def reset(self) -> None:
        """Forget all outputs and node objects."""
        self._store = _Store()

    def interrupt(self) -> None:
        """Stop the prompt that runs, at its next step."""
        self._interrupted.set()

    def check_interrupted(self) -> None:
        """Raise :class:`Interrupted` once for each interrupt, and when the server stops."""
        if self.hooks:
            self.hooks.before_step()
        if self._interrupted.is_set() or self._queue.closed:
            self._interrupted.clear()
            raise Interrupted

    def work(self) -> None:
        """Run what is queued until the queue is closed."""
        while not self._queue.closed:
            item = self._queue.get()
            try:
                if item is not None and not (self.hooks and self.hooks.plays(item)):
                    self._take(item)
            except BaseException as exc:  # noqa: BLE001  the next prompt is due all the same
                self._keep_error(exc)
                self._queue.done(None)
            if self._queue.take_flags().get("free_memory"):
                self.reset()

    def _take(self, item: Item) -> None:
        start = time.perf_counter()
        self._end(item[1], self._execute(item))
        seconds = time.perf_counter() - start
        self.sink.log(f"Prompt executed in {seconds:.2f} seconds")

    def _keep_error(self, error: BaseException) -> None:
        if self.hooks:
            self.hooks.keep_error(error)

    def _end(self, prompt_id: str, result: dict[str, Any]) -> None:
        keep = True
        if self.hooks:
            self.hooks.before_history()
            keep = self.hooks.keeps_history
            self.hooks.ended(prompt_id, result["status"].get("status_str"))
        self._queue.done(result if keep else None)
        if self.client_id is not None:
            self.sink.send("executing", {"node": None, "prompt_id": prompt_id}, self.client_id)

    def _execute(self, item: Item) -> dict[str, Any]:
        """One prompt; returns what history has of it, beside the prompt itself."""
        _, prompt_id, graph, extra_data, outputs, secrets = item
        self._interrupted.clear()
        if self._replaced != self.nodes.replaced:
            self._replaced = self.nodes.replaced
            self.reset()
        self.client_id = extra_data.get("client_id")
        run = _Run(self, prompt_id, graph, {**extra_data, **secrets}, self.client_id, self._store)
        token = context.set(run)
        try:
            succeeded = self._run(run, outputs)
        finally:
            context.reset(token)
            self.node_id = None
        return run.record(succeeded)

    def _run(self, run: _Run, outputs: Sequence[str]) -> bool:
        """Whether history is to say that all went well; the client hears of it, too."""
        run.report("execution_start", {"prompt_id": run.prompt_id})
        executed: set[str] = set()
        try:
            self._steps(run, outputs, executed)
        except _Failure as exc:
            failure = exc
        except BaseException as exc:  # noqa: BLE001  a class that fell over
            failure = _Failure(next(iter(run.prompt), ""), exc, {})
        else:
            self._send_success(run)
            return True
        if not isinstance(failure.error, Exception):  # such as a test's own pytest.fail()
            self._keep_error(failure.error)
        message: dict[str, Any] = {
            "prompt_id": run.prompt_id,
            "node_id": failure.node_id,
            "node_type": run.prompt.get(failure.node_id, {}).get("class_type"),
            "executed": list(executed),
        }
        if isinstance(failure.error, Interrupted):
            self.sink.log("Processing interrupted")
            run.report("execution_interrupted", message, to_all=True)
        else:
            self.sink.log(f"!!! Exception during processing !!! {_text(failure.error)}")
            run.report("execution_error", {**message, **run.details(failure)})
        # Of waiting for each other, history says success: what counts there is the last node.
        return isinstance(failure.error, DependencyCycleError)

    def _send_success(self, run: _Run) -> None:
        if self.hooks:
            self.hooks.before_step()  # a prompt of which no node runs hangs, too
        if not self._queue.closed:
            run.report("execution_success", {"prompt_id": run.prompt_id})

    def _steps(self, run: _Run, outputs: Sequence[str], executed: set[str]) -> None:
        """All nodes that must run."""
        self._store.serve(run.graph, run.signed(run.prompt))
        run.known = list(self._store.node_ids())
        cached = [node_id for node_id in run.prompt if run.cached(node_id)]
        run.report("execution_cached", {"nodes": cached, "prompt_id": run.prompt_id})
        plan = _Plan(run)
        for node_id in outputs:
            plan.add(node_id)
        while plan.pending:
            node_id = plan.pick()
            if self._step(run, plan, node_id, executed):
                plan.complete(node_id)
        for node_id in cached if self._newest else ():
            if node_id not in run.ui and run.is_intermediate(node_id):
                self._send_cached(run, node_id, run.cached(node_id))

    def _step(self, run: _Run, plan: _Plan, node_id: str, executed: set[str]) -> bool:
        """One node, from the cache or really; whether it is done, or waits for others now."""
        cached = run.cached(node_id)
        if cached is not None:
            self._send_cached(run, node_id, cached)
            run.finish(node_id)
            return True
        run.node_id = node_id
        inputs: dict[str, list[Any]] = {}
        try:
            if node_id in run.expanded:
                outputs = run.resolved(node_id)
            else:
                run.start(node_id)
                given, missing = run.inputs(node_id, plan.sources[node_id])
                inputs |= given
                run.send_executing(node_id)
                node = run.object(node_id)
                wanted = run.wanted(node, inputs, missing)
                if wanted:
                    for name in wanted:
                        plan.need(node_id, name)
                    return False
                ui, results = run.call(node, inputs, executed)
                if ui:
                    run.show(node_id, ui)
                if any(expansion is not None for expansion, _ in results):
                    self._expand(run, plan, node_id, results)
                    return False
                outputs = _merged([result for _, result in results], node) if results else []
            run.keep(node_id, outputs)
        except BaseException as exc:  # whatever a node raises ends the prompt only
            shown = {name: [_shown(value) for value in values] for name, values in inputs.items()}
            raise _Failure(run.graph.get_real_node_id(node_id), exc, shown) from exc
        run.finish(node_id)
        executed.add(node_id)
        return True

    def _send_cached(self, run: _Run, node_id: str, cached: _Cached | None) -> None:
        """To client and history: what a node has shown before."""
        ui = cached.ui if cached else None
        if run.client_id is not None:
            run.send_executed(node_id, (ui or {}).get("output"))
        if ui is not None and (self._newest or run.client_id is not None):
            run.ui[node_id] = ui

    def _expand(self, run: _Run, plan: _Plan, node_id: str, results: list[_Result]) -> None:
        """Put the nodes that a node returned into the graph; it gets its outputs from them."""
        added: list[str] = []
        sources: list[str] = []
        for expansion, result in results:
            if expansion is not None:
                for inner_id, inner in expansion.items():
                    run.graph.add(inner_id, inner, node_id)
                    added.append(inner_id)
                sources += [result[i][0] for i in range(len(result)) if is_link(result[i])]
        outputs = [inner_id for inner_id in added if run.is_output(inner_id)]
        run.inner_store(node_id).serve(run.graph, run.signed(added))
        for inner_id in outputs:
            plan.add(inner_id)
        for source in sources:
            plan.link(source, node_id)
        run.expanded[node_id] = results


@attrs.define
class _Run:
    """One prompt, from its start to its end."""

    executor: Executor
    prompt_id: str
    prompt: dict[str, Any]
    extra_data: Mapping[str, Any]
    client_id: str | None
    _store: _Store = attrs.field(factory=_Store)
    graph: Graph = attrs.field(init=False)
    node_id: str = attrs.field(default="", init=False)  # which runs
    known: list[str] = attrs.field(factory=list, init=False)  # with a place in the cache
    expanded: dict[str, list[_Result]] = attrs.field(factory=dict, init=False)
    ui: dict[str, Any] = attrs.field(factory=dict, init=False)
    messages: list[Any] = attrs.field(factory=list, init=False)
    _states: dict[str, Any] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.graph = Graph(self.prompt)

    # -- messages -----------------------------------------------------------------------

    def report(self, event: str, data: dict[str, Any], *, to_all: bool = False) -> None:
        """To history, and to the client."""
        data = {**data, "timestamp": int(time.time() * 1000)}
        self.messages.append([event, data])
        if self.client_id is not None or to_all:
            self.executor.sink.send(event, data, self.client_id)

    def details(self, failure: _Failure) -> dict[str, Any]:
        """What ``execution_error`` says beside where it was."""
        is_cycle = isinstance(failure.error, DependencyCycleError)  # found by no node
        return {
            "exception_message": f"{_text(failure.error)}{'' if is_cycle else chr(10)}",
            "exception_type": failure.exception_type,
            "traceback": traceback.format_tb(None if is_cycle else failure.error.__traceback__),
            "current_inputs": failure.inputs,
            "current_outputs": self.known,
        }

    def record(self, succeeded: bool) -> dict[str, Any]:
        """What history has of it."""
        return {
            "outputs": {node_id: ui["output"] for node_id, ui in self.ui.items()},
            "status": {
                "status_str": "success" if succeeded else "error",
                "completed": succeeded,
                "messages": self.messages,
            },
            "meta": {node_id: ui["meta"] for node_id, ui in self.ui.items()},
        }

    def send_executing(self, node_id: str) -> None:
        if self.client_id is not None:
            display_id = self.graph.get_display_node_id(node_id)
            self.executor.node_id = display_id
            data = {"node": node_id, "display_node": display_id, "prompt_id": self.prompt_id}
            self.executor.sink.send("executing", data, self.client_id)

    def send_executed(self, node_id: str, output: Any) -> None:
        data = {
            "node": node_id,
            "display_node": self.graph.get_display_node_id(node_id),
            "output": output,
            "prompt_id": self.prompt_id,
        }
        self.executor.sink.send("executed", data, self.client_id)

    def show(self, node_id: str, ui: dict[str, Any]) -> None:
        """To history, and to the client: what a node is there for."""
        meta = {
            "node_id": node_id,
            "display_node": self.graph.get_display_node_id(node_id),
            "parent_node": self.graph.get_parent_node_id(node_id),
            "real_node_id": self.graph.get_real_node_id(node_id),
        }
        self.ui[node_id] = {"meta": meta, "output": ui}
        if self.client_id is not None:
            self.send_executed(node_id, ui)

    def start(self, node_id: str) -> None:
        self._states[node_id] = {"value": 0.0, "max": 1.0, "state": "running"}
        self._send_states()

    def finish(self, node_id: str) -> None:
        total = self._states.get(node_id, {"max": 1})["max"]
        self._states[node_id] = {"value": total, "max": total, "state": "finished"}
        self._send_states()

    def progress(self, value: float, total: float, preview: Preview | None) -> None:
        sink, client_id = self.executor.sink, self.client_id
        self._states[self.node_id] = {"value": value, "max": total, "state": "running"}
        self._send_states()
        with_metadata = preview is not None and sink.knows_metadata(client_id)
        if preview and with_metadata:
            sink.send(PREVIEW_WITH_METADATA, self._with_metadata(preview), client_id)
        data = {"value": value, "max": total, "prompt_id": self.prompt_id, "node": self.node_id}
        sink.send("progress", data, client_id)
        if preview and not with_metadata:
            number = 2 if preview[0] == "PNG" else 1
            sink.send(PREVIEW, struct.pack(">I", number) + _encoded(preview), client_id)

    def _send_states(self) -> None:
        nodes = {node_id: {**s, **self._identity(node_id)} for node_id, s in self._states.items()}
        data = {"prompt_id": self.prompt_id, "nodes": nodes}
        self.executor.sink.send("progress_state", data, self.client_id)

    def _identity(self, node_id: str) -> dict[str, Any]:
        return {
            "node_id": node_id,
            "prompt_id": self.prompt_id,
            "display_node_id": self.graph.get_display_node_id(node_id),
            "parent_node_id": self.graph.get_parent_node_id(node_id),
            "real_node_id": self.graph.get_real_node_id(node_id),
        }

    def _with_metadata(self, preview: Preview) -> bytes:
        kind = "image/png" if preview[0] == "PNG" else "image/jpeg"
        metadata = json.dumps({**self._identity(self.node_id), "image_type": kind}).encode()
        return struct.pack(">I", len(metadata)) + metadata + _encoded(preview)

    # -- for the running node -----------------------------------------------------------

    def check_interrupted(self) -> None:
        self.executor.check_interrupted()

    def wants_previews(self, default: bool) -> bool:
        known = self.executor.preview_methods
        method = self.extra_data.get("preview_method") if known else None
        return method != "none" if method in _PREVIEW_METHODS else default

    def send_event(self, event: str, data: Any) -> None:
        self.executor.sink.send(event, data)

    def send_text(self, text: str) -> None:
        node = self.node_id.encode()
        frame = struct.pack(">I", len(node)) + node + text.encode()
        self.executor.sink.send(TEXT, frame, self.client_id)

    # -- what is kept -------------------------------------------------------------------

    def store(self, node_id: str) -> _Store:
        """Where the outputs of a node are kept: by whom it came into the graph."""
        parent = self.graph.get_parent_node_id(node_id)
        return self._store if parent is None else self.inner_store(parent)

    def inner_store(self, node_id: str) -> _Store:
        """Where the outputs of the nodes are kept that a node expanded into."""
        inner = self.store(node_id).inner
        return inner.setdefault((node_id, self.graph.get_node(node_id)["class_type"]), _Store())

    def cached(self, node_id: str) -> _Cached | None:
        store = self.store(node_id)
        return store.outputs.get(store.keys.get(node_id, ""))

    def keep(self, node_id: str, outputs: list[Any]) -> None:
        store = self.store(node_id)
        store.outputs[store.keys[node_id]] = _Cached(self.ui.get(node_id), outputs)

    def object(self, node_id: str) -> Any:
        """The node itself: one object for as long as the class stays."""
        class_type = self.graph.get_node(node_id)["class_type"]
        objects = self.store(node_id).objects
        if (node_id, class_type) not in objects:
            objects[node_id, class_type] = self.executor.nodes.classes[class_type]()
        return objects[node_id, class_type]

    def signed(self, node_ids: Iterable[str]) -> dict[str, str]:
        """The keys of nodes."""
        keys = _Keys(self)
        return {node_id: keys.of(node_id) for node_id in node_ids}

    def changed(self, node_id: str) -> Any:
        """What ``IS_CHANGED`` says, if there is one; also marked in the graph, as it is there."""
        node = self.graph.get_node(node_id)
        cls = self.executor.nodes.classes[node["class_type"]]
        if not hasattr(cls, "IS_CHANGED"):
            return False
        if "is_changed" not in node:
            try:
                values, _ = self.inputs(node_id)
                node["is_changed"] = [_called(cls.IS_CHANGED, v) for v in _slices(values, cls)]
            except Exception as exc:  # noqa: BLE001  the server takes it for a change
                self.executor.sink.log(f"WARNING: {exc}")
                node["is_changed"] = float("nan")
        return node["is_changed"]

    # -- one node -----------------------------------------------------------------------

    def config(self, node_id: str, name: str) -> Mapping[str, Any]:
        """The options of an input."""
        types = self.executor.nodes.definition(self.graph.get_node(node_id)["class_type"])["input"]
        for kind in ("required", "optional"):
            config = types.get(kind, {}).get(name)
            if config is not None:
                return config[1] if len(config) > 1 else {}
        return {}

    def is_output(self, node_id: str) -> bool:
        cls = self.executor.nodes.classes[self.graph.get_node(node_id)["class_type"]]
        return bool(getattr(cls, "OUTPUT_NODE", False))

    def is_intermediate(self, node_id: str) -> bool:
        """Whether it shows something, though it is no output node."""
        cls = self.executor.nodes.classes[self.graph.get_node(node_id)["class_type"]]
        return bool(getattr(cls, "HAS_INTERMEDIATE_OUTPUT", False))

    def goes_first(self, node_id: str) -> bool:
        """Outputs, since people wait for them; coroutines, since others can run meanwhile."""
        cls = self.executor.nodes.classes[self.graph.get_node(node_id)["class_type"]]
        return self.is_output(node_id) or inspect.iscoroutinefunction(getattr(cls, cls.FUNCTION))

    def inputs(
        self, node_id: str, sources: Collection[str] | None = None
    ) -> tuple[dict[str, list[Any]], set[str]]:
        """What a node is called with, and the names of what is not worked out.

        For each input the values of one or more calls; of links only from `sources`.
        Without `sources` only what stands in the graph.
        """
        node = self.graph.get_node(node_id)
        types = self.executor.nodes.definition(node["class_type"])["input"]
        known = {**types.get("optional", {}), **types.get("required", {})}
        hidden = types.get("hidden", {})
        values: dict[str, list[Any]] = {}
        missing = set()
        for name, value in _inputs(node).items():
            config = known.get(name)
            raw = bool(config and len(config) > 1 and config[1].get("rawLink"))
            if is_link(value) and not raw:
                source = self.cached(value[0]) if value[0] in (sources or ()) else None
                if source is not None and value[1] < len(source.outputs):
                    values[name] = source.outputs[value[1]]
                else:
                    values[name] = [None]
                    missing.add(name)
            elif config is not None or name in hidden:
                values[name] = [value]
        constants_only = sources is None
        offered = {
            "PROMPT": {} if constants_only else self.prompt,
            "DYNPROMPT": None if constants_only else self.graph,
            "EXTRA_PNGINFO": None if constants_only else self.extra_data.get("extra_pnginfo"),
            "UNIQUE_ID": node_id,
            "AUTH_TOKEN_COMFY_ORG": self.extra_data.get(SECRETS[0]),
            "API_KEY_COMFY_ORG": self.extra_data.get(SECRETS[1]),
        }
        values |= {name: [offered[kind]] for name, kind in hidden.items() if kind in offered}
        return values, missing

    def wanted(self, node: Any, inputs: dict[str, list[Any]], missing: set[str]) -> list[str]:
        """The lazy inputs that a node asks for, having seen the others."""
        check = getattr(node, "check_lazy_status", None)
        names: list[Any] = []
        if check is None:
            return []
        for arguments in _slices(inputs, node):
            self.executor.check_interrupted()
            if not any(map(_block_in, arguments.values())):
                asked = _called(check, arguments)
                names += asked if isinstance(asked, list) else []
        found = [name for name in dict.fromkeys(names) if isinstance(name, str)]
        return [name for name in found if name not in inputs or name in missing]

    def call(
        self, node: Any, inputs: dict[str, list[Any]], executed: set[str]
    ) -> tuple[dict[str, Any], list[_Result]]:
        """What a node shows, and what each call gave."""
        results: list[_Result] = []
        shown: list[dict[str, Any]] = []
        for arguments in _slices(inputs, node):
            self.executor.check_interrupted()
            block = next(filter(None, map(_block_in, arguments.values())), None)
            if block:
                returned: Any = self._blocked(block, executed)
            else:
                returned = _called(getattr(node, node.FUNCTION), arguments)
            expansion = None
            if isinstance(returned, dict):
                if "ui" in returned:
                    shown.append(returned["ui"])
                if "expand" not in returned and "result" not in returned:
                    continue
                expansion, returned = returned.get("expand"), returned.get("result")
            if isinstance(returned, ExecutionBlocker):
                returned = (returned,) * len(node.RETURN_TYPES)
            results.append((expansion, returned))
        ui = (
            {key: [one for part in shown for one in part[key]] for key in shown[0]} if shown else {}
        )
        json.dumps(ui)  # or it is this node's failure: ComfyUI would end over it
        return ui, results

    def resolved(self, node_id: str) -> list[Any]:
        """The outputs of a node that expanded into others, which have run."""
        results = []
        for expansion, result in self.expanded.pop(node_id):
            if expansion is not None:
                values: list[Any] = []
                for output in result:
                    if is_link(output):
                        source = self.cached(output[0])
                        values += source.outputs[output[1]] if source else ()
                    else:
                        values.append(output)
                result = tuple(values)  # noqa: PLW2901
            results.append(result)
        class_type = self.graph.get_node(node_id)["class_type"]
        return _merged(results, self.executor.nodes.classes[class_type])

    def _blocked(self, block: ExecutionBlocker, executed: set[str]) -> ExecutionBlocker:
        if block.message is None:
            return block
        data = {
            "prompt_id": self.prompt_id,
            "node_id": self.node_id,
            "node_type": self.graph.get_node(self.node_id)["class_type"],
            "executed": list(executed),
            "exception_message": f"Execution Blocked: {block.message}",
            "exception_type": "ExecutionBlocked",
            "traceback": [],
            "current_inputs": [],
            "current_outputs": [],
        }
        self.executor.sink.send("execution_error", data, self.client_id)
        return ExecutionBlocker(None)


class _Keys:
    """Keys of nodes: equal ones have equal outputs.

    Made of class, inputs, ``IS_CHANGED``, and the same of all nodes that it takes from.
    Two equal sources are not one: whether inputs come from the same node counts, too.
    """

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._known: dict[str, str] = {}

    def of(self, node_id: str) -> str:
        """The key of a node."""
        chain = {node_id: None}  # each has the next for its only source
        while node_id not in self._known:
            sources = list(dict.fromkeys(self._sources(node_id)))
            if len(sources) != 1 or sources[0] in chain:
                break
            [node_id] = sources
            chain[node_id] = None
        *users, base = chain
        if base not in self._known:
            self._known[base] = self._with_all_sources(base)
        key = self._known[base]
        for user, source in zip(reversed(users), [base, *reversed(users)], strict=False):
            key = self._known[user] = _digest([self._of_itself(user, {source: 0}), key])
        return key

    def _with_all_sources(self, node_id: str) -> str:
        order: dict[str, int] = {}
        waiting = self._sources(node_id)[::-1]
        while waiting:
            source = waiting.pop()
            if source not in order:
                order[source] = len(order)
                waiting += self._sources(source)[::-1]
        return _digest([self._of_itself(one, order) for one in (node_id, *order)])

    def _of_itself(self, node_id: str, order: Mapping[str, int]) -> object:
        run = self._run
        if not run.graph.has_node(node_id):
            return _nothing_like_it()
        node = run.graph.get_node(node_id)
        class_type = node["class_type"]
        hidden = run.executor.nodes.definition(class_type)["input"].get("hidden", {})
        personal = "UNIQUE_ID" in hidden.values()
        cls = run.executor.nodes.classes[class_type]
        personal = personal or bool(getattr(cls, "NOT_IDEMPOTENT", False))
        inputs = [
            (name, "link", order[value[0]], _comparable(value[1]))
            if is_link(value)
            else (name, _comparable(value))
            for name, value in sorted(_inputs(node).items())
        ]
        changed = _comparable(run.changed(node_id))
        return [class_type, changed, node_id if personal else None, inputs]

    def _sources(self, node_id: str) -> list[str]:
        graph = self._run.graph
        links = sorted(_links(graph, node_id)) if graph.has_node(node_id) else ()
        return [source for _, source in links]


class _Plan:
    """The order of nodes: what is ready, and nearest to an output."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self.pending: dict[str, set[str]] = {}  # what each still waits for
        #: What each may take from: of its lazy inputs only those that it asked for.
        self.sources: defaultdict[str, set[str]] = defaultdict(set)
        self._behind: defaultdict[str, dict[str, None]] = defaultdict(dict)

    def add(self, node_id: str) -> None:
        """Add a node, and all that it surely needs and that is not cached."""
        waiting = [node_id]
        links = []
        while waiting:
            node_id = waiting.pop()
            if node_id in self.pending:
                continue
            self.pending[node_id] = set()
            for name, source in _links(self._run.graph, node_id):
                if not self._run.config(node_id, name).get("lazy"):
                    if not self._run.cached(source):
                        waiting.append(source)
                    links.append((source, node_id))
        for source, target in links:
            self.link(source, target)

    def link(self, source: str, target: str) -> None:
        """Have one node wait for another."""
        if not self._run.cached(source):
            self.add(source)
            self._behind[source][target] = None
            self.pending[target].add(source)
        self.sources[target].add(source)

    def need(self, node_id: str, name: str) -> None:
        """Have a node wait for one of its lazy inputs."""
        inputs = _inputs(self._run.graph.get_node(node_id))
        told = f"Node {node_id} says it needs input {name}, but"
        if name not in inputs:
            raise NodeInputError(f"{told} there is no input to that node at all")
        if not is_link(inputs[name]):
            raise NodeInputError(f"{told} that value is a constant")
        self.link(inputs[name][0], node_id)

    def pick(self) -> str:
        """The next node; fails if all wait for each other."""
        ready = [node_id for node_id, needed in self.pending.items() if not needed]
        if not ready:
            raise self._cycle()
        run, behind = self._run, self._behind
        for node_id in ready:
            if run.goes_first(node_id):
                return node_id
        for node_id in ready:
            if any(map(run.is_output, behind[node_id])):
                return node_id
        for node_id in ready:
            if any(run.is_output(b) for a in behind[node_id] for b in list(behind[a])):
                return node_id
        return ready[0]

    def _cycle(self) -> _Failure:
        display_id = self._run.graph.get_display_node_id
        blamed = next(iter(self.pending))
        # One that is shown in another came by expansion: the others were checked before.
        blamed = next((display_id(n) for n in self.pending if display_id(n) != n), blamed)
        return _Failure(blamed, DependencyCycleError("Dependency cycle detected"), [])

    def complete(self, node_id: str) -> None:
        """A node has run."""
        del self.pending[node_id]
        for other in self._behind.pop(node_id, ()):
            self.pending[other].discard(node_id)


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


def _links(graph: Graph, node_id: str) -> list[tuple[str, str]]:
    """Name and source of each input that is a link."""
    inputs = _inputs(graph.get_node(node_id)).items()
    return [(name, value[0]) for name, value in inputs if is_link(value)]


def _comparable(value: Any) -> object:
    """JSON that is equal for equal values; NaN and objects are like nothing else."""
    if isinstance(value, dict):
        return {str(key): _comparable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(one) for one in value]
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if isinstance(value, float):
        return _nothing_like_it() if math.isnan(value) else value
    return value if value is None or isinstance(value, str | int) else _nothing_like_it()


def _nothing_like_it() -> str:
    return uuid.uuid4().hex


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _slices(inputs: dict[str, list[Any]], node: Any) -> list[dict[str, Any]]:
    """The arguments of each call: short lists are continued with their last value."""
    if getattr(node, "INPUT_IS_LIST", False):
        return [dict(inputs)]
    calls = max(map(len, inputs.values()), default=0)
    if not calls:
        return [{}]
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
    return value if isinstance(value, int | float | str | None) else _text(value)


def _text(value: object) -> str:
    try:
        return str(value)
    except BaseException as exc:  # noqa: BLE001  a class of the user's
        return f"<{type(value).__name__} whose text fails with {type(exc).__name__}>"


def _encoded(preview: Preview) -> bytes:
    kind, picture, box = preview
    if box is not None:
        picture = ImageOps.contain(picture, (box, box), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    picture.save(file, format=kind, quality=95, compress_level=1)
    return file.getvalue()

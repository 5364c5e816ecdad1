"""The execution of one prompt: messages, and calls of nodes."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import struct
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import attrs
from PIL import Image, ImageOps

from ..workflow.validate import is_link, type_of
from .active_faults import ActiveFaults
from .definitions import hidden_inputs, inputs_of_node
from .folders import Folders
from .node_answers import answer_of
from .node_api import ExecutionBlocker, PreviewTuple, wait
from .node_faults import affect, marks
from .nodes import (
    Cached,
    CacheKeys,
    DependencyCycleError,
    DynamicPrompt,
    NodeCache,
    NodeRegistry,
    inputs_in,
)
from .server_clock import ServerClock
from .stubs import fitted
from .v3.adapter import V3Node

#: The result of one call: the nodes that it expands into or ``None``, and its outputs.
CallResult = tuple[dict[str, Any] | None, Any]

SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")
_PREVIEW, _TEXT, _PREVIEW_WITH_METADATA = 1, 3, 4  # kinds of binary messages
_PREVIEW_METHODS = ("none", "auto", "latent2rgb", "taesd")


class MessageSink(Protocol):
    """The receiver of the executor's messages."""

    def send(self, event: str | int, data: Any, client_id: str | None = None) -> None:
        """Send an event to one client, or to all without an id; numbers are binary events."""

    def knows_metadata(self, client_id: str | None) -> bool:
        """Return whether a client wants previews with metadata."""

    def log(self, text: str) -> None:
        """Add a line to the server's log."""

    def keep_error(self, error: BaseException) -> None:
        """Record an error that the test must see, unlike the failure of a node."""


class NodeFailure(Exception):
    """A node failed, which ends the prompt."""

    def __init__(self, node_id: str, error: BaseException, inputs: Any) -> None:
        super().__init__(node_id, error)
        self.node_id = node_id
        self.error = error
        self.inputs = inputs


@attrs.define
class PromptRun:
    """The execution of one prompt."""

    nodes: NodeRegistry
    faults: ActiveFaults
    sink: MessageSink
    check_interrupted: Callable[[], None]
    prompt_id: str
    prompt: dict[str, Any]
    extra_data: Mapping[str, Any]
    client_id: str | None
    clock: ServerClock
    _store: NodeCache
    _newer: bool  # whether prompts choose their previews, and some progress is left out
    graph: DynamicPrompt = attrs.field(init=False)
    fewer_progress: bool = attrs.field(init=False)
    node_id: str = attrs.field(default="", init=False)  # the running node
    shown_id: str | None = attrs.field(default=None, init=False)  # its id for the client
    known: list[str] = attrs.field(factory=list, init=False)  # nodes that can be cached
    expanded: dict[str, list[CallResult]] = attrs.field(factory=dict, init=False)
    ui: dict[str, Any] = attrs.field(factory=dict, init=False)
    messages: list[Any] = attrs.field(factory=list, init=False)
    _states: dict[str, Any] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.graph = DynamicPrompt(self.prompt)
        self.fewer_progress = self._newer

    # -- messages -----------------------------------------------------------------------

    def report(self, event: str, data: dict[str, Any], *, to_all: bool = False) -> None:
        """Add an event to the prompt's history, and send it to the prompt's client.

        If there is no client, it is sent to nobody, or to all clients if ``to_all`` is true.
        """
        data = {**data, "timestamp": self.clock.stamp()}
        self.messages.append([event, data])
        if self.client_id is not None or to_all:
            self.sink.send(event, data, self.client_id)

    def details(self, failure: NodeFailure) -> dict[str, Any]:
        """Return the fields of ``execution_error`` that describe the error."""
        is_cycle = isinstance(failure.error, DependencyCycleError)  # not raised by a node
        return {
            "exception_message": f"{safe_text(failure.error)}{'' if is_cycle else chr(10)}",
            "exception_type": type_of(failure.error),
            "traceback": traceback.format_tb(None if is_cycle else failure.error.__traceback__),
            "current_inputs": failure.inputs,
            "current_outputs": self.known,
        }

    def record(self, succeeded: bool) -> dict[str, Any]:
        """Return the prompt's history entry, without the prompt itself."""
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
        """Tell the client that a node starts."""
        if self.client_id is not None:
            display_id = self.graph.get_display_node_id(node_id)
            self.shown_id = display_id
            data = {"node": node_id, "display_node": display_id, "prompt_id": self.prompt_id}
            self.sink.send("executing", data, self.client_id)

    def send_executed(self, node_id: str, output: Any) -> None:
        """Send a node's output to the client."""
        data = {
            "node": node_id,
            "display_node": self.graph.get_display_node_id(node_id),
            "output": output,
            "prompt_id": self.prompt_id,
        }
        self.sink.send("executed", data, self.client_id)

    def show(self, node_id: str, ui: dict[str, Any]) -> None:
        """Report a node's output to the history and to the client."""
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
        """Report that a node starts, with no progress yet."""
        self._send_state(node_id, 0.0, 1.0, "running")

    def finish(self, node_id: str) -> None:
        """Report that a node is complete."""
        total = self._states.get(node_id, {"max": 1})["max"]
        self._send_state(node_id, total, total, "finished")

    def progress(self, value: float, total: float, preview: PreviewTuple | None) -> None:
        """Report the progress of the running node."""
        sink, client_id = self.sink, self.client_id
        was_sent = self.show_progress(value, total, preview)
        data = {"value": value, "max": total, "prompt_id": self.prompt_id, "node": self.node_id}
        sink.send("progress", data, client_id)
        if preview and not was_sent:
            number = 2 if preview[0] == "PNG" else 1
            sink.send(_PREVIEW, struct.pack(">I", number) + _encoded(preview), client_id)

    def show_progress(
        self, value: float, total: float, preview: PreviewTuple | None, node_id: str | None = None
    ) -> bool:
        """Report the progress of a node, the running one by default, without ``progress``.

        Return whether there is a preview that the client got, as clients do that know metadata.
        """
        node_id = self.node_id if node_id is None else node_id
        self._send_state(node_id, value, total, "running")
        if not preview or not self.sink.knows_metadata(self.client_id):
            return False
        frame = self._with_metadata(node_id, preview)
        self.sink.send(_PREVIEW_WITH_METADATA, frame, self.client_id)
        return True

    def _send_state(self, node_id: str, value: float, total: float, state: str) -> None:
        """Set the progress of a node; send that of all nodes, of which each is made once."""
        progress = {"value": value, "max": total, "state": state}
        self._states[node_id] = {**progress, **self._identity(node_id)}
        data = {"prompt_id": self.prompt_id, "nodes": dict(self._states)}
        self.sink.send("progress_state", data, self.client_id)

    def _identity(self, node_id: str) -> dict[str, Any]:
        return {
            "node_id": node_id,
            "prompt_id": self.prompt_id,
            "display_node_id": self.graph.get_display_node_id(node_id),
            "parent_node_id": self.graph.get_parent_node_id(node_id),
            "real_node_id": self.graph.get_real_node_id(node_id),
        }

    def _with_metadata(self, node_id: str, preview: PreviewTuple) -> bytes:
        kind = "image/png" if preview[0] == "PNG" else "image/jpeg"
        metadata = json.dumps({**self._identity(node_id), "image_type": kind}).encode()
        return struct.pack(">I", len(metadata)) + metadata + _encoded(preview)

    # -- for the running node -----------------------------------------------------------

    @property
    def folders(self) -> Folders:
        """The folders of the server's files."""
        return self.nodes.folders

    def wants_previews(self, default: bool) -> bool:
        """Return whether to send previews: the prompt's own choice if allowed, else ``default``."""
        method = self.extra_data.get("preview_method") if self._newer else None
        return method != "none" if method in _PREVIEW_METHODS else default

    def send_event(self, event: str, data: Any) -> None:
        """Send an event to all clients."""
        self.sink.send(event, data)

    def send_text(self, text: str) -> None:
        """Send a text to the prompt's client as the progress of the running node."""
        node = self.node_id.encode()
        self.sink.send(_TEXT, struct.pack(">I", len(node)) + node + text.encode(), self.client_id)

    # -- what is kept -------------------------------------------------------------------

    def store(self, node_id: str) -> NodeCache:
        """Return the cache of the graph that a node belongs to."""
        parent = self.graph.get_parent_node_id(node_id)
        return self._store if parent is None else self.inner_store(parent)

    def inner_store(self, node_id: str) -> NodeCache:
        """Return the cache of the nodes that a node expanded into."""
        inner = self.store(node_id).inner
        return inner.setdefault((node_id, self.graph.get_node(node_id)["class_type"]), NodeCache())

    def cached(self, node_id: str) -> Cached | None:
        """Return the cached output of a node, or None."""
        store = self.store(node_id)
        return store.outputs.get(store.keys.get(node_id, ""))

    def keep(self, node_id: str, outputs: list[Any]) -> None:
        """Cache the outputs of a node that has run."""
        store = self.store(node_id)
        store.outputs[store.keys[node_id]] = Cached(self.ui.get(node_id), outputs)

    def object(self, node_id: str) -> Any:
        """Return the instance of a node's class, made on first use.

        It is reused by later prompts that have the same node id and class.  Classes of V3 have no
        instances, so that each call has one of its own here.
        """
        cls = self._class_of(node_id)
        if issubclass(cls, V3Node):
            return cls(inputs_in(self.graph.get_node(node_id)), self._hidden(node_id))
        name = node_id, self.graph.get_node(node_id)["class_type"]
        objects = self.store(node_id).objects
        if name not in objects:
            objects[name] = cls()
        return objects[name]

    def signed(self, node_ids: Iterable[str]) -> dict[str, str]:
        """Return the cache keys of these nodes, by node id."""
        keys = CacheKeys(self.graph, self.nodes, self._version)
        return {node_id: keys.of(node_id) for node_id in node_ids}

    def changed(self, node_id: str) -> Any:
        """Return the results of a node's ``IS_CHANGED``, or False if its class does not have it.

        They are computed once and stored in the graph, as in ComfyUI; a failure counts as NaN.
        """
        node, cls = self.graph.get_node(node_id), self._class_of(node_id)
        if not hasattr(cls, "IS_CHANGED"):
            return False
        if "is_changed" not in node:
            try:
                values, _ = self.inputs(node_id)
                if issubclass(cls, V3Node):
                    cls = cls(inputs_in(node), self._hidden(node_id, constants_only=True))
                node["is_changed"] = [_called(cls.IS_CHANGED, v) for v in _slices(values, cls)]
            except Exception as exc:  # noqa: BLE001  counts as a change
                self.sink.log(f"WARNING: {exc}")
                node["is_changed"] = float("nan")
        return node["is_changed"]

    def _version(self, node_id: str) -> Any:
        """Return what decides, besides its inputs, whether the cached output of a node counts."""
        changed, found = self.changed(node_id), marks(self.faults, self._names(node_id))
        return [changed, found] if found else changed

    # -- one node -----------------------------------------------------------------------

    def _names(self, node_id: str) -> set[str]:
        """Return the names by which faults find a node: its class, its id and its parents'."""
        class_type = self.graph.get_node(node_id)["class_type"]
        return {class_type, node_id, self.graph.get_real_node_id(node_id)}

    @property
    def _class_type(self) -> str:
        class_type: str = self.graph.get_node(self.node_id)["class_type"]
        return class_type

    def _class_of(self, node_id: str) -> Any:
        return self.nodes.classes[self.graph.get_node(node_id)["class_type"]]

    def config(self, node_id: str, name: str) -> Mapping[str, Any]:
        """Return the options of a node's input from its definition, or an empty mapping."""
        node = self.graph.get_node(node_id)
        definition = self.nodes.definition(node["class_type"])
        config = inputs_of_node(definition, inputs_in(node)).get(name, ())
        return config[1] if len(config) > 1 else {}

    def is_output(self, node_id: str) -> bool:
        """Return whether a node is an output node."""
        return bool(getattr(self._class_of(node_id), "OUTPUT_NODE", False))

    def is_intermediate(self, node_id: str) -> bool:
        """Return whether a node's outputs are displayed even if it is not an output node."""
        return bool(getattr(self._class_of(node_id), "HAS_INTERMEDIATE_OUTPUT", False))

    def goes_first(self, node_id: str) -> bool:
        """Return whether a node runs before others, as output nodes and coroutines do."""
        cls = self._class_of(node_id)
        return self.is_output(node_id) or inspect.iscoroutinefunction(getattr(cls, cls.FUNCTION))

    def inputs(
        self, node_id: str, sources: Collection[str] | None = None
    ) -> tuple[dict[str, list[Any]], set[str]]:
        """Return the arguments of a node, and the names of inputs that are not computed yet.

        The arguments are, for each input, the values of one or more calls; links give those of
        `sources` only.  Without `sources`, they are only the values in the graph.
        """
        node = self.graph.get_node(node_id)
        definition = self.nodes.definition(node["class_type"])
        known = inputs_of_node(definition, inputs_in(node))
        is_v3 = issubclass(self._class_of(node_id), V3Node)  # gets hidden inputs apart
        hidden = {} if is_v3 else hidden_inputs(definition)
        takes_all = getattr(self._class_of(node_id), "TAKES_ALL", False)
        values: dict[str, list[Any]] = {}
        missing = set()
        for name, value in inputs_in(node).items():
            config = known.get(name)
            raw = bool(config and len(config) > 1 and config[1].get("rawLink"))
            if is_link(value) and not raw:
                source = self.cached(value[0]) if value[0] in (sources or ()) else None
                if source is not None and value[1] < len(source.outputs):
                    kind = config[0] if config else "*"
                    values[name] = [fitted(one, kind) for one in source.outputs[value[1]]]
                else:
                    values[name] = [None]
                    missing.add(name)
            elif config is not None or name in hidden or takes_all:
                values[name] = [value]
        offered = self._hidden(node_id, constants_only=sources is None)
        values |= {name: [offered[kind]] for name, kind in hidden.items() if kind in offered}
        return values, missing

    def _hidden(self, node_id: str, *, constants_only: bool = False) -> dict[str, Any]:
        """Return the hidden inputs of a node by kind; before a run, only what is known then."""
        return {
            "PROMPT": {} if constants_only else self.prompt,
            "DYNPROMPT": None if constants_only else self.graph,
            "EXTRA_PNGINFO": None if constants_only else self.extra_data.get("extra_pnginfo"),
            "UNIQUE_ID": node_id,
            "AUTH_TOKEN_COMFY_ORG": self.extra_data.get(SECRETS[0]),
            "API_KEY_COMFY_ORG": self.extra_data.get(SECRETS[1]),
            "COMFY_USAGE_SOURCE": self.extra_data.get("comfy_usage_source"),
        }

    def wanted(self, node: Any, inputs: dict[str, list[Any]], missing: set[str]) -> list[str]:
        """Return the names of lazy inputs that a node asks for and that are not computed yet."""
        check = getattr(node, "check_lazy_status", None)
        names: list[Any] = []
        if check is None:
            return []
        for arguments in _slices(inputs, node):
            self.check_interrupted()
            if not any(map(_block_in, arguments.values())):
                asked = _called(check, arguments)
                names += asked if isinstance(asked, list) else []
        found = [name for name in dict.fromkeys(names) if isinstance(name, str)]
        return [name for name in found if name not in inputs or name in missing]

    def call(
        self, node: Any, inputs: dict[str, list[Any]], executed: set[str]
    ) -> tuple[dict[str, Any], list[CallResult]]:
        """Call a node with each set of arguments; return its displayed output and the results."""
        results: list[CallResult] = []
        uis: list[dict[str, Any]] = []
        is_first = True
        for arguments in _slices(inputs, node):
            self.check_interrupted()
            block = next(filter(None, map(_block_in, arguments.values())), None)
            if block:
                returned: Any = self._blocked(block, executed)
            else:
                if is_first:
                    is_first = False
                    affect(self.faults, self._names(self.node_id))
                wait(self.nodes.settings.seconds.get(self._class_type, 0.0))
                answer = answer_of(self.faults, self._names(self.node_id))
                if answer:
                    returned = answer.given(node, arguments, self.nodes.folders)
                else:
                    returned = _called(getattr(node, node.FUNCTION), arguments)
            expansion = None
            if isinstance(returned, dict):
                if "ui" in returned:
                    uis.append(returned["ui"])
                if "expand" not in returned and "result" not in returned:
                    continue
                expansion, returned = returned.get("expand"), returned.get("result")
            if isinstance(returned, ExecutionBlocker):
                returned = (returned,) * len(node.RETURN_TYPES)
            results.append((expansion, returned))
        ui = {key: [one for part in uis for one in part[key]] for key in uis[0]} if uis else {}
        json.dumps(ui)  # fails as an error of this node, where ComfyUI's worker would die
        return ui, results

    def resolved(self, node_id: str) -> list[Any]:
        """Return the outputs of an expanded node, after its inner nodes have run."""
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
        return merged(results, self._class_of(node_id))

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
        self.sink.send("execution_error", data, self.client_id)
        return ExecutionBlocker(None)


def _slices(inputs: dict[str, list[Any]], node: Any) -> list[dict[str, Any]]:
    """Return the arguments of each call of a node; short lists repeat their last value."""
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


def merged(results: list[Any], node: Any) -> list[Any]:
    """Return the outputs of all calls of a node, as one list for each slot."""
    is_list = getattr(node, "OUTPUT_IS_LIST", [False] * len(results[0]))
    slots: list[Any] = []
    for slot, spread in zip(range(len(results[0])), is_list, strict=False):
        values: list[Any] = []
        for result in results:
            if spread and not isinstance(result[slot], ExecutionBlocker):
                values.extend(result[slot])
            else:
                values.append(result[slot])
        slots.append(values)
    return slots


def shown_input(value: Any) -> Any:
    """Return an input as an error message shows it."""
    return value if isinstance(value, int | float | str | None) else safe_text(value)


def safe_text(value: object) -> str:
    """Return ``str()`` of a value, or a substitute if that raises."""
    try:
        return str(value)
    except BaseException as exc:  # noqa: BLE001  a class of the user's
        return f"<{type(value).__name__} whose text fails with {type(exc).__name__}>"


def _encoded(preview: PreviewTuple) -> bytes:
    kind, picture, box = preview
    if box is not None:
        picture = ImageOps.contain(picture, (box, box), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    picture.save(file, format=kind, quality=95, compress_level=1)
    return file.getvalue()

"""How a server of March 2024 executes: by recursion from each output, with a cache by node id.

A node counts as unchanged when neither its inputs nor those of what it takes from have changed
since it last ran under the same id; what is cached tells its outputs in history only.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import attrs

from .execution import Executor, Preview, _called, _Failure, _merged, _Run, _shown, _slices, _text


@attrs.define
class _Past:
    """What is left of the prompts before, by node id."""

    outputs: dict[str, list[Any]] = attrs.field(factory=dict)
    ui: dict[str, Any] = attrs.field(factory=dict)
    objects: dict[tuple[str, str], Any] = attrs.field(factory=dict)  # by id and class
    nodes: dict[str, Any] = attrs.field(factory=dict)  # as they were when they last ran

    def serve(self, prompt: Mapping[str, Any]) -> None:
        """Forget the nodes that a prompt does not have."""
        names = {(node_id, node["class_type"]) for node_id, node in prompt.items()}
        self.outputs = {key: kept for key, kept in self.outputs.items() if key in prompt}
        self.objects = {name: node for name, node in self.objects.items() if name in names}


class MarchExecutor(Executor):
    """Runs prompts as it was done then."""

    def reset(self) -> None:
        """Forget all outputs and node objects."""
        self._past = _Past()

    def _new_run(self, prompt_id: str, graph: dict[str, Any], extra_data: dict[str, Any]) -> _Run:
        return _MarchRun(self, prompt_id, graph, extra_data, self.client_id, past=self._past)

    def _tell_success(self, run: _Run) -> None:
        """Nothing: that came later."""

    def _steps(self, run: _Run, outputs: Sequence[str], executed: set[str]) -> None:
        run, past = cast("_MarchRun", run), self._past
        past.serve(run.prompt)
        for node_id in run.prompt:
            self._is_new(run, node_id)
        past.ui = {node_id: ui for node_id, ui in past.ui.items() if node_id in past.outputs}
        run.say("execution_cached", {"nodes": list(past.outputs), "prompt_id": run.prompt_id})
        waiting = list(outputs)
        try:
            while waiting:  # first what needs the fewest nodes, some of them counted twice
                costs: dict[str, int] = {}
                waiting.sort(key=lambda node_id: (run.cost(node_id, costs), node_id))
                self._visit(run, waiting.pop(0), executed)
        finally:
            past.nodes |= {node_id: copy.deepcopy(run.prompt[node_id]) for node_id in executed}

    def _is_new(self, run: _MarchRun, node_id: str) -> bool:
        """Whether a node has changed, or one that it takes from; if so, its outputs are lost."""
        past, node = self._past, run.prompt[node_id]
        before = past.nodes.get(node_id)
        failed, changed = run.has_changed(node_id)
        if node_id not in past.outputs:
            return True
        is_new = failed or before is None or changed != before.get("is_changed", "")
        is_new = is_new or (before is not None and node["inputs"] != before["inputs"])
        if is_new or any(
            source not in past.outputs or self._is_new(run, source)
            for source in run.sources(node_id)
        ):
            del past.outputs[node_id]
            return True
        return False

    def _visit(self, run: _MarchRun, node_id: str, executed: set[str]) -> None:
        """One node, after those that it takes from."""
        past = self._past
        if node_id in past.outputs:
            return
        for source in run.sources(node_id):
            self._visit(run, source, executed)
        run.node_id = node_id
        inputs: dict[str, list[Any]] = {}
        try:
            inputs |= run.inputs(node_id, past.outputs)[0]
            run.tell_executing(node_id)
            node = run.object(node_id)
            ui, results = run.call(node, inputs, executed)
            past.outputs[node_id] = _merged([one for _, one in results], node) if results else []
            if ui:
                run.show(node_id, ui)
        except BaseException as exc:  # whatever a node raises ends the prompt only
            shown = {name: [_shown(value) for value in values] for name, values in inputs.items()}
            raise _Failure(node_id, exc, shown) from exc
        executed.add(node_id)


@attrs.define
class _MarchRun(_Run):
    """One prompt, from its start to its end."""

    past: _Past = attrs.field(kw_only=True)

    def say(self, event: str, data: dict[str, Any], *, to_all: bool = False) -> None:
        self.messages.append([event, data])
        if self.client_id is not None or to_all:
            self.executor.outlet.send(event, data, self.client_id)

    def details(self, failure: _Failure) -> dict[str, Any]:
        return {
            "exception_message": _text(failure.error),
            "exception_type": failure.exception_type,
            "traceback": traceback.format_tb(failure.error.__traceback__),
            "current_inputs": failure.inputs,
            "current_outputs": {
                node_id: [[_shown(value) for value in values] for values in outputs]
                for node_id, outputs in self.past.outputs.items()
            },
        }

    def record(self, succeeded: bool) -> dict[str, Any]:
        return {"outputs": dict(self.past.ui), "status": self._status(succeeded)}

    def tell_executing(self, node_id: str) -> None:
        if self.client_id is not None:
            self.executor.node_id = node_id
            data = {"node": node_id, "prompt_id": self.prompt_id}
            self.executor.outlet.send("executing", data, self.client_id)

    def show(self, node_id: str, ui: dict[str, Any]) -> None:
        self.past.ui[node_id] = ui
        if self.client_id is not None:
            data = {"node": node_id, "output": ui, "prompt_id": self.prompt_id}
            self.executor.outlet.send("executed", data, self.client_id)

    def progress(self, value: float, total: float, preview: Preview | None) -> None:
        self._tell_progress(self.executor.node_id, value, total)  # of nobody's prompt: no node
        if preview:
            self._send_preview(preview)

    def object(self, node_id: str) -> Any:
        class_type = self.prompt[node_id]["class_type"]
        if (node_id, class_type) not in self.past.objects:
            made = self.executor.nodes.classes[class_type]()
            self.past.objects[node_id, class_type] = made
        return self.past.objects[node_id, class_type]

    def sources(self, node_id: str) -> list[str]:
        """Where the inputs of a node come from: then, every list was a link."""
        inputs = self.prompt[node_id]["inputs"].values()
        return [value[0] for value in inputs if isinstance(value, list)]

    def cost(self, node_id: str, known: dict[str, int]) -> int:
        """How many nodes must run for a node."""
        if node_id in self.past.outputs:
            return 0
        if node_id not in known:
            known[node_id] = 1 + sum(self.cost(one, known) for one in self.sources(node_id))
        return known[node_id]

    def has_changed(self, node_id: str) -> tuple[bool, Any]:
        """Whether ``IS_CHANGED`` failed, and what it says; marked in the prompt, as it was."""
        node = self.prompt[node_id]
        cls = self.executor.nodes.classes[node["class_type"]]
        if not hasattr(cls, "IS_CHANGED"):
            return False, ""
        if "is_changed" not in node:
            try:
                values, _ = self.inputs(node_id, self.past.outputs, for_changes=True)
                node["is_changed"] = [_called(cls.IS_CHANGED, v) for v in _slices(values, cls)]
            except Exception:  # noqa: BLE001  it counts as a change
                return True, ""
        return False, node["is_changed"]

    def inputs(
        self,
        node_id: str,
        sources: Collection[str] | None = None,
        *,
        for_changes: bool = False,
    ) -> tuple[dict[str, list[Any]], set[str]]:
        node = self.prompt[node_id]
        types = self.executor.nodes.definition(node["class_type"])["input"]
        known = {**types.get("optional", {}), **types.get("required", {})}
        values: dict[str, list[Any]] = {}
        missing = set()
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                if name in known:
                    values[name] = [value]
            elif value[0] in self.past.outputs:
                values[name] = self.past.outputs[value[0]][value[1]]
            else:
                values[name] = [None]
                missing.add(name)
        offered = {
            "PROMPT": {} if for_changes else self.prompt,
            "EXTRA_PNGINFO": None if for_changes else self.extra_data.get("extra_pnginfo"),
            "UNIQUE_ID": node_id,
        }
        hidden = types.get("hidden", {}).items()
        return values | {name: [offered[k]] for name, k in hidden if k in offered}, missing

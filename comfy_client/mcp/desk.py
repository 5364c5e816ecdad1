"""One function for each tool and resource; those that send requests block."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote

from ..client import ComfyApi
from ..jobs.job import Job
from ..models import NodeDef
from ..nearest import nearest
from ..transport.websocket import State
from ..workflow import Workflow
from .answers import CallRefused, ToolAnswer, cut, finished, hidden, mime_of, problems_of, whole
from .roots import Roots
from .runs import Runs, costs_money
from .toolbox import ROLES

#: The most inputs, choices of an input and classes in an answer.
_MOST_INPUTS: Final = 80
_MOST_CHOICES: Final = 12
_MOST_CLASSES: Final = 20
#: The ended prompts that are looked through for those of this tool.
_LATEST: Final = 50
#: The most prompts in an answer.
_MOST_PROMPTS: Final = 20
#: The states of a client that hears of progress late, over HTTP.
_NO_EVENTS: Final = (State.WAITING, State.POLLING)
#: Seconds for a thumbnail, and for the diagnosis of the connection.
_THUMBNAIL_TIMEOUT: Final = 8.0
_DOCTOR_TIMEOUT: Final = 10.0
_WORKFLOWS: Final = "comfy://workflow/"
_OUTPUTS: Final = "comfy://output/"
#: The templates of the two resources, and what they are.
TEMPLATES: Final = {
    _WORKFLOWS + "{name}": "A workflow of the folders, in API format",
    _OUTPUTS + "{prompt_id}/{n}": "The whole content of a run's output",
}


class ResourceContent(NamedTuple):
    """The content of a resource: text, or bytes."""

    content: str | bytes
    mime: str


class Desk:
    """The tools on one server.

    Args:
        api: The client of the server.
        roots: The folders with workflows and with files to upload.
        runs: The prompts.
    """

    def __init__(self, api: ComfyApi, roots: Roots, runs: Runs) -> None:
        self._api = api
        self.roots = roots
        self.runs = runs

    # -- runs ----------------------------------------------------------------------------

    def load(self, source: str | Mapping[str, Any]) -> Workflow:
        """Load a workflow from the folders by its name, or from a graph or its JSON text."""
        if isinstance(source, str) and source.lstrip()[:1] == "{":
            try:
                source = json.loads(source)
            except (ValueError, RecursionError) as exc:
                step = "send a graph in API format, or a name"
                raise CallRefused("invalid_json", f"the workflow is no JSON: {exc}", step) from None
        if isinstance(source, str):
            with self.roots.opened(self.roots.workflow(source)) as file:
                return Workflow.load(file, self._api)
        return Workflow.load(source, self._api)

    def preparing(
        self, source: str | Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> Callable[[], Workflow]:
        """Return a function that loads a workflow and sets inputs, by address or role."""

        def prepare() -> Workflow:
            _check_roles(inputs)
            workflow = self.load(source)
            for name in inputs.keys() & set(ROLES):
                value = inputs[name]
                setattr(workflow, name, tuple(value) if isinstance(value, list) else value)
            workflow.set({name: value for name, value in inputs.items() if name not in ROLES})
            return workflow

        return prepare

    def finished(self, job: Job) -> ToolAnswer:
        """Return the answer for a job that has ended; raise its error."""
        return finished(job.prompt_id, job.result(0), _THUMBNAIL_TIMEOUT)

    # -- tools that only read --------------------------------------------------------------

    def inputs(self, workflow: str | Mapping[str, Any] | None = None) -> ToolAnswer:
        """List the inputs of a workflow and its problems; without one, list the workflows."""
        if workflow is None:
            return ToolAnswer({"data": {"workflows": list(self.roots.workflows())}})
        loaded = self.load(workflow)
        report = loaded.check(self._api)
        settable = loaded.inputs(self._api)
        data: dict[str, Any] = {
            "inputs": [_input(one) for one in settable[:_MOST_INPUTS]],
            "problems": problems_of(report.problems),
            "missing_models": [
                {"name": one.name, "folder": one.folder, "url": one.url}
                for one in loaded.missing_models(self._api)[:_MOST_CLASSES]
            ],
        }
        if len(settable) > _MOST_INPUTS:
            data["more_inputs"] = len(settable) - _MOST_INPUTS
        return ToolAnswer({"can_run": report.ok, "data": data})

    def nodes(self, search: str = "", **exact: str) -> ToolAnswer:
        """Find node classes by words, or describe the one in the argument ``class``."""
        if "class" in exact:
            return self._class(exact["class"])
        words = search.casefold().split()
        found = (
            {"class": name, "name": node.display_name, "category": node.category}
            for name, node in self._each()
            if all(word in _searched(node) for word in words)
        )
        classes = list(islice(found, _MOST_CLASSES + 1))
        data = {"classes": classes[:_MOST_CLASSES], "more": len(classes) > _MOST_CLASSES}
        return ToolAnswer({"data": data})

    def _each(self) -> Iterator[tuple[str, NodeDef]]:
        for name, definition in self._api.iter_node_definitions():
            yield name, NodeDef.from_json(name, definition)

    def _class(self, name: str) -> ToolAnswer:
        definition = self._api.node_definitions([name]).get(name)
        if definition is None:
            near = nearest(name, list(self._api.node_names()), 3)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            said = f"the server has no node class {name!r:.200}{hint}"
            raise CallRefused("unknown_class", said, "search for words of its name")
        node = NodeDef.from_json(name, definition)
        required = node.input.get("required") or {}
        inputs = [
            {"name": key, "required": key in required, **_kind(node, key, spec)}
            for key, spec in islice(node.inputs().items(), _MOST_INPUTS)
        ]
        data = {
            "class": name,
            "name": node.display_name,
            "category": node.category,
            "description": cut(node.description or "", 500),
            "inputs": inputs,
            "outputs": [cut(one, 100) for one in node.output],
            "is_output": node.output_node,
        }
        return ToolAnswer({"costs_money": costs_money(definition), "data": data})

    def server(self) -> ToolAnswer:
        """Tell what the server is, and which prompts of this tool it has.

        The doctor, which takes seconds, is asked only why there is no answer.
        """
        if not self._api.ping():
            report = self._api.doctor(timeout=_DOCTOR_TIMEOUT)
            failed = [f"{one.name}: {one.found}" for one in report if one.state == "failed"]
            if failed:
                step = "tell the user what is wrong with the connection"
                raise CallRefused("server_away", cut("; ".join(failed), 500), step)
        stats, queue = self._api.get_system_stats(), self._api.get_queue()
        past = self._api.get_histories(_LATEST)
        own = [
            {"prompt_id": one.prompt_id, "status": status}
            for status, items in (("running", queue.running), ("pending", queue.pending))
            for one in items
            if self.runs.is_own(one.extra_data)
        ][:_MOST_PROMPTS]
        ended = [
            {"prompt_id": one.prompt_id, "status": one.outcome}
            for one in reversed(past.values())
            if self.runs.is_own(one.extra_data)
        ]
        devices = [
            {"name": one.name, "vram_free": one.vram_free, "vram_total": one.vram_total}
            for one in stats.devices
        ]
        followed = {one["prompt_id"]: self.runs.followed(one["prompt_id"]) for one in own}
        facts = {
            "connection": "no events" if self._api.state in _NO_EVENTS else "sound",
            "folders": list(map(str, self.roots.folders)),
            "queue": {"running": len(queue.running), "pending": len(queue.pending)},
            "own_prompts": own,
            "own_ended": ended[:_MOST_PROMPTS],
        }
        why = {name: cut(job.why(), 300) for name, job in followed.items() if job is not None}
        data = {"version": stats.comfyui_version, "devices": devices, "why": why}
        return ToolAnswer({**facts, "data": data})

    # -- files -----------------------------------------------------------------------------

    def upload(self, path: str) -> ToolAnswer:
        """Upload a file of the folders, and return the value for an input; or list a folder."""
        files = self.roots.files(path)
        if files is not None:
            return ToolAnswer({"data": {"files": files}})
        real = self.roots.file(path)
        with self.roots.opened(real) as file:
            sent = self._api.upload_image(file, real.name)
        return ToolAnswer({"data": {"value": sent.ref}})

    def workflows(self) -> dict[str, str]:
        """Return the workflows of the folders as resources: their names by URI."""
        return {f"{_WORKFLOWS}{quote(name, safe='')}": name for name in self.roots.workflows()}

    def read(self, uri: str) -> ResourceContent:
        """Return the content of a resource.

        Raises:
            CallRefused: There is no such resource, or it is too large.
            ComfyError: The server did not send it.
        """
        if uri.startswith(_WORKFLOWS):
            name = unquote(uri.removeprefix(_WORKFLOWS))
            text = json.dumps(hidden(self.load(name).to_dict()), indent=1)
            return ResourceContent(text, "application/json")
        prompt_id, _, n = uri.removeprefix(_OUTPUTS).partition("/")
        if not (uri.startswith(_OUTPUTS) and n.isascii() and n.isdecimal() and len(n) < 7):
            raise CallRefused("unknown_resource", f"no resource {uri!r:.200}", "use a URI of a run")
        files = self.runs.job(prompt_id).result(_THUMBNAIL_TIMEOUT).files
        if int(n) >= len(files):
            raise CallRefused(
                "unknown_resource", f"that run has {len(files)} outputs", "count from 0"
            )
        output = files[int(n)]
        return ResourceContent(whole(output), mime_of(output))


def _check_roles(inputs: Mapping[str, Any]) -> None:
    """Raise CallRefused for a role that is misspelt."""
    for name in inputs:
        near = nearest(name, list(ROLES), 1)
        if near and name not in ROLES and "." not in name:
            said = f"{name!r:.80} is no role; nearest: {near[0]}"
            raise CallRefused("wrong_arguments", said, f"call it again with: {near[0]}")


def _input(one: Any) -> dict[str, Any]:
    """Return an input of a workflow for an agent."""
    facts = {"address": one.address, "type": one.type, "role": one.role, "value": one.value}
    facts |= {"min": one.min, "max": one.max, **_choices(one.choices)}
    return {name: _brief(value) for name, value in facts.items() if value is not None}


def _kind(node: NodeDef, name: str, spec: Any) -> dict[str, Any]:
    """Return the type of a class's input, with its choices, default and range."""
    choices = node.options(name)
    kind, *more = spec if isinstance(spec, list) and spec else [None]
    settings = more[0] if more and isinstance(more[0], Mapping) else {}
    facts = {key: _brief(settings[key]) for key in ("default", "min", "max") if key in settings}
    return {**({"type": cut(kind, 100)} if choices is None else _choices(choices)), **facts}


def _choices(choices: Any) -> dict[str, Any]:
    if choices is None:
        return {}
    few = [_brief(one) for one in choices[:_MOST_CHOICES]]
    more = len(choices) - len(few)
    return {"choices": few, **({"more_choices": more} if more else {})}


def _brief(value: Any) -> Any:
    """Return a value; a long text is cut, which keeps a secret one secret."""
    return cut(value, 300) if type(value) is str else value


def _searched(node: NodeDef) -> str:
    return " ".join(map(str, (node.name, node.display_name, node.category))).casefold()

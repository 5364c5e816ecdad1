"""The server's answer to a prompt: whether it may run, by the definitions of its classes.

The inputs of some classes depend on the values of a node (autogrow inputs, dynamic combos, matched
types).  Each node of such a class is checked with a definition of its own.  Names of files are
accepted as the server's settings say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from ..workflow.graph import class_of, inputs_of
from ..workflow.input_specs import InputSpec
from ..workflow.replacements import replace_classes
from ..workflow.rules import Rules, file_input, rules_for
from ..workflow.validate import ServerVersion, ValidationResult, validate
from .definitions import accepting, takes_model
from .nodes import NodeRegistry
from .v3.adapter import V3Node


@attrs.frozen
class CheckedPrompt:
    """The server's answer to a prompt.

    Attributes:
        result: Whether it may run, or why not.
        guessed: The classes that nothing knows and that were accepted.
    """

    result: ValidationResult
    guessed: tuple[str, ...] = ()


def check_prompt(
    nodes: NodeRegistry, prompt: Any, targets: Any, version: ServerVersion
) -> CheckedPrompt:
    """Return the server's answer to a prompt, which is not changed."""
    if version == "0.28" and isinstance(prompt, dict):
        prompt, crash = _with_new_classes(nodes, prompt)
        if crash:
            return CheckedPrompt(ValidationResult(False, None, {}, [], prompt, crash))
    definitions = nodes.definitions(prompt or {})
    checks = nodes.checks()
    if not isinstance(prompt, dict):
        return CheckedPrompt(validate(prompt, definitions, version=version))
    guessed = nodes.guess(prompt) if nodes.settings.nodes == "any" else {}
    accepts = _Accepts(nodes)
    definitions = accepting({**definitions, **guessed}, prompt, accepts)
    names = [name for name in nodes.adaptable(definitions) if name not in guessed]
    rules = rules_for(prompt, {name: definitions[name] for name in names}, accepts.listed)
    _let_v3_check(rules, nodes, prompt)
    graph = rules.graph(prompt)
    definitions = accepting({**definitions, **rules.definitions}, graph, accepts)
    result = validate(
        graph,
        definitions,
        targets=targets,
        extra_checks={**checks, **rules.checks},
        version=version,
    )
    own_names = {name: name.partition("\n")[0] for name in rules.classes.values() if "\n" in name}
    return CheckedPrompt(_renamed(result, own_names) if own_names else result, tuple(guessed))


def _with_new_classes(nodes: NodeRegistry, prompt: dict[str, Any]) -> tuple[Any, str | None]:
    """Return a prompt with new classes in place of removed ones, or why a real server fails."""
    missing = {name for key in prompt if (name := class_of(prompt, key))} - nodes.classes.keys()
    if not missing:
        return prompt, None
    rules = {
        old: found
        for old, found in nodes.replacements.items()
        if found[0]["new_node_id"] in nodes.classes
    }
    replaced = replace_classes(prompt, missing, rules)
    lacking = [*replaced.absent.values()]
    lacking += ["_meta" for node_id in replaced.notes if "_meta" not in prompt[node_id]]
    return dict(replaced.graph), f"KeyError: {lacking[0]!r}" if lacking else None


def _let_v3_check(rules: Rules, nodes: NodeRegistry, prompt: Mapping[str, Any]) -> None:
    """Put the own checks of V3 nodes into the rules; each has a definition of its own then."""
    for node_id, key in rules.classes.items():
        class_type = key.partition("\n")[0]
        cls = nodes.classes[class_type]
        if issubclass(cls, V3Node):
            rules.checks.pop(key, None)
            hidden = {"UNIQUE_ID": node_id, "PROMPT": {}}
            check = cls(inputs_of(prompt, node_id), hidden).check()
            if check is not None:
                own = rules.classes[node_id] = f"{class_type}\n{node_id}"
                rules.definitions[own] = rules.by_node[node_id]
                rules.checks[own] = check


@attrs.frozen
class _Accepts:
    """The inputs of a server that accept any name of a file."""

    _nodes: NodeRegistry

    def __call__(self, definition: Mapping[str, Any], class_type: str, spec: InputSpec) -> bool:
        settings = self._nodes.settings
        if file_input(definition, class_type, spec) is not None:
            return settings.inputs == "placeholder"
        return settings.models == "any" and takes_model(definition, class_type, spec)

    def listed(self, folder: str) -> Collection[str] | None:
        """Return the names of the files in a folder, or None if any name is accepted."""
        if self._nodes.settings.inputs == "placeholder":
            return None
        return self._nodes.files_in(folder)


def _renamed(result: ValidationResult, names: Mapping[str, str]) -> ValidationResult:
    """Return a result with the names of classes in place of those of nodes' own definitions."""

    def renamed(value: Any) -> Any:
        if isinstance(value, str):
            if "\n" in value:
                for name in sorted(names, key=len, reverse=True):
                    value = value.replace(name, names[name])
            return value
        if isinstance(value, list):
            return list(map(renamed, value))
        if isinstance(value, dict):
            return {key: renamed(one) for key, one in value.items()}
        return value

    graph = {
        key: {**node, "class_type": names[node["class_type"]]}
        if isinstance(node, dict) and node.get("class_type") in names
        else node
        for key, node in result.graph.items()
    }
    return attrs.evolve(
        result, error=renamed(result.error), node_errors=renamed(result.node_errors), graph=graph
    )

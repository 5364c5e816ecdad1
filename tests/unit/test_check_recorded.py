"""Workflow.check says what ComfyUI 0.28.1 and 0.33.0 said, as recorded.

``tests/contract/test_check_agrees.py`` asks a running server.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from comfy_client import Graph
from comfy_client.workflow.check import check
from comfy_client.workflow.input_specs import InputSpec, walk
from tests.helpers.conformance import RecordedServer, recorded_checks
from tests.helpers.long import few
from tests.helpers.wrong_choices import WrongChoice, wrong_choices

VERSIONS = ["0.28.1", "0.33.0"]


@pytest.mark.parametrize("version", VERSIONS)
def test_workflows_on_which_check_once_erred_are_accepted_or_not(version: str) -> None:
    """By the server's own answer; no message shows a dict or a word of this library."""
    server, seen, wrong = RecordedServer(version), 0, []
    for one in recorded_checks()["mutants"]:
        if one["version"] == version:
            seen += 1
            report = check(one["graph"], server, targets=one.get("targets"))
            if report.accepted != one["accepted"]:
                wrong.append((one["kind"], str(report)))
            assert not re.search(r"UNCHECKED|\{'(inputs|key)'", str(report))
    assert (wrong, seen) == ([], {"0.28.1": 105, "0.33.0": 103}[version])


@pytest.mark.parametrize("version", VERSIONS)
def test_wrong_choices_are_errors_only_where_the_server_checks_them(version: str) -> None:
    """One for each choice of each class, and a number that is too large for each class."""
    server = RecordedServer(version)
    taken = {tuple(one) for one in recorded_checks()["unchecked"][version]}
    unsaid = set()
    for one in wrong_choices(server.definitions):
        errors = check(one.graph, server).errors
        if not any(error.input == one.input and error.named_by_server for error in errors):
            unsaid.add((one.class_type, one.input))
    assert unsaid == taken
    assert len(taken) == 13


def own_validation() -> list[WrongChoice]:
    """The cases in which a class validates by itself, and takes the value."""
    classes = {"CustomCombo", "Load3D", "Load3DAdvanced", "ModelAttentionBackend"}
    classes |= {f"Select{kind}Device" for kind in ("CLIP", "Model", "VAE")}
    cases = wrong_choices(RecordedServer("0.33.0").definitions)
    taken = {tuple(one) for one in recorded_checks()["unchecked"]["0.33.0"]}
    return [
        one for one in cases if one.class_type in classes and (one.class_type, one.input) in taken
    ]


@pytest.mark.parametrize("case", own_validation(), ids=lambda case: case.class_type)
def test_a_graph_takes_what_its_server_does_not_check(case: WrongChoice) -> None:
    """``_check=False`` is not needed for it."""
    definitions = RecordedServer("0.33.0").definitions
    inputs = definitions[case.class_type]["input"]["required"]
    known = {name: spec for name, spec in inputs.items() if name in case.graph["1"]["inputs"]}
    definition = {**definitions[case.class_type], "input": {"required": known}}  # without links
    g = Graph({case.class_type: definition})
    node = g[case.class_type](case.graph["1"]["inputs"])
    assert g.workflow()[node.node_id][case.input] == case.graph["1"]["inputs"][case.input]


def selectors() -> list[tuple[str, str, list[str], str]]:
    """Version, class, choices and name of each dynamic combo that a node needs."""
    found = []
    for version in VERSIONS:
        for name, definition in RecordedServer(version).definitions.items():
            for spec in walk(definition, {}):
                is_one = isinstance(spec, InputSpec) and spec.is_selector and spec.required
                if is_one and "." not in spec.name:
                    found.append((version, name, spec.kind, spec.name))
    return found


LINK = ["0", 0]


@pytest.mark.parametrize("version", few(VERSIONS, 1))
@pytest.mark.parametrize("value", [..., "nonsense", None, 7, {"__value__": "x"}, LINK, [1]])
def test_a_dynamic_combo_without_a_choice_is_an_error_that_no_server_names(
    version: str, value: Any
) -> None:
    """The server takes the workflow, and the node fails: missing, misspelt, of any type, linked."""
    server = RecordedServer(version)
    tried = 0
    for found, class_type, choices, name in selectors():
        if found != version or "*" in server.definitions[class_type]["output"]:
            continue
        tried += 1
        graph: dict[str, Any] = {
            "0": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64}},
            "1": {"class_type": class_type, "inputs": {} if value is ... else {name: value}},
        }
        report = check(graph, server)
        (problem,) = (one for one in report.errors if one.input == name)
        assert not problem.named_by_server
        assert "the node fails when it runs" in problem.message
        assert problem.hint is not None
        assert repr(choices[0]) in problem.hint or problem.candidates
        assert not [one for one in report.errors if (one.input or "").startswith(f"{name}.")]
        graph["1"]["inputs"][name] = choices[0]
        assert not [one for one in check(graph, server).errors if one.input == name]
    assert tried > 5


def test_an_older_form_of_a_dynamic_combo_is_no_fault() -> None:
    """SaveVideo had a codec beside its format before it had one for each format."""
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {}},
        "2": {
            "class_type": "SaveVideo",
            "inputs": {"filename_prefix": "x", "format": "mp4", "codec": "auto"},
        },
    }
    server = RecordedServer("0.33.0")
    found = [one for one in check(graph, server) if (one.input or "").startswith("format")]
    assert found == []
    del graph["2"]["inputs"]["codec"]
    (found,) = (one for one in check(graph, server) if (one.input or "").startswith("format"))
    assert (found.severity, found.input) == ("warning", "format.codec")
    assert "may fail" in found.message

"""Every official template and every workflow of ``tests/conformance`` is planned, a part provided.

The server lacks all of their models and packs.  Its Manager is an embedded one of each kind, with a
list of its own: see ``manager_of``.  The guide (``provide.rst``) has the figures.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import attrs
import pytest

from comfy_client import ComfyApi, ConversionWarning, PromptRejected, Workflow
from comfy_client.ext import Plan
from comfy_client.ext.plan import ServerFacts, WorkflowNeeds, make_plan, needs_of
from comfy_client.testing import (
    ComfyServer,
    ListedModel,
    ListedPack,
    Manager3,
    Manager4,
    Manager4Legacy,
)
from comfy_client.testing.definitions import read_definitions
from comfy_client.workflow.check import check
from comfy_client.workflow.convert import convert
from comfy_client.workflow.model_files import models_in
from tests.comfyui import templates
from tests.guide import GUIDE
from tests.helpers.conformance import PAIRS, First, pairs

pytestmark = [
    pytest.mark.real,  # it downloads the templates once
    pytest.mark.timeout(600),  # a minute on an idle machine
    pytest.mark.filterwarnings("ignore::comfy_client.ConversionWarning"),
]
OLD, NEW = "0.28.1", "0.33.0"
KINDS = {"manager4": Manager4, "manager4-legacy": Manager4Legacy, "manager3": Manager3}
#: Of how many workflows one is provided for, and run.
EVERY = 8
NEW_PACK = "https://git.example.com/newer-nodes"


@cache
def workflows() -> dict[str, dict[str, Any]]:
    """All of them in UI format, each once."""
    found = {}
    with zipfile.ZipFile(templates()) as wheel:
        for name in sorted(wheel.namelist()):
            if name.endswith(".json"):
                file = json.loads(wheel.read(name))
                if isinstance(file, dict) and isinstance(file.get("nodes"), list):
                    found[name.rpartition("/")[2]] = file
    saved = {f"{name} of {one}": ui for one in PAIRS for name, ui, _ in pairs(one)}
    whole = {json.dumps(ui, sort_keys=True): name for name, ui in saved.items()}
    return {**found, **{name: saved[name] for name in whole.values()}}


@attrs.frozen
class Wanted:
    """What the workflows name: models by URL, and classes that only the newer ComfyUI has."""

    models: Mapping[str, Mapping[str, str]]
    classes: frozenset[str]


@cache
def wanted() -> Wanted:
    old, new = read_definitions(OLD), read_definitions(NEW)
    models, classes = {}, set()
    for file in workflows().values():
        for node in convert(file, old, dynamic_prompts=First()).graph.values():
            meta = node["_meta"]
            declared = models_in(meta.get("models"))
            models.update({one["url"]: one for one in declared if len(one) == 3})
            if node["class_type"] in new.keys() - old.keys() and "cnr_id" not in meta:
                classes.add(node["class_type"])
    return Wanted(dict(sorted(models.items())), frozenset(classes))


def manager_of(kind: str) -> Any:
    """Has a pack of newer classes, every second model in its list, and no way to every tenth."""
    new, urls = read_definitions(NEW), [*wanted().models]
    listed = [
        ListedModel(filename=one["name"].rpartition("/")[2], url=url, save_path=one["directory"])
        for url, one in [*wanted().models.items()][::2]
    ]
    pack = ListedPack(
        name="newer-nodes",
        url=NEW_PACK,
        classes={one: new[one] for one in sorted(wanted().classes)},
    )
    return KINDS[kind](packs=[pack], models=listed, unreachable=urls[::10], reboot_seconds=0.1)


@contextlib.contextmanager
def served(kind: str) -> Iterator[tuple[ComfyServer, ComfyApi]]:
    quick: dict[str, Any] = {"step_seconds": 0, "speed": 1000, "previews": False}
    with (
        ComfyServer(object_info=OLD, models="touched", packs=[manager_of(kind)], **quick) as server,
        ComfyApi(server.url) as api,
    ):
        yield server, api


@cache
def all_needs(definitions: str) -> dict[str, WorkflowNeeds]:
    """What each workflow lacks by the definitions, which are JSON."""
    known, found = json.loads(definitions), {}
    for name, file in workflows().items():
        graph = convert(file, known, dynamic_prompts=First()).graph
        found[name] = needs_of(graph, check(graph, known).errors)
    return found


def plans(api: ComfyApi, kind: str) -> dict[str, Plan]:
    """The plan of each."""
    manager = api.ext.manager
    facts = ServerFacts(
        manager=kind,
        comfyui=api.get_system_stats().comfyui_version,
        known=manager.mappings(),
        listed=tuple(manager.models()),
    )
    needs = all_needs(json.dumps(api.node_definitions()))
    return {name: make_plan(one, facts) for name, one in needs.items()}


def cause(plan: Plan) -> str:
    """How a plan ends, in the words of the guide."""
    if plan.impossible:
        return plan.impossible[0].cause
    return "nothing missing" if plan.ok else "all can be provided"


def end(api: ComfyApi, file: dict[str, Any], planned: Plan) -> str:
    """Provide what a workflow lacks and run it; return how it ended, in the words of the guide."""
    asked: list[Plan] = []
    workflow = Workflow.load(file, api, dynamic_prompts=First())
    found = workflow.provide(api, yes=lambda plan: not asked.append(plan), timeout=60)
    assert asked[:1] == ([planned] if planned.packs or planned.models else [])
    allowed = {one.id for plan in asked for one in plan.packs}
    installed = {pack.id for pack in api.ext.manager.installed().values()}
    assert installed <= {one.rpartition("/")[2] for one in allowed}
    if found.impossible:
        assert all(one.message.strip() for one in found.impossible)
        return found.impossible[0].cause
    assert found.ok
    try:
        result = api.run(workflow, timeout=60)
    except PromptRejected as exc:
        lacking = needs_of(workflow.to_dict(), exc.problems)
        assert lacking == WorkflowNeeds()  # what was promised is there
        return "refused, with the reason"
    return "an output" if result.outputs else "no output"


def planned_and_ended(kind: str) -> tuple[Counter[str], Counter[str]]:
    """How all plans end, and how every eighth workflow ends that is provided for."""
    ends = Counter[str]()
    with served(kind) as (server, api):
        every = plans(api, kind)
        for name in [*every][::EVERY]:
            ends[end(api, workflows()[name], every[name])] += 1
            server.reset()
    return Counter(map(cause, every.values())), ends


def in_the_guide(section: str, kind: str) -> dict[str, int]:
    """The figures of a Manager in the table of a section."""
    lines = (GUIDE / "provide.rst").read_text(encoding="utf-8").splitlines()
    rows = [re.split("  +", line) for line in lines[lines.index(section) :]]
    rules = [at for at, row in enumerate(rows) if row[0].startswith("==")]
    column = rows[rules[0] + 1].index(kind)
    found = {row[0]: int(row[column]) for row in rows[rules[1] + 1 : rules[2]]}
    assert found.pop("in all") == sum(found.values())
    return {one: count for one, count in found.items() if count}


@pytest.mark.parametrize("kind", KINDS)
def test_workflows_end_in_an_output_or_in_a_sentence_as_often_as_the_guide_says(kind: str) -> None:
    planned, ended = planned_and_ended(kind)
    assert planned == in_the_guide("All plans", kind)
    assert ended == in_the_guide("Every eighth, provided for and run", kind)
    assert planned.total() == len(workflows()) == 1141
    assert ended["no output"] <= 0.05 * ended.total()


def table(counts: Mapping[str, Counter[str]]) -> str:
    """A table by cause for the guide, with a column for each Manager."""
    causes = sorted({one for each in counts.values() for one in each})
    rows = [
        ["how it ends", *counts],
        *([one, *(str(each[one]) for each in counts.values())] for one in causes),
        ["in all", *(str(each.total()) for each in counts.values())],
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    head, *others = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([rule, head, rule, *others, rule])


if __name__ == "__main__":  # prints the tables for the guide
    warnings.simplefilter("ignore", ConversionWarning)
    both = {kind: planned_and_ended(kind) for kind in KINDS}
    for at in (0, 1):
        print(table({kind: counts[at] for kind, counts in both.items()}), end="\n\n")

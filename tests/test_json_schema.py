"""The JSON Schema that is shipped describes what ``to_dict()`` returns."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema
import pytest

import comfy_client
from comfy_client import models
from comfy_client.to_dict import AsDict, names_in_dict
from tests.json_schema import CLASSES, schema

SHIPPED = json.loads(
    resources.files(comfy_client).joinpath("schema.json").read_text(encoding="utf-8")
)


def test_the_shipped_schema_is_that_of_the_classes() -> None:
    """``python -m tests.json_schema`` writes it anew."""
    assert schema() == SHIPPED


def test_the_shipped_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SHIPPED)


def test_each_name_has_a_text() -> None:
    """That of ``help()``."""
    for name, one in SHIPPED["$defs"].items():
        assert one["description"], name
        assert all(each["description"] for each in one["properties"].values()), name


#: Public classes without ``to_dict()``, and why.
WITHOUT = {
    "a mapping already": {"Features", "Histories", "NodeDefs", "PromptOptions"},
    "what goes in": {"Upload", "Timing", "Template"},
    "a sequence of rows": {"Sweep"},
    "of a graph, whose own to_dict() is the graph": {"Graph", "GraphNode", "Link", "Node"},
    "no facts": {"CloudApi", "ComfyApi", "ComfyPool", "HostedApi", "State"},
}


def test_every_public_class_that_holds_facts_has_to_dict() -> None:
    """But for a few, with the reason."""
    public = {
        name
        for module in (comfy_client, models)
        for name in module.__all__
        if isinstance(getattr(module, name), type) and not name.endswith("Credentials")
    }
    has_its_own = {"Workflow", "Job", "PooledJob"}
    assert public - CLASSES.keys() - has_its_own == set().union(*WITHOUT.values())
    assert all(callable(getattr(comfy_client, name).to_dict) for name in has_its_own)


@pytest.mark.parametrize("name", CLASSES)
def test_no_dict_has_what_came_from_the_server_as_it_came(name: str) -> None:
    """Nor the bytes of a picture."""
    cls: type[AsDict] = CLASSES[name]
    assert {"raw", "view", "image", "body"}.isdisjoint(names_in_dict(cls))

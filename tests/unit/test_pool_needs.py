"""What a workflow needs of a server, and whether a server has it."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client.pool.needs import Need, Offer, models_of, needs_of


def loads(name: Any = "a.safetensors", class_type: str = "Load") -> dict[str, Any]:
    return {"1": {"class_type": class_type, "inputs": {"name": name, "seed": 7, "model": ["2", 0]}}}


def definitions(config: Any) -> dict[str, Any]:
    return {"Load": {"input": {"required": {"name": config}, "optional": {"seed": ["INT", {}]}}}}


def test_a_workflow_needs_its_classes_and_the_model_files_that_it_names() -> None:
    graph = {**loads("b.GGUF"), "2": {"class_type": "Save", "inputs": {"prefix": "x.png"}}}
    needs = needs_of(graph)
    assert needs == {Need("Load"), Need("Load", "name", "b.GGUF"), Need("Save")}
    assert models_of(needs) == ("b.GGUF",)


@pytest.mark.parametrize(
    "config",
    [
        [["a.safetensors", "b.ckpt"]],
        [["a.safetensors"], {}],
        ["COMBO", {"options": ["a.safetensors"]}],
        ["STRING", {}],
        [["c.safetensors"], {"image_upload": True}],
        "what nobody knows",
    ],
)
def test_it_is_there_if_the_server_lists_it_or_takes_anything(config: Any) -> None:
    assert Offer(definitions(config)).has(needs_of(loads()))


@pytest.mark.parametrize("config", [[["b.safetensors"]], [[]], ["COMBO", {"options": []}]])
def test_a_file_that_is_not_in_the_list_is_missing(config: Any) -> None:
    offer = Offer(definitions(config))
    assert not offer.has(needs_of(loads()))
    assert [str(need) for need in offer.missing(needs_of(loads()))] == [
        "'a.safetensors' (Load.name)"
    ]


def test_a_class_that_is_missing_is_named_alone() -> None:
    """Of its files there is nothing to say then."""
    missing = Offer({}).missing(needs_of(loads()))
    assert [str(need) for need in missing] == ["the node class 'Load'"]


def test_a_class_that_the_server_replaces_is_there() -> None:
    assert Offer({}, {"Load"}).has(needs_of(loads()))


@pytest.mark.parametrize("junk", [None, 5, {}, {"input": 5}, {"input": {"required": [1]}}])
def test_definitions_of_any_shape_are_read(junk: Any) -> None:
    assert Offer({"Load": junk}).has(needs_of(loads()))

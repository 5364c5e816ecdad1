"""What a workflow needs of a server, and whether a server has it."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client.pool.needs import Need, Offer, model_files, models_of, needs_of


def loads(name: Any = "a.safetensors", class_type: str = "Load") -> dict[str, Any]:
    return {"1": {"class_type": class_type, "inputs": {"name": name, "seed": 7, "model": ["2", 0]}}}


def offer_of(known: dict[str, Any], replaced: Any = ()) -> Offer:
    return Offer(model_files(known.items()), replaced)


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
def test_a_model_is_there_if_the_server_lists_it_or_takes_anything(config: Any) -> None:
    assert offer_of(definitions(config)).has(needs_of(loads()))


@pytest.mark.parametrize("config", [[["b.safetensors"]], [[]], ["COMBO", {"options": []}]])
def test_a_file_that_is_not_in_the_list_is_missing(config: Any) -> None:
    offer = offer_of(definitions(config))
    assert not offer.has(needs_of(loads()))
    assert [str(need) for need in offer.missing(needs_of(loads()))] == [
        "'a.safetensors' (Load.name)"
    ]


def test_a_class_that_is_missing_is_named_alone() -> None:
    """Of its files there is nothing to say then."""
    missing = offer_of({}).missing(needs_of(loads()))
    assert [str(need) for need in missing] == ["the node class 'Load'"]


def test_a_class_that_the_server_replaces_is_there() -> None:
    assert offer_of({}, {"Load"}).has(needs_of(loads()))


@pytest.mark.parametrize("junk", [None, 5, {}, {"input": 5}, {"input": {"required": [1]}}])
def test_definitions_of_any_shape_are_read(junk: Any) -> None:
    assert offer_of({"Load": junk}).has(needs_of(loads()))


def test_files_that_many_classes_list_take_memory_once() -> None:
    config = [[f"{number}.safetensors" for number in range(100)]]
    each = [(f"Load{n}", definitions([*config])["Load"]) for n in range(50)]
    files = model_files(each)
    assert len({id(one["name"]) for one in files.values()}) == 1
    assert len(files) == 50

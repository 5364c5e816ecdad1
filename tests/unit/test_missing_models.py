"""A missing model says where it is, as far as the saved workflow does."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client import MissingModel, Workflow
from comfy_client.workflow.convert import convert
from comfy_client.workflow.explain import explain_rejection
from comfy_client.workflow.model_files import models_in
from tests.helpers.conformance import definitions, pairs

URL = "https://example.org/models/v1.safetensors"
MODEL = {"name": "v1.safetensors", "url": URL, "directory": "checkpoints"}


def saved(*models: Any) -> dict[str, Any]:
    """A file in UI format with one loader, which declares these models."""
    loader = {
        "id": 4,
        "type": "CheckpointLoaderSimple",
        "title": "Loader",
        "inputs": [],
        "outputs": [],
        "properties": {"models": list(models)},
        "widgets_values": ["v1.safetensors"],
    }
    return {"nodes": [loader], "links": [], "version": 0.4}


def loaded(*models: Any) -> Workflow:
    return Workflow.load(saved(*models), definitions("0.3.75"))


def test_print_and_notebooks_show_missing_models_as_a_table() -> None:
    """With whole URLs; to code they are a list."""
    long = f"{URL}?{'x' * 200}"
    found = loaded({**MODEL, "url": long}).missing_models(definitions("0.3.75"))
    assert str(found).splitlines() == [
        "missing model   folder              node    URL",
        f"v1.safetensors  models/checkpoints  Loader  {long}",
    ]
    page = found._repr_mimebundle_()["text/html"]  # type: ignore[attr-defined]
    for cell in ("v1.safetensors", "models/checkpoints", long, "Loader"):
        assert f">{cell}</td>" in page
    assert isinstance(found, list)
    assert found == [found[0]] == list(found)
    assert repr(found) == repr([*found])
    assert str(loaded(MODEL).missing_models({})) == "no model is missing"


def test_a_missing_model_has_the_url_and_the_folder_of_the_file() -> None:
    workflow = loaded({**MODEL, "hash": "abc", "hash_type": "SHA256"})
    (found,) = workflow.missing_models(definitions("0.3.75"))
    assert found == MissingModel(
        name="v1.safetensors",
        folder="checkpoints",
        url=URL,
        node_id="4",
        input="ckpt_name",
        title="Loader",
        class_type="CheckpointLoaderSimple",
    )
    assert str(found) == (
        "'v1.safetensors' of node 4 'Loader' (CheckpointLoaderSimple), in models/checkpoints: "
        + URL
    )
    report = workflow.check(definitions("0.3.75"))
    assert f"; the workflow says: {URL}, into models/checkpoints" in str(report)


def test_a_models_url_stays_through_copies_and_api_files(tmp_path: Any) -> None:
    workflow = loaded(MODEL)
    for again in (workflow.copy(), Workflow.load(workflow.save(tmp_path / "api.json"))):
        (found,) = again.missing_models(definitions("0.3.75"))
        assert found.url == URL


def test_a_rejection_says_it_too() -> None:
    fault = {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": "ckpt_name: 'v1.safetensors' not in []",
        "extra_info": {
            "input_name": "ckpt_name",
            "input_config": [[], {}],
            "received_value": "v1.safetensors",
        },
    }
    body = {"error": None, "node_errors": {"4": {"errors": [fault]}}}
    assert explain_rejection(body, loaded(MODEL).to_dict()).endswith(
        f"the server has none at all; the workflow says: {URL}, into models/checkpoints"
    )


def test_a_changed_value_is_not_the_model_that_the_file_declares() -> None:
    workflow = loaded(MODEL)
    workflow["Loader"]["ckpt_name"] = "mine.safetensors"
    (found,) = workflow.missing_models(definitions("0.3.75"))
    assert (found.name, found.url, found.folder) == ("mine.safetensors", None, "checkpoints")
    assert str(found).endswith("in models/checkpoints: no URL is known")
    workflow["Loader"]["ckpt_name"] = "sd\\v1.safetensors"
    assert workflow.missing_models(definitions("0.3.75"))[0].url == URL  # in a subfolder


def test_a_model_that_is_there_is_not_missing() -> None:
    there = copy.deepcopy(definitions("0.3.75"))
    loader = there["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"]
    loader[0] = ["v1.safetensors"]
    assert loaded(MODEL).missing_models(there) == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "javascript:alert(1)",
        "//example.org/x",
        "https://",
        "https://user:secret@example.org/x",
        "https://@example.org/x",
        "https://example.org/x?token=abc",
        "https://example.org/x?a=1&Signature=abc",
        "https://example.org/x y",
        "https://example.org/\x1b[31m",
        "https://example.org/\n",
        "https://example.org/é",
        "https://example.org/<b>",
        "https://[::1/x",
        "https://example.org/" + "x" * 1000,
        7,
        None,
    ],
)
def test_a_url_that_nobody_should_open_is_left_out(url: object) -> None:
    """A word that says why is left of it."""
    [found] = models_in([{**MODEL, "url": url}])
    assert ("unused" in found) is isinstance(url, str)
    assert found.pop("unused", "form") in ("login", "scheme", "form")
    assert found == {"name": "v1.safetensors", "directory": "checkpoints"}


def test_only_known_words_say_why_a_url_is_not_used() -> None:
    said = [{"name": "v1", "unused": word} for word in ("login", "because", ["login"], None)]
    assert models_in(said) == [said[0]]


@pytest.mark.parametrize("folder", ["..", "../x", "/etc", "a//b", "a b", "a\n", "x" * 100, "", 7])
def test_a_folder_that_leads_elsewhere_is_left_out(folder: object) -> None:
    assert models_in([{**MODEL, "directory": folder}]) == [{"name": MODEL["name"], "url": URL}]


@pytest.mark.parametrize("folder", ["vae", "LLM/Qwen-7B", "diffusion_models", "sd1.5"])
def test_a_plain_folder_is_kept(folder: str) -> None:
    assert models_in([{**MODEL, "directory": folder}])[0]["directory"] == folder


def test_a_node_declares_twenty_models_at_the_most() -> None:
    assert len(models_in([MODEL] * 1000)) == 20
    assert models_in([{**MODEL, "name": "x" * 301}, {**MODEL, "name": ""}]) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "url", "directory", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_declaration_is_read_without_an_error(declared: Any) -> None:
    """Also from the ``_meta`` of a file in API format, which anybody may have written."""
    graph = loaded(MODEL).to_dict()
    graph["4"]["_meta"]["models"] = declared
    (found,) = Workflow.load(graph).missing_models(definitions("0.3.75"))
    assert found.folder is not None
    assert json.dumps(convert(saved(declared), definitions("0.3.75")).graph)


def test_each_saved_file_that_names_its_models_is_understood() -> None:
    """All 114 of the 304 files, on a server that has none of them."""
    told = 0
    server = definitions("0.28.1")
    for name, ui, _ in pairs("0.28.1"):
        if '"models": [{' not in json.dumps(ui):
            continue
        graph = convert(ui, server).graph
        missing = Workflow.load(graph).missing_models(server)
        assert any(one.url and one.folder for one in missing), name
        told += 1
    assert told == 114

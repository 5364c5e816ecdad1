"""Recorded answers of real servers, read by the methods that ask for them: whole and spoilt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client.errors import NotFound, UnexpectedResponse
from comfy_client.models import Features, NodeDef, UploadedImage
from comfy_client.recording.secrets import Secrets
from comfy_client.routes import Routes
from comfy_client.routes.definitions import NodeDefinitions
from comfy_client.routes.prompts import post_prompt
from comfy_client.transport.multipart import OnProgress
from comfy_client.transport.pieces import JsonMember
from comfy_client.transport.response import Response
from comfy_client.transport.url import Address
from comfy_client.upload import AnyFile
from comfy_client.values import mapping
from tests.conftest import examples
from tests.helpers.hostile_values import JSON, fits, places, spoilt

RECORDINGS = Path(__file__).parents[1] / "recordings"


class Canned:
    """An HTTP edge that has one answer to everything."""

    address = Address("http", "127.0.0.1", 8188)
    total_timeout = 60.0
    max_json = 1 << 20

    def __init__(self, body: Any) -> None:
        self.body = body
        self.identity = self

    def request(self, method: str, route: str, **_: Any) -> Response:
        headers = {"content-type": "application/json"}
        return Response(method, route, 200, headers, json.dumps(self.body).encode())

    def json(self, method: str, route: str, **_: Any) -> Any:
        return self.request(method, route).json()

    def members(self, route: str, **_: Any) -> Iterator[JsonMember]:
        for name, value in mapping(self.body, route).items():
            yield JsonMember(name, value, 1)

    def model(self, method: str, route: str, into: Callable[[Any], Any], **_: Any) -> Any:
        return into(self.body)

    def hide(self, value: Any) -> Any:
        return value

    def gives_away(self, text: str) -> bool:
        return False

    def secrets(self) -> Secrets:
        return Secrets()


class Api(Routes):
    """All methods, and what a server answers to them."""

    def __init__(self, body: Any) -> None:
        self.http: Any = Canned(body)
        super().__init__(self.http)


def recorded(file: str, path: str, method: str = "GET") -> Any:
    """The first answer 200 to a request."""
    for line in (RECORDINGS / f"{file}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        asked = row["kind"] == "http" and (row["method"], row["path"]) == (method, path)
        if asked and row["status"] == 200:
            return row["response"]
    raise LookupError(path)


PROMPT = recorded("0.28.1/cached_rerun", "/prompt", "POST")
JOB = recorded("0.28.1/jobs_list", "/api/jobs?status=cancelled")["jobs"][0]["id"]
PR28 = "/userdata?dir=pr28"
#: What a server said, and the call that asks for it.  Those without a recording are cut in it.
CALLS: dict[str, tuple[Any, Callable[[Api], Any]]] = {
    "poll_status": (recorded("0.28.1/system", "/prompt"), lambda api: api.poll_status()),
    "post_prompt": (
        PROMPT,
        lambda api: post_prompt(api.http, {"prompt": {}}, NodeDefinitions(api.http, lambda: 1)),
    ),
    "get_queue": (recorded("0.28.1/interrupt", "/queue"), lambda api: api.get_queue()),
    "get_histories": (
        recorded("0.28.1/cached_rerun", f"/history/{PROMPT['prompt_id']}"),
        lambda api: api.get_histories(),
    ),
    "get_jobs": (recorded("0.28.1/jobs_list", "/api/jobs?status=cancelled"), Api.get_jobs),
    "get_job": (recorded("0.28.1/jobs_list", f"/api/jobs/{JOB}"), lambda api: api.get_job("x")),
    "cancel_jobs": ({"cancelled": True}, lambda api: api.cancel_jobs("x")),
    "get_features": (recorded("0.28.1/system", "/features"), Api.get_features),
    "get_system_stats": (recorded("0.28.1/system", "/system_stats"), Api.get_system_stats),
    "get_node_defs": (
        recorded("0.28.1/system", "/object_info/ResizeImageMaskNode"),
        Api.get_node_defs,
    ),
    "get_sampler_info": (recorded("0.28.1/system", "/object_info/KSampler"), Api.get_sampler_info),
    "get_checkpoints": (
        {"CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["tiny.ckpt"], {}]}}}},
        Api.get_checkpoints,
    ),
    "get_node_replacements": (
        recorded("0.28.1/node_replacements", "/node_replacements"),
        Api.get_node_replacements,
    ),
    "get_extensions": (recorded("0.28.1/system", "/extensions"), Api.get_extensions),
    "get_embeddings": (["EasyNegative"], Api.get_embeddings),
    "get_global_subgraphs": (
        {"05107d": {"source": "templates", "name": "Edit", "info": {"node_pack": "comfyui"}}},
        Api.get_global_subgraphs,
    ),
    "get_workflow_templates": ({"pack": ["one", "two"]}, Api.get_workflow_templates),
    "get_model_types": (recorded("0.28.1/system", "/models"), Api.get_model_types),
    "get_models": (
        recorded("0.28.1/system", "/models/checkpoints"),
        lambda api: api.get_models("checkpoints"),
    ),
    "get_model_folders": (
        [{"name": "loras", "folders": ["COMFY/models/loras"], "extensions": [".ckpt", ".pt"]}],
        Api.get_model_folders,
    ),
    "get_model_files": (
        recorded("0.28.1/system", "/experiment/models/checkpoints"),
        lambda api: api.get_model_files("checkpoints"),
    ),
    "get_logs": ("2026-11-25T15:19:53.982269 - \n", Api.get_logs),
    "get_raw_logs": (
        {"entries": [{"t": "2026-11-25", "m": "\n"}], "size": {"cols": 80, "rows": 24}},
        Api.get_raw_logs,
    ),
    "get_folder_paths": ({"checkpoints": ["COMFY/models/checkpoints"]}, Api.get_folder_paths),
    "get_internal_files": (
        recorded("0.28.1/internal", "/internal/files/output"),
        lambda api: api.get_internal_files("output"),
    ),
    "get_user_config": ({"storage": "server", "users": {"id": "name"}}, Api.get_user_config),
    "store_user_data": (
        recorded("0.28.1/userdata", "/userdata/pr28%2Fb.json?full_info=true", "POST"),
        lambda api: api.store_user_data("pr28/b.json", b"", full_info=True),
    ),
    "move_user_data": (
        recorded("0.28.1/userdata", "/userdata/pr28%2Fb.json/move/pr28%2Fe.json", "POST"),
        lambda api: api.move_user_data("pr28/b.json", "pr28/e.json"),
    ),
    "list_user_data": (
        recorded("0.28.1/userdata", f"{PR28}&full_info=true"),
        lambda api: api.list_user_data("pr28", full_info=True),
    ),
    "list_user_data, split": (
        recorded("0.28.1/userdata", f"{PR28}&recurse=true&split=true"),
        lambda api: api.list_user_data("pr28", recurse=True, split=True),
    ),
    "list_user_data_v2": (recorded("0.28.1/userdata", "/v2/userdata"), Api.list_user_data_v2),
    "upload_image": (
        recorded("0.28.1/assets_on", "/upload/image", "POST"),
        lambda api: UploadedImage.from_json(api.http.body),
    ),
}


def given_by(name: str) -> Any:
    """What a method makes of the answer as it was."""
    body, call = CALLS[name]
    return call(Api(body))


# -- as they are --------------------------------------------------------------------------


def test_names_of_internal_files_have_no_folder_behind_them() -> None:
    """Which servers send since 0.20."""
    assert given_by("get_internal_files") == [
        "toplevel_00001_.png",
        "_output_images_will_be_put_here",
    ]
    assert Api(["a.png", "b [output].png"]).get_internal_files("output") == [
        "a.png",
        "b [output].png",
    ]


def test_user_data_has_its_times_in_seconds_from_every_route() -> None:
    """Milliseconds come from three of the five."""
    stored, listed = given_by("store_user_data"), given_by("list_user_data")
    found = [stored, *listed, *(e for e in given_by("list_user_data_v2") if e.type == "file")]
    assert len(found) == 8
    for info in found:
        assert 1795620219 < info.modified < 1795620220
    assert stored.created == 1795620219.489


def test_replacements_of_nodes_are_typed() -> None:
    """With or without maps of inputs and outputs."""
    found = given_by("get_node_replacements")
    (one,) = found["ResizeImagesByLongerEdge"]
    assert (one.old_node_id, one.new_node_id) == (
        "ResizeImagesByLongerEdge",
        "ImageScaleToMaxDimension",
    )
    assert one.old_widget_ids == ("longer_edge",)
    assert one.input_mapping[-1] == {"new_id": "upscale_method", "set_value": "lanczos"}
    assert one.output_mapping == ({"new_idx": 0, "old_idx": 0},)
    (bare,) = found["Load3DAnimation"]
    assert (bare.old_widget_ids, bare.input_mapping, bare.output_mapping) == (None, None, None)


def test_fields_new_in_2026_are_on_the_values_or_in_raw() -> None:
    """Several devices, free keys of features, new fields of nodes and models."""
    stats = given_by("get_system_stats")
    assert (stats.comfyui_version, stats.os) == ("0.28.1", "linux")
    assert stats.raw["deploy_environment"] == "local-git"
    assert given_by("get_features")["extension"] == {"manager": {"supports_v4": True}}
    (node,) = given_by("get_node_defs").values()
    assert node.is_input_list is False
    assert node.raw["has_intermediate_output"] is False
    assert given_by("get_model_folders")[0].extensions == (".ckpt", ".pt")
    assert given_by("upload_image").raw["asset"]["name"] == "asset.png"


# -- spoilt -------------------------------------------------------------------------------


def is_ours(found: Any) -> bool:
    return type(found).__module__.startswith("comfy_client.")


def check(found: Any) -> None:
    """Nothing of a value raises, and its fields are what they say."""
    shown = [repr(found), str(found)] if is_ours(found) else []
    if hasattr(found, "_repr_mimebundle_"):
        shown.append(found._repr_mimebundle_()["text/html"])
    assert all(len(text) < 3_000_000 for text in shown)
    if attrs.has(type(found)):
        hints = get_type_hints(type(found), include_extras=True)
        for field in attrs.fields(type(found)):
            value = getattr(found, field.name)
            assert fits(value, hints[field.name]), (type(found).__name__, field.name, value)
            if field.name != "raw":
                check(value)
        for name, what in vars(type(found)).items():
            if isinstance(what, property):
                getattr(found, name)
        if isinstance(found, NodeDef):
            for name in found.inputs():
                found.options(name)
    elif not isinstance(found, Features | str):
        within = found.values() if isinstance(found, Mapping) else found
        for item in within if isinstance(within, Iterable) else ():
            if attrs.has(type(item)) or isinstance(item, list):
                check(item)


def check_result(name: str, found: Any) -> None:
    """What a method gives is of the type that it promises."""
    method = getattr(Api, name.partition(",")[0], None)
    names = {"os": os, "AnyFile": AnyFile, "OnProgress": OnProgress}  # for type checkers only
    assert method is None or fits(found, get_type_hints(method, localns=names)["return"])
    check(found)


@pytest.mark.parametrize("name", CALLS)
def test_an_answer_that_was_recorded_is_read(name: str) -> None:
    """It fits the types."""
    found = given_by(name)
    assert found is not None
    check_result(name, found)


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_any_value_in_any_place_of_an_answer_is_taken_or_unexpected(
    name: str, data: st.DataObject
) -> None:
    """No other exception, no number or text that fails later, nothing of another type."""
    body, call = CALLS[name]
    place = data.draw(st.sampled_from(list(places(body))))
    answer = spoilt(body, place, data.draw(JSON))
    try:
        found = call(Api(answer))
    except (UnexpectedResponse, NotFound):
        return
    check_result(name, found)

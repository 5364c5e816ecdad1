"""The workflows of the recordings, in which a word stands in the place of most of them.

Those of ``tests/workflows`` were used.  The jobs API told some of the others, and of the rest it is
known what the server said about them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.conftest import load_workflow

Graph = dict[str, Any]

_seeds = itertools.count(5000)


def _sampled(name: str = "txt2img_tiny") -> Graph:
    """A workflow with a sampler, of a seed that no other has."""
    graph = {
        key: {**node, "inputs": {**node["inputs"]}} for key, node in load_workflow(name).items()
    }
    graph["3"]["inputs"]["seed"] = next(_seeds)
    return graph


def _picture(prefix: str = "testbed/jobs", color: int | None = None) -> Graph:
    """A picture of a colour that no other has."""
    color = next(_seeds) if color is None else color
    size = {"width": 16, "height": 16, "batch_size": 1, "color": color}
    save = {"images": ["1", 0], "filename_prefix": prefix}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "SaveImage", "inputs": save},
    }


def _changed(name: str, node: str, **inputs: Any) -> Graph:
    graph = dict(load_workflow(name))
    graph[node] = {**graph[node], "inputs": {**graph[node]["inputs"], **inputs}}
    return graph


def _without(graph: Graph, *nodes: str) -> Graph:
    return {key: node for key, node in graph.items() if key not in nodes}


def _dangling() -> Graph:
    """One output that hangs on a node that is not there, and a good one."""
    return _changed("image_ops", "4", images=["9", 0])


def _unknown() -> Graph:
    graph = dict(load_workflow("image_ops"))
    return {**graph, "3": {**graph["3"], "class_type": "NoSuchNode"}}


def _wrong() -> list[Graph]:
    return [
        dict(load_workflow("invalid_values")),
        _unknown(),
        _without(dict(load_workflow("image_ops")), "4", "5"),
        _one_wrong(),
    ]


def _one_wrong() -> Graph:
    """An output with a wrong value, and a good one."""
    graph = dict(load_workflow("image_ops"))
    scaled = {**graph["2"]["inputs"], "width": -5}
    return {**graph, "3": {**graph["2"], "inputs": scaled}}


def _crop() -> Graph:
    """A node that shows its picture without being an output node."""
    bounds = {"x": 0, "y": 0, "width": 8, "height": 8}
    crop = {"image": ["1", 0], "crop_region": bounds}
    return {
        "1": _picture()["1"],
        "2": {"class_type": "ImageCropV2", "inputs": crop},
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "testbed/crop"},
        },
    }


def _preview() -> Graph:
    """A picture that is temporary."""
    return {**_picture(), "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}


def _resized() -> Graph:
    """A node of an old class that is still there."""
    size = {"images": ["1", 0], "longer_edge": 16}
    return {
        "1": _picture()["1"],
        "2": {"class_type": "ResizeImagesByLongerEdge", "inputs": size},
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "testbed/replaced"},
        },
    }


def _text(value: str) -> Graph:
    return {
        "1": {"class_type": "PrimitiveString", "inputs": {"value": value}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }


def _slow() -> Graph:
    return _sampled("txt2img_slow")


def _same(make: Callable[[], Graph], count: int) -> list[Graph]:
    return [make()] * count


#: By recording: the workflows in the order in which they were submitted.
_WORKFLOWS: Mapping[str, Callable[[], list[Graph]]] = {
    "assets_on": lambda: _same(lambda: _picture("testbed/asset"), 2),
    "batch8": lambda: [dict(load_workflow("batch8"))],
    "cached_no_client": lambda: _same(lambda: _picture("testbed/cached"), 3),
    "cached_rerun": lambda: [dict(load_workflow("txt2img_tiny"))],
    "dangling_link": lambda: [_dangling()],
    "feature_flags_late": lambda: [_sampled()],
    "headers": lambda: [_picture()],
    "history_paging": lambda: [_picture() for _ in range(4)],
    "image_ops": lambda: [dict(load_workflow("image_ops"))],
    "img2img": lambda: [dict(load_workflow("img2img_tiny"))],
    "intermediate_output": lambda: [*_same(_crop, 1) * 3, _without(_crop(), "3")],
    "internal": lambda: [_picture("toplevel"), _picture(), _preview(), _picture()],
    "interrupt": lambda: [_slow(), dict(load_workflow("txt2img_tiny"))],
    "interrupt_by_id": lambda: [_slow()],
    "jobs_cancel": lambda: [_slow(), _picture(), _picture()],
    "jobs_cancel_bulk": lambda: [_slow(), _sampled(), _sampled(), _picture()],
    "jobs_list": lambda: [
        _picture(),
        dict(load_workflow("failing_runtime")),
        _slow(),
        _slow(),
        _picture(),
        _picture(),
    ],
    "jobs_poison": lambda: [_picture() for _ in range(20)],
    "no_client_id": lambda: [_sampled()],
    "node_replacements": lambda: [_resized()],
    "normal_feature_flags": lambda: [_sampled()],
    "normal_previews": lambda: [_sampled()],
    "old_socket_closes": lambda: [_sampled()],
    "own_prompt_id": lambda: [dict(load_workflow("image_ops"))],
    "previews": lambda: [_sampled() for _ in range(9)],
    "progress_text": lambda: [
        {
            **_picture("testbed/text"),
            "3": {"class_type": "GetImageSize", "inputs": {"image": ["1", 0]}},
            "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
        },
        _text("short a31017063b1a42088332d7d697989dbc"),
        _text("long " * 300),
    ],
    "prompt_id_rules": lambda: [
        *(_picture() for _ in range(5)),
        _slow(),
    ],
    "queue_delete": lambda: [_slow(), _sampled(), _sampled()],
    "queue_front": lambda: [
        _sampled(),
        *_same(lambda: dict(load_workflow("image_ops")), 2),
    ],
    "reconnect": lambda: [_sampled()],
    "reconnect_feature_flags": lambda: [_sampled()],
    "reconnect_flags_forgotten": lambda: [_sampled()],
    "runtime_error": lambda: [dict(load_workflow("failing_runtime"))],
    "save_image_websocket": lambda: [dict(load_workflow("txt2img_websocket"))],
    "save_image_websocket_feature_flags": lambda: [
        _changed("txt2img_websocket", "3", seed=next(_seeds))
    ],
    "second_socket": lambda: [_sampled()],
    "separate_loaders": lambda: [dict(load_workflow("txt2img_separate_loaders"))],
    "two_prompts": lambda: [_sampled(), _sampled()],
    "validation_error": _wrong,
}


def workflows(name: str) -> Iterator[Graph]:
    """The workflows of a recording, which stand there by a word; samplers may take other steps."""
    found = _WORKFLOWS.get(name)
    return iter(found() if found else ())


def part_of(graph: Graph, nodes: list[str]) -> Graph:
    """A workflow that leaves these nodes of another in the cache."""
    part = {key: graph[key] for key in graph if key in nodes}
    if part.keys() == graph.keys():
        return graph
    used = {
        str(v[0]) for node in part.values() for v in node["inputs"].values() if isinstance(v, list)
    }
    shown = {
        f"shown {key}": {"class_type": "PreviewAny", "inputs": {"source": [key, 0]}}
        for key, node in part.items()
        if key not in used and node["class_type"] not in ("SaveImage", "PreviewImage")
    }
    return {**part, **shown}

"""A file with V3 nodes, on a real server and on an embedded one, which must say the same."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tests
from comfy_client.testing import ComfyServer
from tests.comfyui import DEFAULT, ComfyUI
from tests.helpers.differential import Ask, Side, differences
from tests.helpers.graphs import node
from tests.helpers.servers import add_test_content

pytestmark = pytest.mark.real

PACK = Path(tests.__file__).with_name("comfyui_v3_nodes.py")
CLIENT = "00000000000000000000000000000001"
TEXT = {"text": "a", "times": 3, "weight": 0.25, "loud": True, "size": "small"}
CANVAS = node("EmptyImage", width=16, height=8, batch_size=2, color=0xFF8000)

Graph = dict[str, dict[str, Any]]


def shown(class_type: str, /, **inputs: Any) -> Graph:
    """One node, whose output is shown; a real server chooses among several at random."""
    return {"1": node(class_type, **inputs), "9": node("PreviewAny", source=["1", 0])}


GRAPHS: dict[str, Graph] = {
    "arguments": shown("V3Text", **TEXT),
    "a link": {**shown("V3Text", **TEXT, any=["2", 0]), "2": node("PrimitiveInt", value=3)},
    "wrong arguments": shown("V3Text", **TEXT | {"times": 99, "size": "none", "weight": "x"}),
    "missing arguments": shown("V3Text", text="a"),
    "pictures": {"1": CANVAS, "2": node("V3Pictures", image=["1", 0], prefix="v3/a%width%")},
    **{
        f"animated {kind}": {
            "1": CANVAS,
            "2": node("EmptyImage", width=16, height=8, batch_size=1, color=0x0080FF),
            "3": node("V3Animated", image=["1", 0], more=["2", 0], kind=kind),
        }
        for kind in ("png", "webp")
    },
    "3D": {"1": node("V33D")},
    "masks": {
        "1": node("LoadImageMask", image="testbed.png", channel="red"),
        "2": node("V3Masks", mask=["1", 0]),
    },
    "progress": shown("V3Progress", of=""),
    "progress of another": shown("V3Progress", of="9"),
    "hidden": shown("V3Hidden"),
    "a check": shown("V3Even", number=2),
    "a check beyond the maximum": shown("V3Even", number=12),
    "a check that fails": shown("V3Even", number=3),
    "a link without a check": {
        **shown("V3Even", number=["2", 0]),
        "2": node("PrimitiveInt", value=3),
    },
    "changing": shown("V3Changing"),
    "lazy": {
        **shown("V3Either", first=False, a=["2", 0], b=["3", 0]),
        "2": node("V3Returned", kind="tuple"),
        "3": node("V3Returned", kind="other"),
    },
    "expansion": shown("V3Expand"),
    "expansion without leave": shown("V3ExpandNot"),
    "block": shown("V3Block"),
    "lists": {**shown("V3Even", number=["2", 0]), "2": node("V3List", numbers=1)},
    **{kind: shown("V3Returned", kind=kind) for kind in ("tuple", "text", "none")},
    "failure": shown("V3Fail"),
    "attribute": shown("V3Keep"),
}


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Side, Side]]:
    """Both servers, the real one first."""
    real = ComfyUI(version=DEFAULT)
    shutil.copy(PACK, real.root / "custom_nodes")
    embedded = ComfyServer(version=DEFAULT)
    embedded.load_nodes(PACK)
    with real, embedded:
        add_test_content(embedded)
        yield Side("real", real.port), Side("embedded", embedded.port)


def test_definitions_are_alike(sides: tuple[Side, Side]) -> None:
    names = re.findall(r"^class (V3\w+)", PACK.read_text(), re.MULTILINE)
    assert len(names) > 10
    for name in names:
        real, embedded = [side.ask(Ask("GET", f"/object_info/{name}")) for side in sides]
        assert name in real["body"]
        assert [*differences(real, embedded)] == []


@pytest.mark.parametrize("name", GRAPHS)
def test_runs_are_alike(sides: tuple[Side, Side], name: str) -> None:
    """Answers, events, previews, history and files, the second time from the cache."""
    body = {"prompt": GRAPHS[name], "extra_data": {"extra_pnginfo": {"workflow": {"a": 1}}}}
    for _ in range(2):
        real, embedded = [side.run(body, CLIENT).told() for side in sides]
        assert [*differences(real, embedded)] == []

"""A module with a typed Graph: mypy takes it, finds mistakes with it, and nothing in it runs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import comfy_client
from comfy_client import Graph
from comfy_client.workflow.stubs import stubs
from tests.helpers.conformance import definitions
from tests.helpers.hostile_values import HOSTILE, JSON, places, spoilt
from tests.unit.test_to_code import HOSTILE_NAMES, NAME

PACKAGE = Path(comfy_client.__file__).parent
NEW = definitions("0.28.1")

#: What ends in ``# E: code`` is refused with that code, all else is right.
USES = """
from typing import Any, Literal, assert_type
from comfy_client import ComfyApi, GraphNode, Link, Workflow
import comfy_client
from nodes_0_28_1 import Graph

def right(api: ComfyApi) -> Workflow:
    g = Graph(api)
    model, clip, vae = g.CheckpointLoaderSimple(ckpt_name="tiny.ckpt")
    assert_type(vae, Link[Literal["VAE"]])
    loader = g.CheckpointLoaderSimple(_title="Loader", _id=7)
    assert_type(loader[1], Link[Literal["CLIP"]])
    assert_type(loader.VAE, Link[Literal["VAE"]])
    positive = g.CLIPTextEncode(clip=clip, text="a fox")
    latent = g.KSampler(
        model=loader, positive=positive, negative=positive[0], latent_image=g.EmptyLatentImage(),
        seed="random", cfg=g.PrimitiveFloat(), sampler_name="euler",
    )
    image = g.VAEDecode(samples=latent.LATENT, vae=vae)
    batch = g.BatchImagesNode(images=[image, g.LoadImage(image="any.png")[0]])
    g.ResizeImageMaskNode({"resize_type.multiplier": 2.0}, input=batch, resize_type="match size")
    g["Epsilon Scaling"](model=model, scaling_factor=1.01)
    assert_type(g.SaveImage(images=batch).node_id, str)
    return g.workflow()

def wrong(g: Graph, image: Link[Literal["IMAGE"]], latent: Link[Literal["LATENT"]]) -> None:
    g.KSamplr()  # E: attr-defined
    g.SaveImage()  # E: call-arg
    g.SaveImage(images=latent)  # E: arg-type
    g.SaveImage(images=image, prefix="x")  # E: call-arg
    g.SaveImage(images=g.CheckpointLoaderSimple())  # E: arg-type
    g.KSamplerSelect(sampler_name="eular")  # E: arg-type
    g.EmptyImage(width="64")  # E: arg-type
    g.EmptyImage(width=g.PrimitiveFloat())  # E: arg-type
    g.BatchImagesNode(images=[image, latent])  # E: list-item
    g["Epsilon Scaling"](model=image)  # E: arg-type
    a, b = g.CheckpointLoaderSimple()  # E: misc

def untyped(api: ComfyApi) -> None:
    g = comfy_client.Graph(api)
    model, clip, vae = g.CheckpointLoaderSimple(ckpt_name="tiny.ckpt")
    assert_type(model, Link[Any])
    assert_type(g.KSampler(model=model), GraphNode[Any])
    assert_type(g["KSampler"](model=model)[0], Link[Any])
"""


def complaints(folder: Path, **modules: str) -> dict[str, list[str]]:
    """What ``mypy --strict`` says of each module."""
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    command += ["--follow-imports=silent", *(f"{name}.py" for name in modules)]
    source = {} if "site-packages" in PACKAGE.parts else {"MYPYPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **source},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.stderr == ""
    said: dict[str, list[str]] = {name: [] for name in modules}
    for line in done.stdout.splitlines():
        if ": note: " not in line:
            said[line.partition(".py:")[0]].append(line)
    return said


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """One run for all, since a start takes long."""
    return complaints(
        tmp_path_factory.mktemp("stubs"),
        nodes_0_3_75=stubs(definitions("0.3.75")),
        nodes_0_28_1=stubs(NEW),
        nodes_hostile=stubs(hostile_definitions()),
        uses=USES,
    )


@pytest.mark.parametrize("name", ["nodes_0_3_75", "nodes_0_28_1", "nodes_hostile"])
def test_the_module_passes_strict_mypy(name: str, said: dict[str, list[str]]) -> None:
    """For all classes of two real servers, and for names that nobody has."""
    assert said[name] == []


def test_what_is_right_passes_and_what_is_wrong_is_refused(said: dict[str, list[str]]) -> None:
    lines = enumerate(USES.splitlines(), 1)
    expected = {number: line.split("# E: ")[1] for number, line in lines if "# E: " in line}
    found = {}
    for line in said["uses"]:
        match = re.fullmatch(r"uses\.py:(\d+): error: .*\[([\w-]+)\]", line)
        assert match, line
        found[int(match[1])] = match[2]
    assert found == expected, said["uses"]


def hostile_definitions() -> dict[str, Any]:
    """Classes, inputs, outputs, choices, types and texts of all hostile names."""
    names = [*HOSTILE_NAMES, "str", "int", "tuple", "Link", "Literal", "Any", "Mapping", "input"]
    names += ["type: ignore", "# type: ignore", "(" * 150, "~" * 150, "a" * 199, "List[", "*"]
    known: dict[str, Any] = {}
    for number, name in enumerate(names):
        config: list[Any] = [
            ["INT", {"default": name}],
            [[name, name, 3, True], {"tooltip": name}],
            ["COMBO", {"options": names, "default": name}],
            [name, {}],
            [f"{name},MODEL", {}],
            ["COMFY_AUTOGROW_V3", {"template": {"input": {"required": {name: [name, {}]}}}}],
        ][number % 6]
        known[name] = {
            "input": {"required": dict.fromkeys(names, config), "optional": {name: config}},
            "output": names[: number % 5],
            "output_name": names[number : number + 4],
            "description": name,
        }
    return known


def assert_harmless(code: str) -> None:
    """Imports, and beneath ``TYPE_CHECKING`` classes of functions without bodies."""
    _, *imports, block = ast.parse(code).body
    assert all(isinstance(one, ast.ImportFrom) for one in imports)
    assert isinstance(block, ast.If)
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    assert [ast.unparse(one) for one in block.orelse] == ["Graph = _Graph"]
    for cls in block.body[5:]:
        assert isinstance(cls, ast.ClassDef)
        for part in cls.body:
            match part:
                case ast.FunctionDef(body=[ast.Expr(value=ast.Constant())]):
                    defaults = [*part.args.defaults, *part.args.kw_defaults]
                    assert {ast.unparse(one) for one in defaults if one} <= {"..."}
                case ast.AnnAssign(value=None) | ast.Expr(value=ast.Constant()):
                    pass
                case _:
                    raise AssertionError(ast.unparse(part))
    for node in ast.walk(block):
        assert not isinstance(node, ast.Call | ast.Lambda | ast.Await)
        if isinstance(node, ast.Name):
            assert node.id.isascii()


def test_names_of_a_server_stay_names() -> None:
    assert_harmless(stubs(hostile_definitions()))


@given(st.dictionaries(NAME, st.dictionaries(st.sampled_from(["input", "output"]), JSON)))
def test_whatever_a_server_has_the_module_is_harmless(found: dict[str, Any]) -> None:
    assert_harmless(stubs(found))


@given(st.data())
def test_whatever_a_definition_is_the_module_is_harmless(data: st.DataObject) -> None:
    """Any value in any place of a real one."""
    name = data.draw(st.sampled_from(["KSampler", "ResizeImageMaskNode", "BatchImagesNode"]))
    place = data.draw(st.sampled_from(list(places(NEW[name]))))
    wrong = spoilt(NEW[name], place, data.draw(st.sampled_from([*HOSTILE, *HOSTILE_NAMES])))
    assert_harmless(stubs({name: wrong}, module="a b"))


def test_to_python_the_module_has_the_graph_itself() -> None:
    module = types.ModuleType("nodes")
    exec(stubs(NEW), vars(module))
    assert module.Graph is Graph


def test_long_lists_of_choices_are_any_text() -> None:
    """Of models, of which there may be thousands; they would slow down every check."""
    choices = [f"{number}.safetensors" for number in range(5000)]
    code = stubs({"Loader": {"input": {"required": {"name": [choices, {}]}}}})
    assert "name: str | Link" in code
    assert len(code) < 3000
    some = stubs({"Loader": {"input": {"required": {"name": [choices[:3], {}]}}}})
    assert 'name: Literal["0.safetensors", "1.safetensors", "2.safetensors"] | Link' in some

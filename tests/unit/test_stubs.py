"""A module with a typed Graph: nothing in it runs, whatever names a server has."""

from __future__ import annotations

import ast
import types
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from comfy_client import Graph
from comfy_client.workflow.codegen import stubs
from tests.helpers.conformance import definitions
from tests.helpers.hostile_values import HOSTILE, JSON, places, spoilt
from tests.unit.test_to_code import HOSTILE_NAMES, NAME

NEW = definitions("0.28.1")


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
def test_stubs_of_any_server_are_harmless(found: dict[str, Any]) -> None:
    assert_harmless(stubs(found))


@given(st.data())
def test_stubs_of_any_broken_definition_are_harmless(data: st.DataObject) -> None:
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

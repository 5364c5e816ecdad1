"""A workflow as Python code: it builds the same again, and holds nothing but calls and literals."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client import Workflow, WorkflowError
from comfy_client.values import MAX_LEVELS
from tests.conftest import examples
from tests.helpers.conformance import PAIRS, pairs
from tests.helpers.long import but

Graph = dict[str, Any]


def rebuilt(graph: Graph) -> Graph:
    """What the code for a graph builds."""
    code = Workflow(graph).to_code()
    assert_harmless(code)
    names: dict[str, Any] = {}
    exec(compile(code, "code", "exec"), names)
    workflow = names["workflow"]
    assert isinstance(workflow, Workflow)
    return workflow.to_dict()


def assert_harmless(code: str) -> None:
    """One import, a Graph, calls of its node classes with literals and variables, the workflow."""
    first, *statements = ast.parse(code).body
    assert ast.unparse(first) == "from comfy_client import Graph"
    assert ast.unparse(statements[0]) == "g = Graph()"
    variables = set()
    for statement in statements[1:]:
        if isinstance(statement, ast.Assign):
            (target,) = statement.targets
            assert isinstance(target, ast.Name)
            assert target.id.isascii()
            assert target.id not in {*variables, "g"}
            variables.add(target.id)
        else:
            assert isinstance(statement, ast.Expr)
        call = statement.value
        assert isinstance(call, ast.Call)
        match call.func:
            case ast.Attribute(value=ast.Name(id="g"), attr=attr):
                assert attr.isascii()
                assert not attr.startswith("_")
            case ast.Subscript(value=ast.Name(id="g"), slice=ast.Constant()):
                pass
            case _:
                raise AssertionError(ast.unparse(call.func))
        for part in (*call.args, *(one.value for one in call.keywords)):
            assert_literal(part, variables)


def assert_literal(value: ast.expr, variables: set[str]) -> None:
    match value:
        case ast.Constant() | ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
            pass
        case ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name), slice=ast.Constant()):
            assert name in variables
        case ast.List(elts=items):
            for item in items:
                assert_literal(item, variables)
        case ast.Dict(keys=keys, values=values):
            assert all(isinstance(key, ast.Constant) for key in keys)
            for item in values:
                assert_literal(item, variables)
        case _:
            raise AssertionError(ast.unparse(value))


def node(class_type: str = "A", **inputs: Any) -> Graph:
    return {"inputs": inputs, "class_type": class_type}


@pytest.mark.parametrize("version", but(PAIRS, "0.28.1"))
def test_the_code_builds_what_the_page_made_of_workflows(version: str) -> None:
    """Identical as JSON: ids, order, inputs, titles, all that ``_meta`` holds."""
    for name, _, graph in pairs(version):
        assert json.dumps(rebuilt(graph)) == json.dumps(graph), name


def test_the_code_reads_well() -> None:
    """Variables after titles, sources before their users, long texts by lines."""
    code = Workflow(
        {
            "9": {**node("SaveImage", images=["8", 0]), "_meta": {"title": "Save Image"}},
            "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
            "3": node("KSampler", seed=7, positive=["6", 0], **{"cfg.scale": 1.5}),
            "4": node("CheckpointLoaderSimple", ckpt_name="tiny.ckpt"),
            "6": {
                **node(
                    "CLIPTextEncode",
                    text="a fox in the snow, at dusk,\nfar away from the village,\n" * 2,
                    clip=["4", 1],
                ),
                "_meta": {"title": "Positive prompt", "ver": "1"},
            },
        }
    ).to_code()
    assert code == (
        "from comfy_client import Graph\n"
        "\n"
        "g = Graph()  # Graph(api) also checks each node against the server's definitions\n"
        "\n"
        'checkpoint_loader_simple = g.CheckpointLoaderSimple(ckpt_name="tiny.ckpt", _id="4")\n'
        "positive_prompt = g.CLIPTextEncode(\n"
        "    text=(\n"
        '        "a fox in the snow, at dusk,\\n"\n'
        '        "far away from the village,\\n"\n'
        '        "a fox in the snow, at dusk,\\n"\n'
        '        "far away from the village,\\n"\n'
        "    ),\n"
        "    clip=checkpoint_loader_simple[1],\n"
        '    _id="6",\n'
        '    _title="Positive prompt",\n'
        '    _meta={"ver": "1"},\n'
        ")\n"
        'ksampler = g.KSampler(seed=7, positive=positive_prompt, **{"cfg.scale": 1.5}, _id="3")\n'
        "vae_decode = g.VAEDecode("
        'samples=ksampler, vae=checkpoint_loader_simple[2], _id="8")\n'
        'g.SaveImage(images=vae_decode, _id="9", _title="Save Image")\n'
        "\n"
        'workflow = g.workflow(order=["9", "8", "3", "4", "6"])\n'
    )


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Load LoRA", "load_lora"),
        ("Positive prompt", "positive_prompt"),
        ("CLIP Text Encode (Prompt)", "clip_text_encode_prompt"),
        ("2nd pass", "node_2nd_pass"),
        ("print", "print_"),
        ("while", "while_"),
        ("g", "g_2"),
        ("提示", "empty_sd3_latent_image"),
        ("x" * 50, "x" * 40),
    ],
)
def test_variables_are_named_after_titles(title: str, name: str) -> None:
    """Or after the class, where a title has no letters for them."""
    source = {**node("EmptySD3LatentImage"), "_meta": {"title": title}}
    code = Workflow({"1": source, "2": node(x=["1", 0])}).to_code()
    assert f"\n{name} = g.EmptySD3LatentImage(" in code


def test_no_two_nodes_have_the_same_variable() -> None:
    """Whatever numbers stand in their titles."""
    titles = ["a", "a_2", "a", "a", "a_2"]
    graph = {
        str(at): {**node("B"), "_meta": {"title": title}} for at, title in enumerate(titles, 1)
    }
    uses = {f"{at}0": node(x=[str(at), 0]) for at in range(1, 6)}
    assert rebuilt({**graph, **uses}) == {**graph, **uses}


def test_ids_in_a_row_are_left_to_the_graph() -> None:
    code = Workflow({"1": node("A"), "2": node("B", x=["1", 0])}).to_code()
    assert code.endswith("\na = g.A()\ng.B(x=a)\n\nworkflow = g.workflow()\n")


@pytest.mark.parametrize(
    "graph",
    [
        {"1": node(x=["1", 0])},
        {"1": node(x=["2", 0]), "2": node(x=["1", 0])},
        {"1": node(x=["missing", 0], y=["1", -1])},
        {"1": node(), "2": node(x=["1", -1], y=["1", 0.0], z=["1", True], w=["1", 10**30])},
        {"1": node(), "2": node(x={"__value__": ["1", 0]}, y=[["1", 0]], z=[], w=[1, 2])},
        {
            "1": {**node(), "_meta": None},
            "2": {**node(), "_meta": []},
            "3": {**node(), "_meta": {}},
        },
        {"1": {**node(), "_meta": {"ver": "1", "title": "x"}}},
        {"1": {**node(), "_meta": {"title": 3}, "is_changed": ["x"], "_id": "y"}},
        {"1": {**node(), "inputs": {"_id": 1, "self": 3, "g": 4, "inputs": 5, "class_type": 6}}},
        {"2": node(), "1": node(), "01": node(), "": node(), "١": node()},
        {str(i): node("Same", x=[str(i - 1), 0]) for i in range(3000, 0, -1)},
    ],
    ids=range(11),
)
def test_an_unusual_graph_is_built_again(graph: Graph) -> None:
    """Circles, links to nowhere, what only looks like a link, other keys, keywords as names."""
    workflow = Workflow(graph).to_dict()
    assert json.dumps(rebuilt(graph)) == json.dumps(workflow)


def test_a_secret_is_in_the_code_as_in_the_file() -> None:
    """It would not build the same without."""
    assert rebuilt({"1": node(api_key="k3y")})["1"]["inputs"] == {"api_key": "k3y"}


@pytest.mark.parametrize(
    ("value", "words"),
    [(float("nan"), "nan is not a number"), (10**5000, "cannot be written as Python code")],
    ids=["nan", "long"],
)
def test_values_that_code_cannot_hold_are_refused(value: Any, words: str) -> None:
    with pytest.raises(WorkflowError, match=words):
        Workflow({"1": node(x=value)}).to_code()


def nested(levels: int) -> Any:
    value: Any = "x" * 90
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


def test_deep_values_are_written_or_refused() -> None:
    deep = {"1": node(x=nested(MAX_LEVELS - 5))}
    assert rebuilt(deep) == deep
    with pytest.raises(WorkflowError, match=r"node 1 \(A\): a value has more than"):
        Workflow({"1": node(x=nested(MAX_LEVELS))}).to_code()


#: What could end a literal, a line or a name early, or look like another one.
HOSTILE_NAMES = [
    *("", " ", "a b", "class", "None", "__class__", "__import__('os').system('x')", "g", "Graph"),
    *('"', "'", "'''", '"""', "\\", "\\'", '\\"', "a\nb", "\r", "\0", "\x1b[2J", "#", "{x}", "%s"),
    *("ﬁ", "ｇ", "KSаmpler", "\u202e", "\u2028", "\ud800", "\U0001f600", "x" * 3000, "workflow"),
    *(
        "node",
        "_id",
        "_title",
        "_meta",
        "_extra",
        "_check",
        "self",
        "inputs",
        "class_type",
        "print",
        "1a",
    ),
    *("A", "B", "a_2", "A_2", "a__2", "order", "f(", "x)", "],", "\\N{DASH}", "\t"),
]
NAME = st.sampled_from(HOSTILE_NAMES) | st.text(max_size=5)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | NAME
    | st.text(alphabet="a\"\\'\n ", max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    ids = draw(st.lists(NAME | st.integers(0, 12).map(str), min_size=1, max_size=6, unique=True))
    link = st.tuples(st.sampled_from([*ids, "gone"]), st.integers(-1, 3)).map(list)
    graph: Graph = {}
    for node_id in ids:
        made = {
            "inputs": draw(st.dictionaries(NAME, VALUE | link, max_size=4)),
            "class_type": draw(NAME.filter(bool)),
        }
        if draw(st.booleans()):
            made["_meta"] = draw(st.dictionaries(st.just("title") | NAME, VALUE, max_size=3))
        others = NAME.filter(lambda name: name not in ("inputs", "class_type", "_meta"))
        graph[node_id] = {**made, **draw(st.dictionaries(others, VALUE, max_size=1))}
    return graph


@settings(max_examples=examples(40), deadline=None)
@given(graphs())
def test_any_graph_is_built_again_and_nothing_in_it_runs(graph: Graph) -> None:
    workflow = Workflow(graph).to_dict()
    assert json.dumps(rebuilt(graph), sort_keys=True) == json.dumps(workflow, sort_keys=True)
    assert list(rebuilt(graph)) == list(workflow)

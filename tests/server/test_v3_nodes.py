"""Nodes with ComfyUI's V3 conventions that need no torch, on the embedded server."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from PIL import Image

from comfy_client.testing import ComfyServer, offer_comfy_api
from comfy_client.testing.definitions import read_definitions
from comfy_client.testing.v3.adapter import adapted
from comfy_client.workflow.validate import is_v3
from tests.helpers.bare import entry_of, get, post
from tests.helpers.graphs import canvas, node
from tests.helpers.v3_schemas import class_of

with offer_comfy_api():
    from comfy_api.latest import io, ui  # type: ignore[import-not-found]


class Base(io.ComfyNode):  # type: ignore[misc]
    """A node without inputs, whose outputs are shown."""

    INPUTS: Any = ()
    MORE: ClassVar[Any] = {}

    @classmethod
    def define_schema(cls) -> Any:
        inputs = cls.INPUTS() if callable(cls.INPUTS) else cls.INPUTS
        return io.Schema(
            cls.__name__, inputs=list(inputs), outputs=[io.String.Output()], **cls.MORE
        )


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer(version="0.28", step_seconds=0) as running:
        yield running


def run(server: ComfyServer, graph: dict[str, Any], **extra: Any) -> Any:
    """The history of a prompt that was accepted."""
    body = {"prompt": graph, "client_id": "me", "extra_data": extra}
    answer = post(server, "/prompt", body)
    assert answer.status_code == 200, answer.text
    return entry_of(server, answer.json()["prompt_id"])


def refusal(server: ComfyServer, graph: dict[str, Any]) -> list[tuple[str, str]]:
    """Type and details of the errors of node 1."""
    answer = post(server, "/prompt", {"prompt": graph})
    assert answer.status_code == 400
    errors = answer.json()["node_errors"]["1"]["errors"]
    return [(error["type"], error["details"]) for error in errors]


def shown(server: ComfyServer, graph: dict[str, Any], **extra: Any) -> Any:
    """The text that node 9 shows of node 1."""
    record = run(server, {**graph, "9": node("PreviewAny", source=["1", 0])}, **extra)
    assert record["status"]["status_str"] == "success", record["status"]
    return record["outputs"]["9"]["text"]


def failure(server: ComfyServer, graph: dict[str, Any]) -> Any:
    record = run(server, {**graph, "9": node("PreviewAny", source=["1", 0])})
    assert record["status"]["status_str"] == "error"
    return record["status"]["messages"][-1][1]


# -- definitions ------------------------------------------------------------------------


def test_definitions_are_those_of_comfyui_0_28() -> None:
    """Each class of that version, with a schema that says the same, has the same definition."""
    recorded = {name: one for name, one in read_definitions("0.28.1").items() if is_v3(one)}
    assert len(recorded) > 600
    made = {name: adapted(class_of(one)).told(newer=True) for name, one in recorded.items()}
    assert [name for name in recorded if made[name] != recorded[name]] == []
    assert [name for name in recorded if list(made[name]) != list(recorded[name])] == []


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@io.comfytype(io_type="MOOD")
class Mood:
    """A type of a pack's own."""


@pytest.mark.parametrize(
    ("made", "kind", "options"),
    [
        (io.Combo.Input("size", Size), "COMBO", {"options": ["small", "large"]}),
        (
            io.Combo.Input("size", Size, default=Size.LARGE),
            "COMBO",
            {"options": ["small", "large"], "default": "large"},
        ),
        (
            io.Combo.Input("file", ["a"], upload=io.UploadType.image),
            "COMBO",
            {"options": ["a"], "image_upload": True},
        ),
        (
            io.Combo.Input("name", remote=io.RemoteOptions("/names", refresh_button=True)),
            "COMBO",
            {
                "remote": {
                    "route": "/names",
                    "refresh_button": True,
                    "control_after_refresh": "first",
                }
            },
        ),
        (
            io.MultiCombo.Input("tags", ["a", "b"], chip=True),
            "COMBO",
            {"options": ["a", "b"], "multiselect": True, "multi_select": {"chip": True}},
        ),
        (Mood.Input("mood", tooltip="How it feels"), "MOOD", {"tooltip": "How it feels"}),
        (
            io.MultiType.Input(io.Float.Input("weight", max=2.0), [io.Int]),
            "FLOAT,INT",
            {"max": 2.0, "widgetType": "FLOAT"},
        ),
    ],
)
def test_an_input_is_told_with_its_options(made: Any, kind: str, options: dict[str, Any]) -> None:
    class One(Base):
        INPUTS = (made,)
        execute = classmethod(lambda cls, **given: None)

    told = adapted(One).told(newer=True)["input"]["required"][made.id]
    assert told[0] == kind
    assert {name: told[1][name] for name in options} == options


def test_a_price_depends_on_inputs_of_the_node() -> None:
    """Those of a choice count by their name with that of the choice before it."""

    def costly(widget: str) -> Any:
        more = [io.DynamicCombo.Option("long", [io.Int.Input("seconds")])]
        price = io.PriceBadge("{}", io.PriceBadgeDepends(widgets=[widget]))

        class Costly(Base):
            INPUTS = (io.DynamicCombo.Input("mode", more),)
            MORE: ClassVar[Any] = {"price_badge": price}
            execute = classmethod(lambda cls, **given: None)

        return Costly

    told = costly("mode.seconds").GET_NODE_INFO_V1()["price_badge"]
    assert told["depends_on"]["widgets"] == [{"name": "mode.seconds", "type": "INT"}]
    with pytest.raises(TypeError, match="the price depends on 'steps', which is no input"):
        adapted(costly("steps"))


def test_a_class_tells_its_inputs_as_older_nodes_do() -> None:
    assert [*Dynamic.INPUT_TYPES()["required"]] == ["parts", "mode"]


def test_parts_of_a_dynamic_input_are_limited() -> None:
    part = io.String.Input("part")
    with pytest.raises(ValueError, match="up to 100 parts"):
        io.Autogrow.TemplatePrefix(part, "part", min=1, max=1000)
    with pytest.raises(TypeError, match="cannot be dynamic themselves"):
        io.Autogrow.TemplateNames(io.DynamicCombo.Input("mode", []), ["a"])


def test_a_return_value_is_read_like_a_sequence() -> None:
    returned = io.NodeOutput("a", 2)
    assert (returned.result, returned[1]) == (("a", 2), 2)
    assert io.NodeOutput().result is None


def test_an_older_version_tells_less_of_a_class() -> None:
    with ComfyServer(version="0.3.75") as older:
        older.add_node(class_of(read_definitions("0.28.1")["StringConcatenate"]))
        told = get(older, "/object_info/StringConcatenate").json()["StringConcatenate"]
    recorded = read_definitions("0.3.75")["StringConcatenate"]
    assert told.keys() == recorded.keys()
    assert told["input"] == recorded["input"]


def test_an_output_is_named_by_its_id_in_newer_versions_only() -> None:
    class Named(Base):
        @classmethod
        def define_schema(cls) -> Any:
            outputs = [io.Int.Output("a"), io.Int.Output("b", "B"), io.Int.Output()]
            return io.Schema("Named", outputs=outputs)

        execute = classmethod(lambda cls: None)

    assert adapted(Named).told(newer=True)["output_name"] == ["a", "B", "INT"]
    assert adapted(Named).told(newer=False)["output_name"] == ["INT", "B", "INT"]


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"execute": None}, "no execute"),
        ({"define_schema": classmethod(lambda cls: 1)}, "no io.Schema"),
        ({"INPUTS": (io.Int.Input("a"), io.Float.Input("a"))}, "several inputs are called 'a'"),
        ({"INPUTS": lambda: [io.Int.Input()]}, "missing a required argument: 'id'"),
        ({"INPUTS": lambda: [io.Int.Input("a", low=1)]}, "unexpected keyword argument 'low'"),
        ({"INPUTS": lambda: [io.Int.Input("a", default=object())]}, "not JSON serializable"),
        ({"MORE": {"description": "x", "category": {1}}}, "not JSON serializable"),
    ],
)
def test_a_class_that_is_no_node_is_refused(members: dict[str, Any], text: str) -> None:
    methods = {"execute": classmethod(lambda cls, **_: None), **members}
    cls = type("Odd", (Base,), {k: v for k, v in methods.items() if v is not None})
    with pytest.raises(TypeError, match=f"Odd is not a node class: .*{text}"):
        ComfyServer().add_node(cls)


# -- calls ------------------------------------------------------------------------------


def test_a_coroutine_gets_hidden_inputs_apart(server: ComfyServer) -> None:
    """They do not hide an input that has the same name."""

    class Tell(Base):
        INPUTS = (io.String.Input("prompt"),)
        MORE: ClassVar[Any] = {
            "hidden": [io.Hidden.prompt, io.Hidden.unique_id, io.Hidden.comfy_usage_source]
        }

        @classmethod
        async def execute(cls, prompt: str) -> Any:
            hidden = cls.hidden
            found = (list(hidden.prompt), hidden.unique_id, hidden.comfy_usage_source)
            return io.NodeOutput(f"{prompt} {found} {hidden.extra_pnginfo}", ui={"mine": [prompt]})

    server.add_node(Tell)
    text = shown(server, {"1": node("Tell", prompt="hi")}, comfy_usage_source="me")
    assert text == ["hi (['1', '9'], '1', 'me') None"]


def test_attributes_of_a_running_class_cannot_be_set(server: ComfyServer) -> None:
    class Keep(Base):
        @classmethod
        def execute(cls) -> Any:
            cls.kept = 1

    server.add_node(Keep)
    told = failure(server, {"1": node("Keep")})
    assert told["exception_type"] == "AttributeError"
    assert "'kept' on locked class 'KeepClone'" in told["exception_message"]


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (("a",), "a"),
        ({"result": ("b",)}, "b"),
        (io.NodeOutput("c"), "c"),
    ],
)
def test_outputs_may_be_a_tuple_or_a_dict_too(
    server: ComfyServer, returned: Any, text: str
) -> None:
    class Give(Base):
        MORE: ClassVar[Any] = {"not_idempotent": True}
        execute = classmethod(lambda cls: returned)
        fingerprint_inputs = classmethod(lambda cls: text)

    server.add_node(Give)
    assert shown(server, {"1": node("Give")}) == [text]


def test_return_values_of_another_type_are_errors_of_the_node(server: ComfyServer) -> None:
    class Wrong(Base):
        execute = classmethod(lambda cls: "text")

    server.add_node(Wrong)
    told = failure(server, {"1": node("Wrong")})
    assert told["exception_message"] == "Invalid return type from node: <class 'str'>\n"


@pytest.mark.parametrize("may", [True, False])
def test_a_node_expands_if_its_schema_allows_it(server: ComfyServer, may: bool) -> None:
    class Grow(Base):
        MORE: ClassVar[Any] = {"enable_expand": may}

        @classmethod
        def execute(cls) -> Any:
            inner = node("PrimitiveString", value="inner")
            return io.NodeOutput(["x", 0], expand={"x": inner})

    class PrimitiveString(Base):
        INPUTS = (io.String.Input("value"),)
        execute = classmethod(lambda cls, value: io.NodeOutput(value))

    server.add_node(PrimitiveString)
    server.add_node(Grow)
    if may:
        assert shown(server, {"1": node("Grow")}) == ["inner"]
    else:
        assert "enable_expand=True" in failure(server, {"1": node("Grow")})["exception_message"]


def test_a_block_keeps_the_nodes_behind_from_running(server: ComfyServer) -> None:
    class Stop(Base):
        execute = classmethod(lambda cls: io.NodeOutput("x", block_execution="enough"))

    server.add_node(Stop)
    record = run(server, {"1": node("Stop"), "9": node("PreviewAny", source=["1", 0])})
    assert record["status"]["status_str"] == "success"
    assert record["outputs"] == {}


# -- dynamic inputs ---------------------------------------------------------------------


class Dynamic(Base):
    """Shows its arguments."""

    MORE: ClassVar[Any] = {"not_idempotent": True}

    @staticmethod
    def INPUTS() -> Any:
        part = io.String.Input("part")
        grows = io.Autogrow.TemplatePrefix(part, "part", min=1, max=3)
        named = io.Autogrow.TemplateNames(io.Int.Input("n", optional=True), ["a", "b"], min=0)
        loud = [io.Int.Input("times", max=3), io.Autogrow.Input("more", template=named)]
        options = [io.DynamicCombo.Option("loud", loud), io.DynamicCombo.Option("quiet", [])]
        return [
            io.Autogrow.Input("parts", template=grows),
            io.DynamicCombo.Input("mode", options),
        ]

    @classmethod
    def execute(cls, **given: Any) -> Any:
        return io.NodeOutput(str(given))


@pytest.mark.parametrize(
    ("inputs", "arguments"),
    [
        (
            {"parts.part0": "x", "parts.part2": "z", "mode": "quiet"},
            {"parts": {"part0": "x", "part2": "z"}, "mode": {"mode": "quiet"}},
        ),
        (
            {"parts.part0": "x", "mode": "loud", "mode.times": 2, "mode.more.b": 7},
            {"parts": {"part0": "x"}, "mode": {"mode": "loud", "times": 2, "more": {"b": 7}}},
        ),
        (
            {"parts.part0": "x", "mode": "loud", "mode.times": 2},
            {"parts": {"part0": "x"}, "mode": {"mode": "loud", "times": 2, "more": {}}},
        ),
    ],
)
def test_dynamic_inputs_come_as_dicts(
    server: ComfyServer, inputs: dict[str, Any], arguments: dict[str, Any]
) -> None:
    server.add_node(Dynamic)
    assert shown(server, {"1": node("Dynamic", **inputs)}) == [str(arguments)]


@pytest.mark.parametrize(
    ("inputs", "errors"),
    [
        ({"mode": "quiet"}, [("required_input_missing", "part0")]),
        ({"parts.part0": "x", "mode": "loud"}, [("required_input_missing", "times")]),
        (
            {"parts.part0": "x", "mode": "loud", "mode.times": 4},
            [("value_bigger_than_max", "mode.times")],
        ),
    ],
)
def test_dynamic_inputs_are_checked_as_by_comfyui_0_28(
    server: ComfyServer, inputs: dict[str, Any], errors: list[Any]
) -> None:
    """It tells only the last part of a missing input."""
    server.add_node(Dynamic)
    graph = {"1": node("Dynamic", **inputs), "9": node("PreviewAny", source=["1", 0])}
    assert refusal(server, graph) == errors


def test_a_choice_that_a_dynamic_combo_lacks_is_dropped(server: ComfyServer) -> None:
    """As ComfyUI does, so that the node fails when it runs."""
    server.add_node(Dynamic)
    graph = {"1": node("Dynamic", **{"parts.part0": "x", "mode": "none"})}
    assert shown(server, graph) == ["{'parts': {'part0': 'x'}}"]


# -- a class's own rules ----------------------------------------------------------------


def test_a_class_checks_its_inputs_itself(server: ComfyServer) -> None:
    """It may be a coroutine, and sees the node's id."""

    class Even(Base):
        INPUTS = (io.Int.Input("number", max=10),)
        MORE: ClassVar[Any] = {"hidden": [io.Hidden.unique_id]}
        execute = classmethod(lambda cls, number: (number,))

        @classmethod
        async def validate_inputs(cls, number: int) -> Any:
            return number % 2 == 0 or f"{number} in node {cls.hidden.unique_id} is odd"

    server.add_node(Even)
    graph = {"1": node("Even", number=3), "9": node("PreviewAny", source=["1", 0])}
    assert refusal(server, graph) == [("custom_validation_failed", "number - 3 in node 1 is odd")]
    graph["1"]["inputs"]["number"] = 12  # beyond its maximum, which the server does not check now
    assert run(server, graph)["outputs"]["9"]["text"] == ["12"]


def test_an_empty_list_of_choices_offers_nothing(server: ComfyServer) -> None:
    """Unless the class checks that input itself."""

    class Choose(Base):
        INPUTS = (io.Combo.Input("choice", options=[]),)
        execute = classmethod(lambda cls, choice: (choice,))

    class ChooseAny(Choose):
        validate_inputs = classmethod(lambda cls, choice: True)

    server.add_node(Choose)
    server.add_node(ChooseAny)
    graph = {"1": node("Choose", choice="a"), "9": node("PreviewAny", source=["1", 0])}
    assert refusal(server, graph) == [("value_not_in_list", "choice: 'a' not in []")]
    assert shown(server, {"1": node("ChooseAny", choice="a")}) == ["a"]


def test_a_fingerprint_decides_whether_a_node_runs_again(server: ComfyServer) -> None:
    seen: list[int] = []
    marks = [1]

    class Count(Base):
        INPUTS = (io.Int.Input("number"),)
        fingerprint_inputs = classmethod(lambda cls, number: marks[0])

        @classmethod
        def execute(cls, number: int) -> Any:
            seen.append(number)
            return (str(len(seen)),)

    server.add_node(Count)
    graph = {"1": node("Count", number=5)}
    assert shown(server, graph) == shown(server, graph) == ["1"]
    marks[0] = 2
    assert shown(server, graph) == ["2"]


def test_lazy_inputs_are_computed_when_a_node_asks(server: ComfyServer) -> None:
    ran: list[str] = []

    class Source(Base):
        INPUTS = (io.String.Input("name"),)

        @classmethod
        def execute(cls, name: str) -> Any:
            ran.append(name)
            return (name,)

    class Either(Base):
        INPUTS = (
            io.Boolean.Input("first"),
            io.String.Input("a", lazy=True),
            io.String.Input("b", lazy=True),
        )

        @classmethod
        def check_lazy_status(cls, first: bool, a: Any, b: Any) -> list[str]:
            return ["a" if first else "b"]

        execute = classmethod(lambda cls, first, a, b: (a if first else b,))

    server.add_node(Source)
    server.add_node(Either)
    graph = {
        "1": node("Either", first=False, a=["2", 0], b=["3", 0]),
        "2": node("Source", name="left"),
        "3": node("Source", name="right"),
    }
    assert shown(server, graph) == ["right"]
    assert ran == ["right"]


# -- pictures and texts -----------------------------------------------------------------


def test_pictures_and_texts_are_shown_and_saved(server: ComfyServer) -> None:
    """Pictures are Pillow images; the files have prompt and workflow."""

    class Show(Base):
        INPUTS = (io.Image.Input("image"), io.Mask.Input("mask", optional=True))
        MORE: ClassVar[Any] = {"is_output_node": True}

        @classmethod
        def execute(cls, image: Any, mask: Any = None) -> Any:
            preview = ui.PreviewImage(image, cls=cls).as_dict()
            masks = ui.PreviewMask([Image.new("F", (4, 4), 1.0)]).as_dict()["images"]
            saved = ui.ImageSaveHelper.get_save_images_ui(image, "sub/v3", cls=cls).as_dict()
            text = ui.PreviewText("done").as_dict()
            return io.NodeOutput(ui={**saved, **text, "preview": preview["images"] + masks})

    server.add_node(Show)
    graph = {"1": node("Show", image=["2", 0]), "2": canvas(0xFF0000, width=8, height=8)}
    record = run(server, graph, extra_pnginfo={"workflow": {"nodes": []}})
    output = record["outputs"]["1"]
    assert output["text"] == ["done"]
    [saved] = output["images"]
    assert (saved["subfolder"], saved["type"]) == ("sub", "output")
    with Image.open(server.root / "output/sub" / saved["filename"]) as picture:
        assert picture.getpixel((1, 1)) == (255, 0, 0)
        assert picture.info.keys() >= {"prompt", "workflow"}
    preview, mask = output["preview"]
    assert (server.root / "temp" / preview["filename"]).exists()
    with Image.open(server.root / "temp" / mask["filename"]) as picture:
        assert picture.getpixel((1, 1)) == (255, 255, 255)


def test_names_of_previews_are_counted_like_those_of_other_nodes() -> None:
    class Preview(Base):
        INPUTS = (io.Image.Input("images"),)
        MORE: ClassVar[Any] = {"is_output_node": True}
        execute = classmethod(lambda cls, images: io.NodeOutput(ui=ui.PreviewImage(images)))

    names = []
    for class_type in ("Preview", "PreviewImage"):
        with ComfyServer(ids="counter") as server:
            server.add_node(Preview)
            graph = {"1": node(class_type, images=["2", 0]), "2": canvas(0, width=8, height=8)}
            [file] = run(server, graph)["outputs"]["1"]["images"]
            names.append(file["filename"])
    assert names[0] == names[1]


# -- comfy_api --------------------------------------------------------------------------


def test_the_small_comfy_api_is_there_for_a_block_only() -> None:
    with offer_comfy_api():
        with offer_comfy_api():
            pass
        from comfy_api.latest import ComfyExtension

        assert ComfyExtension
    assert "comfy_api" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        import comfy_api  # noqa: F401


def test_each_method_may_import_comfy_api_when_it_is_called(server: ComfyServer) -> None:
    """As functions of a module do that was imported without it."""

    def types() -> Any:
        from comfy_api.latest import io as found

        return found

    class Late(Base):
        @classmethod
        def define_schema(cls) -> Any:
            number = types().Int.Input("number", lazy=True)
            return types().Schema("Late", inputs=[number], outputs=[types().String.Output()])

        @classmethod
        async def validate_inputs(cls, number: int) -> Any:
            return bool(types())

        @classmethod
        def fingerprint_inputs(cls, number: int) -> Any:
            return types().__name__

        @classmethod
        async def check_lazy_status(cls, number: int) -> Any:
            return ["number"] if types() else []

        @classmethod
        async def execute(cls, number: int) -> Any:
            return types().NodeOutput(str(number))

    server.add_node(Late)
    assert shown(server, {"1": node("Late", number=3)}) == ["3"]
    assert "comfy_api" not in sys.modules


@pytest.fixture
def _no_comfy_api() -> Iterator[None]:
    """A test may load modules of that name."""
    yield
    for name in [one for one in sys.modules if one.partition(".")[0] == "comfy_api"]:
        del sys.modules[name]


@pytest.mark.usefixtures("_no_comfy_api")
@pytest.mark.parametrize(("needs", "real"), [("json", True), ("a_torch_that_is_not_there", False)])
def test_a_real_comfy_api_comes_first_if_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: str, real: bool
) -> None:
    """It is imported once, whether that works or not."""
    package = tmp_path / "comfy_api/latest"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f"with open({str(tmp_path / 'log')!r}, 'a') as log:\n    log.write('imported ')\n"
        f"import {needs}\nREAL = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        with offer_comfy_api():
            import comfy_api.latest

            assert hasattr(comfy_api.latest, "REAL") == real
        assert ("comfy_api" in sys.modules) == real
    assert (tmp_path / "log").read_text() == "imported "


@pytest.mark.usefixtures("_no_comfy_api")
def test_a_real_comfy_api_that_is_loaded_need_not_be_found() -> None:
    for name in ("comfy_api", "comfy_api.latest"):
        sys.modules[name] = ModuleType(name)
    loaded = sys.modules["comfy_api.latest"]
    with offer_comfy_api():
        assert sys.modules["comfy_api.latest"] is loaded
    assert sys.modules["comfy_api.latest"] is loaded


@pytest.mark.usefixtures("_no_comfy_api")
def test_own_modules_with_that_name_are_back_after_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are not imported for it."""
    (tmp_path / "comfy_api").mkdir()
    (tmp_path / "comfy_api/__init__.py").touch()
    (tmp_path / "comfy_api/client.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with offer_comfy_api():
        from comfy_api.latest import io as offered

        assert offered is io
    assert "comfy_api" not in sys.modules
    client = importlib.import_module("comfy_api.client")
    own = sys.modules["comfy_api"]
    with offer_comfy_api():
        from comfy_api.latest import io as offered

        assert offered is io
    assert sys.modules["comfy_api"] is own
    assert sys.modules["comfy_api.client"] is client
    assert "comfy_api.latest" not in sys.modules

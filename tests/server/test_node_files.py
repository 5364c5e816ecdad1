"""Files and packs with node classes: in Python, and for ``comfy-client serve``."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.helpers.bare import get
from tests.helpers.command_line import CommandLine
from tests.helpers.graphs import node

#: A pack of one V3 node, in a module of its own.
INIT = """
from .inner import Extension

WEB_DIRECTORY = "./web"

async def comfy_entrypoint():
    return Extension()
"""
INNER = """
from comfy_api.latest import ComfyExtension, io

class Greet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            "Greet_v3", "Greet", inputs=[io.String.Input("name")], outputs=[io.String.Output()]
        )

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        from comfy_api.latest import io as again
        return again.NodeOutput(f"Hello {name}")

class Extension(ComfyExtension):
    async def get_node_list(self):
        return [Greet]
"""
#: A file of an extension whose methods follow.
EXTENSION = """
from comfy_api.latest import ComfyExtension

async def comfy_entrypoint():
    return Extension()

class Extension(ComfyExtension):
"""
#: A file of one V1 node, which has two names.
V1 = """
class Twice:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING",)}}

    def run(self, text):
        print("it runs")
        return (text * 2,)

print("it is loaded")
NODE_CLASS_MAPPINGS = {"Twice": Twice, "Double": Twice}
NODE_DISPLAY_NAME_MAPPINGS = {"Double": "Two of it"}
"""


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    folder = tmp_path / "my.pack"
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT)
    (folder / "inner.py").write_text(INNER)
    return folder


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


def told(server: ComfyServer, name: str) -> dict[str, Any]:
    found: dict[str, Any] = get(server, f"/object_info/{name}").json()[name]
    return found


def text_of(server: ComfyServer, class_type: str, **inputs: Any) -> str:
    graph = {"1": node(class_type, **inputs), "2": node("PreviewAny", source=["1", 0])}
    with ComfyApi(server.url) as api:
        [text] = api.run(graph, timeout=20)["2"].texts
    return text


def test_nodes_of_a_pack_run(server: ComfyServer, pack: Path) -> None:
    """Also one that imports comfy_api only when it runs."""
    assert server.load_nodes(pack) == ["Greet_v3"]
    assert told(server, "Greet_v3")["python_module"] == "custom_nodes.my.pack"
    assert told(server, "Greet_v3")["display_name"] == "Greet"
    assert text_of(server, "Greet_v3", name="you") == "Hello you"
    assert "comfy_api" not in sys.modules


def test_nodes_of_a_file_are_there_after_a_restart(server: ComfyServer, tmp_path: Path) -> None:
    file = tmp_path / "twice.py"
    file.write_text(V1)
    assert server.load_nodes(str(file)) == ["Twice", "Double"]
    server.restart()
    assert text_of(server, "Double", text="ab") == "abab"
    shown = [told(server, name)["display_name"] for name in ("Twice", "Double")]
    assert shown == ["Twice", "Two of it"]
    assert told(server, "Twice")["python_module"] == "custom_nodes.twice"


def test_an_edited_pack_is_loaded_anew(pack: Path) -> None:
    """With all its modules, and before the start, too."""
    server = ComfyServer()
    server.load_nodes(pack)
    (pack / "inner.py").write_text(INNER.replace("Hello", "Good evening,"))
    server.load_nodes(pack)
    with server:
        assert text_of(server, "Greet_v3", name="you") == "Good evening, you"


def test_replacements_of_an_extension_apply_to_prompts(tmp_path: Path) -> None:
    """Until a reset forgets its nodes."""
    (tmp_path / "renamed.py").write_text(
        INNER
        + textwrap.dedent("""
        from comfy_api.latest import ComfyAPI

        async def comfy_entrypoint():
            return Renamed()

        class Renamed(Extension):
            async def on_load(self):
                mapping = [{"new_id": "name", "old_id": "who"}]
                await ComfyAPI().node_replacement.register(
                    io.NodeReplace("Greet_v3", "Greet", ["who"], input_mapping=mapping)
                )
        """)
    )
    rule = {
        "new_node_id": "Greet_v3",
        "old_node_id": "Greet",
        "old_widget_ids": ["who"],
        "input_mapping": [{"new_id": "name", "old_id": "who"}],
        "output_mapping": None,
    }
    with ComfyServer(version="0.28") as server:
        server.load_nodes(tmp_path / "renamed.py")
        told = get(server, "/node_replacements").json()
        assert told["Greet"] == [rule]
        assert "ImageBatch" in told
        old = node("Greet", who="you")
        old["_meta"] = {}
        with ComfyApi(server.url) as api:
            [text] = api.run({"1": old, "2": node("PreviewAny", source=["1", 0])})["2"].texts
        assert text == "Hello you"
        server.reset()
        assert "Greet" not in get(server, "/node_replacements").json()


@pytest.mark.parametrize("code", ["1 / 0", "NODE_CLASS_MAPPINGS = 5"])
def test_a_pack_that_fails_after_an_edit_goes_on_as_before(pack: Path, code: str) -> None:
    """Its modules, too, which its nodes may import when they run."""
    server = ComfyServer()
    server.load_nodes(pack)
    before = {name: sys.modules[name] for name in sys.modules if "my_x_pack" in name}
    (pack / "__init__.py").write_text(f"from . import inner\n{code}\n")
    with pytest.raises(ImportError):
        server.load_nodes(pack)
    assert {name: sys.modules[name] for name in sys.modules if "my_x_pack" in name} == before
    with server:
        assert text_of(server, "Greet_v3", name="you") == "Hello you"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os\nimport torch", "^odd.py:2: import of 'torch' failed: nodes that need torch"),
        ("import comfy.utils", "^odd.py:1: import of 'comfy' failed: .* which needs torch"),
        ("from comfy_api.latest import sdk", "^odd.py:1: .*needs torch.*cannot import name 'sdk'"),
        (
            "from comfy_api.latest import ui\nui.PreviewAudio",
            "^odd.py:2: .* no ui.PreviewAudio: it has only what needs no torch$",
        ),
        ("import a_module_of_nobody", "^odd.py:1: ModuleNotFoundError: No module named"),
        ("a = (\n", "^odd.py:1: SyntaxError: '.' was never closed$"),
        ("def f():\n    1 / 0\nf()", "^odd.py:2: ZeroDivisionError: division by zero$"),
        ("raise ValueError('a\\nb')", "^odd.py:1: ValueError: a b$"),
        ("raise SystemExit('no')", "^odd.py:1: SystemExit: no$"),
        ("", "^odd.py: it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint$"),
        ("class A: pass\nNODE_CLASS_MAPPINGS = {'A': A}", "^odd.py: TypeError: A is not a node"),
        ("NODE_CLASS_MAPPINGS = {'A': int}", "^odd.py: TypeError: A is not a node"),
        ("NODE_CLASS_MAPPINGS = 5", "^odd.py: NODE_CLASS_MAPPINGS is 5, not a dict$"),
        (
            "NODE_CLASS_MAPPINGS = {'A': 1}",
            r"^odd.py: NODE_CLASS_MAPPINGS\['A'\] is 1, not a class$",
        ),
        (
            "NODE_CLASS_MAPPINGS = {1: int}",
            "^odd.py: a name in NODE_CLASS_MAPPINGS is 1, not a string$",
        ),
        (
            "NODE_CLASS_MAPPINGS = {}\nNODE_DISPLAY_NAME_MAPPINGS = ['A']",
            r"^odd.py: NODE_DISPLAY_NAME_MAPPINGS is \['A'\], not a dict$",
        ),
        (
            "NODE_CLASS_MAPPINGS = {'A': int}\nNODE_DISPLAY_NAME_MAPPINGS = {'A': 1}",
            r"^odd.py: NODE_DISPLAY_NAME_MAPPINGS\['A'\] is 1, not a string$",
        ),
        (
            "NODE_CLASS_MAPPINGS = {}\nWEB_DIRECTORY = 5",
            "^odd.py: WEB_DIRECTORY is 5, not a path$",
        ),
        ("comfy_entrypoint = 5", "^odd.py: comfy_entrypoint is 5, not a function$"),
        (
            "def comfy_entrypoint(): return 1",
            "^odd.py: the result of comfy_entrypoint is 1, not a ComfyExtension$",
        ),
        (
            f"{EXTENSION}    async def get_node_list(self): return 5",
            "^odd.py: the result of get_node_list is 5, not a list$",
        ),
        (
            f"{EXTENSION}    async def get_node_list(self): return [5]",
            "^odd.py: an item of get_node_list is 5, not a class$",
        ),
        (
            (
                f"{EXTENSION}    async def get_node_list(self):\n"
                "        from comfy_api.latest import ComfyAPISync, io\n"
                "        ComfyAPISync().node_replacement.register(io.NodeReplace('A', 'B'))\n"
                "        return []"
            ),
            "^odd.py: it registers replacements, but has no node class$",
        ),
        (
            (
                "from comfy_api.latest import ComfyAPISync, io\n"
                "ComfyAPISync().node_replacement.register(io.NodeReplace('A'))"
            ),
            "^odd.py:2: TypeError: .*missing 1 required .*'old_node_id'$",
        ),
        (
            f"{EXTENSION}    def get_node_list(self): return []",
            r"^odd.py: the result of get_node_list is \[\], not a coroutine$",
        ),
    ],
)
def test_a_file_that_fails_is_told_in_one_line(tmp_path: Path, code: str, message: str) -> None:
    """With the place in it, and the import that failed."""
    (tmp_path / "odd.py").write_text(code)
    server = ComfyServer()
    with pytest.raises(ImportError, match=message) as caught:
        server.load_nodes(tmp_path / "odd.py")
    assert "\n" not in str(caught.value)
    assert not [one for one in sys.modules if one.startswith(str(tmp_path))]


def test_a_pack_that_fails_tells_the_place_in_it(pack: Path) -> None:
    (pack / "inner.py").write_text("\n\nfrom torch.nn import Module\n")
    with pytest.raises(ImportError, match=r"^my.pack.inner.py:3: import of 'torch' failed"):
        ComfyServer().load_nodes(pack)
    with pytest.raises(ImportError, match=r"there is no __init__.py$"):
        ComfyServer().load_nodes(pack.parent)
    with pytest.raises(ImportError, match=r"there is no such file$"):
        ComfyServer().load_nodes(pack / "none.py")


# -- scripts for the page ---------------------------------------------------------------


def test_scripts_of_a_pack_are_served(server: ComfyServer, pack: Path) -> None:
    """But nothing that is elsewhere."""
    (pack / "web/sub").mkdir(parents=True)
    (pack / "web/a.js").write_text("a")
    (pack / "web/sub/b.js").write_text("b")
    (pack.parent / "secret.js").write_text("secret")
    (pack / "web/c.js").symlink_to(pack.parent / "secret.js")
    server.load_nodes(pack)
    found = [one for one in get(server, "/extensions").json() if "my.pack" in one]
    assert found == ["/extensions/my.pack/a.js", "/extensions/my.pack/sub/b.js"]
    assert [get(server, one).text for one in found] == ["a", "b"]
    for name in ("c.js", "../inner.py", "%2e%2e/inner.py"):
        assert get(server, f"/extensions/my.pack/{name}").status_code == 404, name


def test_a_reset_forgets_packs_that_came_later(server: ComfyServer, pack: Path) -> None:
    (pack / "web").mkdir()
    (pack / "web/a.js").write_text("a")
    server.load_nodes(pack)
    server.reset(keep=["nodes"])
    assert get(server, "/extensions/my.pack/a.js").status_code == 200
    server.reset()
    assert get(server, "/extensions/my.pack/a.js").status_code == 404
    assert get(server, "/object_info/Greet_v3").json() == {}


@pytest.mark.parametrize("web", ["..", ".", "link", "none"])
def test_a_folder_of_scripts_is_inside_of_its_pack(
    server: ComfyServer, pack: Path, web: str
) -> None:
    (pack.parent / "secret.js").write_text("secret")
    (pack / "link").symlink_to(pack.parent)
    (pack / "own.js").write_text("own")
    (pack / "__init__.py").write_text(INIT.replace("./web", web))
    server.load_nodes(pack)
    scripts = [one for one in get(server, "/extensions").json() if "my.pack" in one]
    assert scripts == (["/extensions/my.pack/own.js"] if web == "." else [])
    assert get(server, "/extensions/my.pack/secret.js").status_code == 404


# -- the command line -------------------------------------------------------------------


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def test_serve_has_the_nodes_of_files(
    command_line: CommandLine, pack: Path, tmp_path: Path
) -> None:
    """What these print is not on stdout."""
    (tmp_path / "twice.py").write_text(V1)
    ask = """
        import os, urllib.request
        url = os.environ["COMFYUI_HOST"] + "/object_info"
        print(urllib.request.urlopen(url).read().decode())
    """
    words = ["serve", "--port", 0, "--", sys.executable, "-c", textwrap.dedent(ask)]
    ended = command_line.installed(*words, COMFY_SERVE_NODES="my.pack twice.py")
    assert ended.status == 0, ended.err
    assert "it is loaded" in ended.err
    assert json.loads(ended.out).keys() >= {"Greet_v3", "Twice", "Double"}


def test_serve_says_in_one_line_why_a_file_cannot_be_loaded(
    command_line: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text("import torch")
    ended = command_line("serve", "--port", 0, "--nodes", "odd.py")
    assert ended.status == 2
    assert ended.err.startswith("Error: --nodes: odd.py:1: import of 'torch' failed")
    assert ended.err.count("\n") == 1


def test_definitions_of_one_server_make_stand_ins_on_another(
    command_line: CommandLine, server: ComfyServer, pack: Path, tmp_path: Path
) -> None:
    """Written by ``comfy-client object-info -o``."""
    server.load_nodes(pack)
    ended = command_line("object-info", "-o", "known.json", "--host", server.url)
    assert ended.status == 0, ended.err
    with ComfyServer(object_info=tmp_path / "known.json") as other:
        assert told(other, "Greet_v3")["input"] == told(server, "Greet_v3")["input"]
        assert text_of(other, "Greet_v3", name="you") == ""

"""The README is true: its blocks run, its tables name what there is."""

from __future__ import annotations

import configparser
import inspect
import re
from pathlib import Path

import docutils.core
import docutils.nodes
import pytest
from docutils.utils import Reporter

import comfy_client
from comfy_client import ComfyApi
from comfy_client.events import NAMES
from comfy_client.since import SINCE
from comfy_client.testing import Faults
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.contract.test_differential import USUAL
from tests.versions import routes_of, rst

README = Path(__file__).parents[1] / "README.rst"
CI = Path(__file__).parents[1] / ".ci" / "run"


def document() -> docutils.nodes.document:
    """The README, parsed; a mistake in its markup is an error."""
    settings = {"report_level": Reporter.WARNING_LEVEL, "halt_level": Reporter.WARNING_LEVEL}
    return docutils.core.publish_doctree(
        README.read_text(encoding="utf-8"), settings_overrides=settings
    )


def blocks() -> list[tuple[str, str]]:
    """(name of its section, code) of every Python block."""
    found = []
    for block in document().findall(docutils.nodes.literal_block):
        if "python" in block["classes"]:
            section = block.parent
            while not isinstance(section, docutils.nodes.section | docutils.nodes.document):
                section = section.parent
            title = section.next_node(docutils.nodes.title)
            found.append((title.astext() if title else "", block.astext()))
    return found


def test_the_markup_has_no_mistakes_and_there_are_blocks() -> None:
    """docutils reads it without a warning."""
    assert len(blocks()) >= 10


def test_the_first_screen_shows_a_complete_example_within_thirty_lines() -> None:
    """A visitor sees code before scrolling."""
    lines = README.read_text(encoding="utf-8").splitlines()
    assert any(".. code-block:: python" in line for line in lines[:12])


def test_the_commands_are_the_ones_that_ci_runs() -> None:
    """What the README tells a new user to type is what .ci/run does."""
    text = README.read_text(encoding="utf-8")
    told = re.findall(r"^    (pip install .*)$", text, re.MULTILINE)
    assert told == [
        'pip install ".[cli,testing]" && comfy-client demo',
        'pip install ".[test]" && python -m pytest',
    ]
    done = re.findall(r"^as_told \S+ 3\.11 '(.*)'$", CI.read_text(encoding="utf-8"), re.MULTILINE)
    assert done == told


def test_every_fault_of_the_embedded_server_stands_in_the_table() -> None:
    """And nothing stands there that does not exist."""
    text = README.read_text(encoding="utf-8")
    table = text.split("\nfault   ", 1)[1].split("``server.kill()``", 1)[0]
    named = set(re.findall(r"``([a-z_]+)``", table)) - {"ran"}
    assert named == {name for name in dir(Faults) if not name.startswith("_")}


def test_every_public_method_stands_in_the_table() -> None:
    """And nothing stands there that does not exist."""
    text = README.read_text(encoding="utf-8")
    section = text.split("Every method\n---", 1)[1].split("Every ComfyUI\n---", 1)[0]
    named = set(re.findall(r"``([a-z_0-9]+)``", section.split("=====\n", 1)[1]))
    public = {name for name in dir(ComfyApi) if not name.startswith("_")} | {"client_id"}
    assert named == public - {"timing"}


def test_the_table_of_versions_is_the_one_that_the_tests_hold_every_version_to() -> None:
    """``python -m tests.versions`` prints it."""
    assert rst().strip() in README.read_text(encoding="utf-8")


def test_since_when_a_method_works_agrees_with_the_package() -> None:
    """And so with the docstrings, the errors and the table of versions."""
    text = README.read_text(encoding="utf-8")
    section = text.split("Every method\n---", 1)[1].split("Every ComfyUI\n---", 1)[0]
    table = section[section.index("=====") :]
    (body,) = docutils.core.publish_doctree(table).findall(docutils.nodes.tbody)
    for row in body:
        methods, _, since = (cell.astext() for cell in row)
        names = re.findall(r"[a-z_0-9]+", methods)
        said = set(re.findall(r"[A-Z][a-z]{2}|\d[\d.]*", since))
        known = {SINCE[route] for name in names for route in routes_of(name) if route in SINCE}
        words = " ".join(known).replace("ComfyUI ", "")
        assert (names, said) == (names, set(re.findall(r"[A-Z][a-z]{2}|\d[\d.]*", words)))


def test_what_is_compared_with_the_real_server_is_as_much_as_is_said() -> None:
    """So many random requests and workflows."""
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert f"{USUAL} random requests and {USUAL // 3} random workflows" in text


def test_every_event_name_stands_in_the_table() -> None:
    """The documented names are the ones that can fire."""
    text = README.read_text(encoding="utf-8")
    section = text.split("\nname     ", 1)[1].split("Coming from TypeScript", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("``")]
    assert {n for row in rows for n in re.findall(r"``([a-z_]+)``", row[:36])} == set(NAMES)


def test_every_error_stands_in_the_table() -> None:
    """With what to do about it."""
    text = README.read_text(encoding="utf-8")
    section = text.split("\nErrors\n---", 1)[1].split("code-block", 1)[0]
    errors = {
        name
        for name, kind in vars(comfy_client).items()
        if inspect.isclass(kind) and issubclass(kind, comfy_client.ComfyError)
    }
    assert {n for n in errors if f"``{n}``" in section} == errors


def test_every_extra_stands_in_the_table_and_all_is_all_of_them() -> None:
    """But for those of the project's own tests."""
    metadata = configparser.ConfigParser()
    metadata.read(README.with_name("setup.cfg"), encoding="utf-8")
    extras = {
        n: set(text.split("\n")[1:]) for n, text in metadata["options.extras_require"].items()
    }
    wanted = {name: extras[name] for name in extras.keys() - {"test", "dev", "all"}}
    assert extras["all"] == set().union(*wanted.values())
    assert extras["all"] <= extras["test"]
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line[:3] == "``["]
    table = {row[3 : row.index("]")]: row for row in rows}
    assert table.keys() == {*wanted, "all"}
    for name, packages in wanted.items():
        assert all(package.split()[0] in table[name] for package in packages)


@pytest.mark.real
@pytest.mark.parametrize(
    ("section", "code"), blocks(), ids=[f"{i}-{s}" for i, (s, _) in enumerate(blocks())]
)
def test_every_block_runs(
    section: str,
    code: str,
    comfyui: ComfyUI,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it stands, but for the address of the server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_TOKEN", "a token")
    graph = comfy_client.Workflow.load(load_workflow("txt2img_tiny"))
    graph.save("txt2img.json")
    graph.save("variant.json")
    Path("photo.png").write_bytes((comfyui.root / "input" / "testbed.png").read_bytes())
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(code.replace("http://127.0.0.1:8188", comfyui.url), section, "exec"), names)
    shown = names.get("show")
    if shown is not None:  # the first block: blinker's own namespace is for all tests
        comfy_client.signal("b_preview").disconnect(shown)
        assert Path("preview.jpg").stat().st_size > 1000
        assert list(Path("out").iterdir())

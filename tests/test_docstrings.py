"""What ``help()`` shows: every field is explained, every main entry has an example.

And every package lists its modules.
"""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import MemberDescriptorType

import pytest

import comfy_client
from comfy_client import (
    ComfyApi,
    Graph,
    Job,
    Result,
    Template,
    Upload,
    Workflow,
    aio,
    distributed,
    models,
    testing,
)
from comfy_client.testing import ComfyServer
from tests.guide import examples

CLASSES = {
    f"{module.__name__}.{name}": kind
    for module in (comfy_client, distributed, models, testing)
    for name in module.__all__
    if inspect.isclass(kind := getattr(module, name))
}

ROOT = Path(comfy_client.__file__).parent
#: The packages, but for the plug-in of pytest, which is installed under another name.
PACKAGES = {
    path.parent.relative_to(ROOT).as_posix(): path
    for path in ROOT.rglob("__init__.py")
    if path.parent.name != "plugin"
}


def _declared(cls: type) -> set[str]:
    """The public fields that a class itself declares: what has no docstring of its own."""
    names = {*inspect.get_annotations(cls), *getattr(cls, "__members__", ())}
    names |= {name for name, value in vars(cls).items() if isinstance(value, MemberDescriptorType)}
    init = vars(cls).get("__init__")
    if inspect.isfunction(init) and init.__code__.co_filename == inspect.getsourcefile(cls):
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(init)))):
            match node:
                case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store()):
                    names.add(node.attr)
    return {name for name in names if not name.startswith("_")}


def _explained(cls: type) -> list[str]:
    """The names in the section ``Attributes:`` of a class's own docstring."""
    return _named("Attributes", inspect.cleandoc(cls.__doc__ or ""))


def _named(section: str, text: str) -> list[str]:
    """Return the names that a section of a docstring explains."""
    sections = re.findall(rf"^{section}:\n((?:    .*\n?)+)", text, re.MULTILINE)
    return re.findall(r"^    (\w+): \S", "".join(sections), re.MULTILINE)


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_field_is_explained_once_and_nothing_else(name: str) -> None:
    """In the class, or in the public base that declares it."""
    cls = CLASSES[name]
    known = [base for base in cls.__mro__ if base in CLASSES.values()]
    explained = [field for base in known for field in _explained(base)]
    ours = [base for base in cls.__mro__ if base.__module__.split(".")[0] == "comfy_client"]
    assert sorted(explained) == sorted({name for base in ours for name in _declared(base)})


@pytest.mark.parametrize(
    "entry",
    [
        *(Upload, ComfyApi.upload_image),
        *(ComfyApi, ComfyApi.run, ComfyApi.submit, ComfyApi.map, ComfyApi.sweep, ComfyApi.on),
        *(Workflow.load, Workflow.set, Workflow.add_lora, Template, Job, Result, ComfyServer),
        *(Graph, Workflow.to_code, aio.events, distributed.ComfyPlugin, distributed.run_workflow),
    ],
    ids=lambda entry: str(entry.__qualname__),
)
def test_a_main_entry_has_an_example_that_runs(entry: type | Callable[..., object]) -> None:
    """As a block of the guide does."""
    assert entry.__qualname__ in {example.page for example in examples()}
    imports = r"\nExample::\n\n    (import \w+\n\n    |from dask.*\n    )?from comfy_client"
    assert re.search(imports, inspect.getdoc(entry) or "")


@pytest.mark.parametrize(("name", "once"), [("run", 594), ("map", 624), ("sweep", 698)])
def test_help_of_the_main_entries_is_half_as_long_as_it_once_was(name: str, once: int) -> None:
    """In words: options that several share are explained at one of them."""
    # Python 3.13 writes signatures with more words.
    assert len(pydoc.render_doc(getattr(ComfyApi, name)).split()) <= once / 2 + 5


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_lists_its_modules(package: str) -> None:
    """In the section ``Modules:`` of its docstring, each once, with what it holds."""
    path = PACKAGES[package]
    there = {one.stem for one in path.parent.glob("*.py")} - {"__init__", "__main__", "_version"}
    there |= {one.parent.name for one in path.parent.glob("*/__init__.py")} - {"plugin"}
    listed = _named("Modules", ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")
    assert sorted(listed) == sorted(there)

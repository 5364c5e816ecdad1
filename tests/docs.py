"""The guide and an API reference as HTML: ``python -m tests.docs [FOLDER]``; the extra ``[docs]``.

The pages are those of the package and the README, the reference comes from the docstrings.  Any
warning of Sphinx is an error.
"""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import attrs

import comfy_client
from comfy_client import aio, distributed, models, testing
from tests.guide import GUIDE, PAGES, text_of

#: Pages of the reference: title, and the module and the names that it shows.
Reference = dict[str, tuple[str, ModuleType, list[str]]]

_TITLES = {
    "client": "Client and signals",
    "credentials": "Credentials",
    "workflow": "Workflows",
    "jobs": "Jobs and results",
    "events": "Events",
    "errors": "Errors",
    "doctor": "Doctor",
}
_HOMES = {"batch": "jobs"}


def reference() -> Reference:
    """Every public name, on one page."""
    pages: Reference = {page: (title, comfy_client, []) for page, title in _TITLES.items()}
    for name in comfy_client.__all__:
        if not name.startswith("__"):
            room = getattr(comfy_client, name).__module__.split(".")[1]
            page = _HOMES.get(room, room)
            pages[page if page in pages else "client"][2].append(name)
    answers = [name for name in models.__all__ if name not in comfy_client.__all__]
    pages["aio"] = ("asyncio", aio, list(aio.__all__))
    pages["distributed"] = ("Workers of Dask", distributed, list(distributed.__all__))
    pages["models"] = ("Answers of the server", models, answers)
    pages["testing"] = ("Testing", testing, list(testing.__all__))
    return pages


def write(folder: Path) -> None:
    """What Sphinx reads: the README as the first page, the guide in its order, the reference."""
    in_order = re.findall(r"<comfy_client/guide/([\w-]+)\.rst>", text_of("README"))
    guide = list(dict.fromkeys([*in_order, *(page for page in PAGES if page != "README")]))
    for picture in GUIDE.glob("*.png"):
        folder.joinpath(picture.name).write_bytes(picture.read_bytes())
    for page in guide:
        folder.joinpath(f"{page}.rst").write_text(linked(text_of(page)), encoding="utf-8")
    folder.joinpath("api").mkdir()
    pages = reference()
    for page, (title, module, names) in pages.items():
        text = "\n".join([title, "=" * len(title), *(entry(module, name) for name in names)])
        folder.joinpath("api", f"{page}.rst").write_text(text + "\n", encoding="utf-8")
    index = linked(text_of("README"))
    index += contents("Guide", guide) + contents("Reference", [f"api/{page}" for page in pages])
    folder.joinpath("index.rst").write_text(index, encoding="utf-8")


def linked(text: str) -> str:
    """Links and pictures as Sphinx has and checks them."""
    text = text.replace(":: comfy_client/guide/", ":: ")
    return re.sub(r"`([^`<]+) <(?:comfy_client/guide/)?([\w-]+)\.rst>`__", r":doc:`\1 <\2>`", text)


def contents(caption: str, pages: list[str]) -> str:
    lines = ["", ".. toctree::", "   :hidden:", f"   :caption: {caption}", ""]
    return "\n".join([*lines, *(f"   {page}" for page in pages), ""])


def entry(module: ModuleType, name: str) -> str:
    """The directive that shows what is of this name."""
    value, path = getattr(module, name), f"{module.__name__}.{name}"
    if inspect.isfunction(value):
        lines = [f".. autofunction:: {path}"]
    elif not inspect.isclass(value):
        lines = [f".. py:data:: {path}", "", *(f"   {line}" for line in comment(module, name))]
    elif issubclass(value, BaseException):
        lines = [f".. autoexception:: {path}", "   :members:"]
    else:
        bases = "   :inherited-members: Future, Mapping, WorkerPlugin, dict, object"
        lines = [f".. autoclass:: {path}", "   :members:", bases]
    return "\n".join(["", *lines, ""])


def comment(module: ModuleType, name: str) -> list[str]:
    """What stands above a constant where it is defined."""
    from sphinx.pycode import ModuleAnalyzer

    rooms = [room for room in sys.modules if room.startswith(f"{module.__name__}.")]
    comments = (ModuleAnalyzer.for_module(room).find_attr_docs() for room in sorted(rooms))
    return next(found["", name] for found in comments if ("", name) in found)


def build(source: Path, target: Path) -> int:
    from sphinx.cmd.build import main

    options = {
        "project": "comfy_client",
        "release": comfy_client.__version__,
        "copyright": "its authors",
        "extensions": "sphinx.ext.autodoc,sphinx.ext.napoleon,sphinx.ext.viewcode,tests.docs",
        "autodoc_member_order": "bysource",
        "autodoc_typehints": "signature",
        "html_title": "comfy_client",
    }
    given = [part for name, value in options.items() for part in ("-D", f"{name}={value}")]
    return main(["-C", "-W", "--keep-going", "-q", "-b", "html", *given, str(source), str(target)])


def setup(app: Any) -> None:
    """Called by Sphinx, for which this module is an extension."""
    app.connect("autodoc-process-docstring", _as_text, priority=400)  # before napoleon
    for kind in filter(attrs.has, vars(models).values()):
        for holder in (kind, kind.__init__):  # without Annotated: how values are checked
            holder.__annotations__ = get_type_hints(holder)


def _as_text(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """napoleon takes what an attribute's first line has before a colon for its type."""
    if what in ("attribute", "property", "data"):
        lines[:0] = ["..", ""]  # an empty comment


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs")
    with tempfile.TemporaryDirectory() as made:
        write(Path(made))
        status = build(Path(made), out)
    if not status:
        print(out / "index.html")
    sys.exit(status)

"""The README, the pages of the guide and the examples of docstrings, as the tests read them."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import docutils.core
import docutils.nodes
from docutils.utils import Reporter

import comfy_client

README = Path(__file__).parents[1] / "README.rst"
#: As it was installed: a page that the package lacks is none.
GUIDE = Path(comfy_client.__file__).parent / "guide"
#: Modules that stand in for libraries which blocks import and the tests cannot have.
STAND_INS = Path(__file__).with_name("stand_ins")
#: A title above its rule, or a block of Python with the indented lines below it.
TITLE_OR_CODE = re.compile(
    r"^(?P<title>\S.*)\n(?P<rule>[=~-])(?P=rule)+$"
    r"|^\.\. code-block:: python\n\n(?P<code>(?:    .*\n|\n)+)",
    re.MULTILINE,
)
PAGES = {"README": README, **{path.stem: path for path in sorted(GUIDE.glob("*.rst"))}}


class Block(NamedTuple):
    """A Python block, and where it stands."""

    page: str
    section: str
    code: str


def text_of(page: str) -> str:
    """The source of a page: ``text_of("events")``, or of the ``README``."""
    return PAGES[page].read_text(encoding="utf-8")


def public_names(module: ModuleType) -> list[str]:
    """The names of a module that users import, those that ``import *`` leaves out included."""
    return [*module.__all__, *(["signal"] if module.__name__ == "comfy_client" else [])]


def section_of(page: str, title: str) -> str:
    """The source of a section of a page, without its title."""
    lines = text_of(page).splitlines()
    rule = lines[lines.index(title) + 1]
    assert set(rule) == {rule[0]}, f"{title} is no title"
    rest = lines[lines.index(title) + 2 :]
    ends = [at - 1 for at, line in enumerate(rest) if line[:3] == 3 * rule[0] and " " not in line]
    return "\n".join(rest[: ends[0]] if ends else rest)


@cache
def document(page: str) -> docutils.nodes.document:
    """A page, parsed; a mistake in its markup is an error."""
    settings = {"report_level": Reporter.WARNING_LEVEL, "halt_level": Reporter.WARNING_LEVEL}
    return docutils.core.publish_doctree(text_of(page), settings_overrides=settings)


@cache
def blocks() -> tuple[Block, ...]:
    """Every Python block of every page, found as docutils does, which takes a second."""
    found = []
    for page in PAGES:
        title = ""
        for match in TITLE_OR_CODE.finditer(text_of(page)):
            if match["code"] is None:
                title = match["title"].replace("``", "")
            else:
                found.append(Block(page, title, textwrap.dedent(match["code"]).strip()))
    return tuple(found)


@cache
def examples() -> tuple[Block, ...]:
    """Every ``Example::`` in a docstring of the package, under the name that it explains."""
    found = []
    for path in sorted(GUIDE.parent.rglob("*.py")):
        if "Example::" not in (source := path.read_text(encoding="utf-8")):
            continue
        for name, text in _docstrings(ast.parse(source)):
            codes = re.findall(r"^Example::\n((?:\n+    .*)+)", text, re.MULTILINE)
            found += [Block(name, "Example", textwrap.dedent(code).strip()) for code in codes]
    return tuple(found)


def _docstrings(of: ast.Module | ast.ClassDef, within: str = "") -> Iterator[tuple[str, str]]:
    for node in of.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield within + node.name, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            yield from _docstrings(node, f"{within}{node.name}.")

"""Where the code of each public object stands, and pages that show it."""

from __future__ import annotations

import html
import inspect
import sys
from collections.abc import Iterator
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tests.docs.pages import reference

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def resolve(domain: str, info: dict[str, str]) -> str | None:
    """Return the link from a page of the reference to an object's code, for ``linkcode``."""
    value: Any = None
    for at, name in enumerate([info["module"], *info["fullname"].split(".")]):
        value = sys.modules.get(name) if not at else getattr(value, name, None)
    if (found := place(value) or place_of_constant(info["module"], info["fullname"])) is None:
        return None
    module, line = found
    return f"../{page(module)}.html#line-{line}"


def place(value: object) -> tuple[ModuleType, int] | None:
    """Return the module of the package that defines a class or a function, and the line."""
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, cached_property):
        value = value.func
    value = inspect.unwrap(value) if callable(value) else value
    value = getattr(value, "__func__", value)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return None
    module = inspect.getmodule(value)
    if module is None or module.__name__.partition(".")[0] != "comfy_client":
        return None
    return module, inspect.getsourcelines(value)[1]


def place_of_constant(package: str, name: str) -> tuple[ModuleType, int] | None:
    """Return the module of a package that assigns a public constant, and the line."""
    if "." in name:  # of a class
        return None
    value = getattr(sys.modules[package], name)
    for room in sorted(room for room in sys.modules if room.startswith(f"{package}.")):
        if getattr(sys.modules[room], name, None) is not value:
            continue  # another constant of the same name
        for at, line in enumerate(inspect.getsource(sys.modules[room]).splitlines(), 1):
            if line.startswith((f"{name} = ", f"{name}: ")):
                return sys.modules[room], at
    return None


def page(module: ModuleType) -> str:
    """Return the page of a module."""
    return "source/" + module.__name__.replace(".", "/")


def collect(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page for each module that has a public object, for ``html-collect-pages``."""
    for module in sorted(shown(), key=lambda module: module.__name__):
        name = html.escape(module.__name__)
        code = app.builder.highlighter.highlight_block(
            inspect.getsource(module), "python", lineanchors="line"
        )
        yield page(module), {"title": name, "body": f"<h1>{name}</h1>{code}"}, "page.html"


def shown() -> set[ModuleType]:
    """Return the modules that have a page."""
    return set(_modules())


def _modules() -> Iterator[ModuleType]:
    for entry in reference():
        value = getattr(entry.module, entry.name)
        names = [name for name in dir(value) if name[0] != "_"] if inspect.isclass(value) else []
        members = (inspect.getattr_static(value, name) for name in names)
        for each in (value, *members):
            if found := place(each):
                yield found[0]

"""The part of the page *Development* that tells how the client works inside is true."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import comfy_client
from tests.walks import MODULES, nodes, tree

from .guide import text_of

PACKAGE = Path(comfy_client.__file__).parent
LOCKS = {"Lock", "RLock", "shared_lock"}
#: Makes locks for all others.
MAKERS = {"locks.shared_lock"}


@cache
def sources() -> dict[str, str]:
    """The modules of the client, by their files; the embedded server has threads of its own."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): name
        for name, path in sorted(MODULES.items(), key=lambda one: one[1])
        if path.relative_to(PACKAGE).parts[0] != "testing"
    }


def inside() -> str:
    return text_of("inside")


def part(title: str) -> str:
    """The text of a part, in which names that are broken over two lines are whole."""
    return inside().partition(f"\n{title}\n-")[2].partition("\n\n\n")[0]


def names_of_call(node: ast.AST) -> str:
    return name_of(node.func) if isinstance(node, ast.Call) else ""


def name_of(function: ast.AST) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def makes_lock(node: ast.AST) -> bool:
    """Whether a node calls what makes a lock, or names it as the factory of an attribute."""
    if isinstance(node, ast.keyword) and node.arg == "factory":
        return name_of(node.value) in LOCKS
    return names_of_call(node) in LOCKS


def owners_of_locks() -> Iterator[str]:
    """The classes, functions and modules that make a lock."""
    for module, name in sources().items():
        for top in tree(name).body:
            owner = f"{module}.{top.name}" if hasattr(top, "name") else module
            if any(map(makes_lock, ast.walk(top))):
                yield owner


def threads() -> Iterator[str]:
    """The names of all threads, up to what is filled in."""
    for name in sources().values():
        for node in nodes(name):
            if names_of_call(node) == "Thread":
                assert isinstance(node, ast.Call)
                for keyword in node.keywords:
                    if keyword.arg == "name":
                        yield ast.unparse(keyword.value).lstrip("f").strip("'\"").partition("{")[0]


def test_each_thread_stands_in_the_table() -> None:
    found = re.findall(r"^``(comfy-[a-z-]+)``", part("Threads"), re.MULTILINE)
    assert sorted(found) == sorted(threads())


def test_each_lock_stands_in_the_table() -> None:
    """In the table, or below it."""
    text = part("Locks")
    rows = re.findall(r"^``([\w.]+)``", text, re.MULTILINE)
    table = [name for name in rows if "." in name]
    signals = re.findall(r"^``(jobs\.[\w.]+)`` uses a plain", text, re.MULTILINE)
    told = {*table, *signals}
    assert told == set(owners_of_locks()) - MAKERS


def test_each_module_and_class_named_on_the_page_exists() -> None:
    """Of what stands in a module of the package."""
    packages = {name.partition(".")[0] for name in sources()} - {"__init__", "__main__"}
    text = re.sub(r"(``[\w.]+\.)\n\s+([\w.]+``)", r"\1\2", inside())
    text = re.sub(r"(``[\w.]+\.)  .*\n\s+([\w.]+``)", r"\1\2", text)
    found = re.findall(r"``((?:[a-z_]+\.)+\w+)``", text)
    names = [name for name in found if name.partition(".")[0] in packages]
    assert len(names) > 50
    for name in names:
        assert exists(name), name


def exists(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        if {module, f"{module}.__init__"} & sources().keys():
            found: object = importlib.import_module(".".join(["comfy_client", *parts[:count]]))
            for attribute in parts[count:]:
                if not hasattr(found, attribute):
                    return False
                found = getattr(found, attribute)
            return True
    return False

"""The part of the page *Development* that tells how the client works inside is true."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType

import pytest

import comfy_client
from comfy_client import ComfyApi, ComfyPool, Job, Workflow
from comfy_client.testing import ComfyServer
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


# -- the ways ------------------------------------------------------------------------------

Calls = dict[str, list[str]]


class Watch:
    """The calls of the package while it is on, by thread; a profile function."""

    def __init__(self) -> None:
        self.calls: Calls = {}
        self.is_on = False
        self._caller = threading.get_ident()

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        """Note a call."""
        if event == "call" and self.is_on:
            module = frame.f_globals.get("__name__", "")
            if module.startswith("comfy_client."):
                is_caller = threading.get_ident() == self._caller
                thread = "caller" if is_caller else threading.current_thread().name
                name = f"{module.removeprefix('comfy_client.')}.{frame.f_code.co_qualname}"
                self.calls.setdefault(thread, []).append(name)

    def of(self, submit: Callable[[Workflow], Job], seed: int) -> Calls:
        """Return the calls that a prompt takes."""
        workflow = Workflow.example()
        workflow["KSampler"]["seed"] = seed
        self.calls, self.is_on = {}, True
        submit(workflow).result(120)
        self.is_on = False
        return self.calls

    def see(self, submit: Callable[[Workflow], Job], *ways: Calls) -> bool:
        """Return whether a prompt goes these ways.

        The first one imports and connects.  On a busy machine, the end of one may overtake the
        answer to its submission, so it has some tries.
        """
        found = [self.of(submit, seed) for seed in range(6)]
        return any(all(follows(calls, way) for way in ways) for calls in found)


@pytest.fixture
def watch() -> Iterator[Watch]:
    """A profile function for this thread, and for those that begin now."""
    found, before = Watch(), sys.getprofile()
    threading.setprofile(found)
    sys.setprofile(found)
    yield found
    sys.setprofile(before)
    threading.setprofile(None)


def drawn(title: str) -> Calls:
    """The functions on a drawing, by thread."""
    text = inside().partition(f"\n{title}::\n\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^    ([a-z-]+) +(\S.*(?:\n {8,}\S.*)*)", text, re.MULTILINE)
    return {thread: re.findall(r"[\w.]+", names) for thread, names in rows}


def follows(calls: Calls, way: Calls) -> bool:
    """Whether each thread of a drawing makes the calls on it, in this order."""
    return bool(way) and all(
        all(name in rest for name in names)  # each search goes on where the last one ended
        for rest, names in ((iter(calls.get(thread, ())), way[thread]) for thread in way)
    )


def test_a_prompt_goes_the_way_that_the_page_draws(watch: Watch) -> None:
    with ComfyServer() as server, ComfyApi(server.url) as api:
        assert watch.see(api.submit, drawn("A prompt"), drawn("A frame of a prompt"))


def test_the_order_of_calls_counts_on_the_way_that_the_page_draws() -> None:
    calls = {"caller": ["first", "between", "second"]}
    assert follows(calls, {"caller": ["first", "second"]})
    assert not follows(calls, {"caller": ["second", "first"]})
    assert not follows(calls, {"comfy-events": ["first"]})


def test_a_pooled_job_goes_the_way_that_the_page_draws(watch: Watch) -> None:
    with ComfyServer() as server, ComfyPool([server.url]) as pool:
        assert watch.see(pool.submit, drawn("A job of a pool"))


# -- the tables ----------------------------------------------------------------------------


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
    found = re.findall(r"``((?:[a-z_]+\.)+\w+(?:\.\w+)*)``", text)
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

"""The rooms of the package: who may import whom, and what costs nothing until it is used."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import comfy_client

ROOT = Path(comfy_client.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
#: Which libraries a module may import, by the beginning of its name; the longest one counts.
LIBRARIES = {
    "comfy_client": {"attrs"},
    "comfy_client.transport.http": {"requests"},
    "comfy_client.transport.endpoint": {"requests"},
    "comfy_client.transport.identity": {"requests"},
    "comfy_client.transport.sender": {"requests", "urllib3"},
    "comfy_client.transport.pool": {"requests", "urllib3"},
    "comfy_client.transport.url": {"urllib3"},
    "comfy_client.transport.dial": {"websocket"},
    "comfy_client.signals": {"blinker"},
    "comfy_client.client": {"blinker"},
    "comfy_client.cli": {"click"},
    "comfy_client.testing": {"aiohttp", "PIL", "attrs"},
    "comfy_client.testing.plugin": {"pytest"},
}


def imported(path: Path, name: str) -> Iterator[tuple[str, bool]]:
    """(module, whether when the other is imported) of each import that runs."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def walk(node: ast.AST, now: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, now) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*above, *filter(None, [base])])
                whole = (f"{base}.{alias.name}" for alias in child.names)
                yield from ((one if one in MODULES else base, now) for one in whole)
            inner = now and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


def edges() -> dict[str, set[str]]:
    """What each module of ours imports of ours when it is imported itself."""
    return {
        name: {other for other, now in imported(path, name) if now and other in MODULES} - {name}
        for name, path in MODULES.items()
    }


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_the_libraries_of_its_room_only(name: str) -> None:
    """Requests in one place, websocket-client in another, extras where they are used."""
    room = max((room for room in LIBRARIES if f"{name}.".startswith(f"{room}.")), key=len)
    roots = {other.partition(".")[0] for other, _ in imported(MODULES[name], name)}
    foreign = roots - sys.stdlib_module_names - {"comfy_client"}
    assert foreign <= LIBRARIES[room] | {"attrs"}


@pytest.mark.parametrize(
    "room", ["models", "events", "transport.decode", "workflow", "batch.grid", "jobs.outcomes"]
)
def test_what_is_pure_reaches_no_network(room: str) -> None:
    """However far one follows its imports."""
    graph = edges()
    todo = [name for name in graph if f"{name}.".startswith(f"comfy_client.{room}.")]
    assert todo
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in seen and name != "comfy_client":
            seen.add(name)
            todo += graph[name]
    assert seen.isdisjoint(
        {"comfy_client.transport.http", "comfy_client.transport.websocket", "comfy_client.client"}
    )


def test_imports_point_one_way() -> None:
    """No module needs, when it is imported, one that needs it."""
    graph = {name: others - {"comfy_client"} for name, others in edges().items()}
    done: set[str] = set()
    while ready := {name for name in graph.keys() - done if graph[name] <= done}:
        done |= ready
    assert graph.keys() - done == set()

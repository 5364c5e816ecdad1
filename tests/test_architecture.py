"""The rooms of the package: who may know whom, what is private, how long a thing may get.

The imports are read from the source, those under ``TYPE_CHECKING`` and inside functions too.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import comfy_client
from tests import without_posix
from tests.guide import public_names
from tests.walks import MODULES, PRIVATE, ROOT, Function, figures, is_private, nodes, tree

#: From the bottom up: a room knows only those above it in this list.  Those in one line do not
#: know each other.
ROOMS = (
    ("_version", "nearest", "redaction", "runtime", "timing", "tracebacks", "user_folder"),
    ("interrupts", "replacing"),
    ("to_dict", "typescript"),
    ("errors", "since"),
    ("attributes", "locks", "log_records", "showing", "values"),
    ("pictures", "reading", "stats"),
    ("upload",),
    ("credentials", "events", "recording", "workflow"),
    ("event_queue", "models"),
    ("signals", "transport"),
    ("overloads", "routes"),
    ("doctor", "jobs"),
    ("batch", "connecting", "settings", "subscriptions"),
    ("ext", "parts"),
    ("client",),
    ("hosted",),
    ("aio", "distributed", "mcp", "pool"),
    ("comfy_client",),
    ("testing",),
    ("cli",),
    ("__main__",),
)
#: What modules of the core take from ``runtime``.
IMPORT = re.compile(r"^\s*(?:import|from) (?:threading|time)\b", re.MULTILINE)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
#: Which libraries a module may import, by the beginning of its name; the longest one counts.
LIBRARIES = {
    "comfy_client": {"attrs"},
    "comfy_client.pictures": {"PIL", "numpy"},
    "comfy_client.transport.fetch": {"requests", "urllib3"},
    "comfy_client.transport.identity": {"requests"},
    "comfy_client.transport.failures": {"requests", "urllib3"},
    "comfy_client.transport.http": {"requests", "urllib3"},
    "comfy_client.transport.connections": {"requests", "urllib3"},
    "comfy_client.transport.url": {"urllib3"},
    "comfy_client.transport.dial": {"websocket"},
    "comfy_client.signals": {"blinker"},
    "comfy_client.settings": {"requests"},
    "comfy_client.batch.rows": {"PIL", "pandas"},
    "comfy_client.batch.sheet": {"PIL"},
    "comfy_client.hosted.assets": {"blake3"},
    "comfy_client.jobs.output": {"PIL", "numpy", "IPython"},
    "comfy_client.showing": {"PIL", "IPython", "tqdm"},
    "comfy_client.client": {"requests", "blinker"},
    "comfy_client.hosted.api": {"requests", "blinker"},
    "comfy_client.distributed": {"dask", "distributed"},
    "comfy_client.cli": {"click"},
    "comfy_client.mcp.protocol": {"anyio", "mcp", "mcp_types", "uvicorn"},
    "comfy_client.testing": {"aiohttp", "multidict", "PIL"},
    "comfy_client.testing.plugin": {"pytest"},
}
#: Modules that may name the client, and why.
KNOW_THE_CLIENT = {
    "comfy_client": "it is its main name",
    "comfy_client.hosted.api": "it is one, of Comfy API v2",
    "comfy_client.testing.plugin": "the fixture comfy_api is one",
}
#: Lines of code in the bodies of a class, and of a function.
LONGEST_CLASS = 291
LONGEST_FUNCTION = 44
#: The beginning of a test's name without a noun.
PRONOUN = re.compile(
    "test_(what|whatever|which|whichever|who|whoever|whose|whom|how|where|why|"
    "i|we|you|he|she|it|they|its|his|her|their|our|your|one|ones|some|none|both|either|neither|"
    "this|that|these|those|such|same|other|others|another|"
    "nobody|nothing|somebody|someone|something|anybody|anyone|anything|everybody|everyone|"
    "everything|(all|any|each|every|many|few|several|most|two)_(is|are|was|were|that|of_(these|those|them)))_"
)

#: The most that each figure of ``python -m tests.walks`` may be, and the aim.  Lower the ceiling
#: when the figure falls; never raise it.
CEILINGS = {
    "submit(): calls": (154, 150),
    "submit(): files": (20, 17),
    "submit(): moves": (45, 70),
    "get_queue(): files": (6, 11),
    "get_queue(): moves": (18, 40),
    "end frame: calls": (55, 100),
    "end frame: files": (13, 13),
    "frame of a prompt: calls": (30, 30),
    "prompt, from submit() to the bytes: calls": (344, 300),
    "friend functions": (6, 0),
    "depth of ComfyApi": (3, 3),
    "private names that the ladder of the clients shares": (0, 0),
    "private names that any class shares with its bases": (13, 0),
    "class names used twice": (0, 4),
    "file names used twice": (11, 14),
    "docstrings that begin with a pronoun, %": (1.8, 2.0),
    "patches of the package in tests": (16, 25),
}


def imported(name: str) -> Iterator[str]:
    """The modules that a module imports, anywhere in it."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes(name):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            whole = (f"{base}.{alias.name}" for alias in node.names)
            yield from (one if one in MODULES else base for one in whole)


@cache
def arrows() -> dict[str, frozenset[str]]:
    """What each module of ours knows of ours."""
    return {name: frozenset(imported(name)) & MODULES.keys() - {name} for name in MODULES}


def room_of(name: str) -> str:
    return (*name.split("."), "comfy_client")[1]


def test_a_module_imports_the_libraries_of_its_room_only() -> None:
    """Requests in one place, websocket-client in another, extras where they are used."""
    wrong = {}
    for name in MODULES:
        room = max((room for room in LIBRARIES if f"{name}.".startswith(f"{room}.")), key=len)
        roots = {other.partition(".")[0] for other in imported(name)}
        foreign = roots - sys.stdlib_module_names - {"comfy_client"}
        wrong[name] = foreign - LIBRARIES[room] - {"attrs"}
    assert {name: libraries for name, libraries in wrong.items() if libraries} == {}


def test_imports_point_down() -> None:
    """From a room to rooms below it: annotations and imports in functions count."""
    assert FLOOR.keys() == {room_of(name) for name in MODULES}
    upward = [
        f"{name} -> {other}"
        for name, others in arrows().items()
        for other in others
        if room_of(other) != room_of(name) and FLOOR[room_of(other)] >= FLOOR[room_of(name)]
    ]
    assert not upward


@pytest.mark.parametrize("room", ["", "transport", "jobs", "pool", "batch", "routes", "hosted"])
def test_clocks_locks_and_threads_come_from_one_module(room: str) -> None:
    """From ``runtime``, so that the simulation in tests/model owns time."""
    others = {"aio.py", "runtime.py"}
    sources = [path for path in (ROOT / room).glob("*.py") if path.name not in others]
    imports = {path.name: IMPORT.findall(path.read_text()) for path in sources}
    assert {name: found for name, found in imports.items() if found} == {}


def test_files_are_renamed_by_one_module() -> None:
    """Windows refuses that for a moment while a virus scanner has one open."""
    found = {name for name in MODULES if any(map(renames_a_file, nodes(name)))}
    assert found == {"comfy_client.replacing"}


def renames_a_file(node: ast.AST) -> bool:
    """Whether it calls ``os.replace``, or a method of a path, with one argument, unlike a str's."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name("os"), attr="replace" | "rename")):
            return True
        case ast.Call(func=ast.Attribute(attr="replace" | "rename"), args=[_], keywords=[]):
            return True
    return False


def test_no_decision_rests_on_is_alive() -> None:
    """After a Ctrl-C in it, Python 3.11 and 3.12 say for ever that a living thread has ended."""
    asking = [name for name, path in MODULES.items() if "is_alive()" in path.read_text()]
    assert asking == []


def test_no_files_stand_in_a_circle() -> None:
    """Nor do they by annotations only, which makes one file of them for a reader."""
    package = {"comfy_client"}  # each module is in it
    TopologicalSorter({name: others - package for name, others in arrows().items()}).prepare()


def test_modules_below_the_client_do_not_import_it() -> None:
    """Each part is handed what it needs."""
    knowing = {
        name
        for name, others in arrows().items()
        if "comfy_client.client" in others
        or any(isinstance(n, ast.Name) and n.id == "ComfyApi" for n in nodes(name))
    }
    # Its faces, many of it as one, and many of it on a cluster.
    above = tuple(f"comfy_client.{room}." for room in ("cli", "distributed", "mcp", "pool"))
    knowing -= {name for name in knowing if name.startswith(above)} | {"comfy_client.aio"}
    # The plugin is installed under another name.
    assert knowing - {"comfy_client.client"} == KNOW_THE_CLIENT.keys() & MODULES.keys()


def test_only_its_command_knows_the_tools_of_agents() -> None:
    """And imports them when it runs, as their library is large; one module of them knows that."""
    inside = {name for name in MODULES if room_of(name) == "mcp"}
    assert {name for name, others in arrows().items() if others & inside} - inside == {
        "comfy_client.cli.mcp_command"
    }
    first = {one for one in tree("comfy_client.cli.mcp_command").body if is_import(one)}
    assert "mcp" not in " ".join(map(ast.unparse, first))
    knowing = {name for name in MODULES if {"mcp", "mcp_types"} & roots_of(name)}
    assert knowing == {"comfy_client.mcp.protocol"}


def is_import(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def roots_of(name: str) -> set[str]:
    return {other.partition(".")[0] for other in imported(name)}


def test_each_public_name_is_what_type_checkers_see() -> None:
    """The package looks for its names when they are used."""
    seen, *_ = (node for node in tree("comfy_client").body if isinstance(node, ast.If))
    homes = {alias.name: f".{one.module}" for one in seen.body for alias in one.names}
    assert {*public_names(comfy_client)} == {"__version__", *homes}
    assert {*homes.values()} == {*vars(comfy_client)["_MODULES"]}
    for name, home in homes.items():
        assert getattr(comfy_client, name) is vars(import_module(home, "comfy_client"))[name]


def test_aliases_and_type_variables_have_names_of_their_own() -> None:
    """No other module gives it, or a class of that name, another meaning."""
    homes: dict[str, list[str]] = {}
    for name in MODULES:
        for defined in types_of(tree(name)):
            homes.setdefault(defined, []).append(name)
    assert len(homes) > 500
    assert {alias: names for alias, names in homes.items() if len(names) > 1} == {}


def types_of(module: ast.Module) -> Iterator[str]:
    """The classes, type variables and aliases of a module; what it hands on is none of these."""
    conditional = [node for node in module.body if isinstance(node, ast.If)]
    for node in (
        *module.body,
        *(one for each in conditional for one in (*each.body, *each.orelse)),
    ):
        match node:
            case ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(name)], value=value) if is_type(name, value):
                yield name
            case ast.AnnAssign(target=ast.Name(name), annotation=ast.Name("TypeAlias")):
                yield name


#: Modules with growing pauses that are no times of a client, or not yet.
PAUSES_OF_THEIR_OWN = {
    "comfy_client.connecting": "the longest one, a second",
    "comfy_client.distributed.task": "a task on Dask waits for all servers of its cluster",
    "comfy_client.jobs.execute": "the memory of a server",
    "comfy_client.jobs.poller": "an unanswered submission",
    "comfy_client.transport.resume": "a download",
}


def test_pauses_that_grow_are_fields_of_timing() -> None:
    """So a client may set them, and a test shortens them by its mark."""
    numbers = {
        name
        for name in MODULES
        for node in nodes(name)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Backoff"
        for given in (*node.args[:2], *(each.value for each in node.keywords if is_time(each)))
        if not re.search(r"(timing|intervals)\.\w+$", ast.unparse(given))
    }
    assert numbers == PAUSES_OF_THEIR_OWN.keys()


def is_time(given: ast.keyword) -> bool:
    """Of the arguments of ``Backoff``; the others are a factor, a share and a function."""
    return given.arg not in ("factor", "jitter", "uniform")


def is_type(name: str, value: ast.expr) -> bool:
    if isinstance(value, ast.Attribute) and value.attr == name:  # such as runtime.Event
        return False
    bare = name.lstrip("_")
    is_variable = isinstance(value, ast.Call) and ast.unparse(value.func) == "TypeVar"
    return is_variable or (bare[:1].isupper() and not bare.isupper())


def test_pure_modules_import_no_network() -> None:
    """However far one follows its imports."""
    edge = {f"comfy_client.transport.{name}" for name in ("http", "pool", "websocket", "dial")}
    pure = ("models", "events", "workflow", "transport.decode", "batch.grid", "jobs.state")
    for room in pure:
        todo = [name for name in MODULES if f"{name}.".startswith(f"comfy_client.{room}.")]
        assert todo
        seen: set[str] = set()
        while todo:
            name = todo.pop()
            if name not in seen and name != "comfy_client":
                seen.add(name)
                todo += arrows()[name]
        assert seen.isdisjoint(edge), room


def test_no_module_reads_private_names_of_another() -> None:
    """Those that one does, stand in a list with the reason: ten at most."""
    assert {(name, private) for name in MODULES for private in foreign(name)} == PRIVATE.keys()
    assert len(PRIVATE) <= 10


def foreign(name: str) -> Iterator[str]:
    """Private names that a module reads and does not define."""
    modules = {other.rpartition(".")[2] for other in MODULES}
    own = {node.name for node in nodes(name) if isinstance(node, Function | ast.ClassDef)}
    own |= {node.id for node in nodes(name) if isinstance(node, ast.Name)}
    own |= {node.attr for node in nodes(name) if isinstance(node, ast.Attribute) and is_own(node)}
    for node in nodes(name):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names if is_ours(node)]
        elif isinstance(node, ast.Attribute) and not is_own(node):
            names = [] if node.attr in own else [node.attr]
        else:
            continue
        yield from (one for one in names if is_private(one) and one not in modules)


def is_own(node: ast.Attribute) -> bool:
    """Of its own object; a class may use what its base has."""
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def is_ours(node: ast.ImportFrom) -> bool:
    return bool(node.level) or (node.module or "").startswith("comfy_client")


#: What Windows lacks: modules, and names of others.
POSIX_ONLY = {
    *without_posix.MODULES,
    *(f"{module}.{name}" for module, names in without_posix.NAMES.items() for name in names),
    *("os.geteuid", "os.getuid", "signal.SIGKILL"),
}


def test_the_tests_can_be_collected_on_windows() -> None:
    """What only POSIX has is imported and named where it is used, never by a module itself."""
    folder = Path(__file__).parent
    tests = [*folder.rglob("test_*.py"), *folder.rglob("conftest.py"), *folder.glob("*.py")]
    tests += (folder / "helpers").glob("*.py")
    assert len(tests) > 100
    any_of_them = re.compile("|".join(rf"\b{name.rpartition('.')[2]}\b" for name in POSIX_ONLY))
    found = {
        f"{path.relative_to(folder)}: {name}"
        for path in tests
        if any_of_them.search(source := path.read_text("utf-8"))
        for name in names_at_import(ast.parse(source))
        if name in POSIX_ONLY
    }
    assert found == set()


def test_names_of_tests_begin_with_what_they_are_about() -> None:
    """A pronoun or a relative clause hides the word for which one would search."""
    definition = re.compile(r"^ *(?:async )?def (test_\w+)\(", re.MULTILINE)
    names = {
        name
        for path in Path(__file__).parent.rglob("test_*.py")
        for name in definition.findall(path.read_text("utf-8"))
    }
    assert len(names) > 4000
    assert {name for name in names if PRONOUN.match(name)} == set()


def names_at_import(node: ast.AST) -> Iterator[str]:
    """The modules and ``module.name`` that a module names while it is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (one.name for one in child.names)
        elif isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name):
            yield f"{child.value.id}.{child.attr}"
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for one in (*child.decorator_list, child.args):
                yield from names_at_import(ast.Expr(one) if isinstance(one, ast.expr) else one)
        elif isinstance(child, ast.Lambda) or is_guard(child):
            continue
        else:
            yield from names_at_import(child)


def is_guard(node: ast.AST) -> bool:
    """Whether it asks by ``hasattr`` first."""
    asked = node.test if isinstance(node, ast.If) else node
    return isinstance(node, ast.If | ast.BoolOp) and "hasattr(" in ast.unparse(asked)


def test_no_class_and_no_function_is_too_long() -> None:
    """Signatures and docstrings do not count: an interface has as many as its users need."""
    for name, path in MODULES.items():
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in nodes(name):
            if isinstance(node, ast.ClassDef):
                assert code_lines(lines, node) <= LONGEST_CLASS, (name, node.name)
            elif isinstance(node, Function):
                assert code_lines(lines, node) <= LONGEST_FUNCTION, (name, node.name)


def code_lines(lines: list[str], definition: Function | ast.ClassDef) -> int:
    """Without signatures, docstrings, comments and blank lines."""
    left_out: set[int] = set()
    for node in ast.walk(definition):
        if not isinstance(node, Function | ast.ClassDef):
            continue
        body = node.body[ast.get_docstring(node) is not None :]
        starts = body[0].lineno if body else node.end_lineno + 1
        left_out |= set(range(node.lineno, starts))
    kept = set(range(definition.lineno, definition.end_lineno + 1)) - left_out
    return sum(lines[at - 1].strip()[:1] not in ("", "#") for at in kept)


def test_the_error_of_a_lost_prompt_is_made_by_one_function() -> None:
    """``lost_error``, which decides whether the prompt may have run."""
    makers = [
        (name, function.name)
        for name in MODULES
        for function in nodes(name)
        if isinstance(function, Function)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "JobLost"
    ]
    assert makers == [("comfy_client.jobs.outcomes", "lost_error")]


@pytest.mark.parametrize("name", CEILINGS)
def test_no_figure_grows(name: str) -> None:
    """Neither the walk of a call, nor what readers must know to follow it."""
    ceiling, _ = CEILINGS[name]
    assert figures()[name] <= ceiling

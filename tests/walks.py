"""Figures of the architecture: how far a call walks, and what is named or reached twice.

``python -m tests.walks`` prints them; ``tests/test_architecture.py`` keeps them from growing.
"""

from __future__ import annotations

import ast
import contextvars
import gc
import logging
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import CodeType, FrameType

import attrs

import comfy_client

ROOT = Path(comfy_client.__file__).parent
TESTS = Path(__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
#: Private names that a module reads of another one or of a library, and why.
PRIVATE = {
    ("comfy_client.locks", "_is_owned"): "threading has no public question for a lock's owner",
    ("comfy_client.transport.connections", "_get_conn"): "urllib3 lends a connection only so, ...",
    ("comfy_client.transport.connections", "_put_conn"): "... and takes one back only so, ...",
    ("comfy_client.transport.connections", "_validate_conn"): "... and warns of an unsafe one so",
    ("comfy_client.transport.http", "_store"): "requests copies its headers one by one, ...",
    ("comfy_client.transport.connections", "_store"): "... and lists them one by one",
    ("comfy_client.testing.exchange", "_payload"): "aiohttp has no public way to change a body ...",
    ("comfy_client.testing.exchange", "_read_bytes"): "... nor to forget what was read of it",
}
#: How often a call is traced: a busy machine may add to one of them, never take away.
TRIES = 5

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def _trees() -> dict[str, tuple[ast.Module, tuple[ast.AST, ...]]]:
    """Parse all modules, without a search for garbage, which would take longer than that."""
    gc.disable()
    try:
        parsed = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}
        found = {name: (module, tuple(ast.walk(module))) for name, module in parsed.items()}
        gc.freeze()
    finally:
        gc.enable()
    return found


def tree(name: str) -> ast.Module:
    """Return the syntax tree of a module of the package."""
    return _trees()[name][0]


def nodes(name: str) -> tuple[ast.AST, ...]:
    """Return all nodes of the syntax tree of a module, as ``ast.walk`` yields them."""
    return _trees()[name][1]


# -- calls that are executed -------------------------------------------------------------


@attrs.frozen
class Walk:
    """Calls of functions of the package, in order, by their files."""

    files: tuple[str, ...]

    @property
    def calls(self) -> int:
        """The number of calls."""
        return len(self.files)

    @property
    def entered(self) -> int:
        """The number of files."""
        return len({*self.files})

    @property
    def moves(self) -> int:
        """How often a call follows that is in another file than the one before."""
        return sum(a != b for a, b in zip(self.files, self.files[1:], strict=False))


def least(walks: Iterable[Walk]) -> Walk:
    """Return the walk that nothing made longer."""
    return min(walks, key=lambda walk: (walk.entered, walk.moves, walk.calls))


class Tracer:
    """A profile function that notes calls of the package, while it is told to."""

    def __init__(self) -> None:
        self.files: list[str] | None = None

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        """Note one event of the interpreter."""
        if event == "call" and self.files is not None:
            path = frame.f_code.co_filename.replace(os.sep, "/")
            if path.startswith(f"{ROOT.as_posix()}/") and "/testing/" not in path:
                self.files.append(path.removeprefix(f"{ROOT.as_posix()}/"))

    def take(self) -> Walk:
        """Return what was noted, and note nothing from now on."""
        files, self.files = self.files or [], None
        return Walk(tuple(files))


class EndTracer(Tracer):
    """Notes what the event thread does with a frame that ends a prompt, until it reads again.

    It also counts all frames of prompts, and the calls that the thread makes.
    """

    def __init__(self, reads: CodeType) -> None:
        super().__init__()
        self.walks: list[Walk] = []
        self.all = Tracer()
        self.frames = 0
        self._reads = reads
        self._reader = 0
        self._thread = 0

    def count(self) -> None:
        """Count frames and calls anew."""
        self.all.files, self.frames = [], 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        """Note one event of the interpreter, in any thread."""
        thread = threading.get_ident()
        if frame.f_code is self._reads:
            self._reader = thread
            self.frames += event == "return" and arg is not None
        if thread == self._reader:
            self.all(frame, event, arg)
        if frame.f_code is not self._reads:
            if thread == self._thread:
                super().__call__(frame, event, arg)
        elif event == "return":
            if isinstance(arg, tuple) and b'"execution_success"' in bytes(arg[1]):
                self.files, self._thread = [], thread
        elif event == "call" and thread == self._thread and self.files is not None:
            self.walks.append(self.take())


def traced(call: Callable[[], object]) -> Walk:
    """Return the walk of a call in this thread, whatever limits other tests have left to it."""
    tracer, before = Tracer(), sys.getprofile()
    tracer.files = []
    gc.disable()  # finalizers may be functions of the package, too
    sys.setprofile(tracer)
    try:
        contextvars.Context().run(call)
    finally:
        sys.setprofile(before)
        gc.enable()
    return tracer.take()


@cache
def walks() -> tuple[dict[str, Walk], float]:
    """Return the walks of calls and of an end frame, and the calls that a frame takes."""
    from comfy_client import ComfyApi, Workflow
    from comfy_client.testing import ComfyServer
    from comfy_client.transport.dial import OpenSocket

    ends = EndTracer(OpenSocket.receive.__code__)
    # As in a script: other tests may have imported IPython, or turned on the log.
    log, ipython = logging.getLogger("comfy_client"), sys.modules.pop("IPython", None)
    level = log.level
    log.setLevel(logging.WARNING)

    def submit(seed: int) -> Walk:
        workflow["KSampler"]["seed"] = seed
        return traced(lambda: jobs.append(api.submit(workflow)))

    def run(seed: int) -> tuple[Walk, float]:
        """Return the walk of a whole prompt, and how many calls each of its frames took."""
        workflow["KSampler"]["seed"] = seed
        ends.count()
        whole = traced(lambda: api.submit(workflow).result(120).images[0].bytes())
        return whole, round(len(ends.all.files or ()) / ends.frames, 1)

    workflow, jobs = Workflow.example(), []
    workflow["KSampler"]["steps"] = 1
    with ComfyServer(version="0.3.75") as server:  # which sends an event for each step
        threading.setprofile(ends)  # for the threads that the client starts
        try:
            with ComfyApi(server.url) as api:
                # The first one imports what is imported late, and connects.
                api.submit(workflow).result(120)
                submissions = [submit(1000 + seed) for seed in range(TRIES)]
                for job in jobs:
                    job.result(120)
                api.get_queue()
                queues = [traced(api.get_queue) for _ in range(TRIES)]
                workflow["KSampler"]["steps"] = 20
                runs = [run(2000 + seed) for seed in range(TRIES)]
        finally:
            threading.setprofile(None)
            log.setLevel(level)
            if ipython is not None:
                sys.modules["IPython"] = ipython
    found = {
        "submit()": least(submissions),
        "get_queue()": least(queues),
        "end frame": least(ends.walks[1:]),
        "prompt, from submit() to the bytes": min(
            (walk for walk, _ in runs), key=attrgetter("calls")
        ),
    }
    return found, min(calls for _, calls in runs)


# -- classes and names -------------------------------------------------------------------


@attrs.frozen
class Class:
    """A class of the package and where it stands."""

    module: str
    node: ast.ClassDef

    @property
    def type(self) -> type:
        """The class itself."""
        found: type = vars(import_module(self.module))[self.node.name]
        return found

    @cached_property
    def sets(self) -> frozenset[str]:
        """The names that its body and its methods define."""
        names = set()
        for node in ast.walk(self.node):
            match node:
                case ast.Attribute(value=ast.Name(id="self" | "cls"), ctx=ast.Store()):
                    names.add(node.attr)
        for node in self.node.body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    names.add(node.name)
                case ast.Assign():
                    names |= {one.id for one in node.targets if isinstance(one, ast.Name)}
                case ast.AnnAssign(target=ast.Name() as target):
                    # The declaration of a mixin promises that another class sets the name.
                    if node.value is not None or self.node.decorator_list:
                        names.add(target.id)
        return frozenset(names)

    @cached_property
    def reads(self) -> frozenset[str]:
        """The private names that its methods read of their own object."""
        names = set()
        for node in ast.walk(self.node):
            match node:
                case ast.Attribute(value=ast.Name(id="self" | "cls"), ctx=ast.Load()):
                    names |= {node.attr} if is_private(node.attr) else set()
        return frozenset(names)


@cache
def classes() -> tuple[Class, ...]:
    """Return the classes of the package that stand in no other one."""
    return tuple(
        Class(name, node)
        for name in sorted(MODULES)
        for node in tree(name).body
        if isinstance(node, ast.ClassDef)
    )


def is_private(name: str) -> bool:
    """Return whether a name begins with one underscore; ``_replace`` is public."""
    return name.startswith("_") and not name.startswith("__") and name != "_replace"


def depth(kind: type) -> int:
    """Return how many classes of the package stand above each other, up to this one."""
    ours = [base for base in kind.__bases__ if base.__module__.startswith("comfy_client")]
    return 1 + max(map(depth, ours), default=0)


def ladder(kind: type) -> list[Class]:
    """Return a class and its bases, as far as they are classes of the package."""
    by_name = {(one.module, one.node.name): one for one in classes()}
    found = [by_name.get((base.__module__, base.__name__)) for base in kind.__mro__]
    return [one for one in found if one is not None]


def shared(kind: type) -> set[str]:
    """Return the private names that one class of a ladder sets and another one reads."""
    above = ladder(kind)
    return {
        f"{reader.module}.{reader.node.name}: {name}"
        for reader in above
        if not reader.module.startswith("comfy_client.routes.")
        for name in reader.reads - reader.sets
        if any(name in other.sets for other in above)
    }


@cache
def shared_anywhere() -> frozenset[str]:
    """Return what classes of the package share with their bases."""
    return frozenset(name for one in classes() if one.node.bases for name in shared(one.type))


def friends() -> Iterator[str]:
    """Yield the functions that read private names of objects of another class, or of none."""
    for name in MODULES:
        for node in tree(name).body:
            is_class = isinstance(node, ast.ClassDef)
            bases = ladder(Class(name, node).type) if is_class else []
            own = {private for base in bases for private in base.sets}
            for part in node.body if is_class else [node]:
                if isinstance(part, Function) and any(
                    is_private(private) and (name, private) not in PRIVATE
                    for private in _of_others(part, own)
                ):
                    yield f"{name}.{part.name}"


def _of_others(function: Function, own: set[str]) -> Iterator[str]:
    """Yield the attributes of objects that a function reads, but for those of its own class."""
    for node in ast.walk(function):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute() if node.attr not in own:
                yield node.attr


def named_twice(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def file_names() -> Iterator[str]:
    """Yield the names of files, but for those that Python gives."""
    yield from (path.stem for path in MODULES.values() if not path.stem.startswith("__"))


# -- words -------------------------------------------------------------------------------

#: How a sentence begins that is not understood without its neighbours.
DEPENDENT = re.compile(
    r"(It|Its|They|Them|Their|Theirs|He|His|She|This|That|These|Those|Such|Another|Other|Others"
    r"|What|Whatever|Which|Who|Whose|Whom|Where|Whether|Of|By|None|Nothing|Nobody|Some|Both|Same"
    r"|The same|The other|The others|One|Ones|All|Any|Each|Either|Neither)\b"
)


def docstrings() -> Iterator[str]:
    """Yield the docstrings of the package's functions, classes and modules."""
    for name in MODULES:
        for node in nodes(name):
            if isinstance(node, Function | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node)
                if text:
                    yield text


def dependent() -> list[str]:
    """Return the docstrings that open with a pronoun or a relative clause."""
    return [text for text in docstrings() if DEPENDENT.match(text)]


# -- patches -----------------------------------------------------------------------------


#: A call that may set a name of something else.
PATCHING = re.compile(r"\b(setattr|delattr|patch(\.object|\.multiple)?)\(")


def patches() -> Iterator[str]:
    """Yield the places where tests set names of the package's modules and classes."""
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "comfy_client" not in text or not PATCHING.search(text):
            continue
        parts = [*ast.walk(ast.parse(text))]
        ours = {alias for node in parts for alias in _ours(node)}
        for node in parts:
            if isinstance(node, ast.Call) and _is_patch(node, ours):
                yield f"{path.relative_to(TESTS)}:{node.lineno}"


def _ours(node: ast.AST) -> Iterator[str]:
    """Yield the names that an import gives to things of the package."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("comfy_client"):
        yield from (alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.startswith("comfy_client"):
                yield alias.asname or "comfy_client"


def _is_patch(call: ast.Call, ours: set[str]) -> bool:
    match call.func:
        case ast.Attribute(attr="setattr" | "delattr" | "object" | "multiple" | "patch"):
            pass
        case ast.Name(id="setattr" | "delattr" | "patch"):
            pass
        case _:
            return False
    if not call.args:
        return False
    target = call.args[0]
    if isinstance(target, ast.Constant):
        return str(target.value).startswith("comfy_client")
    while isinstance(target, ast.Attribute):
        target = target.value
    return isinstance(target, ast.Name) and target.id in ours


@cache
def figures() -> dict[str, float]:
    """Return all figures by their names."""
    walked, per_frame = walks()
    found: dict[str, float] = {"frame of a prompt: calls": per_frame}
    for name, walk in walked.items():
        found |= {
            f"{name}: calls": walk.calls,
            f"{name}: files": walk.entered,
            f"{name}: moves": walk.moves,
        }
    texts = [*docstrings()]
    found["friend functions"] = len([*friends()])
    found["depth of ComfyApi"] = depth(comfy_client.ComfyApi)
    ladders = shared(comfy_client.ComfyApi) | shared(comfy_client.ComfyPool)
    found["private names that the ladder of the clients shares"] = len(ladders)
    found["private names that any class shares with its bases"] = len(shared_anywhere())
    found["class names used twice"] = len(named_twice(one.node.name for one in classes()))
    found["file names used twice"] = len(named_twice(file_names()))
    found["docstrings that begin with a pronoun, %"] = round(100 * len(dependent()) / len(texts), 1)
    found["patches of the package in tests"] = len([*patches()])
    return found


if __name__ == "__main__":
    for title, figure in figures().items():
        print(f"{figure:>8}  {title}")

"""The public names and their signatures, as ``tests/public_api.txt`` lists them.

A change of what users write shows as a difference of that file.  After one that is wanted (and
stands in the guide's Changes): ``python -m tests.test_public_api``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
from distributed import WorkerPlugin

import comfy_client
from comfy_client.cli.main import main
from tests.guide import public_names

LIST = Path(__file__).with_name("public_api.txt")
MODULES = (
    "comfy_client",
    "comfy_client.aio",
    "comfy_client.distributed",
    "comfy_client.ext",
    "comfy_client.models",
    "comfy_client.testing",
)
#: Bases that are worth telling.
PUBLIC = frozenset(comfy_client.__all__) | {"Future", "ValueError", "OSError", "TimeoutError"}
#: What every exception, enum, tuple and dict has, and every plugin of Dask.
INHERITED = frozenset(
    name
    for kind in (Exception, dict, tuple, int, WorkerPlugin)
    for name in dir(kind)
    if name != "__init__"
)


def public_api() -> Iterator[str]:
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in sorted(public_names(module)):
            yield from described(f"{module_name}.{name}", getattr(module, name))
    yield from command_lines("comfy-client", main)
    plugin = importlib.import_module("pytest_comfy_client")
    for name, value in sorted(vars(plugin).items()):
        if type(value).__name__ == "FixtureFunctionDefinition":
            yield f"fixture {name}"


def described(path: str, value: object) -> Iterator[str]:
    if not inspect.isclass(value):
        yield path + (signature(value) if inspect.isroutine(value) else "")
        return
    bases = (base.__name__ for base in value.__mro__[1:])
    yield f"class {path}({', '.join(base for base in bases if base in PUBLIC)})"
    if "__init__" in vars(value) or hasattr(value, "__attrs_attrs__"):
        yield f"{path}{signature(value)}"
    inherited = INHERITED
    if issubclass(value, ImportError):  # which has more from Python 3.12 on
        inherited |= {*dir(ImportError)}
    for name in sorted(set(dir(value)) - inherited):
        if name.startswith("_"):
            continue
        member = inspect.getattr_static(value, name)
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        is_function = inspect.isroutine(member) and not inspect.ismethoddescriptor(member)
        yield f"{path}.{name}{signature(member) if is_function else ''}"


def signature(function: object) -> str:
    try:
        text = str(inspect.signature(function))  # type: ignore[arg-type]
    except ValueError:
        return "(...)"
    text = re.sub(r" at 0x[0-9a-f]+>", ">", text)
    return re.sub(r"""(: |-> )(["'])(.+?)\2""", r"\1\3", text)


def command_lines(path: str, command: click.Command) -> Iterator[str]:
    names = (option for param in command.params for option in (*param.opts, *param.secondary_opts))
    yield f"$ {path} {' '.join(names)}".rstrip()
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from command_lines(f"{path} {name}", inner)


def test_public_names_and_signatures_are_those_of_the_list() -> None:
    listed = LIST.read_text(encoding="utf-8").splitlines()
    changes = list(difflib.unified_diff(listed, list(public_api()), "listed", "now", n=0))
    assert not changes


if __name__ == "__main__":
    LIST.write_text("\n".join(public_api()) + "\n", encoding="utf-8")

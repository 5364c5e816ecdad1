"""Calls of any public method of a client, by its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tests.helpers.scripted import GRAPH

ARGUMENTS: dict[str, Any] = {
    "workflow": GRAPH,
    "name": "status",
    "callback": print,
    "file_name": "x.png",
    "number": 0,
    "nbytes": 1,
    "prompt_id": "8a9f3c1e-0000-4000-8000-000000000000",
    "settings": {},
    "path_index": 0,
    "route": "/prompt",
    "enabled": True,
}


def arguments_for(method: Callable[..., object]) -> list[Any]:
    """Return arguments that a method takes: those that it requires, and a few more."""
    info = {"filename": "x.png", "subfolder": "", "type": "output"}
    given = []
    for p in inspect.signature(method).parameters.values():
        if p.kind is p.KEYWORD_ONLY or (p.default is not p.empty and p.name not in ARGUMENTS):
            break
        if "FileInfo" in str(p.annotation):
            given.append(info)
        elif "bytes" in str(p.annotation) or "AnyFile" in str(p.annotation):
            given.append(b"x")
        elif p.kind is not p.VAR_KEYWORD:
            given.append(ARGUMENTS.get(p.name, "x"))
    return given


def exhaust(answer: Any) -> None:
    """Some methods only begin when their answer is used."""
    if hasattr(answer, "__enter__"):
        with answer:
            pass
    elif inspect.isgenerator(answer):
        next(answer)

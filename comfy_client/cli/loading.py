"""Workflows that commands are given: a file of any kind, or standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import click

from .connecting import Given
from .decorators import Decorator
from .exits import Mistake
from .inputs import mistakes

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..workflow import Workflow
    from ..workflow.definitions import Definitions

#: The argument of commands that take a workflow.
workflow_argument: Decorator = click.argument("workflow", metavar="WORKFLOW")
definitions_option: Decorator = click.option(
    "--definitions",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Node definitions, the answer of /object_info; no server is asked.",
)


def load(source: str, definitions: Definitions | None, **options: Any) -> Workflow:
    """A workflow in API or UI format, or of a picture; ``-`` reads standard input."""
    from ..workflow import Workflow

    given = sys.stdin.buffer.read() if source == "-" else source
    with mistakes("the workflow"):
        return Workflow.load(given, definitions, **options)


def read_definitions(path: Path) -> Mapping[str, Any]:
    """Node definitions of a file."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise Mistake(f"{path}: no JSON ({exc})") from None
    if not isinstance(found, dict):
        raise Mistake(f"{path}: no node definitions, as /object_info answers them")
    return found


class Source(AbstractContextManager["Source"]):
    """A server that is asked for definitions only if somebody needs them; or a file of them."""

    def __init__(self, given: Given, path: Path | None) -> None:
        self._given = given
        self._known = None if path is None else read_definitions(path)
        self._stack = ExitStack()
        self._api: ComfyApi | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def _client(self) -> ComfyApi:
        if self._api is None:
            self._api = self._stack.enter_context(self._given.client())
        return self._api

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Definitions by class."""
        if self._known is not None:
            return self._known
        return self._client.node_definitions(classes, refresh=refresh)

    def get_node_replacements(self) -> Mapping[str, Any]:
        """What the server puts in the place of classes that are gone."""
        return {} if self._known is not None else self._client.get_node_replacements()

    def open_image(self, info: str) -> BinaryIO:
        """A file of the server by its URL."""
        return self._client.open_image(info)

"""What is wrong with a workflow file: as a line of text, or as GitHub annotates a pull request."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeAlias

import click

from ..errors import ConversionWarning
from .printing import say

if TYPE_CHECKING:
    from ..workflow.problems import Problem

#: What GitHub reads as a part of the command, and what stands for it in a text and in a property.
_IN_TEXT: Final = {ord("%"): "%25", ord("\r"): "%0D", ord("\n"): "%0A"}
_IN_PROPERTY: Final = {**_IN_TEXT, ord(":"): "%3A", ord(","): "%2C"}


class Finding(NamedTuple):
    """A fault of a file.

    Attributes:
        severity: ``"error"`` or ``"warning"``.
        text: The node, its fault and a hint, in one line.
        node_id: The id of the node; ``None``: it is one of the whole file.
        input: The name of the input; ``None``: it is one of the whole node.
    """

    severity: str
    text: str
    node_id: str | None = None
    input: str | None = None

    @classmethod
    def of_problem(cls, problem: Problem) -> Self:
        """Return what a check has found."""
        return cls(problem.severity, problem.text, problem.node_id, problem.input)

    @classmethod
    def of_conversion(cls, warning: ConversionWarning) -> Self:
        """Return what the conversion of a file in UI format has warned of."""
        return cls("warning", str(warning), warning.node_id, warning.input)


#: Prints a finding in a file, if possible with the line.
Printer: TypeAlias = Callable[[str, Finding, int | None], None]


def as_text(file: str, finding: Finding, line: int | None) -> None:
    """Print ``file:line: error: what``, as compilers do."""
    say(f"{_place(file, line)}: {finding.severity}: {finding.text}")


def as_annotation(file: str, finding: Finding, line: int | None) -> None:
    """Print a command by which GitHub shows the finding at its line in a pull request.

    The text names the file, too, as the log of a job leaves out the properties.
    """
    where = f"file={_in_repository(file).translate(_IN_PROPERTY)}"
    if line is not None:
        where += f",line={line}"
    text = f"{_place(file, line)}: {finding.text}"
    click.echo(f"::{finding.severity} {where}::{text.translate(_IN_TEXT)}")


def without_commands(text: str) -> str:
    """Return a text in which GitHub reads no command, also not in the middle of a line."""
    return text.replace("##[", "## [")


def _place(file: str, line: int | None) -> str:
    return file if line is None else f"{file}:{line}"


def _in_repository(file: str) -> str:
    """Return a path from the folder of the repository, if a job of GitHub runs and it is in it."""
    workspace, whole = os.environ.get("GITHUB_WORKSPACE"), Path(os.path.abspath(file))
    if workspace and whole.is_relative_to(workspace):
        return whole.relative_to(workspace).as_posix()
    return Path(file).as_posix()

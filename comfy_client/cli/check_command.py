"""The command ``check``, for any number of files and folders."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from ..errors import ConversionWarning
from .completion import complete_workflows
from .exits import (
    Exit,
    Mistake,
    SilentExit,
    error_object,
    exit_of,
    in_commands,
    message_of,
    one_line,
    worst,
)
from .findings import Finding, Printer, as_annotation, as_text, without_commands
from .input_options import mistakes
from .printing import command, emit, note, report, say
from .server_options import ServerOptions, of_server
from .workflow_source import LazyDefinitions, definitions_option, load

if TYPE_CHECKING:
    from ..workflow import Workflow
    from ..workflow.check import CheckReport

#: The most lines for one file.
_MOST_LINES: Final = 100
_JSON: Final = ".json"
#: The suffixes of files in a folder that may contain a workflow.
_MEDIA: Final = frozenset(
    (
        *(".png", ".webp", ".jpg", ".jpeg", ".svg", ".mp4", ".mov", ".webm", ".mkv"),
        *(".flac", ".mp3", ".ogg", ".opus", ".glb", ".latent"),
    )
)
#: A folder that is left out, as are those whose names begin with a dot.
_FOREIGN: Final = "node_modules"


@command(
    "comfy-client check txt2img.json",
    "comfy-client check workflows/ --definitions object_info.json",
    "comfy-client check workflows/*.json --format github",
    'comfy-client check txt2img.json --json | jq ".problems[].message"',
)
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, shell_complete=complete_workflows
)
@definitions_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "github"]),
    default="text",
    help="With github, annotate the lines of a pull request.  Default: text.",
)
@of_server
def check(
    given: ServerOptions, files: tuple[str, ...], definitions: Path | None, form: str
) -> None:
    """Say what is wrong with workflows, without running them.

    FILE may be a workflow, a picture or the like, the ID of a prompt, - for standard input, or a
    folder.  Of a folder and those below it, *.json is checked, and pictures, videos and sounds with
    a workflow are; names that begin with a dot and node_modules are left out.

    The exit status is 4 if there is an error, and 2 if a file cannot be read or is no workflow; in
    a folder, JSON that is no workflow is skipped.  Warnings do not count.
    """
    if given.json and form == "github":
        raise click.UsageError("--json or --format github, not both")
    printer = None if given.json else {"text": as_text, "github": as_annotation}[form]
    with LazyDefinitions(given, definitions) as source, _kept_warnings() as warned:
        work = _Checking(source, printer, warned)
        for name in files:
            work.folder(name) if os.path.isdir(name) else work.named(name)
    is_one = len(files) == 1 and not os.path.isdir(files[0])
    if not given.json and not (is_one and work.unreadable):
        say(work.summary(is_one=is_one))
    if work.worst is not Exit.DONE:
        raise SilentExit(work.worst)


@attrs.define
class _Checking:
    """The check of several files.

    Attributes:
        printer: Prints one finding; ``None``: each file is a line of JSON.
        warned: The warnings of the conversion of the present file.
        checked: How many files were checked.
        skipped: How many files of folders are no workflows.
        unreadable: How many files and folders could not be checked.
        counts: How many findings there are of each severity.
        worst: The worst exit status so far.
    """

    source: LazyDefinitions
    printer: Printer | None
    warned: list[ConversionWarning]
    checked: int = 0
    skipped: int = 0
    unreadable: int = 0
    counts: dict[str, int] = attrs.field(factory=lambda: {"error": 0, "warning": 0})
    worst: Exit = Exit.DONE
    _seen: set[str] = attrs.field(factory=set)

    def named(self, name: str) -> None:
        """Check what the command line names, unless it has been checked already."""
        if not self._is_new(name):
            return
        try:
            workflow = load(name, self.source)
        except Mistake as exc:
            self._fail(name, exc)
        else:
            self._check(name, workflow)

    def folder(self, name: str) -> None:
        """Check the workflows of a folder; to have none is an error."""
        before, failed, known = self.checked, self.unreadable, False
        for path in self._paths(name):
            if not self._is_new(path):
                known = True
                continue
            try:
                workflow = self._workflow(path)
            except Mistake as exc:
                self._fail(path, exc)
            else:
                if workflow is not None:
                    self._check(path, workflow)
        if not known and (self.checked, self.unreadable) == (before, failed):
            self._fail(name, Mistake(f"{name}: no workflow in this folder"))

    def summary(self, *, is_one: bool) -> str:
        """Say in a line what was found in all files, without their number if there is only one."""
        counts = (
            (self.counts["error"], "error", "errors"),
            (self.counts["warning"], "warning", "warnings"),
            (self.unreadable, "unreadable", "unreadable"),
        )
        words = [f"{n} {one if n == 1 else several}" for n, one, several in counts if n]
        text = ", ".join(words) or "no problems"
        if is_one:
            return text
        skipped = f"; {self.skipped} without a workflow skipped" if self.skipped else ""
        return f"{self.checked} workflow{'' if self.checked == 1 else 's'}: {text}{skipped}"

    def _is_new(self, path: str) -> bool:
        """Return whether a path was not given before, and note it."""
        whole = path if path == "-" else os.path.abspath(path)
        is_new = whole not in self._seen
        self._seen.add(whole)
        return is_new

    def _paths(self, folder: str) -> Iterator[str]:
        """Yield the files of a folder that may be workflows, sorted; its own come first."""
        errors: list[OSError] = []
        for root, folders, names in os.walk(folder, onerror=errors.append):
            folders[:] = sorted(one for one in folders if one[0] != "." and one != _FOREIGN)
            for name in sorted(names):
                path = os.path.join(root, name).removeprefix(os.path.join(".", ""))
                suffix = os.path.splitext(name)[1].lower()
                is_wanted = name[0] != "." and (suffix == _JSON or suffix in _MEDIA)
                if is_wanted and os.path.isfile(path):  # and no pipe, which may never end
                    yield path
        for error in errors:
            self._fail(str(error.filename), Mistake(f"{error.filename}: {message_of(error)}"))

    def _workflow(self, path: str) -> Workflow | None:
        """Load a file of a folder; return None if it is no workflow."""
        from ..workflow import Workflow
        from ..workflow.load import NotAWorkflow

        with mistakes("the workflow"):
            try:
                return Workflow.load(path, self.source)
            except NotAWorkflow as exc:
                self.skipped += 1
                if path.lower().endswith(_JSON):
                    text = without_commands(one_line(message_of(exc)))
                    note(f"skipped, as it is no workflow: {text}")
                return None

    def _check(self, name: str, workflow: Workflow) -> None:
        warned, self.warned[:] = [*self.warned], []
        found = _in_commands(workflow.check(self.source))
        self.checked += 1
        if not found.ok:
            self.worst = worst((self.worst, Exit.REJECTED))
        if self.printer is None:
            emit({"file": name, **found.to_dict()})
            for warning in islice(warned, _MOST_LINES):
                note(f"Warning: {name}: {warning}")
            return
        # A class that the server lacks is an error of the check.
        findings = [
            *map(Finding.of_problem, found),
            *(Finding.of_conversion(one) for one in warned if one.kind != "not_installed"),
        ]
        for finding in findings:
            self.counts[finding.severity] += 1
        self._print(name, self.printer, findings)

    def _print(self, name: str, printer: Printer, findings: list[Finding]) -> None:
        from ..workflow.lines import Lines

        lines = Lines.read(name) if findings else Lines()
        for finding in findings[:_MOST_LINES]:
            printer(name, finding, lines.of(finding.node_id, finding.input))
        if len(findings) > _MOST_LINES:
            more = f"... ({len(findings)} problems in all)"
            printer(name, findings[_MOST_LINES]._replace(text=more), None)

    def _fail(self, name: str, error: Mistake) -> None:
        """Print that a file cannot be checked."""
        from ..workflow.lines import Lines

        self.warned.clear()
        self.unreadable += 1
        self.worst = worst((self.worst, exit_of(error)))
        if self.printer is None:
            emit({"file": name, **error_object(error)})
        elif self.printer is as_annotation:
            text = one_line(message_of(error)).removeprefix(f"the workflow: {Path(name)}")
            self.printer(name, Finding("error", text.lstrip(":, ")), Lines.read(name).broken)
        else:
            report(error, as_json=False)


def _in_commands(found: CheckReport) -> CheckReport:
    """Return a report whose hints are for the command line."""
    told = (attrs.evolve(one, hint=one.hint and in_commands(one.hint)) for one in found.problems)
    return attrs.evolve(found, problems=tuple(told))


@contextlib.contextmanager
def _kept_warnings() -> Iterator[list[ConversionWarning]]:
    """Context manager: keep warnings of conversions in a list, and show all others."""
    kept: list[ConversionWarning] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def keep(message: Warning | str, *args: Any, **more: Any) -> None:
            if isinstance(message, ConversionWarning):
                kept.append(message)
            else:
                show(message, *args, **more)

        warnings.simplefilter("always", ConversionWarning)
        warnings.showwarning = keep
        yield kept

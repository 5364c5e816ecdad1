"""``run --provide``: have the server get the node packs and models that a workflow lacks."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import click

from ..errors import ConversionWarning, WorkflowError
from .decorators import Decorator
from .exits import Mistake
from .printing import confirm, note, yes_option
from .server_options import ServerOptions

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..ext import Obstacle, Plan, ProvideStep
    from ..workflow import Workflow

_QUESTION = "Shall the server get this?"


class Lacking(WorkflowError):
    """An error of a workflow that needs what takes a person."""

    obstacles: tuple[Obstacle, ...]

    def __init__(self, message: str, obstacles: tuple[Obstacle, ...]) -> None:
        super().__init__(message)
        self.obstacles = obstacles


def provide_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--provide`` and ``--yes``."""
    option: Decorator = click.option(
        "--provide",
        is_flag=True,
        help="Have the server's ComfyUI-Manager get the node packs and models that the workflow "
        "lacks: print the plan, ask, install, restart the server once, then run.",
    )
    return option(yes_option(command))


def check_provide(given: ServerOptions, *, provide: bool, yes: bool) -> None:
    """Raise UsageError for options that do not go with ``--provide``, or need it."""
    if yes and not provide:
        raise click.UsageError("--yes answers the question of --provide")
    if provide and (given.is_several or given.hosted):
        which = "several servers" if given.is_several else "a hosted server"
        raise click.UsageError(f"--provide installs on one ComfyUI, not on {which}")


def provide(
    read: Callable[[], Workflow],
    fill: Callable[[Workflow], None],
    api: Callable[[], ComfyApi],
    *,
    yes: bool,
    quiet: bool,
    timeout: float | None,
) -> Workflow:
    """Read a workflow, fill in the inputs of the command line, and provide what it lacks.

    Raises:
        Lacking: Something lacks that takes a person: the message has a line for each.
    """
    workflow = _read_quietly(read)
    is_filled = _try_to_fill(workflow, fill)
    agrees = partial(_agrees, yes, [])
    try:
        with _shown(quiet) as on_progress:
            lacking = workflow.provide(api(), yes=agrees, on_progress=on_progress, timeout=timeout)
    except KeyboardInterrupt:
        if not quiet:
            note("The Manager goes on with what it has begun; the same command goes on from there.")
        raise
    if not lacking.ok:
        lines = "".join(
            f"\n  {one}" for one in (*lacking.impossible, *lacking.packs, *lacking.models)
        )
        text = f"the server lacks what the workflow needs:{lines}"
        raise Lacking(text, lacking.impossible)
    if not is_filled:  # an input belongs to a class that the server has only now
        fill(workflow)
    return workflow


def _read_quietly(read: Callable[[], Workflow]) -> Workflow:
    """Read a workflow without warnings of missing classes, as those will be provided."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        workflow = read()
    for one in told:
        warning = one.message
        if not (isinstance(warning, ConversionWarning) and warning.kind == "not_installed"):
            note(f"Warning: {warning}")
    return workflow


def _try_to_fill(workflow: Workflow, fill: Callable[[Workflow], None]) -> bool:
    """Fill in the inputs of a workflow, all of them or none; return whether it could be done."""
    try:
        fill(workflow.copy())
    except (Mistake, WorkflowError):
        return False
    fill(workflow)
    return True


def _agrees(yes: bool, agreed: list[Plan], plan: Plan) -> bool:
    """Print a plan, and ask; raise an error for no, or if there is no terminal to ask in.

    Return False for one that leaves an obstacle: the workflow could not run even so.
    """
    for line in str(plan).splitlines():
        note(line)
    if any(one.cause != "too_many" for one in plan.impossible):  # those follow in the next plan
        note("None of this was begun, as the workflow cannot run without the rest.")
        return False
    confirm(_QUESTION, yes, "nothing more was changed" if agreed else "nothing was changed")
    agreed.append(plan)
    return True


@contextlib.contextmanager
def _shown(quiet: bool) -> Iterator[Callable[[ProvideStep], object]]:
    """Context manager: show steps as a bar in a terminal, else as lines."""
    from ..showing.bars import Moment, make_bar
    from ..showing.screen import surface

    if quiet or surface(None) != "terminal":
        yield lambda step: None if quiet else note(f"{step} ...")
        return
    bar, began = make_bar("terminal", "provide", 0.0), time.monotonic()
    last = Moment(0.0)

    def show(step: ProvideStep) -> None:
        nonlocal last
        fraction = step.done / step.total if step.total else None
        last = Moment(fraction, str(step), time.monotonic() - began)
        bar.show(last)

    try:
        yield show
        last = Moment(1.0, last.text, time.monotonic() - began, ended="all steps are done")
    finally:
        if last.text:
            bar.end(last, None)

"""Workflows in UI format, where one is read: fetch the definitions, convert it, and warn."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from ..errors import WorkflowError
from .definitions import Definitions, as_mapping

if TYPE_CHECKING:
    from .convert import Chooser

_PACKAGE: Final = str(Path(__file__).parents[1])
#: Warnings that are given one by one.
_MOST_WARNINGS: Final = 100


@define(eq=False)
class UiFormat:
    """How workflows in UI format are converted.

    Attributes:
        strict: Whether a warning is an error.
        dynamic_prompts: The seed or the generator that resolves prompts with; ``None``: they
            stay as they are.
        packs: Node packs by class; ``None``: what the file says.
        prompts: Set by a conversion: see :class:`Conversion`; ``None``: there was none.
    """

    strict: bool = False
    dynamic_prompts: int | Chooser | None = None
    packs: Mapping[str, str] | None = None
    prompts: Mapping[tuple[str, str], str | None] | None = None

    def convert(
        self, ui: Mapping[str, Any], where: str, definitions: Definitions | None
    ) -> Mapping[str, Any]:
        """The graph in API format.

        Raises:
            WorkflowError: There are no definitions, or it cannot be converted.
        """
        from .convert import classes_in, convert  # most workflows are in API format

        if definitions is None:
            raise WorkflowError(
                f"{where} is in UI format: converting it takes the server's node definitions; "
                "api.run() fetches them, Workflow.load(..., definitions=api) does, too; or "
                "export it with Workflow > Export (API)"
            )
        try:
            known = as_mapping(definitions, classes_in(ui))
            done = convert(
                ui,
                known,
                strict=self.strict,
                dynamic_prompts=self.dynamic_prompts,
                packs=self.packs,
            )
        except WorkflowError as exc:
            raise WorkflowError(f"{where}: {exc}") from None
        self.prompts = done.prompts
        for warning in done.warnings[:_MOST_WARNINGS]:
            warnings.warn(warning, stacklevel=_level())
        return done.graph


def _level() -> int:
    """How many calls up the caller's own line is."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level

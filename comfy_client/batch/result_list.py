"""A list of the results of ``map``, as a notebook shows it."""

from __future__ import annotations

from typing import Any, Final

from ..errors import ComfyError
from ..jobs.gallery import gallery
from ..jobs.result import Result
from ..showing.html import remark

#: The most errors that are shown.
_MOST_ERRORS: Final = 12


def are_results(values: list[Any]) -> bool:
    """Return whether a list has results, and else only errors of prompts.

    The first other element decides, and no element is asked for anything: a list may be long, or
    its elements lazy.
    """
    types = map(type, values)
    return all(issubclass(one, Result | ComfyError) for one in types) and any(
        issubclass(type(one), Result) for one in values
    )


def result_gallery(values: list[Any]) -> str:
    """Return the pictures and texts of results, then the errors, as HTML."""
    results = [one for one in values if isinstance(one, Result)]
    errors = [one for one in values if isinstance(one, ComfyError)]
    files = [file for one in results for file in one.files]
    texts = [text for one in results for text in one.texts]
    facts = [f"{len(results)} result{'' if len(results) == 1 else 's'}"]
    facts += [f"{len(errors)} failed"] if errors else []
    failed = (remark(f"{type(one).__name__}: {one}", "bad") for one in errors[:_MOST_ERRORS])
    return gallery(files, texts, facts=facts) + "".join(failed)

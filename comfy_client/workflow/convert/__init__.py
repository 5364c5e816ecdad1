"""Convert workflows from UI format, which the frontend saves, to API format, which servers run.

The frontend does the same in the browser whenever it queues a workflow.
"""

from .converting import Conversion, classes_in, convert
from .dynamic_prompts import Chooser, chooser, is_dynamic, resolve_prompt

__all__ = [
    "Chooser",
    "Conversion",
    "chooser",
    "classes_in",
    "convert",
    "is_dynamic",
    "resolve_prompt",
]

"""From UI format, as the page saves it, to API format, as the server takes it.

The page does this in the browser whenever it queues a workflow.
"""

from .converting import Conversion, classes_in, convert
from .prompts import Chooser, chooser, is_dynamic, resolve_prompt

__all__ = [
    "Chooser",
    "Conversion",
    "chooser",
    "classes_in",
    "convert",
    "is_dynamic",
    "resolve_prompt",
]

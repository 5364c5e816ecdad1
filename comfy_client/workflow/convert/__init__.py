"""Convert workflows from UI format, which the frontend saves, to API format, which servers run.

The frontend does the same in the browser whenever it queues a workflow.

The modules are listed in the order of a conversion.

Modules:
    converting: :func:`convert` and its steps; placeholders in file names, such as
        ``%date:yyyy-MM-dd%``.
    saved_file: The file as it was saved, in classes.
    opening: Unique node ids for the whole file, and all nodes, inner subgraphs first; promoted
        widgets of before 2026, turned into inputs of their subgraph.
    open_file: The graphs of an open file; instances of subgraphs with their own values.
    open_nodes: A node with its inputs and widgets, as the frontend holds it.
    specs: The inputs of a node class in the frontend's order.
    widgets: The widgets of an input, and which values they take.
    losses: Links that the frontend itself loses when it opens a file.
    everywhere: Links that Anything Everywhere adds to inputs without one, as far as its groups
        and regular expressions allow.
    links: The source of each value, through borders of subgraphs and bypassed nodes, and from Get
        nodes to Set nodes of packs.
    dynamic_prompts: Choices ``{day|night}`` and comments in prompts.
    warnings: Warnings where the prompt may not be what is meant.
    era: Differences between frontends.
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

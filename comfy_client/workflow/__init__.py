"""Workflows: load, convert, edit, check, and understand why one was refused.

Pure: nothing here talks to a server.
"""

from .edit import Workflow
from .graph import check_graph, check_parts, class_of, sinks, title_of
from .node import Node

__all__ = [
    "Node",
    "Workflow",
    "check_graph",
    "check_parts",
    "class_of",
    "sinks",
    "title_of",
]

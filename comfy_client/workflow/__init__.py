"""Workflows: load, convert, edit, check, and explain why one was refused.

Nothing here talks to a server by itself.

Modules:
    edit: :class:`Workflow`, which loads, changes and saves a graph.
    node: The nodes of a workflow, by id, title or class; a graph as a table.
    address: Names of nodes and inputs, such as ``"Positive prompt.text"``.
    graph: Plain functions on a graph, files among its inputs, and the check before it is sent.
    bypass: Links to a node, its removal, and its bypass.
    loras: LoRAs: find those that a graph loads, and add one.
    seeds: Seeds of a graph.
    roles: Prompts, seed, size and checkpoint, found by the structure of a graph.
    settable: The inputs that can be set, as a table.
    template: :class:`Template`, a workflow with named inputs and outputs.
    build: :class:`Graph`, which builds a workflow in code; choices of inputs as attributes.
    pixels: A workflow that previews one output.
    fill: Inputs of a new node: defaults, and a check of each value.
    codegen: Python code: names and values, a workflow, a module with typed node classes.
    load: Workflows from files, JSON and answers of a server.
    lines: The lines of a file at which nodes and inputs stand.
    ui_format: Conversion of a loaded file in UI format, with its warnings.
    convert: The package that converts UI format to API format.
    metadata: The package that finds workflows in media files.
    definition_source: Sources of node definitions.
    input_specs: Inputs and outputs of a node by its definition.
    check: :meth:`Workflow.check`, and its report; a graph as plain JSON, and a list of the values
        that JSON cannot represent.
    validate: The server's answer to ``POST /prompt``, without a server.
    rules: What the server and node classes demand of each node of a graph.
    replacements: Replacements of removed node classes by newer servers.
    explain: Explanations of a server's refusal.
    problems: :class:`Problem`.
    missing_packs: The node pack of a class that a server lacks.
    model_files: Folders of model files, similar file names, and where to get a missing one.
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

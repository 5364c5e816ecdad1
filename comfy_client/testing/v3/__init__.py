"""Nodes with ComfyUI's V3 conventions, without torch: what they import, and how they run.

Modules:
    adapter: V3 nodes as the executor runs them.
    offered: The module ``comfy_api.latest``, while files are loaded that import it.
    latest: What else that module has: progress, extensions, videos.
    ui: Results that clients are shown.
    io: Types, schemas and results, as nodes import them.
    schema: The base class of nodes, their schema, and what they return.
    dynamic: Inputs that depend on values and links.
    inputs: Inputs, outputs and types.
"""

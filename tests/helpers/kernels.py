"""Notebooks that run in a kernel of their own."""

from __future__ import annotations

import tempfile
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient


def execute(notebook: nbformat.NotebookNode, **options: Any) -> None:
    """Run all cells, in a kernel whose sockets are files.

    A kernel chooses TCP ports before it binds them, and another test may take one meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="k") as folder:  # a socket's path must be short
        manager = AsyncKernelManager(transport="ipc", ip=f"{folder}/kernel")
        NotebookClient(notebook, km=manager, timeout=300, **options).execute(cleanup_kc=True)

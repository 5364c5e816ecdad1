"""The files that are values of inputs, sent before the workflow that wants them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..transport.deadline import Deadline
from ..workflow import Workflow
from ..workflow.edit import graph_of
from ..workflow.file_inputs import files_in
from ..workflow.graph import brief, describe
from .files import FileRoutes

if TYPE_CHECKING:
    from ..upload import Upload


def with_files_sent(files: FileRoutes, workflow: Workflow, deadline: Deadline) -> Workflow:
    """Upload a workflow's files; return a copy that names them, or the workflow if it has none.

    Raises:
        ComfyError: As :meth:`FileRoutes.upload_image`.
    """
    graph = graph_of(workflow)
    pending = files_in(graph)
    if not pending:
        return workflow
    names: dict[Upload, str] = {}
    for (node_id, name), upload in pending.items():
        if upload not in names:
            try:
                left = None if math.isinf(deadline.at) else deadline.left()
                names[upload] = files.upload_image(upload, timeout=left).ref
            except Exception as exc:
                exc.add_note(f"for {describe(graph, node_id)}, input {brief(name)}")
                raise
    ready = workflow.copy()
    ready.set({place: names[upload] for place, upload in pending.items()}, force=True)
    return ready

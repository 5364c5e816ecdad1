"""Workflows on a cluster of Dask, each worker with a ComfyUI of its own (extra ``[dask]``).

::

    client.register_plugin(ComfyPlugin("http://gpu-{n}:8188"))
    futures = client.map(run_workflow, workflows)

``task``
    What runs in a worker: :func:`run_workflow`.
``plugin``
    :class:`ComfyPlugin`: which ComfyUI a worker has.
``clients``
    The clients of a worker.
``results``
    What comes back.
``notes``
    What the scheduler keeps of each task: where its prompt may be.
``watch``
    Keeps tasks from a worker whose ComfyUI is away.
``search``
    Asks the servers for a prompt of a worker that was lost.
``hosts``
    Which worker has which server.  Pure.
"""

from ..extras import needs_extra

with needs_extra("dask", "comfy_client.distributed"):
    from .plugin import ComfyPlugin
    from .task import run_workflow
    from .task_result import TaskFile, TaskResult

__all__ = ["ComfyPlugin", "TaskFile", "TaskResult", "run_workflow"]

"""Workflows on a Dask cluster, where each worker has a ComfyUI of its own (extra ``[dask]``).

::

    client.register_plugin(ComfyPlugin("http://gpu-{n}:8188"))
    futures = client.map(run_workflow, workflows)

Modules:
    task: :func:`run_workflow`, which runs in a worker, and looks for prompts of lost workers.
    plugin: :class:`ComfyPlugin`, which gives each worker a ComfyUI, and its clients; assignment of
        servers to workers.
    task_result: :class:`TaskResult`, which is sent to the holder of the future.
    notes: Notes that the scheduler keeps on each task and the server that may have its prompt.
"""

from ..errors import needs_extra

with needs_extra("dask", "comfy_client.distributed"):
    from .plugin import ComfyPlugin
    from .task import run_workflow
    from .task_result import TaskFile, TaskResult

__all__ = ["ComfyPlugin", "TaskFile", "TaskResult", "run_workflow"]

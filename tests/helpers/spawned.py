"""What a process does that imports its program anew, as all do on Windows and macOS."""

from __future__ import annotations

from typing import Any

from comfy_client import ComfyApi, ComfyPool, Result, Workflow


def go_on(api: ComfyApi, prompt_id: str, before: Result) -> tuple[Result, bytes, str]:
    """Attach to a job by its id, and read a file of an earlier result; return both, and our id."""
    with api.init(60):
        return api.job(prompt_id).result(60), before.images[0].bytes(), api.client_id


def run_all(servers: list[Any], workflows: list[Workflow | dict[str, Any]]) -> list[bytes]:
    """Run workflows on a pool of this process, and return their pictures."""
    with ComfyPool(servers).init(60) as pool:
        return [result.images[0].bytes() for result in pool.map(workflows, timeout=60)]


def run(api: ComfyApi, workflow: Workflow | dict[str, Any]) -> Result:
    """Run a workflow, and close the client."""
    with api.init(60):
        return api.run(workflow, timeout=60)

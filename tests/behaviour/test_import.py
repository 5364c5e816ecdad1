"""What a program pays for: what it does not use is not imported."""

from __future__ import annotations

import subprocess
import sys

from comfy_client.testing import ComfyServer

#: Rooms and modules for which few programs have a use.
SELDOM = (
    "batch.map",
    "batch.sweep",
    "credentials",
    "doctor",
    "jobs.describe",
    "jobs.gallery",
    "jobs.names",
    "jobs.snapshot",
    "models.files",
    "models.history",
    "models.queue",
    "models.system",
    "nearest",
    "pictures",
    "recording.recorder",
    "showing.bars",
    "showing.html",
    "transport.multipart",
    "upload",
    "workflow.check",
    "workflow.convert",
    "workflow.explain",
    "workflow.loras",
    "workflow.ui_format",
)


def loaded_by(code: str) -> set[str]:
    """Which of these a program loads."""
    line = f"{code}; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    return {name for name in SELDOM if f"comfy_client.{name}" in run.stdout.split()}


def test_a_new_client_loads_nothing_that_few_programs_use() -> None:
    assert loaded_by("import comfy_client; comfy_client.ComfyApi()") == set()


def test_a_run_and_its_picture_load_nothing_more_of_it() -> None:
    with ComfyServer() as server:
        code = f"""if True:
            from comfy_client import ComfyApi
            size = {{"width": 16, "height": 16, "batch_size": 1, "color": 0}}
            nodes = {{
                "1": {{"class_type": "EmptyImage", "inputs": size}},
                "2": {{"class_type": "PreviewImage", "inputs": {{"images": ["1", 0]}}}},
            }}
            with ComfyApi({server.url!r}) as api:
                api.run(nodes).images[0].bytes()
        """
        assert loaded_by(f"exec({code!r})") == set()


def test_names_of_the_package_are_there_when_they_are_asked_for() -> None:
    """Those that are not loaded yet, too; and no others."""
    code = "import comfy_client as c; [getattr(c, name) for name in c.__all__]; c.BasicCredentials"
    assert "credentials" in loaded_by(code)

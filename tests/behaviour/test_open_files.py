"""A process may have few files open, as on macOS, where it is 256."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from comfy_client.testing import ComfyServer

pytestmark = [pytest.mark.long, pytest.mark.posix("limits of a process")]

LIMIT, SERVERS, COUNT = 256, 30, 280

#: In a process of its own: what the servers have open is not the client's.
PROGRAM = f"""
import io, resource, sys
from pathlib import Path

resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))

from PIL import Image
from comfy_client import ComfyApi, ComfyPool

out, *servers = sys.argv[1:]

def repaint(number, as_bytes=False):
    path = Path(out, f"in{{number}}.png")
    Image.new("RGB", (8, 8), (number % 256, number // 256, 9)).save(path)
    image = io.BytesIO(path.read_bytes()) if as_bytes else path
    return {{
        "1": {{"class_type": "LoadImage", "inputs": {{"image": image}}}},
        "2": {{
            "class_type": "SaveImage", "inputs": {{"images": ["1", 0], "filename_prefix": "a"}}
        }},
    }}

with ComfyApi(servers[0]).init(60) as api:
    results = [*api.map(repaint(number) for number in range({COUNT}))]
    jobs = [api.submit(repaint({COUNT} + number, True)) for number in range({COUNT})]
    saved = [file for job in jobs for file in job.result(300).save(Path(out, "saved"))]
# Each of them over a connection of its own.
saved += [file for result in results for file in result.save(Path(out, "later"))]
with ComfyPool(servers).init(60) as pool:
    for result in pool.map(repaint(2 * {COUNT} + number) for number in range({COUNT})):
        saved += result.save(Path(out, "of_pool"))
assert len(set(saved)) == 3 * {COUNT}
print("done")
"""


def test_many_uploads_jobs_and_servers_need_few_open_files(
    comfy: ComfyServer, tmp_path: Path
) -> None:
    """A file that is left open for each of them would be one too many."""
    with ExitStack() as stack:
        others = [stack.enter_context(ComfyServer()) for _ in range(SERVERS - 1)]
        urls = [comfy.url, *(server.url for server in others)]
        run = [sys.executable, "-c", PROGRAM, tmp_path, *urls]
        ended = subprocess.run(run, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout == "done\n"

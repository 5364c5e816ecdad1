"""Other people's clients of ComfyUI, for tests of the embedded server with ``--clients``.

Each has a script here, in its own language, which is given the files of a prompt and a picture.
It prints as JSON what the client got.  The packages lie below ``comfy-client-tests`` in the user's
cache folder, installed on demand with the releases named here and in ``package-lock.json``; this
package never depends on them.

For npm, ``package.json`` puts the smallest package that is there anyway in place of what only the
command line of the SDK needs.  This command writes the lock anew after a change to it::

    npm install --package-lock-only --omit-lockfile-registry-resolved --legacy-peer-deps

The SDK's own tests are in no package.  In a checkout of it, after ``npm install`` and with the
``build`` of its package, they run as::

    comfy-client serve --port 0 --object-info 0.28.1 --models touched --step-seconds 0.3 \\
        --checkpoint NetaYumev35_pretrained_all_in_one.safetensors -- bun test

All 250 passed with each version of the embedded server.  One of them, "should receive all event
callbacks in order", listens too late for some events on a busy machine.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tests.comfyui import cache, locked, pinned_environment, run

HERE = Path(__file__).parent
#: The clients in Python, and what they stand on.
PINNED = (
    "comfy-api-simplified==1.6.0",
    "comfyui-utils==0.0.1",
    "aiohappyeyeballs==2.7.1",
    "aiohttp==3.14.5",
    "aiosignal==1.4.0",
    "attrs==26.1.0",
    "certifi==2026.10.19.post1",
    "charset-normalizer==3.5.3",
    "frozenlist==1.8.0",
    "idna==3.20",
    "multidict==7.2.1",
    "propcache==0.5.4",
    "requests==2.34.2",
    "typing_extensions==4.16.0",
    "urllib3==2.8.0",
    "websockets==17.4",
    "yarl==1.25.1",
)
#: Each client's script.
PYTHON = {"comfy-api-simplified": "run_simplified.py", "comfyui-utils": "run_utils.py"}
NODE = {
    "@saintno/comfyui-sdk": "comfyui-sdk.cjs",
    "@stable-canvas/comfyui-client": "stable-canvas.cjs",
    "comfy-ui-client": "comfy-ui-client.cjs",
}


def clients() -> list[str]:
    """The clients that this machine can run: those in JavaScript need ``npm`` and ``node``."""
    has_node = shutil.which("npm") and shutil.which("node")
    return [*PYTHON, *(NODE if has_node else ())]


def command(client: str) -> tuple[list[str], dict[str, str]]:
    """The words that run the script of a client, installed if need be, and its variables."""
    if client in PYTHON:
        python = pinned_environment(f"clients-{_digest(*PINNED)}", *PINNED)
        return [str(python), str(HERE / PYTHON[client])], {}
    return ["node", str(HERE / NODE[client])], {"NODE_PATH": str(_node_modules())}


def _node_modules() -> Path:
    """The packages of the lock."""
    files = [HERE / "package.json", HERE / "package-lock.json"]
    folder = cache() / f"npm-{_digest(*(file.read_text('utf-8') for file in files))}"
    done = folder / "done"
    cache().mkdir(parents=True, exist_ok=True)
    with locked(cache() / "lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # never begun, or cut short
            folder.mkdir()
            for file in files:
                shutil.copy(file, folder)
            options = ("--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund")
            run("npm", "ci", "--prefix", folder, *options)
            done.touch()
    return folder / "node_modules"


def _digest(*texts: str) -> str:
    """What differs after a change, so that packages that lie there are not taken for others."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]

"""The real ``comfy-api-proxy`` for the tests: Comfy API v2 in front of a ComfyUI.

    python tests/comfy_api_proxy.py --comfyui URL [--port P] [options for the proxy]

It stays in the foreground until Ctrl-C.  The proxy has an environment of its own below
``comfy-client-tests`` in the user's cache folder, made on demand with the releases named here;
this package never depends on it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.comfyui import LocalServer, pinned_environment

PACKAGE = "comfy-api-proxy==0.1.6"
#: What it stands on, all of it, so that every machine has the same.
PINNED = (
    "aiohappyeyeballs==2.7.1",
    "aiohttp==3.14.5",
    "aiosignal==1.4.0",
    "annotated-types==0.8.0",
    "attrs==26.1.0",
    "blake3==1.0.11",
    "frozenlist==1.8.0",
    "idna==3.20",
    "multidict==7.2.1",
    "propcache==0.5.4",
    "pydantic==2.14.4",
    "pydantic_core==2.50.5",
    "PyYAML==6.0.4",
    "typing-inspection==0.4.5",
    "typing_extensions==4.16.0",
    "yarl==1.25.1",
)


def set_up() -> Path:
    """Return the Python of the proxy's environment, made or finished if need be."""
    return pinned_environment(PACKAGE, PACKAGE, *PINNED)


class ComfyApiProxy(LocalServer):
    """A proxy in front of the ComfyUI at `comfyui`, with a token and a folder of state if given.

    Without `state_dir` it forgets jobs, keys and links when it ends, as it does by default.
    ``start``, ``stop``, ``kill`` and ``restart`` keep its port.
    """

    name = PACKAGE
    ready = "/api/v2/health"
    main = "from comfy_api_proxy.cli import main; sys.exit(main())\n"

    def __init__(
        self,
        comfyui: str,
        *options: str,
        token: str | None = None,
        state_dir: Path | None = None,
        port: int | None = None,
    ) -> None:
        super().__init__(*options, port=port)
        self.comfyui = comfyui
        self.token = token
        self.state_dir = state_dir
        self._python = set_up()

    def command(self) -> tuple[Path, Path, list[object]]:
        arguments: list[object] = ["run", "--comfyui", self.comfyui, "--port", self.port]
        if self.token is not None:
            arguments += ["--token", self.token]
        if self.state_dir is not None:
            arguments += ["--state-dir", self.state_dir]
        return self._python, self.folder, arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--comfyui", required=True, metavar="URL")
    parser.add_argument("--port", type=int)
    args, options = parser.parse_known_args()
    proxy = ComfyApiProxy(args.comfyui, *options, port=args.port)
    with contextlib.suppress(KeyboardInterrupt), proxy:
        print(f"{proxy.url} runs {PACKAGE} before {args.comfyui}", flush=True)
        while proxy.pid is not None:
            time.sleep(0.2)
        print(proxy.log_text()[-3000:])


if __name__ == "__main__":
    main()

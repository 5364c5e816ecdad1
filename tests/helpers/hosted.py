"""Places that speak Comfy API v2: the real proxy, and the embedded server that plays it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from comfy_client.testing import ComfyServer
from comfy_client.testing.hosted.gateway import Gateway
from comfy_client.testing.hosted.traps import HostedKind
from tests.comfy_api_proxy import ComfyApiProxy
from tests.comfyui import ComfyUI
from tests.helpers.graphs import canvas, fresh_color, node
from tests.helpers.running_comfyui import Running
from tests.helpers.servers import add_test_content

#: The parameters of tests on both.
EMBEDDED, REAL = "embedded-proxy", "real-proxy"

Graph = dict[str, Any]


@attrs.frozen
class Hosted:
    """A proxy, and what stands behind it.

    ``proxy`` is None where one embedded server plays both.
    """

    url: str
    behind: ComfyServer | ComfyUI | Running
    proxy: ComfyApiProxy | None = None

    @property
    def is_embedded(self) -> bool:
        return self.proxy is None

    @property
    def comfyui_url(self) -> str:
        """The address of the ComfyUI itself."""
        return self.behind.comfyui_url if isinstance(self.behind, ComfyServer) else self.behind.url

    @property
    def gateway(self) -> Gateway:
        """The proxy that an embedded server plays."""
        assert isinstance(self.behind, ComfyServer)
        return self.behind.gateway

    def runs(self, name: str) -> int:
        """Count how often a workflow of :func:`picture` has run, whoever submitted it."""
        return len(self.made(name))

    def made(self, name: str) -> list[Path]:
        """Return the pictures that the server has saved under a name."""
        return sorted(Path(self.behind.root, "output").rglob(f"{name}_*.png"))


def picture(name: str, seconds: float = 0.0, color: int | None = None) -> Graph:
    """Return a workflow that saves one picture under a name of its own, after some seconds.

    No server has it in its cache, so each run leaves a file: see :meth:`Hosted.runs`.
    """
    graph = {"1": canvas(fresh_color() if color is None else color)}
    prefix: Any = name
    if seconds:
        graph["2"] = node("TestSleep", seconds=seconds, ticks=int(seconds * 20) + 1, text=name)
        prefix = ["2", 0]
    graph["9"] = node("SaveImage", images=["1", 0], filename_prefix=prefix)
    return graph


@contextlib.contextmanager
def embedded(hosted: HostedKind = "proxy", **options: Any) -> Iterator[Hosted]:
    """Run the embedded server as a proxy, with what the real servers for tests have."""
    with ComfyServer(hosted=hosted, step_seconds=0.05, **options) as server:
        add_test_content(server)
        yield Hosted(server.url, server)


@contextlib.contextmanager
def before(comfyui: ComfyUI | Running, *options: str, **named: Any) -> Iterator[Hosted]:
    """Run the real proxy in front of a real ComfyUI."""
    with ComfyApiProxy(comfyui.url, *options, **named) as proxy:
        yield Hosted(proxy.url, comfyui, proxy)

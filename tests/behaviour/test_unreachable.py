"""Servers that cannot be reached: names, ports, lookups."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    ServerUnreachable,
)
from comfy_client.testing import ComfyServer
from comfy_client.transport.dial import DialPlan, dial
from tests.helpers.http import (
    LIMIT,
    opened,
)
from tests.helpers.patches import slices

LookUp = Callable[[Callable[..., Any]], None]


def test_refused_and_unknown_names_are_unreachable(look_up: LookUp) -> None:
    """With advice; only the refused one may mend by waiting."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with opened(f"127.0.0.1:{port}") as http:
        with pytest.raises(ServerUnreachable, match="is ComfyUI running") as caught:
            http.json("GET", "/prompt")
        assert caught.value.retryable

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    look_up(unknown)
    with opened("gpu.invalid") as http:
        with pytest.raises(ServerUnreachable, match=r"unknown host 'gpu\.invalid'") as caught:
            http.json("GET", "/prompt")
        assert not caught.value.retryable


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("proxies", [{}, {"http": "http://proxy.invalid:3128"}])
def test_a_moment_without_name_servers_may_mend_and_nothing_was_sent(
    look_up: LookUp, method: str, proxies: dict[str, str]
) -> None:
    """As after sleep, or while the network changes; a proxy's name likewise."""

    def away(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    look_up(away)
    with opened("gpu.invalid", proxies=proxies) as http:
        with pytest.raises(ServerUnreachable) as caught:
            http.json(method, "/prompt")
        assert caught.value.retryable
        assert isinstance(caught.value.__cause__, socket.gaierror)


@pytest.mark.parametrize("waits", [contextlib.nullcontext, slices], ids=["whole", "sliced"])
@pytest.mark.parametrize("name", ["a..b", ".a", "a" * 64, f"{'a' * 64}.example", "xn--ä", "\u200d"])
def test_a_name_that_no_host_can_have_is_unknown(
    name: str, waits: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    """Of a proxy, as ``host`` takes none, for HTTP and the socket; and of a socket's server.

    Its parts are empty, too long, or not what IDNA makes of letters.
    """
    proxy, words = f"http://{name}:3128", "no host can have this name"
    with waits(), opened("gpu.example", proxies={"http": proxy}) as http:
        with pytest.raises(ServerUnreachable, match=f"refuses to connect us: {words}") as caught:
            http.json("GET", "/prompt")
        assert not caught.value.retryable
        with pytest.raises(ServerUnreachable, match=words):
            dial(DialPlan("ws://gpu.example/ws", {}, proxy=proxy), LIMIT, id)
        with pytest.raises(ServerUnreachable, match="unknown host"):
            dial(DialPlan(f"ws://{name}/ws", {}), LIMIT, id)


def test_init_waits_for_name_servers_but_not_for_unknown_names(
    comfy: ComfyServer, look_up: LookUp
) -> None:
    """Until its timeout; what is unknown is told at once."""
    real, failures = socket.getaddrinfo, [socket.EAI_AGAIN] * 3

    def sometimes(host: Any, *args: Any, **kw: Any) -> Any:
        if failures:
            raise socket.gaierror(failures.pop(), "no")
        return real(host, *args, **kw)

    look_up(sometimes)
    with ComfyApi(f"localhost:{comfy.port}") as api:
        assert api.connected
    assert not failures
    failures += [socket.EAI_NONAME]
    with (
        contextlib.closing(ComfyApi(f"localhost:{comfy.port}")) as api,
        pytest.raises(ServerUnreachable, match="unknown host"),
    ):
        api.init()

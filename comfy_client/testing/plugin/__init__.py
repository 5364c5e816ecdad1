"""A pytest plug-in: fixtures for an embedded ComfyUI and its client, and short tracebacks.

The plug-in is installed as the package ``pytest_comfy_client``, next to ``comfy_client``, since
pytest loads each plug-in at its start, in every project.  To cost nothing there, it imports
``comfy_client`` only when a fixture is used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from comfy_client import ComfyApi
    from comfy_client.testing import ComfyServer


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker ``comfy_server``, and the plug-in that shortens tracebacks."""
    config.addinivalue_line(
        "markers", "comfy_server(**options): what to start the comfy_server of a test with"
    )
    config.pluginmanager.register(_ShortTracebacks(), "comfy_client_tracebacks")


class _ShortTracebacks:
    """A plug-in that ends tracebacks at the line of the test; ``--full-trace`` shows the rest."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        """Hide the library's frames in the traceback of a failed test."""
        if call.excinfo is not None and "comfy_client" in sys.modules:
            from comfy_client.tracebacks import hide_frames

            hide_frames(call.excinfo.value)


@pytest.fixture
def comfy_server(request: pytest.FixtureRequest) -> Iterator[ComfyServer]:
    """Yield a fresh :class:`comfy_client.testing.ComfyServer`, which is stopped after the test.

    ``@pytest.mark.comfy_server(version="0.28", previews=False)`` passes options to it.  Markers of
    module, class and test add up; if several set an option, the nearest one counts.
    Needs the extra ``[testing]``.
    """
    try:
        from comfy_client.testing import ComfyServer
    except ModuleNotFoundError as exc:
        pytest.fail(str(exc), pytrace=False)
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    for marker in request.node.iter_markers("comfy_server"):  # the nearest first
        args = args or marker.args
        options = {**marker.kwargs, **options}
    with ComfyServer(*args, **options) as server:
        yield server


@pytest.fixture
def comfy_api(comfy_server: ComfyServer) -> Iterator[ComfyApi]:
    """Yield a connected :class:`comfy_client.ComfyApi` of ``comfy_server``, closed after the test.

    It brings the server's ``credentials``, and trusts the certificate file of a ``tls`` pair, if
    that is self-signed or has its CA in it too.
    What an ``ssl.SSLContext`` has is not known: there, make a client of your own with
    ``ComfyApi(comfy_server.url, verify=...)``.  For a server with ``hosted=`` it is a
    :class:`comfy_client.HostedApi`.
    """
    from comfy_client import BearerCredentials, ComfyApi, HostedApi
    from comfy_client.testing.server import client_options

    options = client_options(comfy_server)
    if comfy_server.hosted:
        key = options.pop("credentials") or ""
        with HostedApi(comfy_server.url, key, **options) as hosted:
            yield hosted
        return
    if isinstance(options["credentials"], str):
        options["credentials"] = BearerCredentials(options["credentials"])
    with ComfyApi(comfy_server.url, **options) as api:
        yield api

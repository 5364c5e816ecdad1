"""``comfy-client wait``: wait until servers can run prompts."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import click

from ..errors import ComfyError
from .decorators import Finite
from .listing import Row, print_rows
from .printing import examples, say
from .server_options import ServerOptions, of_servers

if TYPE_CHECKING:
    from ..client import ComfyApi


@click.command(
    epilog=examples(
        "comfy-client wait --timeout 300 && comfy-client run txt2img.json",
        "comfy-client wait --host gpu-1:8188 --host gpu-2:8188",
    )
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=Finite(min=0, min_open=True),
    help="How long to wait.  Default: no limit.",
)
@of_servers
def wait(given: ServerOptions, timeout: float | None) -> None:
    """Wait until the server, or each of several, can run prompts.

    The server may still be starting, or be behind a proxy that says so.  Errors that time does not
    mend end the command immediately: wrong credentials, an unknown host, another program.
    """
    print_rows(given, partial(_ready, timeout), _show)


def _ready(timeout: float | None, api: ComfyApi) -> list[Row]:
    """Wait for a server, and return the JSON object that ``--json`` prints for it."""
    from ..connecting import may_be_starting

    began = time.monotonic()
    try:
        stats = api.wait_until_ready(timeout)
    except ComfyError as exc:
        if timeout is None or not may_be_starting(exc):
            raise
        raise TimeoutError(f"not ready within {timeout:g} s: {exc}") from None
    seconds = time.monotonic() - began
    return [{"host": api.host, "comfyui_version": stats.comfyui_version, "seconds": seconds}]


def _show(rows: list[Row]) -> None:
    for row in rows:
        version = row["comfyui_version"] or "of an unknown version"
        say(f"{row['host']} is ready: ComfyUI {version}")

"""The servers of a command, and the options by which another command reaches them, for hints."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import click

#: The key of the servers in click's ``meta``, which a command shares with its group.
_KEY: Final = "comfy_client.servers"


class KnownServer(NamedTuple):
    """A server of a command.

    Attributes:
        options: The options that name it, after a space: `` --host gpu``; empty: none are needed.
        is_hosted: Whether it is a hosted ComfyUI, which lacks some commands.
    """

    options: str = ""
    is_hosted: bool = False


def remember(host: str, options: Mapping[str, Any], *, is_hosted: bool) -> None:
    """Keep the options that name a server until the command ends.

    ``options`` are values by the names of the options; those without a value are left out.  A
    host is written as the server's URL, and a file that can be read only once as ``FILE``.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return
    words = []
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value:
            is_read_once = value == "-" or str(value).startswith("/dev/")
            words += [f"--{name}", host if name == "host" else "FILE" if is_read_once else value]
    text = f" {shlex.join(words)}" if words else ""
    context.meta.setdefault(_KEY, {})[host] = KnownServer(text, is_hosted)


def known_server(host: str | None = None) -> KnownServer:
    """Return the server of the command with this URL; None stands for the only one.

    If the command has several servers and none is named, no option helps.
    """
    context = click.get_current_context(silent=True)
    servers: Mapping[str, KnownServer] = {} if context is None else context.meta.get(_KEY, {})
    if host is not None:
        return servers.get(host, KnownServer(f" --host {host}"))
    if len(servers) == 1:
        return next(iter(servers.values()))
    return KnownServer(is_hosted=any(one.is_hosted for one in servers.values()))

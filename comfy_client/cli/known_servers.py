"""The servers of a command, and other commands for them: lines that a user may paste into a shell.

Every command that is printed comes from :func:`line` or :meth:`KnownServer.command`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import click

#: The key of the servers in click's ``meta``, which a command shares with its group.
_KEY: Final = "comfy_client.servers"
#: Words that no shell changes, and the characters that end or escape single quotes.
_PLAIN: Final = re.compile(r"[A-Za-z0-9@+:,./_-]+")
_SPECIAL: Final = re.compile(r"(['\\]+)")
#: Words that neither cmd.exe nor PowerShell changes, and characters that one of them heeds within
#: double quotes.  PowerShell takes curly quotes for straight ones.
_PLAIN_ON_WINDOWS: Final = re.compile(r"[A-Za-z0-9+:._/\\-]+")
_UNSAFE_ON_WINDOWS: Final = re.compile(r'["\u201c-\u201e%$`]')
#: What stands for a word that cannot be written for both.
_LEFT_OUT: Final = "..."


class KnownServer(NamedTuple):
    """A server of a command.

    Attributes:
        options: The options that name it, after a space: `` --host gpu``; empty: none are needed.
        is_hosted: Whether it is a hosted ComfyUI, which lacks some commands.
        takes_partner_key: Whether its nodes may have the key in ``COMFY_API_KEY``.
    """

    options: str = ""
    is_hosted: bool = False
    takes_partner_key: bool = False

    def command(self, name: str, *options: str, id: str | None = None) -> str:
        """Return a command of ``comfy-client`` for this server, as it is typed into a shell.

        ``id`` may be any text of others: it is neither an option nor anything that a shell obeys.
        """
        if id is None or not id.startswith("-"):
            words = [name, *([] if id is None else [id]), *options]
            return line("comfy-client", *words) + self.options
        return f"{line('comfy-client', name, *options)}{self.options} {line('--', id)}"


def line(*words: str, platform: str = sys.platform) -> str:
    """Return words as one line for a shell: sh, bash, zsh or fish; on Windows cmd.exe, PowerShell.

    Backslashes stand in double quotes, since fish reads them in single ones, too.  On Windows,
    ``...`` stands for a word that no quotes protect from both shells.
    """
    return " ".join(map(_quoted_on_windows if platform == "win32" else _quoted, words))


def _quoted_on_windows(word: str) -> str:
    if _PLAIN_ON_WINDOWS.fullmatch(word):
        return word
    if _UNSAFE_ON_WINDOWS.search(word):
        return _LEFT_OUT
    ending = word[len(word.rstrip("\\")) :]  # programs read \" as a quote
    return f'"{word}{ending}"'


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    parts = filter(None, _SPECIAL.split(word))
    return "".join(_part(part) for part in parts) or "''"


def _part(part: str) -> str:
    if not _SPECIAL.fullmatch(part):
        return f"'{part}'"
    escaped = part.replace("\\", "\\\\")
    return f'"{escaped}"'


def remember(
    host: str,
    options: Mapping[str, Any],
    *,
    is_hosted: bool,
    takes_partner_key: bool = False,
) -> None:
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
            words += [
                f"--{name}",
                host if name == "host" else "FILE" if is_read_once else str(value),
            ]
    text = f" {line(*words)}" if words else ""
    context.meta.setdefault(_KEY, {})[host] = KnownServer(text, is_hosted, takes_partner_key)


def known_server(host: str | None = None) -> KnownServer:
    """Return the server of the command with this URL; None stands for the only one.

    If the command has several servers and none is named, no option helps.
    """
    context = click.get_current_context(silent=True)
    servers: Mapping[str, KnownServer] = {} if context is None else context.meta.get(_KEY, {})
    if host is not None:
        return servers.get(host, KnownServer(f" {line('--host', host)}"))
    if len(servers) == 1:
        return next(iter(servers.values()))
    return KnownServer(is_hosted=any(one.is_hosted for one in servers.values()))

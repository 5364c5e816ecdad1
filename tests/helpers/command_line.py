"""The command ``comfy-client``: in this process, or as it was installed in one of its own."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import attrs
import jsonschema
import referencing
from click.testing import CliRunner

import comfy_client
from comfy_client.cli.exits import Exit, worst
from comfy_client.cli.main import main

#: Seconds for what should take a moment, and takes longer on a busy machine.
LIMIT: Final = 300.0
COMMAND: Final = (
    Path(sysconfig.get_path("scripts"), "comfy-client.exe")
    if os.name == "nt"
    else Path(sys.executable).with_name("comfy-client")
)
_PACKAGES: Final = Path(comfy_client.__file__).parents[1]
# A shell that runs the tests in the background has its children ignore Ctrl-C.
_HEEDS_CTRL_C: Final = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
#: What runs a command, so that it heeds Ctrl-C.  On Windows, which has no exec, every one does.
_FIRST: Final = [sys.executable, "-c", _HEEDS_CTRL_C] if os.name == "posix" else []


def runner(charset: str = "utf-8") -> CliRunner:
    """Runs commands in this process, with stdout and stderr apart."""
    has_choice = "mix_stderr" in inspect.signature(CliRunner).parameters  # before click 8.2
    options: dict[str, Any] = {"mix_stderr": False} if has_choice else {}
    return CliRunner(charset=charset, **options)


def open_terminal(lines: int = 24, columns: int = 80) -> tuple[int, int]:
    """Return the two ends of a terminal of POSIX, ours and that of a program."""
    import termios

    here, there = os.openpty()
    termios.tcsetwinsize(there, (lines, columns))
    return here, there


@attrs.frozen
class Ended:
    """What a command has said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines on stdout."""
        return self.out.splitlines()


@attrs.frozen
class CommandLine:
    """Commands with a home of their own, for one server or none."""

    home: Path
    host: str | None = None
    variables: Mapping[str, str] = attrs.field(factory=dict)
    charset: str = "utf-8"

    def __call__(self, *args: object, stdin: str | None = None, **variables: str) -> Ended:
        """Run one to its end, in this process."""
        unset = {name: None for name in os.environ if name.startswith(("COMFY", "XDG_"))}
        env: dict[str, str | None] = {**unset, **self._own(variables)}
        with contextlib.chdir(self.home):
            ran = runner(self.charset).invoke(main, [*map(str, args)], input=stdin, env=env)
        if ran.exception is not None and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        return Ended(ran.exit_code, ran.stdout, ran.stderr)

    def installed(self, *args: object, stdin: str | None = None, **variables: str) -> Ended:
        """Run one to its end as it was installed."""
        ran = subprocess.run(
            self._command(args),
            input=stdin or "",
            capture_output=True,
            text=True,
            env=self._environment(variables),
            cwd=self.home,
            timeout=LIMIT,  # it may have a real sampler make pictures
        )
        return Ended(ran.returncode, ran.stdout, ran.stderr)

    def on_terminal(
        self, *args: object, typed: str = "", columns: int = 200, **variables: str
    ) -> Ended:
        """Run an installed command on a terminal with typed input; stderr is part of ``out``."""
        here, there = open_terminal(24, columns)
        shown = bytearray()
        with (
            open(here, "r+b", buffering=0) as terminal,
            subprocess.Popen(
                self._command(args),
                stdin=there,
                stdout=there,
                stderr=there,
                env=self._environment({"TERM": "xterm", "NO_COLOR": "", **variables}),
                cwd=self.home,
            ) as process,
        ):
            os.close(there)
            terminal.write(typed.encode())
            with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
                while data := terminal.read(4096):
                    shown += data
            status = process.wait(LIMIT)
        return Ended(status, shown.decode().replace("\r\n", "\n"), "")

    def json(self, *args: object, status: int = 0, **variables: str) -> list[Any]:
        """The objects that it prints with ``--json``, each held to its schema."""
        ended = self(*args, "--json", **variables)
        assert ended.status == status, ended
        return lines_of(str(args[0]), ended)

    @contextlib.contextmanager
    def started(self, *args: object, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """One that goes on, and does not outlive the block."""
        with subprocess.Popen(
            [*_FIRST, *self._command(args)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(variables),
            cwd=self.home,
        ) as process:
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(LIMIT)
                except subprocess.TimeoutExpired:
                    process.kill()

    def words_and_variables(
        self, *args: object, **variables: str
    ) -> tuple[list[str], dict[str, str]]:
        """An installed command for another program to start, and its environment."""
        return self._command(args), self._environment(variables)

    def _command(self, args: tuple[object, ...]) -> list[str]:
        assert COMMAND.exists(), "the tests need the package installed beside this Python"
        return [str(COMMAND), *map(str, args)]

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        ours = ("COMFY", "XDG_", "COLUMNS")
        known = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        fixed = {"PYTHONPATH": str(_PACKAGES), "PYTHONUNBUFFERED": "1"}
        return {**known, **fixed, **self._own(variables)}

    def _own(self, variables: Mapping[str, str]) -> dict[str, str]:
        host = {} if self.host is None else {"COMFYUI_HOST": self.host}
        return {"HOME": str(self.home), **self._folders(), **host, **self.variables, **variables}

    def _folders(self) -> dict[str, str]:
        """The folders that Linux has, also on systems that would take others."""
        if sys.platform == "linux":
            return {}
        names = {"CONFIG": ".config", "STATE": ".local/state", "CACHE": ".cache"}
        folders = {f"XDG_{name}_HOME": str(self.home / path) for name, path in names.items()}
        return {"USERPROFILE": str(self.home), **folders}


@cache
def _schemas() -> tuple[dict[str, Any], Any]:
    folder = resources.files(comfy_client)
    commands, classes = (
        json.loads((folder / name).read_text("utf-8")) for name in ("commands.json", "schema.json")
    )
    known = referencing.Resource.from_contents(classes)
    return commands, referencing.Registry().with_resource("schema.json", known)


def commands_in_schema() -> set[str]:
    """The names that the schema has."""
    return set(_schemas()[0]["$defs"])


def lines_of(command: str, ended: Ended) -> list[Any]:
    """The objects on stdout, each held to the schema of the command, or to that of errors."""
    found = [json.loads(line) for line in ended.lines]
    for one in found:
        check("error" if "exit" in one else command, one)
    statuses = [Exit(one["exit"]) for one in found if "exit" in one]
    if statuses and command == "check":  # its other lines report what is wrong themselves
        statuses += [Exit.REJECTED for one in found if one.get("ok") is False]
    assert not statuses or worst(statuses) == ended.status
    return found


def check(command: str, found: Any) -> None:
    """Hold a line to the schema of a command."""
    commands, registry = _schemas()
    schema = {**commands, "$ref": f"#/$defs/{command}"}
    jsonschema.Draft202012Validator(schema, registry=registry).validate(found)

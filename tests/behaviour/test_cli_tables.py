"""Tables of the command line: as wide as the terminal, and whole in pipes and as JSON."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import comfy_client.cli
from comfy_client import ComfyApi, Workflow
from comfy_client.errors import JobFailed
from comfy_client.testing import ComfyServer, ListedPack, Manager4
from tests.helpers.clients import until
from tests.helpers.command_line import CommandLine
from tests.helpers.gates import gated, shows, until_it_runs

#: The functions that print a table, and a command with which each of them does.
COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "workflow_commands.inputs": ("inputs", "wide.json"),
    "server_commands._show": ("nodes", "Fails"),
    "server_commands._show_classes": ("nodes",),
    "prompt_commands.history": ("history",),
    "prompt_commands.queue": ("queue",),
    "pack_commands._show_installed": ("packs",),
    "pack_commands._show_missing": ("packs", "missing", "lacking.json"),
}
TABLES: Final = ("table", "table_of")
POEM: Final = "長い詩は、とても長いので、端末の一行には収まりません。" * 4


#: A pack that fails with a long error.
BROKEN = ListedPack(
    name="broken",
    url="https://git.example.com/broken",
    version="1.0.0",
    classes=["Broken"],
    import_error=POEM,
)


class Fails:
    """A node with a long, wide error."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING", {"default": POEM})}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = POEM

    def run(self, text: str) -> dict[str, Any]:
        raise RuntimeError(POEM)


def width(line: str) -> int:
    """How many columns a line takes that holds these Japanese characters at most."""
    return sum(2 if "\u3000" <= char <= "\uff60" else 1 for char in line)


def printing() -> Iterator[str]:
    """The functions of the command line that print a table, by module."""
    paths = Path(comfy_client.cli.__file__).parent.glob("*.py")
    for path in (path for path in paths if path.stem != "several_servers"):  # has table_of
        for function in ast.parse(path.read_text("utf-8")).body:
            calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
            if any(isinstance(call, ast.Name) and call.id in TABLES for call in calls):
                yield f"{path.stem}.{getattr(function, 'name', '')}"


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with gated(Fails, packs=[Manager4(packs=[BROKEN], installed=["broken"])]) as server:
        yield server


@pytest.fixture(scope="module")
def command(server: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """With a workflow of long inputs, a history, and a queue of two."""
    home = tmp_path_factory.mktemp("home")
    workflow = Workflow.example()
    workflow.positive = POEM
    workflow.save(home / "wide.json")
    lacking = {"1": {"class_type": "NoSuchClass" * 9, "inputs": {}}}
    (home / "lacking.json").write_text(json.dumps(lacking))
    with ComfyApi(server.url) as api:
        api.run(shows())
        with pytest.raises(JobFailed):
            api.run({"1": {"class_type": "Fails", "inputs": {"text": "x"}}})
        api.submit(shows(waits=True))
        until_it_runs(server)
        api.submit(shows("later"))
        until(lambda: len(api.get_queue().pending) == 1)
        yield CommandLine(home, server.url)


def test_every_function_that_prints_a_table_is_tried_here() -> None:
    assert {*printing()} == COMMANDS.keys()


@pytest.mark.posix("terminals as files")
@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("which", COMMANDS)
def test_no_row_of_a_table_is_broken_by_a_terminal(
    command: CommandLine, which: str, columns: int
) -> None:
    """The widest columns are cut, and the first one can be read."""
    args = COMMANDS[which]
    ended = command.on_terminal(*args, columns=columns, NO_COLOR="1")
    assert ended.status == (4 if "missing" in args else 0), ended
    rows = [line for line in ended.lines if not line.endswith("not loaded?")]  # a hint below
    assert max(map(width, rows)) <= columns
    assert ("..." in ended.out) is (args != ("queue",))  # which has room, with short ids
    for short, whole in zip(ended.lines, command(*args).lines, strict=True):
        assert short[:5] == whole[:5]


@pytest.mark.posix("terminals as files")
@pytest.mark.parametrize("name", ["queue", "history"])
def test_a_terminal_shows_the_beginnings_of_ids(command: CommandLine, name: str) -> None:
    """Which commands understand; a pipe and ``--json`` have them whole."""
    ids = [row["prompt_id"] for row in command.json(name)]
    assert len(ids) == 2
    shown, piped = command.on_terminal(name, columns=80).out, command(name).out
    for prompt_id in ids:
        assert prompt_id in piped
        assert prompt_id[:8] in shown
        assert prompt_id[:9] not in shown
    assert command.json("job", ids[0][:8])[0]["prompt_id"] == ids[0]

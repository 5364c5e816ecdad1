"""``comfy-client skill``: the ``SKILL.md`` is well-formed, complete, and its commands work."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml  # of distributed

import comfy_client
from comfy_client import ComfyError
from comfy_client.cli.exits import Exit
from comfy_client.cli.main import main
from comfy_client.testing import ComfyServer
from comfy_client.to_dict import code_of
from tests.helpers.command_line import CommandLine, lines_of, runner

TEXT = runner().invoke(main, ["skill"]).stdout
#: Code in a line of text.
SPANS = re.findall(r"`([^`\n]+)`", TEXT)
#: What is to be typed: whole lines, and what stands in the text.
TYPED = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
] + [span for span in SPANS if span.startswith("comfy-client ")]


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(step_seconds=0.0) as running:
        yield running


@pytest.fixture
def typed(tmp_path: Path, server: ComfyServer) -> CommandLine:
    """The command, in a folder with a workflow."""
    graph = comfy_client.Workflow.example()
    graph["KSampler"]["steps"] = 2
    graph.save(tmp_path / "workflow.json")
    return CommandLine(tmp_path, server.url)


def test_the_front_matter_is_that_of_a_skill() -> None:
    """A name that a folder may have, a description that is shown before the rest is read."""
    _, front, body = TEXT.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts.keys() == {"name", "description", "compatibility", "metadata"}
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", facts["name"])
    assert len(facts["name"]) <= 64
    assert 100 < len(facts["description"]) <= 1024
    assert len(facts["compatibility"]) <= 500
    assert facts["metadata"] == {"version": comfy_client.__version__}
    assert body.startswith("\n# ")


def test_the_skill_is_short() -> None:
    """An agent reads all of it each time."""
    assert len(TEXT.splitlines()) <= 150
    assert len(TEXT) <= 4 * 2500  # tokens
    assert "{" not in TEXT


def test_the_skill_lists_every_command() -> None:
    """With its arguments and its purpose, as ``--help`` has them."""
    listed = re.findall(
        r"^\* `([\w-]+)(.*?)`: (\S.*)$", TEXT.partition("## Commands")[2], re.MULTILINE
    )
    assert [name for name, _, _ in listed] == [*main.commands]
    known = {name: (arguments, purpose) for name, arguments, purpose in listed}
    assert known["job"] == (" ID...", main.commands["job"].get_short_help_str(100))


def test_a_command_that_is_new_is_in_the_skill() -> None:
    """Without a word in the text; one that is hidden is not."""

    @click.group()
    def group() -> None: ...

    @group.command(hidden=True)
    def secret() -> None: ...

    @group.command()
    @click.argument("colour")
    def paint(colour: str) -> None:
        """Paint it."""

    group.add_command(main.commands["skill"])
    told = runner().invoke(group, ["skill"]).stdout
    assert "* `paint COLOUR`: Paint it.\n" in told
    assert "secret" not in told


def test_every_exit_status_has_advice() -> None:
    told = re.findall(r"^\* (\d+): \S", TEXT, re.MULTILINE)
    assert [*map(int, told)] == [*Exit]


def test_options_commands_and_codes_of_the_text_exist() -> None:
    """A renamed one is found here."""
    options = {
        option for one in main.commands.values() for each in one.params for option in each.opts
    }
    words = {word for span in [*SPANS, *TYPED] for word in span.split()}
    assert {word for word in words if word.startswith("--")} <= options
    begun = {parts[0] for span in SPANS if len(parts := span.split()) > 1}
    assert begun <= {*main.commands, "comfy-client", "api", "pip", "|"} | options
    codes = {code_of(kind) for kind in _kinds(ComfyError)}
    assert {"job_lost", "submit_uncertain", "job_not_found", "manager_refused"} <= codes & words


def test_a_restart_is_warned_of_before_the_list_of_commands() -> None:
    """Its purpose alone does not say whose prompts are lost."""
    rules = TEXT.partition("## Commands")[0]
    assert re.search(r"`restart`, which loses all prompts .*whoever submitted them", rules)


def _kinds(kind: type[ComfyError]) -> Iterator[type[ComfyError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def test_every_command_line_works_in_its_order(typed: CommandLine, server: ComfyServer) -> None:
    """As it stands, with ids of prompts, and names for what is written in capitals."""
    assert len(TYPED) > 15
    prompt_id = ""
    for line in TYPED:
        _, name, *words = shlex.split(line)
        if name == "cancel":
            cancels_only_its_prompt(typed, server, words)
            continue
        known = {"ID": prompt_id, "CLASS": "KSampler", "COMMAND": "run"}
        ended = typed(name, *(known.get(word, word) for word in words))
        assert ended.status == Exit.DONE, (line, ended)
        if "--json" in words:
            found = lines_of(name, ended)
            assert found or name == "queue", line
            if name in ("run", "history"):
                prompt_id = found[0]["prompt_id"]
            fields_are_as_told(name, words, found)
    # Of two more, one was cancelled before it ran.
    assert len(server.ran) == sum(line.startswith("comfy-client run ") for line in TYPED) + 1


def fields_are_as_told(name: str, words: list[str], found: list[Any]) -> None:
    """Those that the text names are in the lines of a command."""
    if name == "inputs":
        assert {"address", "type", "value", "role"} <= found[0].keys()
        assert any(one["role"] == "positive" for one in found)
    elif name == "check":
        assert found[0].keys() >= {"problems"}
    elif name == "run" and "--detach" not in words:
        assert [Path(file["path"]).suffix for file in found[0]["files"]] == [".png"]
    elif name == "job" and "--wait" not in words:
        assert found[0]["why"]
    elif name == "nodes":
        assert found[0]["category"]


def cancels_only_its_prompt(typed: CommandLine, server: ComfyServer, words: list[str]) -> None:
    """The prompt before it runs on."""
    with server.faults.hang_worker():
        [first] = typed.json("run", "workflow.json", "--detach")
        [second] = typed.json("run", "workflow.json", "--detach")
        assert words == ["ID", "--json"]
        [told] = typed.json("cancel", second["prompt_id"])
        assert told["cancelled"]
    [ended] = typed.json("job", first["prompt_id"], "--wait")
    assert ended["prompt_id"] == first["prompt_id"]


def test_the_skill_is_written_where_agents_look(typed: CommandLine) -> None:
    """Folders are made."""
    place = ".agents/skills/comfy-client/SKILL.md"
    assert typed("skill", "-o", place).status == Exit.DONE
    assert (typed.home / place).read_text("utf-8") == TEXT

"""``comfy-client run --provide``: packs and models first, then the picture."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.cli.exits import Exit
from comfy_client.testing import ComfyServer, ListedPack, Manager4
from tests.helpers.command_line import CommandLine
from tests.helpers.long import few

NUMBER = {"input": {"required": {"number": ["INT", {"default": 0}]}}, "output_node": True}
URL = "https://git.example.com/my-pack"
MINE = ListedPack(name="my-pack", url=URL, classes={"Mine": NUMBER})


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(packs=[Manager4(packs=[MINE], reboot_seconds=1)], speed=1000) as running:
        yield running


@pytest.fixture
def comfy_client(server: ComfyServer, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, server.url)


def write(folder: Path, *classes: str) -> Path:
    """A file as the frontend saves it."""
    widget = {"name": "number", "type": "INT", "widget": {"name": "number"}}
    nodes = [
        {"id": at, "type": name, "mode": 0, "inputs": [widget], "widgets_values": [at + 7]}
        for at, name in enumerate(classes)
    ]
    path = folder / "from_the_web.json"
    path.write_text(json.dumps({"version": 0.4, "nodes": nodes, "links": []}))
    return path


def inputs_of(server: ComfyServer) -> list[dict[str, Any]]:
    """Those of the only prompt that ran."""
    with ComfyApi(server.url) as api:
        [entry] = api.get_histories().values()
        return [node["inputs"] for node in Workflow.load(entry).to_dict().values()]


def is_unchanged(server: ComfyServer) -> bool:
    return not [one for one in server.requests if one.method == "POST"]


def test_run_provides_what_a_file_lacks_and_runs_it(
    comfy_client: CommandLine, server: ComfyServer, tmp_path: Path
) -> None:
    ended = comfy_client("run", write(tmp_path, "Mine"), "--provide", "--yes", "--json")
    assert ended.status == Exit.DONE, ended.err
    assert "prompt_id" in json.loads(ended.out)
    assert f"install the pack {URL} from git.example.com, for Mine" in ended.err
    assert f"install {URL} (1 of 2) ..." in ended.err
    assert "Warning" not in ended.err
    assert inputs_of(server) == [{"number": 7}]


def test_set_applies_to_a_class_that_is_there_only_then(
    comfy_client: CommandLine, server: ComfyServer, tmp_path: Path
) -> None:
    file = write(tmp_path, "Mine")
    ended = comfy_client("run", file, "--provide", "--yes", "--set", "Mine.number=9")
    assert ended.status == Exit.DONE, ended.err
    assert inputs_of(server) == [{"number": 9}]


def test_without_a_terminal_and_without_yes_the_plan_is_printed_and_nothing_is_installed(
    comfy_client: CommandLine, server: ComfyServer, tmp_path: Path
) -> None:
    ended = comfy_client("run", write(tmp_path, "Mine"), "--provide")
    assert ended.status == Exit.USAGE
    assert "without a terminal to ask in, this needs --yes" in ended.err
    assert f"\n  install the pack {URL}" in ended.err  # below its head, as Python prints it
    assert "Usage:" not in ended.err
    assert is_unchanged(server)


def test_a_class_that_takes_a_person_is_said_and_nothing_runs(
    comfy_client: CommandLine, server: ComfyServer, tmp_path: Path
) -> None:
    [error] = comfy_client.json(
        "run", write(tmp_path, "NeverHeardOf"), "--provide", "--yes", status=Exit.REJECTED
    )
    assert "no pack is known for the node class 'NeverHeardOf'" in error["message"]
    [obstacle] = error["obstacles"]
    assert (obstacle["cause"], obstacle["about"]) == ("unknown_class", "NeverHeardOf")
    assert obstacle["message"] in error["message"]
    assert is_unchanged(server)


def test_a_plan_that_leaves_an_obstacle_is_not_begun(
    comfy_client: CommandLine, server: ComfyServer, tmp_path: Path
) -> None:
    ended = comfy_client("run", write(tmp_path, "Mine", "NeverHeardOf"), "--provide", "--yes")
    assert ended.status == Exit.REJECTED
    assert f"install the pack {URL}" in ended.err
    assert "None of this was begun" in ended.err
    assert is_unchanged(server)


@pytest.mark.parametrize("options", few([[], ["--check"]], 1))
def test_a_refused_class_of_a_known_pack_makes_a_hint_of_provide(
    comfy_client: CommandLine, server: ComfyServer, options: list[str]
) -> None:
    def refused(class_type: str) -> str:
        graph = {"1": {"class_type": class_type, "inputs": {"number": 7}}}
        ended = comfy_client("run", "-", *options, "--host", server.url, stdin=json.dumps(graph))
        assert ended.status == Exit.REJECTED, ended.err
        return ended.err

    hint = f"Try: comfy-client run --provide --host {server.url} has the server get"
    assert hint in refused("Mine")
    assert "--provide" not in refused("NeverHeardOf")


def test_timeout_limits_providing(
    comfy_client: CommandLine, server: ComfyServer, tmp_path: Path
) -> None:
    server.pause()  # the Manager's work as well
    file = write(tmp_path, "Mine")
    ended = comfy_client("run", file, "--provide", "--yes", "--timeout", "0.2")
    assert ended.status == Exit.TIMEOUT, ended.err


@pytest.mark.posix("signals between processes")
@pytest.mark.parametrize("name", few(["SIGINT", "SIGKILL"], 1))
def test_a_command_that_was_stopped_is_carried_on_by_the_next(
    comfy_client: CommandLine, server: ComfyServer, tmp_path: Path, name: str
) -> None:
    words = ("run", write(tmp_path, "Mine"), "--provide", "--yes")
    server.pause()
    with comfy_client.started(*words) as process:
        server.until(lambda: sent(server, "queue/start") == 1)
        process.send_signal(getattr(signal, name))
        _, said = process.communicate()
    assert ("the same command goes on from there" in said) is (name == "SIGINT")
    server.resume()
    ended = comfy_client(*words)
    assert ended.status == Exit.DONE, ended.err
    assert (sent(server, "queue/task"), sent(server, "reboot")) == (1, 1)


def sent(server: ComfyServer, route: str) -> int:
    return sum(one.path.endswith(f"/manager/{route}") for one in server.requests)


@pytest.mark.posix("terminals")
@pytest.mark.parametrize(("typed", "status"), few([("y\n", Exit.DONE), ("n\n", Exit.ERROR)], 1))
def test_a_terminal_is_asked_once(
    comfy_client: CommandLine, server: ComfyServer, tmp_path: Path, typed: str, status: Exit
) -> None:
    file = write(tmp_path, "Mine")
    ended = comfy_client.on_terminal("run", file, "--provide", typed=typed)
    assert ended.status == status, ended.out
    assert ended.out.count("Shall the server get this? [y/N]") == 1
    assert ("the answer was no: nothing was changed" in ended.out) is (status is Exit.ERROR)
    assert ("all steps are done" in ended.out) is (status is Exit.DONE)
    assert is_unchanged(server) is (status is not Exit.DONE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--yes"], "--yes answers the question of --provide"),
        (["--provide", "--host", "a", "--host", "b"], "not on several servers"),
        (["--provide", "--hosted"], "not on a hosted server"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    comfy_client: CommandLine, tmp_path: Path, options: list[str], message: str
) -> None:
    ended = comfy_client("run", write(tmp_path, "Mine"), *options)
    assert (ended.status, message in ended.err) == (Exit.USAGE, True)

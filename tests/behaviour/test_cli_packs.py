"""``comfy-client packs``, ``snapshot`` and ``restart``, with each of the three Managers."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_client import ComfyApi, JobLost
from comfy_client.testing import (
    ComfyServer,
    ListedPack,
    Request,
)
from tests.helpers.command_line import LIMIT, CommandLine
from tests.helpers.graphs import txt2img
from tests.helpers.managers import KINDS

URL = "https://git.example.com/my-pack"
MINE = ListedPack(name="my-pack", url=URL, classes=["Mine", "Both"], update="newer")
BROKEN = ListedPack(
    name="broken",
    url="https://git.example.com/broken",
    classes=["Broken"],
    import_error="No module named 'nowhere'",
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str) -> Iterator[ComfyServer]:
    """A server with an installed pack that it could not import."""
    listed, level = [MINE, BROKEN], "normal-"  # which allows to fix packs
    make = KINDS[kind]
    pack = make(packs=listed, installed=["broken"], security_level=level, reboot_seconds=1)
    with ComfyServer(packs=[pack], speed=1000) as running:
        yield running


@pytest.fixture
def comfy_client(tmp_path: Path, server: ComfyServer) -> CommandLine:
    """The command, in a folder with a workflow that lacks two classes and runs without them."""
    lacking = {
        f"{at}": {"class_type": name, "inputs": {}}
        for at, name in enumerate(("Mine", "Broken", "Mine", "Nobody"), 100)
    }
    (tmp_path / "w.json").write_text(json.dumps({**txt2img(), **lacking}))
    (tmp_path / "ok.json").write_text(json.dumps(txt2img()))
    return CommandLine(tmp_path, server.url)


only_manager4 = pytest.mark.parametrize("kind", ["manager4"])


def test_a_pack_is_installed_listed_disabled_enabled_and_removed(
    comfy_client: CommandLine,
) -> None:
    ended = comfy_client("packs", "install", URL)
    assert ended.status == 0, ended
    assert ended.out.startswith("installed my-pack ")
    assert "comfy-client restart --wait" in ended.err
    assert states(comfy_client)["my-pack"] == "enabled"
    assert comfy_client("packs", "disable", "my-pack").status == 0
    assert states(comfy_client)["my-pack"] == "disabled"
    assert comfy_client("packs", "enable", "my-pack").status == 0
    assert comfy_client("packs", "update", "my-pack").out == "up to date: my-pack newer\n"
    assert comfy_client("packs", "fix", "broken").status == 0
    assert states(comfy_client)["my-pack"] == "enabled"
    ended = comfy_client("packs", "remove", "my-pack")
    assert (ended.out, ended.err.splitlines()[0]) == ("removed my-pack\n", "remove my-pack ...")
    assert states(comfy_client) == {"broken": "failed"}


def states(command: CommandLine) -> dict[str, str]:
    """The packs that ``packs`` lists, and the state of each."""
    head, *rows = (line.split() for line in command("packs").lines)
    assert head[:3] == ["ID", "VERSION", "STATUS"]
    assert rows == sorted(rows)
    return {row[0]: row[2] for row in rows}


def test_packs_that_failed_to_import_are_marked(comfy_client: CommandLine) -> None:
    assert "No module named 'nowhere'" in comfy_client("packs", "list").out
    for args in (("packs",), ("packs", "list")):
        [row] = comfy_client.json(*args)
        assert (row["id"], row["enabled"], row["failed"]) == ("broken", True, True)
        assert "No module named 'nowhere'" in row["error"]
    [row] = comfy_client.json("packs", "failed")
    assert row["id"] == "broken"
    ended = comfy_client("packs", "failed")
    assert ended.lines[0] == "broken:"
    assert "nowhere" in ended.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "No packs are installed."),
        (("failed",), "All enabled packs were imported."),
        (("missing", "ok.json"), "The server has all classes of the workflow."),
    ],
)
def test_an_empty_list_of_packs_is_a_sentence(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "ok.json").write_text(json.dumps(txt2img()))
    with ComfyServer(packs=["manager4"]) as server:
        ended = CommandLine(tmp_path, server.url)("packs", *words)
    assert (ended.status, ended.out, ended.err) == (0, "", f"{said}\n")


@only_manager4
def test_a_version_is_for_one_pack(comfy_client: CommandLine) -> None:
    ended = comfy_client("packs", "install", "a", "b", "--version", "1.0.0")
    assert ended.status == 2
    assert "--version is for one pack" in ended.err


def test_tasks_are_lines_of_json(comfy_client: CommandLine) -> None:
    [row] = comfy_client.json("packs", "install", URL)
    assert (row["kind"], row["name"], row["pack"]["enabled"]) == ("install", "my-pack", True)
    [row] = comfy_client.json("packs", "remove", "my-pack")
    assert row["pack"] is None


@only_manager4
def test_no_pack_is_changed_without_being_named(
    comfy_client: CommandLine, server: ComfyServer
) -> None:
    for args in (("install",), ("remove",), ("update",), ("fix",), ("update", "broken", "--all")):
        assert comfy_client("packs", *args).status == 2, args
    assert not [one for one in server.requests if one.method == "POST"]
    comfy_client("packs", "install", URL)
    assert {row["name"] for row in comfy_client.json("packs", "update", "--all")} == {
        "broken",
        "my-pack",
    }
    comfy_client("packs", "disable", "broken", "my-pack")
    assert "No packs are enabled." in comfy_client("packs", "update", "--all").err


def test_a_pack_that_nobody_knows_is_an_error_and_hides_no_other(comfy_client: CommandLine) -> None:
    ended = comfy_client("packs", "install", "nowhere", URL)
    assert ended.status == 5, ended
    assert "nowhere" in ended.err
    assert ended.out.startswith("installed my-pack ")
    assert comfy_client.json("packs", "install", "nowhere", status=5)[-1]["code"] == "task_failed"


@only_manager4
def test_a_repository_that_the_lists_lack_is_a_wrong_name(comfy_client: CommandLine) -> None:
    ended = comfy_client("packs", "install", "https://evil.example/my-pack")
    assert ended.status == 2
    assert "lists lack the repository https://evil.example/my-pack" in ended.err
    assert f"by its id in the registry; the nearest known packs are: {URL}\n" in ended.err
    assert "nearest" not in comfy_client("packs", "install", "https://evil.example/nowhere").err
    assert "my-pack" not in comfy_client("packs", "list").out


@only_manager4
def test_a_pack_that_is_not_installed_is_a_wrong_name_and_none_is_changed(
    comfy_client: CommandLine, server: ComfyServer
) -> None:
    """Status 2 means that nothing has run."""
    for name in ("disable", "update", "fix", "remove"):
        ended = comfy_client("packs", name, "broken", "nosuch")
        assert (ended.status, ended.out) == (2, ""), name
        assert "not installed, so nothing was changed: nosuch; there are: broken" in ended.err
    assert not [one for one in server.requests if one.method == "POST"]
    assert comfy_client("snapshot", "restore", "nosuch").status == 2
    for id in ("nosuch", "x:y:z"):
        assert comfy_client("packs", "wait", id).status == 2, id


@only_manager4
def test_the_nearest_known_packs_are_named_where_none_has_the_name(
    comfy_client: CommandLine,
) -> None:
    ended = comfy_client("packs", "install", "my-packs")
    assert ended.status == 5, ended
    assert f"the nearest known packs are: {URL}\n" in ended.err
    assert "nearest" not in comfy_client("packs", "install", "nowhere").err
    comfy_client("packs", "install", URL)
    ended = comfy_client("packs", "install", "my-pack", "--version", "9.9.9")
    assert ended.status == 5, ended
    assert "nearest" not in ended.err


def test_work_that_the_security_level_forbids_is_status_8(tmp_path: Path, kind: str) -> None:
    pack = KINDS[kind](packs=[MINE], security_level="strong")
    with ComfyServer(packs=[pack], speed=1000) as server:
        comfy_client = CommandLine(tmp_path, server.url)
        ended = comfy_client("packs", "install", URL)
        assert ended.status == 8
        assert "set security_level = normal" in ended.err
        assert "--login-file" not in ended.err
        assert comfy_client("restart").status == 8


def test_missing_lists_classes_with_their_packs_and_the_line_that_installs_them(
    comfy_client: CommandLine, server: ComfyServer
) -> None:
    rows = {
        row["class_type"]: row for row in comfy_client.json("packs", "missing", "w.json", status=4)
    }
    assert {name: row["status"] for name, row in rows.items()} == {
        "Mine": "missing",
        "Broken": "failed",
        "Nobody": "unknown",
    }
    assert rows["Mine"]["nodes"] == ["100", "102"]
    assert (rows["Mine"]["pack"], rows["Nobody"]["pack"]) == (URL, None)
    hint = "is a custom node missing, or not loaded?"
    assert (rows["Mine"]["hint"], rows["Nobody"]["hint"]) == (None, hint)
    ended = comfy_client("packs", "missing", "w.json")
    assert ended.status == 4
    assert f"Install: comfy-client packs install {URL}\nNobody: {hint}\n" in ended.out
    assert comfy_client("packs", "install", rows["Mine"]["pack"]).status == 0
    ended = comfy_client("packs", "missing", "w.json")
    assert "Install:" not in ended.out
    assert "comfy-client restart --wait" in ended.out
    comfy_client("restart", "--wait")
    left = comfy_client.json("packs", "missing", "w.json", status=4)
    assert {row["class_type"] for row in left} == {"Broken", "Nobody"}
    assert comfy_client.json("packs", "missing", "ok.json") == []


def test_a_loaded_pack_that_lacks_the_class_needs_another_version(
    tmp_path: Path, kind: str
) -> None:
    """By the id that the workflow names; to install it again would not help."""
    old = ListedPack(name="old-pack", url=URL, version="1.0.0", classes=["New"])
    meta = {"cnr_id": "old-pack", "ver": "0.9.0"}
    graph = {"1": {"class_type": "Gone", "inputs": {}, "_meta": meta}}
    (tmp_path / "w.json").write_text(json.dumps(graph))
    with ComfyServer(packs=[KINDS[kind](packs=[old], installed=["old-pack"])]) as server:
        comfy_client = CommandLine(tmp_path, server.url)
        [row] = comfy_client.json("packs", "missing", "w.json", status=4)
        assert (row["pack"], row["status"], row["install"]) == ("old-pack", "loaded", None)
        ended = comfy_client("packs", "missing", "w.json")
    assert "Another version may have the class: comfy-client packs update old-pack\n" in ended.out


def test_snapshots_are_saved_listed_restored_and_removed(comfy_client: CommandLine) -> None:
    [name] = comfy_client("snapshot", "save").lines
    assert comfy_client("snapshot").lines == [name]
    assert comfy_client.json("snapshot", "list") == [{"name": name}]
    comfy_client("packs", "install", URL)
    ended = comfy_client("snapshot", "restore", name)
    assert ended.lines == [f"{name} will be restored when the server starts the next time"]
    assert "comfy-client restart --wait" in ended.err
    assert comfy_client.json("snapshot", "restore", name) == [{"name": name}]
    comfy_client("restart", "--wait")
    assert states(comfy_client) == {"broken": "failed", "my-pack": "disabled"}
    assert "pips" in json.loads(comfy_client("snapshot", "current").out)
    assert comfy_client.json("snapshot", "current")
    assert comfy_client.json("snapshot", "remove", name) == [{"name": name}]
    assert comfy_client("snapshot").lines == []
    [name] = comfy_client("snapshot", "save").lines
    assert comfy_client("snapshot", "remove", name).lines == [f"removed {name}"]


def test_restart_waits_until_new_classes_are_there(
    comfy_client: CommandLine, server: ComfyServer
) -> None:
    comfy_client("packs", "install", URL)
    [ended] = comfy_client.json("restart", "--wait")
    assert ended["host"] == server.url
    assert ended["seconds"] > 0
    with ComfyApi(server.url) as api:
        assert "Mine" in api.node_names()


@only_manager4
def test_restart_without_wait_says_how_to_wait(
    comfy_client: CommandLine, server: ComfyServer
) -> None:
    [ended] = comfy_client.json("restart")
    assert ended["seconds"] is None
    assert comfy_client("wait", "--timeout", LIMIT).status == 0
    assert "comfy-client wait" in comfy_client("restart").out


def reboots(server: ComfyServer) -> list[Request]:
    return [one for one in server.requests if one.path == "/v2/manager/reboot"]


@only_manager4
def test_restart_asks_before_prompts_are_lost(
    comfy_client: CommandLine, server: ComfyServer
) -> None:
    """Whoever submitted them; without a terminal, it needs ``--yes``."""
    server.pause()
    with ComfyApi(server.url) as api:
        api.submit(txt2img())
        ended = comfy_client("restart")
        assert ended.status == 2
        assert f"this needs --yes: 1 prompt of {server.url} will be lost" in ended.err
        assert not reboots(server)
        server.resume()


@only_manager4
@pytest.mark.posix("terminals")
def test_restart_at_a_terminal_loses_prompts_only_after_a_yes(
    comfy_client: CommandLine, server: ComfyServer
) -> None:
    with server.faults.hang_worker(), ComfyApi(server.url) as api:
        job = api.submit(txt2img())
        ended = comfy_client.on_terminal("restart", typed="n\n")
        assert ended.status == 1, ended
        assert "the answer was no: nothing was changed" in ended.out
        assert f"1 prompt of {server.url} will be lost.  Restart it? [y/N]" in ended.out
        assert not reboots(server)
        ended = comfy_client.on_terminal("restart", typed="y\n")
        assert ended.status == 0, ended
        assert len(reboots(server)) == 1
        assert isinstance(job.exception(LIMIT), JobLost)


@only_manager4
@pytest.mark.posix("terminals")
def test_a_bar_in_a_terminal_shows_how_many_packs_are_left(comfy_client: CommandLine) -> None:
    """What ended is a line above it, an error too."""
    ended = comfy_client.on_terminal("packs", "install", URL, "nosuch")
    assert ended.status == 5
    drawn = [text.strip() for text in re.split("[\r\n]", ended.out)]
    assert [text for text in drawn if text.startswith("install my-pack and 1 more ")]
    assert [text for text in drawn if text.startswith("installed my-pack ")]
    assert [text for text in drawn if text.startswith("ended ") and "100%" in text]
    assert "Try: a pack is an id of the registry, or a URL in the Manager's list" in ended.out
    quiet = comfy_client.on_terminal("packs", "disable", "my-pack", "--quiet").out
    assert quiet.startswith("disabled my-pack")


@only_manager4
@pytest.mark.posix("signals between processes")
def test_ctrl_c_leaves_the_task_and_says_how_to_find_it(
    comfy_client: CommandLine, server: ComfyServer
) -> None:
    server.pause()
    with comfy_client.started("packs", "install", URL) as process:
        assert process.stderr is not None
        assert next(process.stderr) == "install my-pack ...\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    found = re.search(r"The Manager goes on; comfy-client packs wait (\S+) ", err)
    assert found, err
    ended = comfy_client("packs", "wait", found[1], "--timeout", 0.01)
    assert ended.status == 7
    assert f"comfy-client packs wait {found[1]}" in ended.err
    server.resume()
    ended = comfy_client("packs", "wait", found[1])
    assert ended.out.startswith("installed my-pack ")
    assert ended.err.endswith("once the server has restarted: comfy-client restart --wait\n")


@pytest.mark.parametrize(
    "args",
    [
        ("packs",),
        ("packs", "install", "x"),
        ("packs", "failed"),
        ("packs", "missing", "w.json"),
        ("snapshot",),
        ("snapshot", "save"),
        ("restart",),
    ],
    ids=" ".join,
)
def test_a_server_without_a_manager_is_status_1_and_says_how_to_get_one(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    (tmp_path / "w.json").write_text(json.dumps({"1": {"class_type": "Mine", "inputs": {}}}))
    with ComfyServer() as server:
        [error] = CommandLine(tmp_path, server.url).json(*args, status=1)
    assert error["code"] == "not_supported"
    assert "pip install comfyui-manager" in error["message"]
    assert "\n" not in error["message"]


def test_a_hosted_server_says_that_it_installs_no_packs(tmp_path: Path) -> None:
    key = "a-key-of-42-letters"
    with ComfyServer(hosted="proxy", credentials=key) as server:
        comfy_client = CommandLine(tmp_path)
        variables = {"COMFY_BASE_URL": server.url, "COMFY_API_KEY": key}
        for args in (["packs"], ["packs", "install", "x"], ["snapshot", "save"], ["restart"]):
            ended = comfy_client(*args, **variables)
            assert ended.status == 1, args
            assert "installs no node packs and no models: it has no ComfyUI-Manager" in ended.err


def test_packs_of_several_servers_name_them(tmp_path: Path, server: ComfyServer) -> None:
    with ComfyServer(packs=["manager4"]) as other:
        hosts = ("--host", server.url, "--host", other.url)
        [row] = CommandLine(tmp_path).json("packs", *hosts)
        assert (row["id"], row["server"]) == ("broken", server.url)
        assert CommandLine(tmp_path)("packs", "install", "x", *hosts).status == 2
    with ComfyServer() as plain:
        ended = CommandLine(tmp_path)("packs", "--host", server.url, "--host", plain.url)
    assert ended.status == 1
    assert f"Error: {plain.url}: " in ended.err

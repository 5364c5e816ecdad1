"""The command line with several servers."""

from __future__ import annotations

import json
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.cli.server_options import ANSWER_LIMIT
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers.clients import until
from tests.helpers.command_line import LIMIT, CommandLine, lines_of
from tests.helpers.gates import GATES, Gated, shows
from tests.helpers.long import few
from tests.helpers.patches import fill_disk

NOWHERE = "http://127.0.0.1:1"


class Rare:
    """Shows a number; only one server has it."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"count": ("INT", {})}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, count: int) -> dict[str, Any]:
        return {"ui": {"text": [f"{count!r}"]}}


@pytest.fixture
def servers() -> Iterator[list[ComfyServer]]:
    with ComfyServer() as one, ComfyServer() as two:
        for server in (one, two):
            server.add_node(Gated)
        two.add_node(Rare)
        yield [one, two]
        GATES.end()


@pytest.fixture
def comfy_client(tmp_path: Path) -> CommandLine:
    """The command, in a folder with workflows."""
    workflows = {
        "w": load_workflow("txt2img_tiny", ckpt_name="simulated.safetensors"),
        "waits": shows(waits=True),
        "rare": {"1": {"class_type": "Rare", "inputs": {"count": "?"}}},
        "refused": {"1": {"class_type": "Gated", "inputs": {"text": "x", "waits": ["1", 0]}}},
    }
    for name, graph in workflows.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(graph))
    return CommandLine(tmp_path)


def hosts(*servers: ComfyServer | str) -> list[str]:
    urls = (one if isinstance(one, str) else one.url for one in servers)
    return [word for url in urls for word in ("--host", url)]


def test_a_prompt_goes_to_the_shortest_queue(comfy_client, servers) -> None:
    """Its files are saved here, and stderr says where it ran."""
    with ComfyApi(servers[0].url) as api:
        busy = api.submit(shows(waits=True))
        until(lambda: busy.status == "running")
        ran = comfy_client("run", "w.json", "--out", "pictures", *hosts(*servers))
        GATES.set()
        busy.result(LIMIT)
    assert ran.status == 0, ran
    [path] = ran.lines
    assert (comfy_client.home / path).read_bytes().startswith(b"\x89PNG")
    assert f" on {servers[1].url}\n" in ran.err
    assert [len(server.ran) for server in servers] == [1, 1]


def test_as_json_it_is_the_same_as_of_one_server_and_which_one_it_was(
    comfy_client, servers
) -> None:
    [result] = comfy_client.json("run", "w.json", *hosts(*servers))
    assert result["server"] in [server.url for server in servers]
    assert result["files"][0]["url"].startswith(result["server"])


def test_run_chooses_the_server_that_has_its_node_classes(comfy_client, servers) -> None:
    """And a value is what that server says it is."""
    ran = comfy_client("run", "rare.json", "--set", "Rare.count=3", *hosts(*servers))
    assert (ran.status, ran.lines) == (0, ["3"]), ran
    told = comfy_client("run", "rare.json", "--set", "Rare.count=x", *hosts(*servers[::-1]))
    assert told.status == 2
    assert "Rare.count takes INT, not 'x'" in told.err


def test_a_workflow_of_standard_input_is_read_once(comfy_client, servers) -> None:
    graph = (comfy_client.home / "rare.json").read_text()
    ran = comfy_client("run", "-", "--set", "Rare.count=3", *hosts(*servers), stdin=graph)
    assert (ran.status, ran.lines) == (0, ["3"]), ran


def test_a_workflow_that_no_server_can_run_is_status_4(comfy_client, servers) -> None:
    """No folder is left behind."""
    with ComfyServer() as third:
        options = ("--out", "new/folder", *hosts(servers[0], third))
        [error] = comfy_client.json("run", "rare.json", *options, status=4)
        assert error["code"] == "workflow_error"
        assert f"{third.url} lacks the node class 'Rare'" in error["message"]
    [error] = comfy_client.json(
        "run", "refused.json", "--out", "new/folder", *hosts(*servers), status=4
    )
    assert error["code"] in ("prompt_rejected", "workflow_error")
    assert not (comfy_client.home / "new").exists()


def test_a_server_that_is_away_is_named_and_the_others_go_on(comfy_client, servers) -> None:
    """They also say what a value is."""
    ran = comfy_client("run", "w.json", "--set", "KSampler.seed=7", *hosts(NOWHERE, servers[0]))
    assert ran.status == 0, ran
    [line] = (line for line in ran.err.splitlines() if "go on without it" in line)
    assert NOWHERE in line


def test_without_any_server_the_status_is_that_of_the_first(comfy_client) -> None:
    [error] = comfy_client.json("run", "w.json", *hosts(NOWHERE, "http://127.0.0.1:2"), status=3)
    assert error["code"] == "server_unreachable"
    with ComfyServer(credentials="one") as one, ComfyServer(credentials="two") as two:
        [error] = comfy_client.json("run", "w.json", *hosts(one, two), status=8)
        assert error["code"] == "authentication_error"


def test_a_wait_for_a_server_that_never_comes_is_status_7(comfy_client, servers) -> None:
    """That one may have what it needs."""
    for options in (["--timeout", 0.5], ["--timeout", 0.5, "--detach"]):
        options += hosts(servers[0], NOWHERE)
        ended = comfy_client("run", "rare.json", *options)
        assert ended.status == 7
        assert "no server took the prompt in time, and it will not run" in ended.err
        lacks = f"{servers[0].url} lacks the node class"
        assert f"no server that can run it is ready: {NOWHERE}; {lacks}" in ended.err
    assert not servers[0].ran


@pytest.mark.parametrize("command", [["run"], ["sweep", "--axis", "KSampler.seed=1"]])
def test_files_that_cannot_be_saved_can_be_had_from_the_server_that_has_them(
    comfy_client, servers, monkeypatch, command
) -> None:
    words = [*command, "w.json", "-q"]
    with monkeypatch.context() as broken:
        fill_disk(broken)
        [error] = comfy_client.json(*words, "--out", "o/", *hosts(*servers), status=1)
    word, *again = shlex.split(error["hint"].replace("...", "o/"))
    assert (word, comfy_client(*again).status) == ("comfy-client", 0)


def test_a_timeout_says_where_the_prompt_runs_on(comfy_client, servers) -> None:
    ran = comfy_client("run", "waits.json", "--timeout", 3, *hosts(*servers))
    assert ran.status == 7
    [server] = (server for server in servers if server.ran)
    prompt_id = server.ran[0].prompt_id
    assert f"prompt {prompt_id} on {server.url}" in ran.err
    for command in (f"job {prompt_id} --wait", f"cancel {prompt_id}"):
        assert f"comfy-client {command} --host {server.url}" in ran.err
    assert server.running
    options = ("--timeout", 3, "--json", *hosts(*servers))
    [error] = comfy_client.json("run", "waits.json", *options, status=7)
    assert error["code"] == "job_timeout"
    assert error["server"] in [server.url for server in servers]


def test_detached_it_is_on_a_server_when_the_command_ends(comfy_client, servers) -> None:
    [job] = comfy_client.json("run", "waits.json", "--detach", *hosts(*servers))
    [server] = (server for server in servers if server.url == job["server"])
    with ComfyApi(server.url) as api:
        assert job["prompt_id"] in api.get_queue()
        GATES.set()
        assert api.job(job["prompt_id"]).result(LIMIT).texts == ("x",)
    text = comfy_client("run", "w.json", "--detach", "-q", *hosts(*servers))
    assert [len(line) for line in text.lines] == [36]


@pytest.mark.posix("signals between processes")
def test_ctrl_c_cancels_the_prompt_wherever_it_is(comfy_client, servers) -> None:
    with comfy_client.started("run", "waits.json", *hosts(*servers)) as process:
        [server] = until(lambda: [server for server in servers if server.running])
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (130, "")
    assert f"ancelling prompt {server.ran[0].prompt_id}" in err
    assert "Traceback" not in err
    with ComfyApi(server.url) as api:
        until(lambda: api.poll_status(LIMIT).queue_remaining == 0)


@pytest.mark.posix("signals between processes")
def test_ctrl_c_cancels_a_prompt_that_is_being_sent(comfy_client, servers) -> None:
    """Before the command ends, detached or not."""
    for options in ((), ("--detach",)):
        with (
            servers[0].faults.delay("POST", "/prompt", ran=True) as no_answer,
            comfy_client.started("run", "waits.json", *options, *hosts(servers[0], NOWHERE)) as one,
        ):
            until(lambda: servers[0].running)
            one.send_signal(signal.SIGINT)
            assert one.stderr
            assert next(line for line in one.stderr if "ancelling" in line)
            no_answer.end()
            one.communicate(timeout=LIMIT)
        assert one.returncode == 130
        until(lambda: servers[0].ran[-1].status == "error")


@pytest.mark.long
@pytest.mark.posix("signals between processes")
def test_a_second_ctrl_c_leaves_at_once(comfy_client, servers) -> None:
    with comfy_client.started("run", "waits.json", *hosts(servers[0], NOWHERE)) as process:
        until(lambda: servers[0].running)
        with servers[0].faults.delay("*", "*"):
            process.send_signal(signal.SIGINT)
            assert process.stderr
            until(lambda: "ancelling" in process.stderr.readline())
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert any("may keep running" in line and servers[0].url in line for line in err.splitlines())
    assert "No answer" not in err  # which it would say once it had waited for one


@pytest.mark.posix("signals between processes")
def test_ctrl_c_waits_for_no_server_that_does_not_answer(comfy_client, servers) -> None:

    def leaving() -> float:
        count = len(servers[0].requests)
        with comfy_client.started("run", "w.json", *hosts(*servers)) as process:
            servers[0].until(lambda: len(servers[0].requests) > count, LIMIT)
            pressed_at = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
            seconds = time.monotonic() - pressed_at
        assert process.returncode == 130
        assert "Traceback" not in err
        return seconds

    with servers[0].faults.delay("*", "*"):
        assert any(leaving() < ANSWER_LIMIT - 2 for _ in range(5))  # a busy machine delays some
    assert not servers[1].ran


# -- credentials ------------------------------------------------------------------------------


def test_each_profile_names_a_server_with_its_own_login(comfy_client) -> None:
    """No server sees that of another."""
    with ComfyServer(credentials="one") as one, ComfyServer(credentials="two") as two:
        config = comfy_client.home / ".config/comfy-client/config.toml"
        config.parent.mkdir(parents=True)
        tables = (
            f'[profiles.{name}]\nhost = "{server.url}"\ntoken = "{name}"\n'
            for name, server in (("one", one), ("two", two))
        )
        config.write_text("".join(tables))
        config.chmod(0o600)
        options = ("--profile", "one", "--profile", "two")
        ran = comfy_client(*options, "run", "w.json")
        assert ran.status == 0, ran
        assert len(one.ran) + len(two.ran) == 1
        for server, other in ((one, "two"), (two, "one")):
            sent = {request.headers.get("Authorization") for request in server.requests}
            assert f"Bearer {other}" not in sent
            assert len(sent) == 1
        [error] = comfy_client.json("run", "w.json", *options, "--host", one.url, status=2)
        assert "leave out --host" in error["message"]


def test_a_token_of_standard_input_is_for_all_servers(comfy_client) -> None:
    """Which are named beside it."""
    with ComfyServer(credentials="key") as one, ComfyServer(credentials="key") as two:
        options = ("--token-file", "-", *hosts(one, two))
        ran = comfy_client("run", "w.json", *options, stdin="key\n")
        assert ran.status == 0, ran
        assert "without it" not in ran.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["run", "w.json", "--host", "a", "--host", "http://a:8188/"],
            "http://a:8188 is given twice",
        ),
        (["--host", "a", "--host", "b", "logs"], "one server at a time"),
        (["free", "--host", "a", "--host", "b"], "one server at a time"),
        (["--host", "a", "--host", "b", "where"], "one server at a time"),
    ],
)
def test_wrong_servers_are_refused_before_any_request(comfy_client, args, words) -> None:
    ended = comfy_client(*args, "--json")
    assert ended.status == 2, ended
    assert words in lines_of(args[0], ended)[0]["message"]


# -- sweep ------------------------------------------------------------------------------------


def picks(*models: str) -> type:
    """A node class that has these models."""

    class Picks:
        INPUT_TYPES = classmethod(lambda cls: {"required": {"model": (list(models),)}})
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        def run(self, model: str) -> dict[str, Any]:
            return {"ui": {"text": [model]}}

    return Picks


def test_the_rows_of_a_sweep_are_shared(comfy_client, servers) -> None:
    """Each runs once, and its files are saved here."""
    options = ("--axis", "KSampler.seed=1..8", "--out", "o/{seed}{ext}", "-q", *hosts(*servers))
    rows = comfy_client.json("sweep", "w.json", *options)
    assert sorted(row["params"]["KSampler.seed"] for row in rows) == list(range(1, 9))
    assert {row["host"] for row in rows} == {server.url for server in servers}
    assert len(list((comfy_client.home / "o").iterdir())) == 8
    assert len(servers[0].ran) + len(servers[1].ran) == 8


def test_each_value_of_an_axis_goes_where_it_can_run(comfy_client, servers) -> None:
    """The choices are those of all servers."""
    for server, model in zip(servers, ("a.safetensors", "b.safetensors"), strict=True):
        server.add_node(picks("both.safetensors", model), "Picks")
    graph = {"1": {"class_type": "Picks", "inputs": {"model": "?"}}}
    (comfy_client.home / "picks.json").write_text(json.dumps(graph))
    axis = ("--axis", "Picks.model=a.safetensors,b.safetensors,both.safetensors")
    rows = comfy_client.json("sweep", "picks.json", *axis, "-q", *hosts(*servers))
    at = {row["params"]["Picks.model"]: row["host"] for row in rows}
    assert at["a.safetensors"] == servers[0].url
    assert at["b.safetensors"] == servers[1].url
    told = comfy_client("sweep", "picks.json", "--axis", "Picks.model=c", "-q", *hosts(*servers))
    assert told.status == 2
    assert "Picks.model: 'c' is not one of the choices" in told.err


def test_with_a_journal_no_row_runs_twice_whichever_server_had_it(comfy_client, servers) -> None:
    sweep = ("sweep", "w.json", "-q", "--journal", "rows.db", "--out", "o/{seed}{ext}", "--axis")
    assert comfy_client(*sweep, "KSampler.seed=1..4", *hosts(*servers)).status == 0
    ended = comfy_client(*sweep, "KSampler.seed=1..6", *hosts(*servers[::-1]))
    assert (ended.status, len(ended.lines)) == (0, 6), ended
    assert len(servers[0].ran) + len(servers[1].ran) == 6
    assert len(list((comfy_client.home / "o").iterdir())) == 6


def test_files_of_the_same_name_are_saved_once_each_by_their_servers(comfy_client, servers) -> None:
    """So that the next call finds those of each row."""
    sweep = ("sweep", "w.json", "-q", "--journal", "rows.db", "--axis", "KSampler.seed=1..4")
    ended = comfy_client(*sweep, *hosts(*servers))
    assert all(
        f": {servers[0].url}" in line or f": {servers[1].url}" in line for line in ended.lines
    )
    first = comfy_client(*sweep, "--out", "o/", *hosts(*servers))
    second = comfy_client(*sweep, "--out", "o/", *hosts(*servers))
    assert first.lines == second.lines
    names = {path.name for path in (comfy_client.home / "o").iterdir()}
    assert names == {line.rpartition("/")[2] for line in first.lines}
    assert len(names) == 4
    ports = [server.url.rpartition(":")[2] for server in servers]
    assert {name.split("_")[1] for name in names} == set(ports)


@pytest.mark.posix("signals between processes")
@pytest.mark.parametrize("journal", few([["--journal", "rows.db"], []], 1))
def test_ctrl_c_in_a_shared_sweep_leaves_only_what_a_journal_knows(
    comfy_client, servers, journal
) -> None:
    """What waits is taken out of all queues."""
    (comfy_client.home / "texts.json").write_text(json.dumps(shows(waits=True)))
    sweep = ("sweep", "texts.json", "--axis", "Gated.text=a,b,c,d,e,f,g", *journal)
    with ComfyApi(servers[0].url) as one, ComfyApi(servers[1].url) as two:
        with comfy_client.started(*sweep, *hosts(*servers)) as process:
            until(lambda: all(api.get_queue().running for api in (one, two)))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert "api." not in err
        for api in (one, two):
            until(lambda api=api: bool(api.get_queue().running) is bool(journal))
            assert not api.get_queue().pending
        GATES.set()
        until(lambda: not any(api.poll_status(LIMIT).queue_remaining for api in (one, two)))


@pytest.mark.long
@pytest.mark.posix("signals between processes")
def test_ctrl_c_in_a_shared_sweep_names_a_server_that_does_not_answer(
    comfy_client, servers
) -> None:
    """What runs on the others is cancelled."""
    sweep = ("sweep", "waits.json", "--axis", "Gated.text=a,b,c,d")
    with comfy_client.started(*sweep, *hosts(*servers)) as process:
        until(lambda: all(server.running for server in servers))
        with servers[0].faults.delay("POST", "/jobs/*/cancel", None):
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, err
    assert f"prompts may keep running on {servers[0].url}: " in err
    until(lambda: not servers[1].running)
    assert servers[0].running


def test_a_shared_sweep_goes_on_without_a_server_that_is_away(comfy_client, servers) -> None:
    """Rows that fail are status 5, as ever."""
    options = ("--axis", "KSampler.seed=1..3", "-q", *hosts(NOWHERE, servers[0]))
    ended = comfy_client("sweep", "w.json", *options)
    assert (ended.status, len(ended.lines)) == (0, 3), ended
    options = ("--axis", "Gated.waits=true", "--timeout", 0.5, "-q", *hosts(*servers))
    [row] = comfy_client.json("sweep", "waits.json", *options, status=5)
    assert row["error"]["code"] == "job_timeout"


def test_a_shared_sweep_waits_for_a_server_as_long_as_its_option_says(
    comfy_client, servers
) -> None:
    """What that one may have run is lost then, and the others go on."""

    def kill() -> None:
        until(lambda: servers[0].running)
        servers[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    options = ("--axis", "Gated.waits=true", "--patience", 0.3, "-q", *hosts(servers[0], NOWHERE))
    [row] = comfy_client.json("sweep", "waits.json", *options, status=5)
    thread.join(LIMIT)
    assert row["error"]["code"] == "job_lost"
    assert "for 0.3 s" in row["error"]["message"]

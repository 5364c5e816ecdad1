"""Lists with filters, lists of several servers, and several jobs in one command."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.cli.exits import Exit, worst
from comfy_client.cli.own_prompts import VARIABLE
from comfy_client.cli.printing import colored
from comfy_client.cli.watch_command import line_of
from comfy_client.testing import ComfyServer
from tests.helpers.clients import until
from tests.helpers.command_line import LIMIT, CommandLine, check
from tests.helpers.gates import GATES, gated, shows, until_it_runs

NOWHERE = "http://127.0.0.1:1"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
MINE = {"comfy_client_cli": "tests"}


class Fails:
    """A node that raises an error."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING", {})}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, text: str) -> dict[str, Any]:
        raise RuntimeError(f"no {text} today")


FAILS = {"1": {"class_type": "Fails", "inputs": {"text": "picture"}}}


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with gated(Fails) as server:
        yield server


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as api:
        yield api


@pytest.fixture
def comfy_client(server: ComfyServer, tmp_path: Path) -> CommandLine:
    """The command, for that server and an installation with an id."""
    return CommandLine(tmp_path, server.url, {VARIABLE: MINE["comfy_client_cli"]})


@pytest.fixture
def other() -> Iterator[ComfyServer]:
    """Another server, which has run one prompt."""
    with gated() as other, ComfyApi(other.url) as api:
        api.run(shows("b"))
        yield other


def ended(api: ComfyApi, graph: dict[str, Any], **options: Any) -> str:
    """Run a workflow to its end, well or not; return its id once it has a record."""
    job = api.submit(graph, **options)
    job.exception(timeout=60.0)
    until(lambda: api.get_history(job.prompt_id) is not None)
    return job.prompt_id


def ids(rows: list[Any]) -> list[str]:
    return [row["prompt_id"] for row in rows]


# -- filters ----------------------------------------------------------------------------


def test_the_history_lists_only_prompts_that_pass_the_filters(comfy_client, api):
    """The newest come first; the limit applies after the filters."""
    first, second = ended(api, shows("a")), ended(api, FAILS, extra_data=MINE)
    third, fourth = ended(api, FAILS), ended(api, shows("b"), extra_data=MINE)

    def found(*options: object) -> list[str]:
        return ids(comfy_client.json("history", *options))

    assert found() == [fourth, third, second, first]
    assert found("--status", "failed") == [third, second]
    assert found("--status", "failed", "--limit", 1) == [third]
    assert found("--status", "failed", "--status", "succeeded") == found()
    assert found("--status", "interrupted") == []
    assert found("--mine") == [fourth, second]
    assert found("--mine", "--status", "failed") == [second]
    assert found("--limit", 2) == [fourth, third]
    assert comfy_client("history", "--status", "interrupted").out == "No such prompts.\n"
    assert comfy_client("history", "--clear", "--yes", "--mine").status == 2
    assert found() == [fourth, third, second, first]


def test_since_is_an_age_or_a_time(comfy_client, api):
    """It is compared with the end of a prompt; times without a zone are local."""
    prompt_id = ended(api, shows("a"))
    at = api.get_history(prompt_id).ended
    before, after = (datetime.fromtimestamp(at + n, UTC) for n in (-1, 1))
    for since in (
        "1h",
        "90m",
        "3600",
        "2d",
        "1w",
        "5400.5s",
        "2001-01-01",
        "0001-01-01",
        f"{before}",
    ):
        assert ids(comfy_client.json("history", "--since", since)) == [prompt_id]
    for since in (f"{after}", "9999-01-01", "2099-01-01T00:00+00:00"):
        assert comfy_client.json("history", "--since", since) == []
    for since in ("", "yesterday", "1y", "-1h", "1h30", "٣h"):
        assert comfy_client("history", "--since", since).status == 2, since


def test_a_filter_reads_the_history_from_its_end_until_it_has_enough(comfy_client, server, api):
    """Each step reads five times as many entries."""
    first = ended(api, FAILS)
    entry = api.get_history(first).raw
    good = {**entry, "status": {"status_str": "success", "completed": True, "messages": []}}
    sizes = []

    def of_size(request: Any) -> Any:
        size = int(request.query["max_items"])
        sizes.append(size)
        names = [first, *(f"{n:036}" for n in range(1500))][-size:]
        records = {
            name: {**(entry if name == first else good), "prompt": [0, name, {}, {}, []]}
            for name in names
        }
        return 200, {}, records

    server.on("GET", "/history", of_size)
    assert ids(comfy_client.json("history", "--status", "failed")) == [first]
    assert sizes == [200, 1000, 5000]
    sizes.clear()
    assert len(comfy_client.json("history", "--status", "succeeded", "--limit", 3)) == 3
    assert sizes == [200]


def test_the_queue_can_be_limited_to_prompts_of_this_installation(comfy_client, server, api):
    """Positions are those in the whole queue."""
    api.submit(shows("a", waits=True))
    mine = api.submit(shows("b", waits=True), extra_data=MINE).prompt_id
    until_it_runs(server)
    assert [
        (row["prompt_id"], row["position"]) for row in comfy_client.json("queue", "--mine")
    ] == [(mine, 1)]
    api.clear_queue()
    assert comfy_client("queue", "--mine").out == "Nothing of yours is in the queue.\n"


# -- several servers --------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["queue"],
        ["history"],
        ["info"],
        ["models"],
        ["models", "checkpoints"],
        ["nodes", "--search", "sampler"],
        ["nodes", "KSampler"],
    ],
    ids=" ".join,
)
def test_a_list_of_several_servers_names_the_server_of_each_line(
    comfy_client, server, other, api, args
):
    """The servers keep their order; a list of one server does not name it."""
    api.submit(shows("a", waits=True), extra_data=MINE)
    ended_here = ["history"] if args == ["history"] else []
    until_it_runs(server)
    if ended_here:
        GATES.set()
        until(lambda: api.get_histories())
    hosts = ("--host", server.url, "--host", other.url)
    rows = comfy_client.json(*args, *hosts)
    servers = list(dict.fromkeys(row["server"] for row in rows))
    expected = [server.url] if args == ["queue"] else [server.url, other.url]
    assert servers == expected
    alone = comfy_client.json(*args)
    assert "server" not in alone[0]
    assert {**alone[0], "server": server.url}.keys() == rows[0].keys()
    text = comfy_client(*args, *hosts)
    assert text.status == 0, text
    assert server.url.removeprefix("http://") in text.out


@pytest.mark.parametrize("args", [["queue"], ["history"], ["info"], ["models"], ["nodes"]])
def test_a_dead_server_does_not_hide_the_others(comfy_client, other, args):
    """Its error comes after their lines, and the exit status is the worst one."""
    hosts = ("--host", NOWHERE, "--host", other.url)
    *rows, error = comfy_client.json(*args, *hosts, status=3)
    assert {row["server"] for row in rows} == (set() if args == ["queue"] else {other.url})
    assert (error["code"], error["server"]) == ("server_unreachable", NOWHERE)
    text = comfy_client(*args, *hosts)
    assert text.status == 3
    assert f"Error: {NOWHERE}" in text.err
    assert (text.out == "The queue is empty.\n") is (args == ["queue"])
    assert text.out


def test_several_servers_with_errors_end_with_the_worst_status(comfy_client, other):
    """Each error is reported."""
    with ComfyServer(credentials=("me", "pass")) as locked:
        hosts = ("--host", NOWHERE, "--host", other.url, "--host", locked.url)
        *rows, first, second = comfy_client.json("models", *hosts, status=8)
    assert rows
    assert [one["exit"] for one in (first, second)] == [3, 8]
    assert comfy_client("models", "nothing", *hosts[:4]).status == 3
    assert comfy_client("models", "nothing", *hosts[2:4]).status == 2


def test_profiles_name_several_servers_too(comfy_client, server, other):
    """Also as options before the command."""
    config = comfy_client.home / ".config/comfy-client/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[profiles.a]\nhost = "{server.url}"\n[profiles.b]\nhost = "{other.url}"')
    config.chmod(0o600)
    rows = comfy_client.json("history", "--profile", "a", "--profile", "b")
    assert {row["server"] for row in rows} == {other.url}
    ran = comfy_client("--profile", "a", "--profile", "b", "info")
    assert ran.out.count("ComfyUI ") == 2, ran
    assert (
        comfy_client("--profile", "a", "--profile", "b", "history", "--clear", "--yes").status == 2
    )


def test_the_worst_status_is_the_highest_except_that_of_an_interrupt():
    """An interrupted prompt counts less than any failure."""
    assert worst([]) is Exit.DONE
    assert worst([Exit.STOPPED, Exit.DONE]) is Exit.STOPPED
    assert worst([Exit.STOPPED, Exit.FAILED, Exit.ERROR]) is Exit.FAILED
    assert worst([Exit.UNAUTHORISED, Exit.UNREACHABLE]) is Exit.UNAUTHORISED


def test_an_empty_list_is_noted_on_stderr(comfy_client):
    """Scripts that read stdout get no lines."""
    empty = comfy_client("models", "loras")
    assert (empty.status, empty.out, empty.err) == (0, "", "The folder loras is empty.\n")
    none = comfy_client("logs", "-n", 0)
    assert (none.status, none.out, none.err) == (0, "", "No lines of the log.\n")
    nothing = comfy_client("nodes", "--search", "no such text")
    assert (nothing.status, nothing.out, nothing.err) == (0, "", "No such node classes.\n")
    for args in (["models", "loras"], ["logs", "-n", 0], ["nodes", "--search", "no such text"]):
        assert comfy_client.json(*args) == []


@pytest.mark.posix("signals between processes")
def test_watch_shows_what_happens_on_several_servers(comfy_client, server, other, api):
    """A dead server is reported, and does not hide the others."""
    hosts = ("--host", NOWHERE, "--host", server.url, "--host", other.url)
    with (
        comfy_client.started("watch", "--json", *hosts) as process,
        ComfyApi(other.url) as second,
    ):
        assert process.stdout is not None
        connected = set()
        while connected != {server.url, other.url}:
            line = json.loads(process.stdout.readline())
            if line["name"] == "connected":
                connected.add(line["server"])
        wanted = {server.url: ended(api, shows("c")), other.url: ended(second, shows("d"))}
        told = {}
        while told != wanted:
            line = json.loads(process.stdout.readline())
            check("watch", line)
            if line["name"] == "queue" and line["status"] == "succeeded":
                told[line["server"]] = line["prompt_id"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["code"] == "stopped"
    assert f"{NOWHERE}/" in err.splitlines()[0]
    assert f"Watching the queues of {NOWHERE}, {server.url}, {other.url}; Ctrl-C stops." in err


def test_watch_needs_a_server_that_answers_and_only_one_for_an_id(comfy_client):
    """Otherwise, the status is that of the first server's error, or of wrong usage."""
    hosts = ("--host", NOWHERE, "--host", "http://127.0.0.1:2")
    assert comfy_client("watch", *hosts).status == 3
    assert comfy_client("watch", UNKNOWN, *hosts).status == 2
    change = {"name": "queue", "prompt_id": "1f", "status": "gone", "server": "http://gpu-1:8188"}
    assert line_of(change).startswith("gpu-1:8188 ")
    assert line_of({"name": "connected", "server": "http://a:1"}).endswith("connected   ")


# -- jobs -------------------------------------------------------------------------------


def test_several_jobs_are_shown_in_the_order_of_their_ids(comfy_client, api):
    """An unknown job has an error in its place, and the others follow."""
    good, bad = ended(api, shows("a")), ended(api, FAILS)
    one, error, two = comfy_client.json("job", good, UNKNOWN, bad[:13], status=6)
    assert (one["prompt_id"], one["status"]) == (good, "succeeded")
    assert (error["code"], error["prompt_id"]) == ("job_not_found", UNKNOWN)
    assert (two["prompt_id"], two["status"]) == (bad, "failed")
    text = comfy_client("job", good, bad)
    assert text.status == 0
    assert text.lines[0].startswith(f"{good} succeeded")
    assert f"{bad} failed" in text.out


def test_waiting_for_several_jobs_ends_with_the_worst_status(comfy_client, server, api):
    """The command waits for all jobs, whichever of them fail."""
    bad, good = ended(api, FAILS), ended(api, shows("a"))
    stopped = api.submit(shows("b", waits=True))
    until_it_runs(server)
    stopped.cancel()
    stopped.exception(timeout=60.0)
    error, result, interrupted = comfy_client.json(
        "job", bad, good, stopped.prompt_id, "--wait", status=5
    )
    assert (error["code"], error["exit"]) == ("job_failed", 5)
    assert result["texts"] == ["a"]
    assert interrupted["exit"] == 130
    assert comfy_client("job", good, stopped.prompt_id, "--wait").status == 130
    text = comfy_client("job", bad, good, "--wait")
    assert text.out == "a\n"
    assert text.err.index(f"prompt {bad}:") < text.err.index("Error: ")
    assert text.err.index("Error: ") < text.err.index(f"prompt {good}:")


def test_the_timeout_is_for_all_jobs_together(comfy_client, server, api):
    """Jobs that have ended are shown all the same."""
    slow = [api.submit(shows(f"{n}", waits=True)).prompt_id for n in range(2)]
    until_it_runs(server)
    lines = comfy_client.json("job", *slow, "--wait", "--timeout", 0.5, status=7)
    assert [one["code"] for one in lines] == ["job_timeout"] * 2
    assert ids(lines) == slow


@pytest.mark.parametrize("wait", [[], ["--wait"]])
def test_the_traceback_of_a_failed_prompt_is_shown(comfy_client, api, wait):
    """The server's traceback, on stdout; prompts that did not fail have none."""
    bad, good = ended(api, FAILS), ended(api, shows("a"))
    assert f"job {bad} --traceback" in comfy_client("job", bad, "--wait").err
    assert "no picture today" in comfy_client("history").out
    shown = comfy_client("job", bad, "--traceback", *wait)
    assert shown.status == (5 if wait else 0)
    assert "raise RuntimeError" in shown.out
    assert "raise RuntimeError" not in comfy_client("job", bad, *wait).out
    assert comfy_client("job", good, "--traceback", *wait).lines[-1] == "a"
    [line] = comfy_client.json("job", bad, "--traceback", *wait, status=shown.status)
    assert "no picture today" in str(line)


@pytest.mark.posix("terminals as files")
def test_a_terminal_shows_the_whole_ids_of_prompts_that_may_be_old(comfy_client, api):
    """Those of a long history and behind a filter: abbreviations are looked up among the latest."""
    prompt_id = ended(api, shows("a"))
    assert prompt_id[:8] in (short := comfy_client.on_terminal("history", "--limit", 200).out)
    assert prompt_id not in short
    for options in (["--limit", 201], ["--since", "1h"]):
        assert prompt_id in comfy_client.on_terminal("history", *options).out


# -- colors -----------------------------------------------------------------------------

GREEN, RED, YELLOW, CYAN = (f"\x1b[{code}m" for code in (32, 31, 33, 36))


@pytest.mark.posix("terminals as files")
def test_statuses_have_colors_on_a_terminal_only(comfy_client, server, api):
    """Green, red, yellow, and cyan for running; none with NO_COLOR or on a dumb terminal."""
    good, bad = ended(api, shows("a")), ended(api, FAILS)
    stopped = api.submit(shows("b", waits=True))
    until_it_runs(server)
    queue = comfy_client.on_terminal("queue")
    assert f"{CYAN}running\x1b[0m" in queue.out
    stopped.cancel()
    stopped.exception(timeout=60.0)
    until(lambda: len(api.get_histories()) == 3)
    shown = comfy_client.on_terminal("history")
    for color, status in ((GREEN, "succeeded"), (RED, "failed"), (YELLOW, "interrupted")):
        assert f"{color}{status}" in shown.out
    assert "\x1b" not in comfy_client.installed("history").out
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        told = comfy_client.on_terminal("history", **variables).out
        assert "succeeded" in told
        assert "\x1b" not in told
    job = comfy_client.on_terminal("job", good, bad)
    assert f"{good} {GREEN}succeeded\x1b[0m" in job.out
    assert f"{bad} {RED}failed\x1b[0m" in job.out
    waited = comfy_client.on_terminal("job", bad, "--wait")
    assert f"{RED}Error:\x1b[0m" in waited.out
    assert "\x1b" not in comfy_client.on_terminal("history", "--json").out


@pytest.mark.posix("terminals as files")
def test_results_errors_and_changes_in_watch_have_colors(comfy_client):
    """On a terminal, like the statuses in lists."""
    (comfy_client.home / "good.json").write_text(json.dumps(shows("a")))
    (comfy_client.home / "bad.json").write_text(json.dumps(FAILS))
    good = comfy_client.on_terminal("run", "good.json")
    assert f"{GREEN}Result\x1b[0m" in good.out
    bad = comfy_client.on_terminal("run", "bad.json")
    assert (bad.status, f"{RED}Error:\x1b[0m" in bad.out) == (5, True)
    line = line_of({"name": "queue", "prompt_id": "1f", "status": "failed", "error": None})
    assert colored(line, "failed") == line.replace("failed", f"{RED}failed\x1b[0m", 1)
    assert colored("gone", "pending") == "gone"


@pytest.mark.posix("terminals as files")
def test_control_characters_from_a_server_set_no_colors(comfy_client, server):
    """They are replaced by spaces before a status is colored."""
    record = ["0", "1\x1b[31mf", {}, {}, []]
    server.on("GET", "/queue", (200, {}, {"queue_running": [record], "queue_pending": []}))
    assert "1 [31mf" in comfy_client.on_terminal("queue").out

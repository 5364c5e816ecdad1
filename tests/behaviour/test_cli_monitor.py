"""``comfy-client watch --monitor``: how busy servers are, beside what happens in their queues."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_client.testing import ComfyServer
from tests.helpers.command_line import LIMIT, CommandLine, check

USAGE = "monitor     CPU 12 %, memory 4.0 of 16.0 GiB, disk 512.0 of 1024.0 GiB"


@pytest.fixture
def machine() -> Iterator[ComfyServer]:
    with ComfyServer(packs=["crystools"], speed=20) as running:
        yield running


@pytest.fixture
def comfy_client(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.mark.posix("signals between processes")
def test_watch_prints_the_figures_of_a_machine(
    comfy_client: CommandLine, machine: ComfyServer
) -> None:
    with comfy_client.started("watch", "--monitor", "--host", machine.url) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "monitor" in line)
        assert line[9:].rstrip() == USAGE
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)
    assert process.returncode == 130


@pytest.mark.posix("signals between processes")
def test_watch_prints_the_figures_of_each_of_several_machines_as_json(
    comfy_client: CommandLine, machine: ComfyServer
) -> None:
    with ComfyServer(packs=["crystools"], speed=20) as other:
        hosts = ("--host", machine.url, "--host", other.url)
        with comfy_client.started("watch", "--monitor", "--json", *hosts) as process:
            assert process.stdout is not None
            told = set()
            while told != {machine.url, other.url}:
                line = json.loads(process.stdout.readline())
                check("watch", line)
                if line["name"] == "monitor":
                    assert (line["cpu_utilization"], line["disk_total"]) == (12.5, 2**40)
                    told.add(line["server"])


@pytest.mark.posix("signals between processes")
def test_watch_without_monitor_prints_no_figures(
    comfy_client: CommandLine, machine: ComfyServer
) -> None:
    """A line a second would hide the prompts."""
    with comfy_client.started("watch", "--json", "--host", machine.url) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["name"] == "connected"
        machine.push({"type": "crystools.monitor", "data": {"cpu_utilization": 99}})
        machine.push({"type": "marker", "data": None})
        assert json.loads(process.stdout.readline())["name"] == "marker"


@pytest.mark.parametrize("several", [False, True])
def test_watch_says_how_to_get_crystools_where_no_server_has_it(
    comfy_client: CommandLine, several: bool
) -> None:
    with ComfyServer() as without, ComfyServer() as other:
        hosts = ["--host", without.url, *(["--host", other.url] if several else [])]
        [error] = comfy_client.json("watch", "--monitor", *hosts, status=1)
    assert error["code"] == "not_supported"
    assert f"{without.url} lacks the node pack Crystools: install" in error["message"]


@pytest.mark.posix("signals between processes")
def test_a_server_without_crystools_is_named_and_hides_no_other(
    comfy_client: CommandLine, machine: ComfyServer
) -> None:
    with ComfyServer() as without:
        hosts = ("--host", without.url, "--host", machine.url)
        with comfy_client.started("watch", "--monitor", *hosts) as process:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "monitor" in line)
            assert machine.url.removeprefix("http://") in line
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert f"{without.url} lacks the node pack Crystools: install" in err
    assert "its figures are not shown" in err


def test_watch_takes_an_id_or_monitor(comfy_client: CommandLine, machine: ComfyServer) -> None:
    ran = comfy_client("watch", "some-id", "--monitor", "--host", machine.url)
    assert ran.status == 2
    assert "--monitor shows what happens to a whole server" in ran.err

"""The Dockerfile of the embedded server, as far as it can be followed without Docker.

Its variables, entry point and health check run here, with free ports in place of its own.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import requests

from comfy_client.cli.main import main
from tests.helpers.clients import until
from tests.helpers.command_line import COMMAND, LIMIT

TEXT = files("comfy_client.testing").joinpath("Dockerfile").read_text("utf-8")
#: The instructions of Docker that it may use.
KNOWN = {
    *("ARG", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "USER"),
    "WORKDIR",
}


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its arguments, on one line, without comments."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (name, rest)
        for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def last(name: str) -> str:
    """The arguments of the last instruction with a name: that of the image."""
    return [rest for given, rest in instructions() if given == name][-1]


def variables() -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", last("ENV")))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_the_image_is_small_and_its_user_is_not_root() -> None:
    """What built it stays behind."""
    names = [name for name, _ in instructions()]
    assert {*names} <= KNOWN
    assert [rest for name, rest in instructions() if name == "FROM"] == [
        "python:3-slim AS build",
        "python:3-slim",
    ]
    final = names[len(names) - names[::-1].index("FROM") :]
    assert final.index("USER") < final.index("ENTRYPOINT")
    assert int(last("USER")) > 0
    assert f"--uid {last('USER')} " in last("RUN")
    assert last("EXPOSE") == variables()["COMFY_SERVE_PORT"] == "8188"


def test_variables_of_the_image_are_those_of_options() -> None:
    options = {f"COMFY_SERVE_{(one.name or '').upper()}" for one in main.commands["serve"].params}
    ours = {name for name in variables() if name.startswith("COMFY")}
    assert ours
    assert ours <= options


@pytest.mark.posix("signals between processes")
def test_the_health_check_says_whether_the_server_is_up(tmp_path: Path) -> None:
    """Also while a fault breaks all of its answers; SIGTERM, as of ``docker stop``, ends it."""
    shell, *command = json.loads(last("ENTRYPOINT"))
    assert shell == COMMAND.name
    check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert check[0] == "python"
    port, control = free_port(), free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("COMFY")}
    env |= {name: value for name, value in variables().items() if name != "PATH"}
    env |= {"HOME": str(tmp_path), "COMFY_SERVE_FAULT": "bad_gateway"}
    env |= {"COMFY_SERVE_PORT": str(port), "COMFY_SERVE_CONTROL_PORT": str(control)}

    def health() -> int:
        ran = subprocess.run(
            [sys.executable, *check[1:]], env=env, capture_output=True, check=False
        )
        return ran.returncode

    assert health() == 1
    url = f"http://127.0.0.1:{control}/embedded/v1"
    with subprocess.Popen([str(COMMAND), *command], env=env, stdout=subprocess.PIPE) as process:
        until(lambda: health() == 0)
        address = f"http://127.0.0.1:{port}/system_stats"
        assert requests.get(address, timeout=LIMIT).status_code == 502
        assert requests.delete(f"{url}/faults", timeout=LIMIT).status_code == 200
        assert requests.get(address, timeout=LIMIT).status_code == 200
        assert requests.post(f"{url}/kill", timeout=LIMIT).status_code == 200
        assert health() == 1
        process.terminate()
        assert process.wait(LIMIT) == 0

"""``comfy-client doctor --report``: the file for a bug report."""

from __future__ import annotations

import os
import re
from configparser import ConfigParser
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from comfy_client import HostedApi
from comfy_client.cli.bug_report import report_of
from comfy_client.cli.server_options import ServerOptions
from comfy_client.doctor.report import DoctorReport
from comfy_client.testing import ComfyServer
from tests.guide import README
from tests.helpers.command_line import CommandLine

FORM = Path(__file__).parents[2] / ".github" / "ISSUE_TEMPLATE" / "bug.yml"
NAME = "comfy-client-report.txt"
NOWHERE = "http://127.0.0.1:1"
PARTS = [
    "Doctor",
    "Extras",
    "Settings",
    "Log of this command",
    "Log of the server, its last 10 minutes",
]


def parts_of(path: Path) -> dict[str, str]:
    """The text of each part of a report, by its title."""
    _, *parts = path.read_text(encoding="utf-8").split("\n== ")
    titled = (part.partition(" ==\n\n") for part in parts)
    return {title: text.strip() for title, _, text in titled}


def extras() -> set[str]:
    """What the extra ``[all]`` installs."""
    settings = ConfigParser()
    settings.read(README.with_name("setup.cfg"), encoding="utf-8")
    text = settings["options.extras_require"]["all"]
    return set(re.findall(r"^[\w.-]+", text, re.MULTILINE))


def logged(*lines: tuple[Any, str]) -> tuple[int, dict[str, str], Any]:
    """The answer of a server that has logged these lines."""
    entries = [{"t": time, "m": f"{text}\n"} for time, text in lines]
    return 200, {}, {"entries": entries, "size": {"cols": 80, "rows": 24}}


def test_a_report_holds_what_a_bug_report_needs(tmp_path: Path) -> None:
    with ComfyServer() as server:
        command = CommandLine(tmp_path, server.url)
        ended = command("doctor", "--run", "--report")
        assert ended.status == 0
        assert ended.out.startswith("comfy_client doctor: 0 failed")
        assert ended.err.splitlines()[-1] == f"Wrote {NAME}.  Read it before you send it."
        parts = parts_of(tmp_path / NAME)
        assert list(parts) == PARTS
        assert parts["Doctor"] == ended.out.strip()
        assert "\nPillow 1" in parts["Extras"]
        assert {line.split()[0] for line in parts["Extras"].splitlines()} == extras()
        assert parts["Settings"].startswith("options: none\nenvironment: ")
        assert "COMFYUI_HOST" in parts["Settings"]
        assert "DEBUG POST /api/prompt: 200" in parts["Log of this command"]
        assert "got prompt" in parts[PARTS[-1]]
        if os.name == "posix":
            assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_a_report_holds_the_recording_if_there_is_one(tmp_path: Path) -> None:
    """An older report is replaced; the recording stays as a file, too."""
    (tmp_path / "mine.txt").write_text("old")
    with ComfyServer() as server:
        command = CommandLine(tmp_path, server.url)
        [report] = command.json("doctor", "--report", "mine.txt", "--record", "doctor.jsonl")
    assert report["ok"]
    parts = parts_of(tmp_path / "mine.txt")
    assert list(parts) == [*PARTS, "Recording"]
    assert parts["Settings"].startswith("options: --record --json\n")
    assert parts["Recording"] == (tmp_path / "doctor.jsonl").read_text("utf-8").strip()
    assert '"path": "/api/system_stats"' in parts["Recording"]


def test_a_report_holds_no_credentials(tmp_path: Path) -> None:
    """Neither those of the command, nor such as a server has logged."""
    with ComfyServer(credentials=("me", "sesame-47"), prefix="/hidden/way") as server:
        server.on(
            "GET",
            "/internal/logs/raw",
            logged(
                ("2026-01-01T10:00:00", "Authorization: Basic bWU6c2VzYW1lLTQ3"),
                ("2026-01-01T10:00:01", "login with sesame-47 from /home/alice/x"),
                ("2026-01-01T10:00:02", "api_key=sk-12345678 \x1b[31mred"),
            ),
        )
        host = server.url.replace("http://", "http://me:sesame-47@")
        command = CommandLine(tmp_path, host, {"HTTPS_PROXY": "http://u:proxy-pass@p:1"})
        assert command("doctor", "--report", "--record", "r.jsonl", "--run").status == 0
    text = (tmp_path / NAME).read_text(encoding="utf-8")
    parts = parts_of(tmp_path / NAME)
    assert "from /home/USER/x" in parts[PARTS[-1]]
    assert "HTTPS_PROXY" in parts["Settings"]
    for word in ("sesame", "bWU6c2VzYW1lLTQ3", "hidden", "alice", "12345678", "proxy-pass", "\x1b"):
        assert word not in text, word


@pytest.mark.parametrize(
    ("times", "kept"),
    [
        (("2026-01-01T09:49:59", "2026-01-01T09:50:00", "2026-01-01T10:00:00"), "bc"),
        ((None, "2026-01-01T10:00:00", "2026-01-01T10:00:00"), "abc"),
        (("x", "2026-01-01T10:00:00+00:00", "2026-01-01T10:00:00"), "abc"),
        (("0001-01-01T00:00:00", "0001-01-01T00:00:00", "0001-01-01T00:00:00"), "abc"),
    ],
)
def test_a_report_holds_the_last_ten_minutes_of_the_servers_log(
    tmp_path: Path, times: tuple[Any, ...], kept: str
) -> None:
    """They end with the newest line, whatever the server's clock says; without times, all."""
    with ComfyServer() as server:
        lines = zip(times, "abc", strict=True)
        server.on("GET", "/internal/logs/raw", logged(*lines))
        assert CommandLine(tmp_path, server.url)("doctor", "--report").status == 0
    assert parts_of(tmp_path / NAME)[PARTS[-1]].split() == list(kept)


def test_a_log_is_cut_to_its_last_lines(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1)
    with ComfyServer() as server:
        lines = [((now + timedelta(seconds=n / 100)).isoformat(), f"line {n}") for n in range(2500)]
        server.on("GET", "/internal/logs/raw", logged(*lines))
        assert CommandLine(tmp_path, server.url)("doctor", "--report").status == 0
    found = parts_of(tmp_path / NAME)[PARTS[-1]].splitlines()
    assert found == [f"line {n}" for n in range(500, 2500)]


def test_without_a_server_or_its_log_it_says_so(tmp_path: Path) -> None:
    """The exit status is that of the doctor."""
    command = CommandLine(tmp_path)
    assert command("doctor", "--report", "--host", NOWHERE).status == 1
    parts = parts_of(tmp_path / NAME)
    assert list(parts) == PARTS
    assert parts["Settings"].startswith("options: --host\n")
    assert "FAILED   port" in parts["Doctor"]
    assert parts[PARTS[-1]] == "not asked for, as the server does not answer"
    with ComfyServer() as server:
        server.faults.missing("GET", "/internal/logs/raw")
        assert command("doctor", "--report", "--host", server.url).status == 0
    assert "this server has no such route (404)" in parts_of(tmp_path / NAME)[PARTS[-1]]


def test_a_hosted_server_has_no_log() -> None:
    """Nor a client id to hide."""
    report = DoctorReport((), "http://127.0.0.1", datetime(2026, 1, 1), 0.0, {})
    with ComfyServer(hosted="proxy") as server, HostedApi(server.url) as api:
        text = report_of(api, report, ServerOptions(), ["a line"])
    assert "== Log of this command ==\n\na line\n" in text
    assert "minutes ==\n\nComfy API v2 " in text


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with ComfyServer() as server:
        ended = CommandLine(tmp_path, server.url)("doctor", "--report", "no/such/folder.txt")
    assert ended.status == 1
    assert repr(str(Path("no/such/folder.txt"))) in ended.err


def test_the_issue_form_asks_for_it() -> None:
    text = FORM.read_text(encoding="utf-8")
    assert "comfy-client doctor --report" in text
    assert NAME in text

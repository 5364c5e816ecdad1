"""Commands in hints and messages: whoever pastes one runs that command, whatever a server says."""

from __future__ import annotations

import ast
import contextlib
import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import comfy_client.cli
from comfy_client import errors
from comfy_client.cli.exits import (
    KnownServer,
    StillRunning,
    error_object,
    hint_of,
    known_server,
    line,
    message_of,
)
from comfy_client.cli.printing import report
from comfy_client.cli.results import download_again
from comfy_client.jobs.outcomes import keeps_running
from tests.conftest import examples

BASH = shutil.which("bash") or "/bin/bash"
#: Says which command it is, and each word, for `comfy-client` and all that is no command.
SETUP = r"""
PATH=/nonexistent
say() { printf '%s\0' "$@"; printf '\1'; }
comfy-client() { say comfy-client "$@"; }
chmod() { say chmod "$@"; }
or() { "$@"; }
command_not_found_handle() { say unknown "$@"; }
"""
#: What a shell obeys, in one place or another, and what it does not.
SIGNS = [*" '\"\\$`;|&()<>*?[]{}!#~=-%^@:+,./_", "touch", "x", "é", "$(x)", "--host", "\\'"]
hostile = st.lists(st.sampled_from(SIGNS), min_size=1, max_size=12).map("".join)
ids = st.one_of(hostile, st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1))


def pasted(lines: list[str]) -> list[list[list[str]]]:
    """Paste each line into one shell; return the words of the commands that each has run."""
    script = SETUP + "".join(f"\n{text}\nprintf '\\2'\n" for text in lines)
    with tempfile.TemporaryDirectory() as folder:  # for what a line that is wrong would make
        ran = subprocess.run(
            [BASH, "--norc", "--noprofile", "-s"],
            input=script.encode(),
            capture_output=True,
            cwd=folder,
            timeout=60,
            check=False,
        )
    said = ran.stdout.decode().split("\2")
    assert len(said) == len(lines) + 1, ran.stderr
    return [
        [words.split("\0")[:-1] for words in each.split("\1") if words]
        for each in said[: len(lines)]
    ]


def advice(prompt_id: str, host: str) -> Iterator[str]:
    """Yield all that the commands print for an id and a server, from the first command on."""
    about = {"prompt_id": prompt_id}
    lost = errors.JobLost("m", **about)
    lost.retryable = False
    found: list[errors.ComfyError] = [
        errors.JobTimeout("m", **about),
        StillRunning(errors.JobTimeout("m", **about), host),
        lost,
        errors.JobFailed("m", **about),
        errors.JobFailed("m", **about, exception_type="OOMError"),
        errors.SubmitUncertain("m", **about),
        errors.JobNotFound("m", **about),
        errors.PromptRejected("m"),
        errors.VramTimeout("m", wanted=1, free=0),
        errors.ServerUnreachable("m"),
        errors.UnexpectedResponse("m"),
    ]
    for error in found:
        hint = hint_of(error, host) or ""
        assert error_object(error, host)["hint"] == hint
        with contextlib.redirect_stderr(io.StringIO()) as shown:
            report(error, False, host)
        assert f"Try: {hint}\n" in shown.getvalue()
        yield hint
    yield download_again(prompt_id, host)
    message = (
        f"prompt {keeps_running('it', 0.0)}; on {host}: attach to it by api.job({prompt_id!r})"
    )
    yield message_of(errors.ComfyError(message))
    for of_hosted in (True, False):
        server = KnownServer(f" {line('--host', host)}", of_hosted)
        yield server.command("job", "--wait", id=prompt_id)


def commands(prompt_id: str, host: str) -> list[str]:
    return [text[text.index("comfy-client ") :] for text in advice(prompt_id, host)]


def plain(words: list[str]) -> list[str]:
    """Put an id that stands behind ``--`` where the others stand."""
    if "--" not in words[:-1]:
        return words
    at = words.index("--")
    return [*words[:2], words[at + 1], *words[2:at], *words[at + 2 :]]


@settings(max_examples=examples(25), phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.lists(st.tuples(ids, hostile.filter(lambda text: " " not in text)), min_size=1))
def test_a_pasted_hint_runs_the_command_that_it_shows(pairs: list[tuple[str, str]]) -> None:
    """With the id and the host as they are, and nothing else; in JSON, too."""
    expected = pasted(commands("ID", "HOST"))
    lines = [text for pair in pairs for text in commands(*pair)]
    ran = pasted(lines)
    size = len(expected)
    for at, (prompt_id, host) in enumerate(pairs):
        swapped = {"ID": prompt_id, "HOST": host}
        for wanted, text, found in zip(
            expected, lines[at * size :], ran[at * size : (at + 1) * size], strict=False
        ):
            as_said = [[swapped.get(word, word) for word in words] for words in wanted]
            assert [plain(words) for words in found] == as_said, text


def test_an_id_is_no_option() -> None:
    """A server could name one that leads to another host."""
    found = KnownServer(" --host gpu").command("cancel", "--wait", id="--host=http://x")
    assert found == "comfy-client cancel --wait --host gpu -- '--host=http://x'"
    assert known_server("a b").command("queue") == "comfy-client queue --host 'a b'"
    assert line("", "it's", "a\\b") == """'' 'it'"'"'s' 'a'"\\\\"'b'"""


def test_no_command_is_put_together_elsewhere() -> None:
    """By an f-string, for example: `known_servers` quotes what goes into one."""
    folder = Path(comfy_client.cli.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                said = "".join(
                    part.value if isinstance(part, ast.Constant) else "\0" for part in node.values
                )
                for name in ("comfy-client ", "chmod "):
                    assert "\0" not in said.partition(name)[2], f"{path.name}:{node.lineno}"

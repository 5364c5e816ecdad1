"""The examples of *A fake ComfyUI for your tests* that are not in Python."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.guide import section_of
from tests.helpers.command_line import CommandLine

PAGE = "fake-server"
#: What Jest gives to a test, as far as the example uses it.
JEST = """
const assert = require("node:assert");
const tests = [];
globalThis.test = (name, run) => tests.push([name, run]);
globalThis.expect = (value) => ({ toBe: (wanted) => assert.strictEqual(value, wanted) });
process.nextTick(async () => {
  for (const [name, run] of tests) {
    await run();
    console.log(`passed: ${name}`);
  }
});
"""
#: The programs of other languages that this machine has.  Go compiles its library first.
LANGUAGES = [
    pytest.param(name, marks=[pytest.mark.long] if name == "go" else [])
    for name in ("node", "go")
    if shutil.which(name)
]


def code_of(section: str, language: str) -> str:
    """The only block of a language in a section."""
    begins = rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)"
    [code] = re.findall(begins, section_of(PAGE, section) + "\n", re.MULTILINE)
    return textwrap.dedent(code)


def words_of_program(language: str, folder: Path) -> list[str]:
    """The program that runs the example of a language in a folder."""
    if language == "node":
        (folder / "fake.test.js").write_text(JEST + code_of("Jest", "javascript"), "utf-8")
        return ["node", "fake.test.js"]
    (folder / "go.mod").write_text("module fake\n\ngo 1.19\n", "utf-8")
    (folder / "fake_test.go").write_text(code_of("Go", "go"), "utf-8")
    return ["go", "test", "-v", "./..."]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_example_of_a_language_passes_below_serve(language: str, tmp_path: Path) -> None:
    words = words_of_program(language, tmp_path)
    ended = CommandLine(tmp_path).installed("serve", "--port", 0, "--control", "--", *words)
    assert ended.status == 0, ended
    assert len(re.findall(r"passed: |--- PASS", ended.out)) == {"node": 2, "go": 1}[language]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_calls_of_the_control_are_answered(tmp_path: Path) -> None:
    section = section_of(PAGE, "Faults, and what was asked")
    calls = re.findall(r"^    (curl .+)$", section, re.MULTILINE)
    assert len(calls) > 4
    script = "curl -s -o prompt -d '{}' $COMFYUI_HOST/prompt\n" + "\n".join(
        call.replace("curl", "curl -sS -o answer -w '%{http_code}\\n'", 1) for call in calls
    )
    command_line = CommandLine(tmp_path)
    ended = command_line.installed("serve", "--port", 0, "--control", "--", "sh", "-c", script)
    assert len(ended.lines) == len(calls), ended
    assert {*ended.lines} == {"200", "201"}, ended


def test_the_server_of_the_pytest_example_is_of_the_session(tmp_path: Path) -> None:
    """Its test passes for a program that sends a prompt."""
    code = code_of("pytest", "python")
    program = """
        import os
        from comfy_client import ComfyApi, Workflow
        with ComfyApi(os.environ["COMFYUI_HOST"]) as api:
            api.run(Workflow.example())
    """
    (tmp_path / "my_program.py").write_text(textwrap.dedent(program), "utf-8")
    (tmp_path / "test_it.py").write_text(code, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr

"""How long ``comfy-client check`` takes for many files, and how much memory.

python -m tests.bench.check [--rst FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.helpers.conformance import definitions, pairs

VERSION: Final = "0.28.1"
#: Runs the command, and then writes its processor time, and the most memory that it had, in kB.
PROGRAM: Final = """
import time
from comfy_client.__main__ import main
try:
    main()
finally:
    status = open("/proc/self/status").read()
    memory = status.partition("VmHWM:")[2].split()[0]
    open("used", "w").write(f"{time.process_time()} {memory}")
"""
HEAD: Final = ("Files", "Processor time", "Memory", "Exit status")
MB: Final = 1_000_000
HUGE: Final = 200 * MB


class Ran(NamedTuple):
    """What a check of some files took: seconds of processor time, and bytes."""

    what: str
    seconds: float
    memory: int
    status: int
    said: str  #: The last line.

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        memory = f"{self.memory / MB:.0f} MB"
        return self.what, f"{self.seconds:.1f} s", memory, str(self.status)


def workflows() -> Iterator[dict[str, Any]]:
    """Files of the frontend, each followed by the same in API format, as different as they get."""
    for _, ui, api in pairs(VERSION):
        yield from (ui, api)


def prepare(folder: Path, count: int) -> None:
    """Write definitions and workflows, as people save them."""
    folder.joinpath("object_info.json").write_text(json.dumps(definitions(VERSION)))
    folder.joinpath("workflows").mkdir()
    for at, one in enumerate(itertools.islice(workflows(), count)):
        folder.joinpath("workflows", f"{at:03}.json").write_text(json.dumps(one, indent=2))


def spoil(folder: Path, size: int = HUGE) -> None:
    """Add a broken file, a huge one, and two that are no workflows."""
    folder.joinpath("workflows", "broken.json").write_text('{"3": {"class_type": "KSampler",')
    with folder.joinpath("workflows", "huge.json").open("wb") as file:
        file.write(b'{"3": {"class_type": "Note", "inputs": {"text": "')
        for _ in range(size // MB):
            file.write(b"x" * MB)
        file.write(b'"}}}')
    folder.joinpath("workflows", "package.json").write_text('{"name": "a", "version": "1.0.0"}')
    folder.joinpath("workflows", "list.json").write_text("[1, 2, 3]")


def run(what: str, folder: Path, *names: str) -> Ran:
    """Check some files in a process of its own."""
    words = (*names, "--definitions", "object_info.json")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, "check", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    seconds, memory = folder.joinpath("used").read_text().split()
    return Ran(
        what, float(seconds), 1024 * int(memory), ran.returncode, ran.stdout.splitlines()[-1]
    )


def measure(folder: Path, count: int, size: int = HUGE) -> list[Ran]:
    """Each row of the table."""
    prepare(folder, count)
    rows = [run("1", folder, "workflows/000.json"), run(str(count), folder, "workflows")]
    spoil(folder, size)
    what = f"the same, one that is broken, one of {size // MB} MB, two that are no workflows"
    return [*rows, run(what, folder, "workflows")]


def as_rst(rows: Sequence[Sequence[str]]) -> str:
    """The table of the guide."""
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (HEAD, *rows)
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule, ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.check", description=__doc__)
    parser.add_argument("--rst", type=Path, metavar="FILE", help="also write the table to a file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), 500)
    table = as_rst([row.cells for row in rows])
    note = (
        f"Node definitions of ComfyUI {VERSION} ({len(definitions(VERSION))} classes) from a file; "
        f"Python {platform.python_version()}."
    )
    print(note, table, *(row.said for row in rows), sep="\n")
    if args.rst:
        args.rst.write_text(f"{note}\n\n{table}", encoding="utf-8")


if __name__ == "__main__":
    main()

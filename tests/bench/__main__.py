"""Prints a table.

python -m tests.bench [URL] [--quick] [--rivals] [--rst FILE]      how fast it is
python -m tests.bench [URL] [--quick] --against CHECKOUT           than another version of it
python -m tests.bench faults [CLIENT ...] [--rst FILE]             what happens in faults
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from comfy_client import ComfyApi
from tests.comfyui import ComfyUI

from . import faults
from .measure import Row, show
from .rivals import rivals
from .rows import ROWS, Bench
from .servers import running, stub

PAIRS, QUICK_PAIRS = 300, 30
NAMES = [row.__name__ for row in ROWS]
HERE = Path(__file__).resolve().parents[2]


def main() -> None:
    if sys.argv[1:2] == ["faults"]:
        faults.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="How fast comfy_client is beside a bare client, on an idle ComfyUI. "
        "Leaves small pictures in its output folder.",
    )
    parser.add_argument("url", nargs="?", help="of a running server; without it one is started")
    parser.add_argument("--quick", action="store_true", help="a tenth of the measurements")
    parser.add_argument("--rivals", action="store_true", help="install and run other clients too")
    parser.add_argument("--rst", type=Path, metavar="FILE", help="also write the table to a file")
    parser.add_argument(
        "--row", action="append", metavar="NAME", help="only this row, or these", choices=NAMES
    )
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="row by row beside the package there"
    )
    args = parser.parse_args()
    rows = [row for row in ROWS if args.row is None or row.__name__ in args.row]
    with contextlib.ExitStack() as stack:
        url = args.url or stack.enter_context(ComfyUI()).url
        if args.against:
            options = ("--quick",) if args.quick else ()
            against(args.against, [row.__name__ for row in rows], url, *options)
            return
        bench = Bench(
            url=url,
            stub=stack.enter_context(running(stub)),
            pairs=QUICK_PAIRS if args.quick else PAIRS,
        )
        conditions = measured_on(url)
        print(conditions, flush=True)
        measured: list[Row] = []
        for row in (*rows, *([rivals] if args.rivals else [])):
            found = row(bench)
            measured += found
            print(*(line(each) for each in found), sep="\n", flush=True)
            if args.rst:
                args.rst.write_text(as_rst(measured, conditions), encoding="utf-8")


def against(other: Path, names: Sequence[str], url: str, *options: str) -> None:
    """The same rows with the package of this checkout and of another one, twice in turns."""
    with tempfile.TemporaryDirectory() as folder:
        sides = {}
        for side, checkout in (("here", HERE), ("there", other.resolve())):
            sides[side] = Path(folder, side)
            sides[side].mkdir()
            (sides[side] / "comfy_client").symlink_to(checkout / "comfy_client")
            (sides[side] / "tests").symlink_to(HERE / "tests")
        for name in names:
            for side in ("here", "there", "there", "here"):
                command = (sys.executable, "-m", "tests.bench", url, "--row", name, *options)
                run = subprocess.run(command, cwd=sides[side], capture_output=True, text=True)
                if run.returncode:
                    print(f"{side:6} {name} failed: {run.stderr.splitlines()[-1:]}", flush=True)
                for text in run.stdout.splitlines()[1:]:
                    print(f"{side:6} {text}", flush=True)


def measured_on(url: str) -> str:
    """Machine and versions."""
    with ComfyApi(url) as api:
        server = api.get_system_stats().comfyui_version
    names = ("requests", "urllib3", "websocket-client", "attrs", "blinker")
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return (
        f"{_cpu()}, {os.cpu_count()} cores; Python {platform.python_version()}, {libraries}; "
        f"ComfyUI {server or 'of unknown version'} on the CPU"
    )


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for row in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """What, figure, interval, aim, and what it was measured against."""
    aim = "" if row.aim is None else f"{'>=' if row.at_least else '<='} {row.aim:g} {row.unit}"
    if not row.reached:
        aim += " (missed)"
    figure = row.figure
    return (
        row.name,
        f"{show(figure.value)} {row.unit}".strip(),
        f"{show(figure.low)} - {show(figure.high)}" if row.count > 1 else "",
        aim.strip(),
        f"{row.note + '; ' if row.note else ''}n = {row.count}",
    )


def line(row: Row) -> str:
    """For the terminal."""
    what, figure, interval, aim, note = cells(row)
    return f"{what:70} {figure:>10}  {interval:14} {aim:20} {note}"


def as_rst(rows: Sequence[Row], conditions: str) -> str:
    """For the guide."""
    table = [("What", "Figure", "95 % interval", "Aim", "Measured against"), *map(cells, rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in table]
    return "\n".join([f"Measured on {conditions}.", "", rule, lines[0], rule, *lines[1:], rule, ""])


if __name__ == "__main__":
    main()

"""What clients of Comfy API v2 do when things go wrong, side by side.

    python -m tests.bench.hosted_faults [CLIENT ...] [--column NAME] [--rst FILE]

Both speak to the real comfy-api-proxy in front of a real ComfyUI.  Each cell says how it ended,
how often the workflow ran, and how many seconds passed beyond the job's own time.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import platform
import random
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from tests.comfy_api_proxy import PACKAGE
from tests.comfyui import DEFAULT, ComfyUI
from tests.helpers import hosted_faults as play
from tests.helpers.hosted import Graph, picture
from tests.helpers.hosted_faults import Meanwhile, Scene, real_scene

from .faults import pixels
from .rivals import Process, Rival, running

CLIENTS = (
    Rival("hosted_comfy_client"),
    Rival("hosted_comfy_sdk", ("comfy-sdk==0.5.0",)),
)
#: Seconds of the job, and for an answer.
JOB, CAP = 3.0, 60.0
#: Seconds that may pass beyond the job's own time.
AFTER, AFTER_DARK = 3.0, 8.0
OK = ("right", "SubmitUncertain")


@attrs.frozen
class Column:
    """A fault, the job that meets it, and what counts as well told."""

    fault: Callable[[Scene, ExitStack], Meanwhile | None]
    seconds: float = JOB
    extra: float = AFTER
    state: bool = False  #: Whether the proxy keeps its state.
    graph: Callable[[str, int], Graph] | None = None
    cancel: float | None = None  #: Seconds after which the client cancels.
    behind: float = 0.0  #: Seconds of somebody else's job, for which ours waits.
    first: bool = False  #: Whether it is the proxy's first job, with nothing to know it by again.
    right: tuple[str, ...] = OK

    @property
    def limit(self) -> float:
        """The seconds within which a client should know."""
        return self.seconds + self.behind + self.extra


COLUMNS = {
    "no fault": Column(play.nothing),
    "cut": Column(play.cut),
    "1.5 s away": Column(play.away),
    "dark": Column(play.dark, extra=AFTER_DARK),
    "502 while polling": Column(play.bad_gateway),
    "502 at the submit": Column(play.bad_submit),
    "502 at the first submit": Column(play.bad_submit, first=True),
    "502, but it arrived": Column(play.bad_answer),
    "lost answer": Column(play.lost_answer),
    "late answer": Column(play.late_answer, extra=AFTER + play.LATE),
    "lost behind the proxy": Column(play.lost_behind),
    "server away": Column(play.server_away),
    "killed, with state": Column(play.killed, state=True),
    "killed, without": Column(play.killed),
    "lost, killed, with state": Column(play.lost_and_killed, state=True),
    "lost, killed, without": Column(play.lost_and_killed),
    "cancel running": Column(play.nothing, cancel=1.0, right=("NotSupported",)),
    "cancel waiting": Column(
        play.nothing, seconds=1.0, behind=3.0, cancel=1.0, right=("NotSupported",)
    ),
    "partly valid": Column(play.nothing, 0.0, graph=play.partly_valid, right=("right",)),
    "failed with outputs": Column(play.nothing, 0.5, graph=play.failing, right=("JobFailed",)),
}


@attrs.frozen
class Cell:
    """What a client did in a column."""

    outcome: str
    runs: int
    late: float
    well: bool

    def __str__(self) -> str:
        runs = "" if self.runs == 1 else f", {self.runs} runs"
        mark = "" if self.well else " (!)"
        return f"{self.outcome}{runs}, {self.late:+.1f} s{mark}"


def cell(column: Column, client: Rival, scene: Scene, process: Process) -> Cell:
    """Play one column."""
    name = f"faults_{random.getrandbits(48):012x}"
    color = random.getrandbits(24)
    graph = column.graph(name, color) if column.graph else picture(name, column.seconds, color)
    if not column.first:
        process.send([picture(f"{name}first")])
        process.answer(time.monotonic() + CAP)
    with ExitStack() as stack:
        if column.behind:
            scene.submit_as_somebody(picture(f"{name}before", column.behind))
        meanwhile = column.fault(scene, stack)
        begun = time.monotonic()
        process.send([graph if column.cancel is None else {**graph, "cancel": column.cancel}])
        if meanwhile:
            meanwhile()
        answer = process.answer(begun + CAP)
        took = time.monotonic() - begun
    scene.until_idle()
    runs = scene.place.runs(name)
    outcome = judged(answer, scene, name)
    if answer and "told" in answer:
        print(f"    {client.driver}: {answer['told'][:300]!r}", flush=True)
    well = outcome in column.right and runs <= 1 and took <= column.limit
    return Cell(outcome, runs, took - column.seconds - column.behind, well)


def judged(answer: dict[str, Any] | None, scene: Scene, name: str) -> str:
    """Whether it is the picture that the server made, or the class of the error."""
    if answer is None:
        return "HANG"
    if "kind" in answer:
        return answer["kind"] or "returned an error"
    got = [base64.b64decode(each) for each in answer["pictures"]]
    made = [path.read_bytes() for path in scene.place.made(name)]
    if not got:
        return "no picture"
    return "right" if {*map(pixels, got)} <= {*map(pixels, made)} else "wrong picture"


def cells(clients: Sequence[Rival], names: Sequence[str]) -> Iterator[tuple[str, dict[str, Cell]]]:
    """A row for each column of the table, as it is ready; the clients take turns."""
    with ComfyUI() as comfyui:
        for name in names:
            row = {}
            for client in clients:
                with tempfile.TemporaryDirectory() as folder:
                    state = Path(folder) if COLUMNS[name].state else None
                    with (
                        real_scene(comfyui, state) as scene,
                        running(client, scene.url) as process,
                    ):
                        row[client.name] = cell(COLUMNS[name], client, scene, process)
            yield name, row


def as_rst(rows: Sequence[tuple[str, dict[str, Cell]]]) -> str:
    """For the guide: a row for each fault."""
    table = [("fault", *rows[0][1])] + [(name, *map(str, found.values())) for name, found in rows]
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.hosted_faults",
        description="What clients of Comfy API v2 do when things go wrong.",
    )
    drivers = [client.driver for client in CLIENTS]
    parser.add_argument("client", nargs="*", metavar="CLIENT", help=f"of {', '.join(drivers)}")
    parser.add_argument("--column", action="append", choices=list(COLUMNS), help="only these")
    parser.add_argument("--rst", type=Path, metavar="FILE", help="also write the table to a file")
    args = parser.parse_args()
    clients = [each for each in CLIENTS if not args.client or each.driver in args.client]
    rows = []
    for name, row in cells(clients, args.column or list(COLUMNS)):
        rows.append((name, row))
        told = "; ".join(f"{client}: {found}" for client, found in row.items())
        print(f"{time.strftime('%X')} {name}: {told}", flush=True)
    if args.rst:
        note = (
            f"Made on {datetime.date.today().isoformat()} on {PACKAGE.replace('==', ' ')} in front "
            f"of ComfyUI {DEFAULT}, Python {platform.python_version()}."
        )
        args.rst.write_text(f"{textwrap.fill(note, 100)}\n\n{as_rst(rows)}", encoding="utf-8")
    print(as_rst(rows))


if __name__ == "__main__":
    main()

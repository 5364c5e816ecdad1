"""What clients do when things go wrong, side by side: ``python -m tests.bench faults``.

Each column is a fault on a real ComfyUI, and each cell is judged by evidence, the same way for
all: pictures against those that the server made, errors against the facts that they should tell.
Clients take turns, each in a fresh process for every column.  Columns of one client that share no
server run at the same time.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import http.client
import io
import itertools
import json
import platform
import random
import re
import statistics
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.comfyui import DEFAULT, ComfyUI
from tests.helpers.proxy import Proxy

from .drivers import SAVER, TITLE
from .rivals import OURS, RIVALS, CannotInstall, Process, Rival, environment, running

#: Seconds for an answer, by column; of a restart, after the server is back.
CAPS = {
    "20 fast": 45.0,
    "cached twice": 15.0,
    "validation error": 15.0,
    "runtime error": 15.0,
    "interrupted": 15.0,
    "two clients": 15.0,
    "cut": 25.0,
    "two cuts": 30.0,
    "dark": 30.0,
    "restart": 30.0,
}
#: Of the node that fails; nothing else here has this number.
NODE = "4711"
REASON = "a reason of 1723"
#: What an error should tell, by column, and how it is recognised.
NODE_FACT = {"node": rf"{NODE}|Test(Fail|Sleep)"}
FACTS = {
    "validation error": {
        **NODE_FACT,
        "input": "seconds",
        "reason": r"(?i)small|\bmin\b|minimum|below|at least|range",
    },
    "runtime error": {**NODE_FACT, "reason": REASON},
    "interrupted": {"reason": "(?i)interrupt|cancel"},
    "restart": {"reason": r"(?i)lost|disappear|restart|missing|gone|vanish|not found|forg[eo]t"},
}
#: Seconds into a job at which something happens to it.
MOMENT = 1.5

Graph = dict[str, Any]
Answer = dict[str, Any]


# -- graphs -----------------------------------------------------------------------------


def picture_of(**before: Any) -> Graph:
    """A graph with a new picture, saved under a name of its own; `before`: a node to pass."""
    name = f"faults_{random.getrandbits(64):016x}"
    colour = {"width": 64, "height": 64, "batch_size": 1, "color": random.getrandbits(24)}
    graph = {"1": node("EmptyImage", "Colour", **colour)}
    prefix: Any = name
    if before:
        graph[NODE] = node(before.pop("class_type"), "Before", **before, text=name)
        prefix = [NODE, 0]
    graph[SAVER] = node("SaveImage", TITLE, images=["1", 0], filename_prefix=prefix)
    return graph


def node(class_type: str, title: str, **inputs: Any) -> Graph:
    """As ComfyUI exports it."""
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}


def name_of(graph: Graph) -> str:
    """Under which its picture is saved."""
    prefix = graph[SAVER]["inputs"]["filename_prefix"]
    return str(graph[NODE]["inputs"]["text"] if isinstance(prefix, list) else prefix)


def job_of(seconds: float) -> Graph:
    """A graph that takes so long."""
    return picture_of(class_type="TestSleep", seconds=seconds, ticks=10)


# -- one column of one client -----------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A client, connected to a server by way of a proxy, or (`restart`) directly."""

    rival: Rival
    column: str
    server: ComfyUI
    proxy: Proxy
    process: Process

    def play(self, *graphs: Graph, meanwhile: Callable[[], None] | None = None) -> list[Any]:
        """Have these run; an answer (see drivers.py) or, out of time, None for each."""
        self.process.send(graphs)
        start = time.monotonic()
        if meanwhile:
            meanwhile()
        if self.column == "restart":
            start = time.monotonic()  # the server is back
        end = start + CAPS[self.column]
        answers = [self.process.answer(end) for _ in graphs]
        for told in {answer["told"] for answer in answers if answer and "told" in answer}:
            print(f"    {self.rival.driver}, {self.column}: {told[:300]!r}", flush=True)
        return answers

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The server's own word, past the proxy."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse().read()
        return json.loads(answer) if answer else None

    def queue(self) -> tuple[int, int]:
        """How many run, and how many wait."""
        found = self.ask("GET", "/queue")
        return len(found["queue_running"]), len(found["queue_pending"])

    def until(self, what: Callable[[], bool], limit: float = 10.0) -> None:
        """Wait for it; a client that never gets there is judged all the same."""
        end = time.monotonic() + limit
        while not what() and time.monotonic() < end:
            time.sleep(0.02)

    def into_the_job(self, seconds: float = MOMENT) -> None:
        """Until it has run for so long."""
        self.until(lambda: self.queue()[0] > 0)
        time.sleep(seconds)

    def tidy(self) -> None:
        """Leave nothing behind for the next."""

        def quiet() -> bool:
            self.ask("POST", "/queue", {"clear": True})
            self.ask("POST", "/interrupt", {})
            return self.queue() == (0, 0)

        self.until(quiet)

    def verdict(self, graph: Graph, answer: Answer | None) -> str:
        """Whether it is the picture that the server made: ``ok``, or what else it is."""
        if answer is None:
            return "HANG"
        if "kind" in answer:
            return answer["kind"] or "returned an error"
        got = [base64.b64decode(each) for each in answer["pictures"]]
        if not got:
            return "no picture"
        made = sorted((self.server.root / "output").glob(f"{name_of(graph)}_*.png"))
        if len(made) != 1:
            return f"ran {len(made)} times"
        return "ok" if [*map(pixels, got)] == [pixels(made[0].read_bytes())] else "wrong picture"

    def error(self, answer: Answer | None) -> str:
        """Whether its text tells what it should, or else what it carries; and its class."""
        if answer is None:
            return "HANG"
        if "kind" not in answer:
            return "wrong picture" if answer["pictures"] else "no error"
        facts = FACTS[self.column].items()
        name = answer["kind"] or "returned"
        text = f"{name}: {answer['text']}"
        if all(re.search(pattern, text) for _, pattern in facts):
            return f"ok, {name}"
        lacks = [fact for fact, pattern in facts if not re.search(pattern, answer["told"])]
        return f"{name}, no {' or '.join(lacks)}" if lacks else f"ok inside, {name}"


def pixels(data: bytes) -> tuple[tuple[int, int], bytes]:
    """Size and content of a picture."""
    with Image.open(io.BytesIO(data)) as image:
        return image.size, image.convert("RGB").tobytes()


# -- the columns ------------------------------------------------------------------------


def fast(stage: Stage) -> str:
    graphs = [picture_of() for _ in range(20)]
    answers = stage.play(*graphs)
    found = Counter(stage.verdict(*each) for each in zip(graphs, answers, strict=True))
    hangs = found.pop("HANG", 0)  # one, that is; those behind it were never tried
    words = [f"{count} {what}" for what, count in found.most_common()]
    if found["ok"] == len(graphs):
        each = statistics.median(answer["seconds"] for answer in answers)
        words += [f"{each:.1f} s each"] if each >= 0.3 else []
    return ", ".join([*words, *(["then HANG"] if hangs else [])])


def cached(stage: Stage) -> str:
    graph = picture_of()
    verdicts = [stage.verdict(graph, answer) for answer in stage.play(graph, graph)]
    bad = [f"{n}: {verdict}" for n, verdict in zip(("1st", "2nd"), verdicts, strict=True)]
    return "ok" if verdicts == ["ok", "ok"] else ", ".join(b for b in bad if b[5:] != "ok")


def validation(stage: Stage) -> str:
    (answer,) = stage.play(job_of(-41.5))
    return stage.error(answer)


def runtime(stage: Stage) -> str:
    (answer,) = stage.play(picture_of(class_type="TestFail", message=REASON))
    return stage.error(answer)


def interrupted(stage: Stage) -> str:
    def interrupt() -> None:
        stage.into_the_job()
        stage.ask("POST", "/interrupt", {})

    (answer,) = stage.play(job_of(8), meanwhile=interrupt)
    return stage.error(answer)


def two_clients(stage: Stage) -> str:
    def theirs() -> None:
        stage.ask("POST", "/prompt", {"prompt": job_of(4), "client_id": "somebody else"})

    def behind() -> None:
        stage.until(lambda: stage.queue()[1] > 0)
        theirs()

    theirs()
    stage.until(lambda: stage.queue()[0] > 0)
    return timed(stage, picture_of(), behind)


def cut(stage: Stage) -> str:
    def cut() -> None:
        stage.into_the_job()
        stage.proxy.cut()

    return timed(stage, job_of(5), cut)


def two_cuts(stage: Stage) -> str:
    def cuts() -> None:
        stage.into_the_job(3)
        stage.proxy.cut()
        time.sleep(4)
        stage.proxy.cut()

    return timed(stage, job_of(12), cuts)


def dark(stage: Stage) -> str:
    def dark() -> None:
        stage.into_the_job()
        stage.proxy.dark(old_only=True)

    return timed(stage, job_of(5), dark)


def restart(stage: Stage) -> str:
    down, back = 0.0, 0.0
    start = time.monotonic()

    def again() -> None:
        nonlocal down, back
        stage.into_the_job()
        down = time.monotonic() - start
        stage.server.kill()
        stage.server.start()
        back = time.monotonic() - start

    (answer,) = stage.play(job_of(8), meanwhile=again)
    if answer is not None and "kind" in answer and down <= answer.get("seconds", 0) < back:
        # Nobody can know yet whether the job is lost.
        return f"{answer['kind'] or 'returned an error'} while it is down"
    found = stage.error(answer)
    return "no picture" if found == "no error" else found


def timed(stage: Stage, graph: Graph, meanwhile: Callable[[], None]) -> str:
    """The verdict, and how long it took."""
    (answer,) = stage.play(graph, meanwhile=meanwhile)
    verdict = stage.verdict(graph, answer)
    return f"ok {answer['seconds']:.1f} s" if answer and verdict == "ok" else verdict


COLUMNS = dict(
    zip(
        CAPS,
        (
            fast,
            cached,
            validation,
            runtime,
            interrupted,
            two_clients,
            cut,
            two_cuts,
            dark,
            restart,
        ),
        strict=True,
    )
)
#: Columns that share a server, and follow one another; the lanes run at the same time.
LANES = (tuple(CAPS)[:6], ("cut", "two cuts"), ("dark",), ("restart",))


# -- the table --------------------------------------------------------------------------

Cells = dict[str, str]


@contextlib.contextmanager
def staged(column: str, rival: Rival, server: ComfyUI) -> Iterator[Stage]:
    with Proxy(server.port) as proxy:
        url = server.url if column == "restart" else proxy.url
        with running(rival, url) as process:
            stage = Stage(rival, column, server, proxy, process)
            yield stage
        stage.tidy()


def cell(column: str, rival: Rival, server: ComfyUI) -> str:
    """What this client does there."""
    with staged(column, rival, server) as stage:
        return COLUMNS[column](stage)


def cells(rivals: Sequence[Rival], columns: Sequence[str]) -> Iterator[tuple[Rival, Cells]]:
    """A row for each, as it is ready."""
    lanes = [lane for each in LANES if (lane := [c for c in each if c in columns])]
    with contextlib.ExitStack() as stack:
        together = stack.enter_context(ThreadPoolExecutor(len(lanes)))
        servers = [stack.enter_context(contextlib.closing(ComfyUI())) for _ in lanes]
        list(together.map(ComfyUI.start, servers))
        for rival in rivals:

            def play(lane: list[str], server: ComfyUI, rival: Rival = rival) -> Cells:
                return {column: cell(column, rival, server) for column in lane}

            found = dict(
                itertools.chain.from_iterable(
                    each.items() for each in together.map(play, lanes, servers)
                )
            )
            yield rival, {column: found[column] for column in CAPS if column in found}


#: Characters of a cell, which grows only for a long word.
WIDTH = 15
#: One table would be too wide to read.
TABLES = (("20 fast", "cached twice", "validation error", "runtime error", "interrupted"),)
TABLES += (("two clients", "cut", "two cuts", "dark", "restart"),)


def as_rst(rows: Sequence[tuple[str, Cells]]) -> str:
    """For the guide: a row for each client."""
    return "\n".join(_table(rows, columns) for columns in TABLES)


def _table(rows: Sequence[tuple[str, Cells]], columns: Sequence[str]) -> str:
    lines = [["client", *columns]]
    lines += [[name, *(found[column] for column in columns)] for name, found in rows]
    words = [[word for text in each for word in text.split()] for each in zip(*lines, strict=True)]
    widths = [max(len(line[0]) for line in lines)]
    widths += [max(WIDTH, *map(len, each)) for each in words[1:]]
    rule = "  ".join("=" * width for width in widths)
    out = [rule]
    for number, line in enumerate(lines):
        wrapped = [[line[0]], *map(textwrap.wrap, line[1:], widths[1:])]
        for parts in itertools.zip_longest(*wrapped, fillvalue=""):
            pairs = zip(parts, widths, strict=True)
            out.append("  ".join(part.ljust(width) for part, width in pairs).rstrip())
        if number == 0:
            out.append(rule)
    return "\n".join([*out, rule, ""])


def conditions(server: str) -> str:
    """When and on what."""
    return (
        f"Made on {datetime.date.today().isoformat()} on ComfyUI {server}, "
        f"Python {platform.python_version()}."
    )


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench faults",
        description="What this library and others do when things go wrong. Installs the others "
        "in environments of their own, in the user's cache folder, and starts ComfyUIs.",
    )
    parser.add_argument("client", nargs="*", help="only these, by their functions of drivers.py")
    parser.add_argument("--column", action="append", choices=list(CAPS), help="only these")
    parser.add_argument("--rst", type=Path, metavar="FILE", help="also write the tables to a file")
    args = parser.parse_args(arguments)
    columns = args.column or list(CAPS)
    able, unable = [], []
    for rival in (OURS, *RIVALS):
        if args.client and rival.driver not in args.client:
            continue
        try:
            environment(rival)
            able.append(rival)
        except CannotInstall as reason:
            unable.append(f"{rival.name} cannot be installed: {reason}")
            print(unable[-1], file=sys.stderr, flush=True)
    rows = []
    for rival, found in cells(able, columns):
        rows.append((rival.name, found))
        told = "; ".join(f"{column}: {words}" for column, words in found.items())
        print(f"{time.strftime('%X')} {rival.name}: {told}", flush=True)
    if args.rst and len(columns) == len(CAPS):
        notes = [textwrap.fill(note, 100) for note in (conditions(DEFAULT), *unable)]
        args.rst.write_text("\n\n".join([*notes, as_rst(rows)]), encoding="utf-8")

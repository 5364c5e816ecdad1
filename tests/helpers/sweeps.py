"""For tests of many prompts: nodes that record what they did, and a process that is killed.

``python -m tests.helpers.sweeps URLS JOURNAL [SWEEP]`` sweeps again and again, as told on its
standard input: ``step N`` is killed at the N-th step, ``after S`` after S seconds, ``run`` is
left in peace.  Several URLs, with spaces between them, are a pool; with ``v2:`` before it, a URL
is that of a hosted place.  SWEEP is JSON text of a workflow and a grid.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from comfy_client import ComfyApi, ComfyPool, HostedApi, Sweep
from comfy_client.batch import runner
from comfy_client.batch.journal import Journal
from comfy_client.pool import server_thread
from tests.helpers.processes import leave

if TYPE_CHECKING:
    from comfy_client.testing import ComfyServer

LIMIT = 60.0

#: A chain in which the model feeds all, and a text beside it feeds what the seed does.
WORKFLOW: dict[str, Any] = {
    "1": {"class_type": "Load", "inputs": {"name": "a"}, "_meta": {"title": "Model v1.5"}},
    "2": {"class_type": "Write", "inputs": {"text": "x"}},
    "3": {"class_type": "Make", "inputs": {"seed": 0, "model": ["1", 0], "text": ["2", 0]}},
    "4": {"class_type": "Keep", "inputs": {"value": ["3", 0]}},
}
GRID = {"Make.seed": [0, 1], "Load.name": ["a", "b"]}
POINTS = list(itertools.product(*GRID.values()))


class Record:
    """What the nodes of a server did, and how they are to behave."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str]] = []  # class and value, in order
        self.failing: set[int] = set()  # seeds
        self.gate: threading.Semaphore | None = None  # one pass for each run of Keep

    def values(self) -> list[str]:
        """What was kept, in order."""
        return [value for name, value in self.ran if name == "Keep"]


def add_recorded_nodes(server: ComfyServer) -> Record:
    """Give a server the nodes of WORKFLOW; Keep never counts as cached."""
    from comfy_client.testing import check_interrupted

    record = Record()

    def node(name: str, inputs: dict[str, str], run: Any, **attributes: Any) -> None:
        def INPUT_TYPES(cls: type) -> dict[str, Any]:
            return {"required": {each: (kind, {}) for each, kind in inputs.items()}}

        def recorded(self: object, **values: Any) -> Any:
            value = run(**values)
            record.ran.append((name, value))
            return {"ui": {"text": [value]}, "result": ()} if name == "Keep" else (value,)

        members = {
            "INPUT_TYPES": classmethod(INPUT_TYPES),
            "RETURN_TYPES": ("STRING",),
            "FUNCTION": "run",
            "run": recorded,
            **attributes,
        }
        server.add_node(type(name, (), members))

    def make(seed: int, model: str, text: str) -> str:
        if seed in record.failing:
            raise RuntimeError(f"seed {seed} is one that fails; key sk-very-secret-key")
        return f"{model}{text}{seed}"

    def keep(value: str) -> str:
        while (gate := record.gate) is not None and not gate.acquire(timeout=0.01):
            check_interrupted()
        return value

    node("Load", {"name": "STRING"}, lambda name: name)
    node("Write", {"text": "STRING"}, lambda text: text)
    node("Make", {"seed": "INT", "model": "STRING", "text": "STRING"}, make)
    always = classmethod(lambda cls, **_: time.time_ns())
    node("Keep", {"value": "STRING"}, keep, OUTPUT_NODE=True, RETURN_TYPES=(), IS_CHANGED=always)
    return record


def prompts(*apis: ComfyApi) -> Counter[tuple[Any, ...]]:
    """How often each point was submitted, by what servers remember when all is done."""
    end = time.monotonic() + LIMIT
    while any(api.poll_status(LIMIT).queue_remaining for api in apis):
        assert time.monotonic() < end
        time.sleep(0.01)
    return Counter(
        (entry.workflow["3"]["inputs"]["seed"], entry.workflow["1"]["inputs"]["name"])
        for api in apis
        for entry in api.get_histories(None).values()
    )


def texts(rows: Sweep) -> list[str | None]:
    """What was kept, by row."""
    return [row.result.texts[0] if row.result else None for row in rows]


def points(path: Path) -> list[dict[str, Any]]:
    """The rows of a journal, in the order in which they were sent last."""
    if not path.exists():
        return []
    for _ in range(99):  # it is read without a lock, maybe in the middle of a write
        try:
            uri = f"file:{path}?mode=ro&immutable=1"
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                rows = connection.execute("SELECT * FROM points ORDER BY rowid").fetchall()
        except sqlite3.DatabaseError:
            continue
        found = [dict(row) for row in rows]
        for row in found:
            for name in ("result", "error"):
                row[name] = None if row[name] is None else json.loads(row[name])
        return found
    raise AssertionError(f"{path} cannot be read")


def change(path: Path, statement: str) -> None:
    """Change a journal by hand."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


#: Ways in which a server may be away for a while.
HOW = ("refused", "nameless", "behind a proxy")


@contextlib.contextmanager
def away(server: ComfyServer, how: str) -> Iterator[None]:
    """A server that is restarted, and for a client at ``localhost`` is away meanwhile.

    Nobody listens; or nobody knows its name either, as without a net; or a proxy answers.
    """
    look_up = socket.getaddrinfo

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if how == "behind a proxy":
        with server.faults.bad_gateway():
            server.faults.lose_queue()
            server.faults.drop()
            yield
        return
    server.kill()
    if how == "nameless":
        socket.getaddrinfo = unknown
    try:
        yield
    finally:
        socket.getaddrinfo = look_up
        server.start()


# -- the process that is killed -------------------------------------------------------------


def client_of(url: str) -> ComfyApi:
    is_hosted = url.startswith("v2:")
    return HostedApi(url.removeprefix("v2:")) if is_hosted else ComfyApi(url)


def sweep(urls: list[str], journal: str, what: list[Any]) -> list[Any]:
    """Prompt ids and texts of what has a result."""
    if len(urls) > 1:
        with ComfyPool([client_of(url) for url in urls]) as pool:
            rows = pool.sweep(*what, journal=journal)
    else:
        with client_of(urls[0]) as api:
            rows = api.sweep(*what, journal=journal, in_flight=2)
    return [[row.prompt_id, row.result.texts] for row in rows if row.result]


class Victim:
    """The process of this module, for a test."""

    def __init__(self, urls: str, journal: Path, *sweep: Any) -> None:
        more = [json.dumps(sweep)] if sweep else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.sweeps", urls, str(journal), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def tell(self, command: str) -> list[Any] | None:
        """Rows (prompt id and texts), or ``None``: it was killed."""
        print(command, file=self._process.stdin, flush=True)
        rows = json.loads(self._process.stdout.readline())
        if rows is None:
            return None
        # It may have been killed after the last word.
        return rows if json.loads(self._process.stdout.readline()) == "ended" else None

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(LIMIT) == 0


def killed_at(step: int) -> None:
    """Have this process die at a step: before, in or after a write, before or after a POST."""
    steps = itertools.count(1)
    write, of_client, of_pool = (
        Journal._write,
        runner.submit_workflow,
        server_thread.submit_workflow,
    )

    def die_if_it_is_time(before: Callable[[], object] = lambda: None) -> None:
        if next(steps) == step:
            before()
            os.kill(os.getpid(), signal.SIGKILL)

    def written(journal: Journal, statement: str, *values: object) -> None:
        def half() -> None:
            # More than SQLite keeps in memory: the file itself is changed, and not to its end.
            execute = journal._connection.execute
            execute("PRAGMA cache_size = 1")
            execute("BEGIN")
            execute(statement, values)
            execute("CREATE TABLE torn AS SELECT randomblob(20000) FROM points, points")

        die_if_it_is_time()
        die_if_it_is_time(half)
        write(journal, statement, *values)
        die_if_it_is_time()

    def mortal(submit: Callable[..., Any]) -> Callable[..., Any]:
        def submitted(*args: Any, **kw: Any) -> Any:
            die_if_it_is_time()
            job = submit(*args, **kw)
            die_if_it_is_time()
            return job

        return submitted

    Journal._write = written  # type: ignore[method-assign]
    runner.submit_workflow = mortal(of_client)
    server_thread.submit_workflow = mortal(of_pool)


def main() -> None:
    urls, journal, *more = sys.argv[1:]
    what = json.loads(more[0]) if more else [WORKFLOW, GRID]
    # Everything is near, and nobody is slow for long.
    ComfyApi.timing = attrs.evolve(ComfyApi.timing, lost=0.7, look_up=1.5)
    for line in sys.stdin:
        how, *number = line.split()
        child = os.fork()
        if child == 0:
            if how == "step":
                killed_at(int(number[0]))
            rows = sweep(urls.split(), journal, what)
            os.write(1, json.dumps(rows).encode() + b"\n")
            leave(0)
        if how == "after":
            time.sleep(float(number[0]))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(json.dumps("ended" if os.WIFEXITED(status) else None), flush=True)


if __name__ == "__main__":
    main()

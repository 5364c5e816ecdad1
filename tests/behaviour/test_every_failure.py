"""Each system call of a client fails once, for all of them: what comes of it, and what is left.

``tests.helpers.nth_failure`` says how.  With ``--soak``, each call fails in each of its ways; else
in one of them, and of calls that take long only every few fail.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from comfy_client import (
    ComfyApi,
    ComfyError,
    Result,
    ServerUnreachable,
    Sweep,
    SweepRow,
    runtime,
)
from comfy_client.models import UploadedImage
from comfy_client.testing import ComfyServer
from tests.helpers.clients import FAST, client, open_sockets, threads, until
from tests.helpers.graphs import canvas, node
from tests.helpers.http import opened
from tests.helpers.nth_failure import (
    CALLER,
    DATABASES,
    FILES,
    LIMIT,
    MEMORY,
    SOCKETS,
    Arm,
    Fault,
    Kind,
    failing_databases,
    failing_files,
    failing_memory,
    failing_sockets,
    for_every_n,
    outcome_of,
)
from tests.helpers.sweeps import WORKFLOW, Record, add_recorded_nodes, points, texts

pytestmark = pytest.mark.timeout(1800)
LONG = pytest.mark.long

#: A new one for each prompt, so that the record of the server tells how often each ran.
SEEDS = itertools.count(1)
#: What fails, and how, for whoever uses the network.
FAMILIES: dict[str, tuple[Arm, Sequence[Kind]]] = {
    "sockets": (failing_sockets, SOCKETS),
    "memory": (failing_memory, MEMORY),
}


class Quick(ComfyApi):
    """Finds out soon what became of a prompt, but is slow to believe that a server is dead."""

    timing = attrs.evolve(
        FAST,
        dial=10.0,
        dead=90.0,
        poll=0.02,
        pause=0.01,
        cap=0.05,
        silence=0.1,
        silence_cap=0.2,
        job_poll=0.005,
        job_poll_cap=0.02,
        lost=0.1,
        question_pause=0.01,
        link=0.01,
        record=0.1,
        look_up=0.1,
        look_up_sure=0.1,
        retry=0.02,
        row=0.1,
        rows=0.2,
        resume=1.0,
    )


ForEach = Callable[..., list[str]]


@pytest.fixture
def for_each(request: pytest.FixtureRequest) -> ForEach:
    """Tries each n with each kind, or with the kinds in turn, as the lane has time for."""
    is_thorough = request.config.getoption("soak")

    def tried(
        thread: str, kinds: Sequence[Kind], once: Callable[[Fault], None], step: int = 1
    ) -> list[str]:
        if not is_thorough:
            return for_every_n(thread, kinds, once, step=step)
        each = [for_every_n(thread, [kind], once, seldom=True) for kind in kinds]
        print(thread, *map(len, each))
        return [failed for some in each for failed in some]

    return tried


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    """An embedded server for all tests of this file."""
    with ComfyServer() as running:
        yield running


@pytest.fixture(scope="module")
def record(server: ComfyServer) -> Record:
    """What ran on it."""
    return add_recorded_nodes(server)


@contextlib.contextmanager
def client_of(server: ComfyServer, transport: str = "auto") -> Iterator[ComfyApi]:
    """Not connected yet; at last it works, and leaves no thread and no socket."""
    with contextlib.closing(client(server, Quick, transport=transport)) as api:
        yield api
        seed = next(SEEDS)  # what was submitted before it has ended then, too
        assert api.run(workflow(seed), timeout=LIMIT).texts == (f"ax{seed}",)
        until(lambda: api.connected or transport == "poll")
    for thread in threads():
        thread.join(LIMIT)
    assert not threads()
    until(lambda: not open_sockets(server.port, collect=False))


def workflow(seed: int) -> dict[str, Any]:
    """A prompt that shows its seed."""
    return {**WORKFLOW, "3": node("Make", seed=seed, model=["1", 0], text=["2", 0])}


def check_error(outcome: object, *kinds: type[BaseException]) -> None:
    """An error of ours, or one of these of Python's own; none of a library."""
    assert isinstance(outcome, (ComfyError, *kinds)), repr(outcome)
    ours = ("builtins", "socket", "comfy_client")
    assert type(outcome).__module__.partition(".")[0] in ours, repr(outcome)


# -- prompts ------------------------------------------------------------------------------


def run(api: ComfyApi, seed: int) -> Result:
    return api.run(workflow(seed), timeout=LIMIT)


def submit(api: ComfyApi, seed: int) -> Result:
    return api.submit(workflow(seed)).result(LIMIT)


@pytest.mark.parametrize(
    ("call", "family", "transport", "thread", "step"),
    [
        (run, "sockets", "auto", CALLER, 1),
        (run, "sockets", "auto", "comfy-events", 1),
        (run, "sockets", "poll", "comfy-jobs", 1),
        (submit, "sockets", "poll", CALLER, 1),
        (run, "memory", "auto", CALLER, 3),
        pytest.param(run, "memory", "auto", "comfy-events", 19, marks=LONG),
        pytest.param(run, "memory", "poll", "comfy-jobs", 29, marks=LONG),
        pytest.param(submit, "memory", "poll", CALLER, 7, marks=LONG),
    ],
)
def test_a_prompt_runs_at_most_once(
    server, record, for_each, call, family, transport, thread, step
) -> None:
    arm, kinds = FAMILIES[family]

    def once(fault: Fault) -> None:
        seed = next(SEEDS)
        with client_of(server, transport) as api, arm(fault):
            outcome = outcome_of(lambda: call(api, seed))
        times = record.values().count(f"ax{seed}")
        if isinstance(outcome, Result):
            assert (outcome.texts, times) == ((f"ax{seed}",), 1)
        else:
            check_error(outcome, MemoryError)
            assert times <= (0 if isinstance(outcome, ServerUnreachable) else 1)

    assert for_each(thread, kinds, once, step)


def test_a_request_is_answered_or_says_why_not(server, for_each) -> None:
    """With nobody else about, each system call of it fails for certain."""

    def once(fault: Fault) -> None:
        with opened(server.url) as http:
            with failing_sockets(fault):
                outcome = outcome_of(lambda: http.json("GET", "/prompt"))
            if not isinstance(outcome, dict):
                check_error(outcome)
            assert http.json("GET", "/prompt")
        assert not open_sockets(server.port, collect=False)

    wanted = {"getaddrinfo", "socket", "connect", "recv_into"}
    wanted.add("send" if runtime.SLICED else "sendall")
    assert wanted <= set(for_each(CALLER, SOCKETS, once))


@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_a_client_closes_whatever_fails(server, record, for_each, transport) -> None:
    """It says nothing of it, either: nobody could do anything about it."""

    def once(fault: Fault) -> None:
        with client_of(server, transport):
            api = client(server, Quick, transport=transport)
            assert api.init().connected == (transport == "auto")
            with failing_sockets(fault):
                assert outcome_of(api.close) is None

    for_each(CALLER, SOCKETS, once)  # none, while another thread has the only connection


# -- files --------------------------------------------------------------------------------


CONTENT = bytes(range(256)) * 1000


@pytest.mark.parametrize(("family", "step"), [("sockets", 1), ("files", 1), ("memory", 3)])
def test_an_upload_is_whole_or_not_there(server, record, for_each, tmp_path, family, step) -> None:
    arm, kinds = {**FAMILIES, "files": (failing_files(tmp_path), FILES)}[family]
    photo = tmp_path / "photo.bin"
    photo.write_bytes(CONTENT)

    def once(fault: Fault) -> None:
        name = f"{family}{next(SEEDS)}.bin"
        there = server.root / "input" / name
        with client_of(server) as api:
            with arm(fault):
                outcome = outcome_of(lambda: api.upload_image(photo, name, timeout=LIMIT))
            if isinstance(outcome, UploadedImage):
                assert there.read_bytes() == CONTENT
            else:
                check_error(outcome, MemoryError, *([OSError] if family == "files" else []))
                # The server may be writing it now, if only its answer was not read.
                until(lambda: not there.exists() or there.read_bytes() == CONTENT, LIMIT)
            assert api.upload_image(photo, name).name == name
            assert there.read_bytes() == CONTENT
        assert contents_of(tmp_path) == {photo.name: CONTENT}

    failed = for_each(CALLER, kinds, once, step)
    wanted = {"stat", "open", "fstat", *(["pread"] if hasattr(os, "pread") else [])}
    assert family != "files" or wanted <= set(failed)
    assert failed


@pytest.mark.parametrize(
    ("family", "count", "thread", "step"),
    [
        ("sockets", 1, CALLER, 1),
        pytest.param("sockets", 3, "comfy-files", 1, marks=LONG),
        ("files", 1, CALLER, 1),
        ("files", 3, CALLER, 1),
        pytest.param("files", 3, "comfy-files", 1, marks=LONG),
        pytest.param("files without links", 1, CALLER, 1, marks=LONG),
        ("memory", 1, CALLER, 3),
        pytest.param("memory", 3, "comfy-files", 11, marks=LONG),
    ],
)
def test_a_saved_file_is_whole_or_not_there(
    server, record, for_each, tmp_path, family, count, thread, step
) -> None:
    """Without links, as on FAT, a name is claimed before there is something to it."""
    is_of_files = family.startswith("files")
    arm, kinds = (failing_files(tmp_path), FILES) if is_of_files else FAMILIES[family]
    color = next(SEEDS)
    images = {
        "1": canvas(color, batch_size=count),
        "9": node("SaveImage", images=["1", 0], filename_prefix=f"saved{color}"),
    }
    with client_of(server) as api:
        result = api.run(images)
        expected = {image.filename: image.bytes() for image in result.images}
        assert len(expected) == count
    numbers = itertools.count()

    def once(fault: Fault) -> None:
        folder = tmp_path / str(next(numbers))
        with client_of(server, "poll") as api:
            result = api.job(prompt_id).result(LIMIT)
            with pytest.MonkeyPatch.context() as patch, arm(fault):
                if family.endswith("without links"):
                    patch.setattr(os, "link", no_link)
                outcome = outcome_of(lambda: result.save(folder))
            if isinstance(outcome, list):
                assert contents_of(folder) == expected
            else:
                check_error(outcome, MemoryError, *([OSError] if is_of_files else []))
                assert contents_of(folder).items() <= expected.items()
            result.save(folder, if_exists="overwrite")
            assert contents_of(folder) == expected

    prompt_id = result.prompt_id
    failed = for_each(thread, kinds, once, step)
    assert count != 1 or not is_of_files or {"mkdir", "open", "write", "close"} <= set(failed)
    assert failed


def no_link(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EPERM, "no links here")


def contents_of(folder: Path) -> dict[str, bytes]:
    """What the files in it have in them, by their names."""
    return {path.name: path.read_bytes() for path in folder.glob("*")}


# -- many prompts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "transport", "thread", "step"),
    [
        ("sockets", "auto", CALLER, 1),
        ("sockets", "poll", "comfy-jobs", 1),
        ("memory", "auto", CALLER, 11),
        pytest.param("memory", "poll", "comfy-jobs", 41, marks=LONG),
    ],
)
def test_map_runs_each_prompt_at_most_once(
    server, record, for_each, family, transport, thread, step
) -> None:
    arm, kinds = FAMILIES[family]

    def once(fault: Fault) -> None:
        seeds = [next(SEEDS) for _ in range(2)]
        with client_of(server, transport) as api, arm(fault):
            outcome = outcome_of(lambda: list(api.map(map(workflow, seeds), timeout=LIMIT)))
        times = [record.values().count(f"ax{seed}") for seed in seeds]
        if isinstance(outcome, list):
            assert [result.texts for result in outcome] == [(f"ax{seed}",) for seed in seeds]
            assert times == [1, 1]
        else:
            check_error(outcome, MemoryError)
            assert max(times) <= 1

    assert for_each(thread, kinds, once, step)


@pytest.mark.parametrize(
    ("family", "begun", "transport", "thread", "step"),
    [
        pytest.param("files", False, "auto", CALLER, 1, marks=LONG),
        ("files", True, "auto", CALLER, 1),
        ("databases", False, "auto", CALLER, 1),
        pytest.param("databases", True, "auto", CALLER, 1, marks=LONG),
        pytest.param("databases that lie", False, "auto", CALLER, 1, marks=LONG),
        pytest.param("databases that lie", True, "auto", CALLER, 1, marks=LONG),
        ("sockets", True, "auto", CALLER, 1),
        ("sockets", True, "auto", "comfy-events", 1),
        ("sockets", True, "poll", "comfy-jobs", 1),
        pytest.param("memory", True, "auto", CALLER, 13, marks=LONG),
        pytest.param("memory", False, "poll", "comfy-jobs", 41, marks=LONG),
    ],
)
def test_a_sweep_is_carried_on_and_each_row_runs_once(
    server, record, for_each, tmp_path, family, begun, transport, thread, step
) -> None:
    """Its journal is new, or has the end of one row and the beginning of another."""
    arm, kinds = {
        **FAMILIES,
        "files": (failing_files(tmp_path), FILES),
        "databases": (failing_databases(done=False), DATABASES),
        "databases that lie": (failing_databases(done=True), DATABASES),
    }[family]
    journal = tmp_path / "sweep.db"

    def once(fault: Fault) -> None:
        seeds = [next(SEEDS) for _ in range(2)]
        told: list[int] = []

        def sweep(api: ComfyApi, seeds: Sequence[int]) -> Sweep:
            def tell(row: SweepRow) -> None:
                told.append(row.params["Make.seed"])

            return api.sweep(WORKFLOW, {"Make.seed": seeds}, journal=journal, on_row=tell)

        with client_of(server, transport) as api:
            if begun:
                sweep(api, seeds[:1])
            with arm(fault):
                outcome = outcome_of(lambda: sweep(api, seeds))
            if not isinstance(outcome, Sweep):
                check_error(outcome, OSError, MemoryError)
            assert contents_of(tmp_path).keys() <= {journal.name, f"{journal.name}-journal"}
            last = told[-1:]
            rows = sweep(api, seeds)
        assert texts(rows) == [f"ax{seed}" for seed in seeds]
        assert [record.values().count(f"ax{seed}") for seed in seeds] == [1, 1]
        assert contents_of(tmp_path).keys() == {journal.name}
        assert all(row["result"] and row["told"] for row in points(journal))
        # The journal may have failed to note that the last one was told.
        again = last if family == "databases" and not isinstance(outcome, Sweep) else []
        assert set(told) == set(seeds)
        assert list((Counter(told) - Counter(seeds)).elements()) in ([], again)
        journal.unlink()

    failed = for_each(thread, kinds, once, step)
    assert "databases" not in family or {"connect", "execute", "close"} <= set(failed)
    assert failed

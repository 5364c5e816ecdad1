"""The journal of a sweep, whatever ends it."""

from __future__ import annotations

import contextlib
import copy
import functools
import html
import os
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from comfy_client import (
    ApiError,
    AuthenticationError,
    BearerCredentials,
    ComfyApi,
    JobFailed,
    PromptRejected,
    QueryCredentials,
    SweepRow,
)
from comfy_client.batch import sheet
from comfy_client.batch.grid import Grid
from comfy_client.batch.journal import Journal
from comfy_client.showing import cells
from comfy_client.testing import ComfyServer, Request
from tests.helpers.clients import outstanding, until
from tests.helpers.march_2024 import March2024
from tests.helpers.notebooks import Notebook
from tests.helpers.processes import leave
from tests.helpers.sweeps import (
    GRID,
    LIMIT,
    POINTS,
    WORKFLOW,
    Record,
    add_recorded_nodes,
    change,
    points,
    prompts,
    texts,
)


def id_of(journal: Path) -> uuid.UUID:
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        return uuid.UUID(connection.execute("SELECT id FROM journal").fetchone()[0])


def picture(**inputs: Any) -> dict[str, Any]:
    """A picture that is saved; the inputs are those of SaveImage."""
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 7}
    return {
        "6": {"class_type": "EmptyImage", "inputs": size},
        "7": {
            "class_type": "SaveImage",
            "inputs": {"images": ["6", 0], "filename_prefix": "n", **inputs},
            "_meta": {"title": "Save"},
        },
    }


def test_a_finished_journal_gives_the_rows_again_and_asks_the_server_for_nothing(
    server, api, record, journal
) -> None:
    """With results whose files can be had, and with errors."""
    record.failing = {1}
    graph = {**WORKFLOW, **picture(filename_prefix="in a folder/n")}
    rows = api.sweep(graph, GRID, journal=journal)
    with ComfyApi(server.url) as other:
        before = len(server.requests)
        told = []
        again = other.sweep(graph, GRID, journal=journal, on_row=told.append)
        assert server.requests[before:] == []
        assert told == list(again)
        for old, new in zip(rows, again, strict=True):
            assert new.from_journal
            assert (new.index, new.params, new.prompt_id) == (old.index, old.params, old.prompt_id)
            assert (new.seconds, new.waited) == (old.seconds, old.waited)
            assert new.cached == old.cached
            assert type(new.error) is type(old.error)
            if old.error:
                assert str(new.error) == str(old.error)
                assert (new.error.node_id, new.error.exception_type) == ("3", "RuntimeError")
                assert new.error.prompt_id == old.prompt_id
                assert new.error.inputs == {}
            else:
                assert new.result.texts == old.result.texts
                assert new.result["Save"].files[0].subfolder == "in a folder"
                assert new.result.images[0].bytes() == old.result.images[0].bytes()
                assert new.result.seeds == old.result.seeds == {"3": old.params["Make.seed"]}
                for name in ("cached_nodes", "fully_cached", "complete", "node_errors"):
                    assert getattr(new.result, name) == getattr(old.result, name)


@pytest.mark.parametrize("version", ["0.3.75", "0.28", "0.33"])
def test_servers_take_ids_that_follow_from_the_journal(journal, version) -> None:
    """They are canonical UUIDs, which the newest insist on."""
    with ComfyServer(version=version) as server, ComfyApi(server.url) as api:
        add_recorded_nodes(server)
        rows = api.sweep(WORKFLOW, GRID, journal=journal)
        assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
        assert [row.prompt_id for row in rows] == [
            str(uuid.uuid5(id_of(journal), f"{Grid(WORKFLOW, GRID).digest(point)}/1/1"))
            for point in range(4)
        ]
        change(journal, "DELETE FROM points")
        api.sweep(WORKFLOW, GRID, journal=journal)
        assert prompts(api) == dict.fromkeys(POINTS, 1)


def test_a_journal_keeps_ids_chosen_by_the_server_and_nothing_runs_twice(
    journal,
) -> None:
    """Before August 2025: a prompt of a process that was killed is found by our mark in it."""
    with March2024() as server, ComfyApi(server.url) as api:
        add_recorded_nodes(server)
        rows = api.sweep(WORKFLOW, GRID, journal=journal)
        ids = {row.prompt_id for row in rows}
        assert ids == set(api.get_histories(None)) == {row["prompt_id"] for row in points(journal)}
        change(journal, "DELETE FROM points")
        again = api.sweep(WORKFLOW, GRID, journal=journal)
        assert texts(again) == ["ax0", "bx0", "ax1", "bx1"]
        assert {row.prompt_id for row in again} == ids == set(api.get_histories(None))


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (sqlite3.SQLITE_FULL, OSError, "No space left on device"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, PermissionError, "Permission denied"),
        (sqlite3.SQLITE_IOERR_WRITE, OSError, "is the disk full"),
        (sqlite3.SQLITE_CANTOPEN, OSError, "cannot be read or written"),
    ],
)
def test_sqlite_errors_of_a_journal_are_errors_of_a_file(
    api, record, journal, monkeypatch, code, error, words
) -> None:
    """As of any file: nobody has to know that the journal is a database."""
    connect = sqlite3.connect

    class Failing(sqlite3.Connection):
        def execute(self, statement: str, *values: Any) -> Any:
            if statement.startswith("UPDATE"):
                raised = sqlite3.OperationalError("as SQLite says it")
                raised.sqlite_errorcode = code
                raise raised
            return super().execute(statement, *values)

    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **kw: connect(*args, **{**kw, "factory": Failing})
    )
    with pytest.raises(error, match=words) as caught:
        api.sweep(WORKFLOW, GRID, journal=journal)
    assert repr(str(journal)) in str(caught.value)


@pytest.mark.parametrize("error", [sqlite3.OperationalError, MemoryError])
@pytest.mark.parametrize("statement", ["PRAGMA trusted_schema", "BEGIN", "PRAGMA locking_mode = N"])
def test_a_journal_that_fails_is_free_again(
    api, record, journal, monkeypatch, statement, error
) -> None:
    """As it is opened, claimed or closed; at once, not when a connection is collected."""
    connect, refusals = sqlite3.connect, [error("once")]
    opened: list[sqlite3.Connection] = []

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> Any:
            if sql.startswith(statement) and refusals:
                raise refusals.pop()
            return super().execute(sql, *values)

    def noted(*args: Any, **kw: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **kw, factory=Failing))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", noted)
    with contextlib.suppress(OSError, ValueError, MemoryError):
        api.sweep(WORKFLOW, GRID, journal=journal)
    assert not refusals
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("BEGIN")
    assert len(api.sweep(WORKFLOW, GRID, journal=journal)) == 4
    assert prompts(api) == dict.fromkeys(POINTS, 1)


@pytest.mark.posix("modes of files")
def test_the_file_is_for_its_owner_alone_from_its_first_moment(tmp_path, monkeypatch) -> None:
    """Whatever the umask says; and nothing else is left in the folder."""
    modes = []
    link = os.link
    monkeypatch.setattr(os, "link", lambda a, b: (modes.append(os.stat(a).st_mode), link(a, b)))
    old = os.umask(0)
    try:
        Journal(tmp_path / "j").close()
    finally:
        os.umask(old)
    assert [mode & 0o777 for mode in modes] == [0o600]
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["j"]


def test_an_id_is_on_the_disk_before_the_prompt_is_sent(server, api, record, journal) -> None:
    """Where another process finds it."""
    posted: list[str] = []

    def posting(request: Request) -> Any:
        if points(journal)[-1]["prompt_id"] == request.json()["prompt_id"]:
            posted.append(request.json()["prompt_id"])
        return server.answer(request)

    with server.on("POST", "/prompt", posting):
        api.sweep(WORKFLOW, GRID, journal=journal)
    assert len(set(posted)) == 4


def test_a_write_waits_for_the_disk(journal, monkeypatch) -> None:
    """Each; and what tells SQLite that it is done is no file that is deleted, but synced, too."""
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *a, **kw: (made.append(connect(*a, **kw)), made[-1])[1]
    )
    with Journal(journal):
        assert made[-1].execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert made[-1].execute("PRAGMA journal_mode").fetchone() == ("persist",)


@pytest.mark.posix("folders that can be synced")
def test_a_new_journal_stays_in_its_folder(journal, monkeypatch) -> None:
    """A crash of the machine takes no file away whose folder has been synced since."""
    synced: list[tuple[int, bool]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, journal.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with Journal(journal):
        pass
    assert (journal.parent.stat().st_ino, True) in synced


def test_no_secret_comes_into_the_journal(journal) -> None:
    """Neither keys for partner nodes, nor credentials, nor values of the grid."""
    with ComfyServer(credentials="the-bearer-token") as server:
        record = add_recorded_nodes(server)
        record.failing = {1}
        graph = copy.deepcopy(WORKFLOW)
        graph["3"]["inputs"]["api_key"] = "sk-very-secret-key"
        with ComfyApi(server.url, credentials=BearerCredentials("the-bearer-token")) as api:
            rows = api.sweep(
                graph,
                {"Make.seed": [0, 1], "Write.text": ["a private text"]},
                journal=journal,
                comfy_api_key="comfy-partner-key",
                extra_data={"auth_token_comfy_org": "partner-token"},
            )
    assert isinstance(rows[1].error, JobFailed)
    text = journal.read_bytes().decode("latin-1")
    assert "seed 1 is one that fails" in text
    for secret in (
        *("the-bearer-token", "sk-very-secret-key", "comfy-partner-key", "partner-token"),
    ):
        assert secret not in text


@pytest.mark.parametrize("place", ["query", "header", "auth", "session", "callable"])
def test_credentials_that_a_server_repeats_are_not_in_the_journal(server, journal, place) -> None:
    """Wherever they were given; the client need not have connected before."""
    secret = "very-secret-word"

    class Echo:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"n": ("INT", {})}}

        def run(self, n: int) -> None:
            raise RuntimeError(f"who asks with {secret}?")

    server.add_node(Echo)
    session = requests.Session()
    session.auth = ("me", secret) if place == "auth" else None
    session.headers["Authorization"] = f"Bearer {secret}"
    how: dict[str, Any] = {
        "query": {"credentials": QueryCredentials("token", secret)},
        "header": {"headers": {"X-Api-Key": secret}},
        "auth": {"session": session},
        "session": {"session": session},
        "callable": {"credentials": lambda: BearerCredentials(secret)},
    }
    graph = {"1": {"class_type": "Echo", "inputs": {"n": 0}}}
    with session, contextlib.closing(ComfyApi(server.url, **how[place])) as api:
        (row,) = api.sweep(graph, {"Echo.n": [1]}, journal=journal)
    assert isinstance(row.error, JobFailed)
    assert b"who asks with ***?" in journal.read_bytes()
    assert secret.encode() not in journal.read_bytes()


def test_secrets_in_an_error_are_not_in_the_journal(server, journal) -> None:
    """A node may tell of a service of its own, whose credentials nobody here knows."""

    class Fails:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"n": ("INT", {})}}

        def run(self, n: int) -> None:
            raise RuntimeError("refused: Authorization: Bearer theirs-5f0d9b7e2c41")

    server.add_node(Fails)
    graph = {"1": {"class_type": "Fails", "inputs": {"n": 0}}}
    with ComfyApi(server.url) as api:
        (row,) = api.sweep(graph, {"Fails.n": [1]}, journal=journal)
    assert isinstance(row.error, JobFailed)
    assert b"refused: Authorization: Bearer ***" in journal.read_bytes()
    assert b"theirs-5f0d9b7e2c41" not in journal.read_bytes()


def test_points_that_a_journal_has_lost_are_found_on_the_server(api, record, journal) -> None:
    """Under the ids that follow from it."""
    rows = api.sweep(WORKFLOW, GRID, journal=journal)
    change(journal, "DELETE FROM points")
    again = api.sweep(WORKFLOW, GRID, journal=journal)
    assert [row.prompt_id for row in again] == [row.prompt_id for row in rows]
    assert texts(again) == texts(rows)
    assert sorted(record.values()) == ["ax0", "ax1", "bx0", "bx1"]


def test_a_word_in_any_other_header_is_no_secret(server, record, journal) -> None:
    """What came out stays what it is."""
    headers = {"X-Project": "lighthouse"}
    grid = {"Write.text": ["lighthouse"]}
    with contextlib.closing(ComfyApi(server.url, headers=headers)) as api:
        for _ in range(2):
            assert texts(api.sweep(WORKFLOW, grid, journal=journal)) == ["alighthouse0"]


def test_names_of_files_stand_in_the_journal_as_they_are(journal) -> None:
    """Though a word in them be a password; other texts are without it."""
    graph = picture(filename_prefix="test/test")
    with ComfyServer(credentials=("me", "test")) as server:
        add_recorded_nodes(server)
        graph["8"] = {"class_type": "Keep", "inputs": {"value": "a test"}}
        for _ in range(2):
            with ComfyApi(server.url, credentials=("me", "test")) as api:
                (row,) = api.sweep(graph, {"EmptyImage.color": [1]}, journal=journal)
                (file,) = row.result.images
                assert (file.filename, file.subfolder) == ("test_00001_.png", "test")
                assert file.bytes()
        assert row.from_journal
        assert row.result.texts == ("a ****",)


def test_files_of_a_row_are_fetched_from_where_it_ran(journal, caplog) -> None:
    """By the same name another server has another picture."""

    def sweep(api: ComfyApi, colors: list[int]) -> Any:
        return api.sweep(picture(), {"EmptyImage.color": colors}, journal=journal, in_flight=1)

    with (
        ComfyServer() as here,
        ComfyServer() as there,
        ComfyApi(here.url) as api,
        ComfyApi(there.url) as other,
    ):
        (row,) = sweep(api, [1])
        content = row.result.images[0].bytes()
        first, second = sweep(other, [1, 2])
        assert first.result.images[0].filename == second.result.images[0].filename
        with pytest.raises(ValueError, match="belongs to no client"):
            first.result.images[0].bytes()
        assert f"1 of the rows in {journal} ran on {api.host}; " in caplog.text
        assert second.result.images[0].bytes() != content
        first, second = sweep(api, [1, 2])
        assert first.result.images[0].bytes() == content
        with pytest.raises(ValueError, match="belongs to no client"):
            second.result.images[0].bytes()


@pytest.mark.parametrize("secret", ["JobFailed", "exception_type", "RuntimeError", "Make"])
def test_a_password_that_is_a_word_of_the_protocol_damages_no_journal(journal, secret) -> None:
    """Kinds of errors and names of classes are no texts."""
    with ComfyServer(credentials=("me", secret)) as server:
        add_recorded_nodes(server).failing = {1}
        for _ in range(2):
            with ComfyApi(server.url, credentials=("me", secret)) as api:
                (row,) = api.sweep(WORKFLOW, {"Make.seed": [1]}, journal=journal)
    assert isinstance(row.error, JobFailed)
    assert (row.error.class_type, row.error.exception_type) == ("Make", "RuntimeError")


@pytest.mark.parametrize(
    ("workflow", "grid", "known"),
    [
        (WORKFLOW, {"Make.seed": [0, 1, 2], "Load.name": ["a", "b"]}, 4),
        (WORKFLOW, {"Make.seed": [5, 1], "Load.name": ["c", "b"]}, 1),
        (WORKFLOW, {"Load.name": ["b", "a"], "Make.seed": [1, 0]}, 4),
        (WORKFLOW, {"Make.seed": [1]}, 1),
        (WORKFLOW, {**GRID, "Write.text": ["y", "x"]}, 4),
        ({**WORKFLOW, "2": {"class_type": "Write", "inputs": {"text": "y"}}}, GRID, 0),
    ],
    ids=["more", "others", "order", "fewer", "another axis", "workflow"],
)
def test_of_another_grid_only_points_that_are_not_known_are_run(
    api, record, journal, workflow, grid, known
) -> None:
    """And those that were known before, are later."""
    api.sweep(WORKFLOW, GRID, journal=journal)
    before = len(record.values())
    rows = api.sweep(workflow, grid, journal=journal)
    expected = [
        f"{each.get('Load.name', 'a')}{text}{each['Make.seed']}"
        for each in (row.params for row in rows)
        for text in (each.get("Write.text", workflow["2"]["inputs"]["text"]),)
    ]
    assert texts(rows) == expected
    assert sum(row.from_journal for row in rows) == known
    assert len(record.values()) == before + len(rows) - known
    for what in ((workflow, grid), (WORKFLOW, GRID)):
        assert all(row.from_journal for row in api.sweep(*what, journal=journal))


def test_points_with_equal_graphs_each_have_a_row_and_run(api, record, journal) -> None:
    """As without a journal; with more or fewer of them the first ones are known."""
    rows = api.sweep(WORKFLOW, {"Make.seed": [7, 8, 7]}, journal=journal)
    assert texts(rows) == ["ax7", "ax8", "ax7"]
    assert len({row.prompt_id for row in rows}) == 3
    more = api.sweep(WORKFLOW, {"Make.seed": [7, 7, 7, 8]}, journal=journal)
    assert texts(more) == ["ax7", "ax7", "ax7", "ax8"]
    assert [row.from_journal for row in more] == [True, True, False, True]
    (one,) = api.sweep(WORKFLOW, {"Make.seed": [7]}, journal=journal)
    assert one.prompt_id == rows[0].prompt_id
    assert Counter(record.values()) == {"ax7": 3, "ax8": 1}


def test_with_other_outputs_to_run_a_point_is_another(api, record, journal) -> None:
    """The graph alone does not say what came out."""
    graph = copy.deepcopy(WORKFLOW)
    graph["5"] = {"class_type": "Keep", "inputs": {"value": ["1", 0]}}
    sweep = functools.partial(api.sweep, graph, {"Make.seed": [3]}, journal=journal)
    for targets, found in ((None, {"ax3", "a"}), (["5"], {"a"}), (["4"], {"ax3"})):
        for is_known in (False, True):
            (row,) = sweep(partial_execution_targets=targets)
            assert (set(row.result.texts), row.from_journal) == (found, is_known)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def other_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE points (digest TEXT, occurrence INTEGER, tries INTEGER)")


def database_in_use(path: Path) -> None:
    """Killed in the middle of a write: whoever opens it by SQLite, changes it."""
    code = (
        "import os, sqlite3, sys\n"
        "run = sqlite3.connect(sys.argv[1], isolation_level=None).execute\n"
        "run('CREATE TABLE t (x)'), run('PRAGMA cache_size = 1'), run('BEGIN')\n"
        "[run('INSERT INTO t VALUES (randomblob(9000))') for _ in range(9)]\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False)


def database_with_a_log(path: Path) -> None:
    code = (
        "import os, sqlite3, sys\n"
        "run = sqlite3.connect(sys.argv[1], isolation_level=None).execute\n"
        "run('PRAGMA journal_mode = WAL'), run('CREATE TABLE t (x)')\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False)


def newer_journal(path: Path) -> None:
    Journal(path).close()
    change(path, "PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: path.write_bytes(b""), "not a journal of a sweep"),
        (lambda path: path.write_bytes(b"a note\n"), "not a journal of a sweep"),
        (lambda path: path.write_bytes(b'{"journal": "x"}\n' * 99), "not a journal of a sweep"),
        (lambda path: path.write_bytes(b'{"a":1}\n{"b":2}'), "not a journal of a sweep"),
        (lambda path: path.write_bytes(b"SQLite format 3\x00"), "not a journal of a sweep"),
        (other_database, "not a journal of a sweep"),
        (database_in_use, "not a journal of a sweep"),
        (database_with_a_log, "not a journal of a sweep"),
        (newer_journal, "another version"),
        pytest.param(pipe, "not even a file", marks=pytest.mark.posix("pipes with names")),
    ],
    ids=["empty", "text", "lines", "cut", "short", "SQLite", "torn", "log", "newer", "pipe"],
)
def test_files_that_are_no_journal_are_refused_and_left_alone(api, journal, make, match) -> None:
    """A typo in the name costs nothing, neither the file nor what lies beside it."""

    def there() -> dict[str, bytes]:
        files = [path for path in journal.parent.iterdir() if path.is_file()]
        return {path.name: path.read_bytes() for path in files}

    make(journal)
    before = there()
    with pytest.raises(ValueError, match=match) as caught:
        api.sweep(WORKFLOW, GRID, journal=journal)
    assert "\n" not in str(caught.value)
    assert there() == before
    assert api.get_histories() == {}


#: On Windows, a link needs rights.
LINK = pytest.mark.posix("symbolic links of any user")


@pytest.mark.parametrize("ending", ["-journal", "-wal"])
@pytest.mark.parametrize("given", ["new", "old", pytest.param("a link", marks=LINK)])
def test_files_where_sqlite_would_write_are_left_alone(tmp_path, ending, given) -> None:
    """Another journal, for one."""
    path = tmp_path / "sweep"
    if given != "new":
        Journal(path).close()
    if given == "a link":
        path = tmp_path / "link"
        path.symlink_to("sweep")
    beside = tmp_path / f"sweep{ending}"
    with Journal(beside) as other:
        other.note_sent(("point", 1), "http://there", "the-id", 1, 1.0)
    before = beside.read_bytes()
    with pytest.raises(ValueError, match=f"sweep{ending} is in the way"):
        Journal(path)
    assert beside.read_bytes() == before
    assert path.exists() is (given != "new")


@pytest.mark.posix("signals between processes")
def test_leftovers_of_a_killed_journal_are_no_part_of_a_new_one(tmp_path) -> None:
    """Whoever deletes it has it begin anew, and whoever does not goes on with it."""
    path = tmp_path / "sweep"
    code = (
        "import os, sys\n"
        "from comfy_client.batch.journal import Journal\n"
        "Journal(sys.argv[1]).note_sent(('point', 1), 'http://here', 'the-id', 1, 1.0)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False)
    beside = tmp_path / "sweep-journal"
    assert beside.exists()
    old = path.rename(tmp_path / "old")
    with pytest.raises(ValueError, match="sweep-journal is in the way"):
        Journal(path)
    old.rename(path)
    with Journal(path) as journal:
        assert list(journal.records([("point", 1)])) == [("point", 1)]
    assert not beside.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE points SET result = '{'",
        "UPDATE points SET result = 7",
        "UPDATE points SET result = '{}'",
        "UPDATE points SET result = NULL, error = '{}'",
        "UPDATE journal SET id = 'x'",
        "DELETE FROM journal",
        "DROP TABLE points",
    ],
)
def test_damage_is_refused_and_nothing_runs(api, record, journal, statement) -> None:
    """Whatever did it."""
    api.sweep(WORKFLOW, GRID, journal=journal)
    change(journal, statement)
    with pytest.raises(ValueError, match="is damaged"):
        api.sweep(WORKFLOW, GRID, journal=journal)
    assert len(api.get_histories()) == 4


def test_a_journal_in_no_folder_names_the_folder(tmp_path: Path) -> None:
    """And not the file that would have been made first."""
    path = tmp_path / "nowhere" / "journal.db"
    with pytest.raises(FileNotFoundError) as caught:
        Journal(path)
    assert caught.value.filename == str(path.parent)


def test_two_at_once_on_one_journal_are_refused(api, record, journal) -> None:
    """In one process as in two; afterwards it is free again."""
    record.gate = threading.Semaphore(0)
    thread = threading.Thread(target=lambda: api.sweep(WORKFLOW, GRID, journal=journal))
    thread.start()
    until(lambda: api.get_queue().running)
    for _ in range(2):
        with pytest.raises(BlockingIOError, match="this journal is in use"):
            api.sweep(WORKFLOW, GRID, journal=journal)
        assert "this journal is in use" in opened_elsewhere(journal)
    record.gate = None
    thread.join(LIMIT)
    assert opened_elsewhere(journal) == "opened\n"
    api.sweep(WORKFLOW, GRID, journal=journal)
    assert len(api.get_histories()) == 4


def opened_elsewhere(journal: Path) -> str:
    """What another process is told that wants it."""
    code = (
        "import sys; from comfy_client.batch.journal import Journal\n"
        "try: Journal(sys.argv[1]); print('opened')\n"
        "except BlockingIOError as exc: print(exc)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, journal], check=True, capture_output=True, text=True
    )
    return told.stdout


@pytest.mark.posix("forks")
def test_a_child_of_a_fork_leaves_the_journal_to_its_parent(api, record, journal) -> None:
    """It gets what any other process gets, and its end ends nothing."""

    def on_row(row: SweepRow) -> None:
        if row.index > 0:
            return
        child = os.fork()
        if child == 0:
            try:
                Journal(journal)
            except BlockingIOError:
                sys.exit(7)  # closes what it has inherited, out of the sweep of its parent
            leave(8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        # What SQLite would undo half a write with.
        assert journal.with_name(f"{journal.name}-journal").exists()

    pid = os.getpid()
    try:
        rows = api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row)
    except SystemExit as exc:
        if os.getpid() != pid:
            leave(exc.code)
        raise
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert all(row.from_journal for row in api.sweep(WORKFLOW, GRID, journal=journal))


def test_failed_rows_run_again_if_asked_to(api, record, journal) -> None:
    """And only they; the last word counts."""
    record.failing = {1}
    assert texts(api.sweep(WORKFLOW, GRID, journal=journal)) == ["ax0", "bx0", None, None]
    record.failing = set()
    assert texts(api.sweep(WORKFLOW, GRID, journal=journal)) == ["ax0", "bx0", None, None]
    rows = api.sweep(WORKFLOW, GRID, journal=journal, retry_failed=True)
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert [row.from_journal for row in rows] == [True, True, False, False]
    assert prompts(api) == {point: 1 + point[0] for point in POINTS}
    again = api.sweep(WORKFLOW, GRID, journal=journal)
    assert texts(again) == texts(rows)
    assert all(row.from_journal for row in again)


def test_refused_points_are_tried_again_by_the_next_call(server, api, record, journal) -> None:
    """By the next call, without being told: the model may be there by now."""
    grid = {"Make.seed": [5, "many"]}
    told: list[tuple[Any, bool]] = []
    on_row = lambda row: told.append((row.index, row.error is None))  # noqa: E731
    with server.faults.answer("POST", "/prompt", (500, {}, {"error": "boom"}), times=1):
        stumbled, refused = api.sweep(WORKFLOW, grid, journal=journal, on_row=on_row, in_flight=1)
    assert (type(stumbled.error), type(refused.error)) == (ApiError, PromptRejected)
    first, second = api.sweep(WORKFLOW, grid, journal=journal, on_row=on_row)
    assert texts([first]) == ["ax5"]
    assert (type(second.error), second.from_journal) == (PromptRejected, False)
    assert second.prompt_id != refused.prompt_id
    assert sorted(told) == [(0, False), (0, True), (1, False), (1, False)]


def test_a_notebook_that_shows_an_error_has_no_second_one_in_the_log(
    api, record, caplog, monkeypatch
) -> None:
    record.failing = {1}
    notebook = Notebook(monkeypatch)
    rows = api.sweep(WORKFLOW, {"Make.seed": [0, 1]}, progress=True)
    assert str(rows[1].error)[:20] in html.unescape(notebook.last)
    (said,) = (line for line in caplog.messages if "failed: " in line)
    assert said == "1 of 2 rows failed: 1 JobFailed"


@pytest.mark.parametrize(
    ("where", "limit"), [(sheet, "MOST_ROWS"), (cells, "MOST"), (cells, "MOST_BYTES")]
)
def test_an_error_that_a_notebook_leaves_out_is_in_the_log(
    api, record, caplog, monkeypatch, where, limit
) -> None:
    """Whether its row is beyond the last one that is drawn, or the cell is full."""
    record.failing = {1}
    Notebook(monkeypatch)
    monkeypatch.setattr(where, limit, 1)
    if limit == "MOST":
        cells.note_shown(record)
    api.sweep(WORKFLOW, {"Make.seed": [0, 1]}, progress=True)
    (said,) = (line for line in caplog.messages if "failed: " in line)
    assert said.startswith("1 of 2 rows failed: 1 JobFailed; the first: node 3")


def test_failed_rows_are_summed_up_in_one_warning(api, record, caplog) -> None:
    """Without what may be secret; none when nothing did."""
    record.failing = {1, 2}
    graph = copy.deepcopy(WORKFLOW)
    graph["3"]["inputs"]["api_key"] = "sk-very-secret-key"
    api.sweep(graph, {"Make.seed": [0, 1, 2, "many"]})
    (said,) = (line for line in caplog.messages if "failed: " in line)
    assert said.startswith("3 of 4 rows failed: 2 JobFailed, 1 PromptRejected; the first: node 3")
    assert "sk-very" not in said
    caplog.clear()
    api.sweep(WORKFLOW, {"Make.seed": [0, 5]})
    assert caplog.messages == []


def cut_off(api: ComfyApi, record: Record, journal: Path | None) -> None:
    """Ctrl-C after the first row, while the next one runs."""
    record.gate = threading.Semaphore(1)

    def on_row(row: SweepRow) -> None:
        # Told by its events: what only the server knows, nobody says of it.
        until(lambda: any(job.status == "running" for job in outstanding(api)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row)


def test_on_row_gets_each_row_once_over_all_calls(api, record, journal) -> None:
    """One whose callback did not come back is told again."""
    told: list[tuple[Any, bool]] = []
    record.failing = {1}

    def on_row(row: SweepRow) -> None:
        told.append((row.index, row.from_journal))
        if len(told) == 2:
            raise LookupError("the disk is full")

    with pytest.raises(LookupError):
        api.sweep(WORKFLOW, GRID, journal=journal, in_flight=1, on_row=on_row)
    second = told[1][0]
    api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row)
    assert told[2] == (second, True)
    assert sorted(index for index, _ in told) == sorted([0, 1, 2, 3, second])
    api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row)
    assert len(told) == 5
    record.failing = set()
    rows = api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row, retry_failed=True)
    assert [index for index, _ in told[5:]] == [row.index for row in rows if not row.from_journal]
    assert len(told) == 7


def test_on_row_gets_a_row_again_that_ran_again(api, record, journal) -> None:
    """Until its callback has come back, though the one of its failure had."""
    record.failing = {1}
    api.sweep(WORKFLOW, GRID, journal=journal, on_row=lambda row: None)
    record.failing = set()
    told: list[tuple[int, bool]] = []

    def on_row(row: SweepRow) -> None:
        told.append((row.index, row.from_journal))
        if len(told) == 1:
            raise LookupError("the disk is full")

    with pytest.raises(LookupError):
        api.sweep(WORKFLOW, GRID, journal=journal, in_flight=1, on_row=on_row, retry_failed=True)
    api.sweep(WORKFLOW, GRID, journal=journal, on_row=on_row)
    assert told[1] == (told[0][0], True)


def test_points_cancelled_by_ctrl_c_are_no_loss_to_the_next_call(
    api, record, journal, caplog
) -> None:
    """It is submitted without an alarm; what ran in spite of that is attached."""
    cut_off(api, record, journal)
    (running,) = api.get_queue().running
    assert f"prompt {running.prompt_id} keeps running: attach to it by api.job" in caplog.text
    withdrawn = [row["prompt_id"] for row in points(journal) if row["withdrawn"]]
    assert running.prompt_id in withdrawn
    caplog.clear()
    record.gate = None
    with ComfyApi(api.host) as other:
        rows = other.sweep(WORKFLOW, GRID, journal=journal)
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert caplog.text == ""
    assert prompts(api) == dict.fromkeys(POINTS, 1)


def test_ctrl_c_without_a_journal_says_what_one_is_good_for(api, record, caplog) -> None:
    """And how to come back to what runs."""
    cut_off(api, record, None)
    assert (
        "1 of 4 rows had ended; the exception has them as its rows; with a journal=" in caplog.text
    )
    assert "keeps running: attach to it by api.job" in caplog.text
    record.gate = None


def test_a_refused_password_leaves_nothing_in_the_queue_to_warn_of(journal, caplog) -> None:
    """Nothing was submitted."""
    with ComfyServer(credentials=("me", "right")) as server:
        add_recorded_nodes(server)
        with (
            ComfyApi(server.url, credentials=("me", "right")) as api,
            server.faults.answer("POST", "*", (401, {}, None)),
            pytest.raises(AuthenticationError),
        ):
            api.sweep(WORKFLOW, GRID, journal=journal)
    assert "may stay in the queue" not in caplog.text


def test_ctrl_c_and_the_same_call_again_runs_nothing_twice(api, record, journal) -> None:
    """What ran at that moment is attached, what waited was taken back."""
    cut_off(api, record, journal)
    assert api.get_queue().pending == ()
    threading.Timer(0.5, lambda: setattr(record, "gate", None)).start()
    rows = api.sweep(WORKFLOW, GRID, journal=journal)
    assert texts(rows) == ["ax0", "bx0", "ax1", "bx1"]
    assert [row.from_journal for row in rows] == [True, False, False, False]
    assert rows[2].waited is None  # it was attached
    assert rows[2].seconds is not None
    assert prompts(api) == dict.fromkeys(POINTS, 1)

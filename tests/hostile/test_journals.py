"""Journals of strangers, and what lies beside them: data, of which SQLite believes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_client import ComfyApi, ComfyPool, JobInterrupted, JobTimeout, Sweep
from comfy_client.batch.grid import Grid
from comfy_client.batch.journal import Journal
from comfy_client.routes.prompts import EXTRA_DATA_KEY
from comfy_client.testing import ComfyServer, Request
from tests.conftest import examples
from tests.helpers.clients import until
from tests.helpers.hostile_values import HOSTILE, JSON, places, spoilt
from tests.helpers.march_2024 import March2024
from tests.helpers.sweeps import GRID, WORKFLOW, add_recorded_nodes

#: The first bytes of a rollback journal, and the last ones of one that names a super-journal.
MARK = bytes.fromhex("d9d505f920a163d7")
PAGE = 4096


@contextlib.contextmanager
def changed(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as anybody may write it, the schema too."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        yield connection


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal in a folder of its own."""
    folder = tmp_path / "unpacked"
    folder.mkdir()
    Journal(folder / "runs.sqlite").close()
    return folder / "runs.sqlite"


# -- what lies beside it ------------------------------------------------------------------


def segment(pages: int, records: int = 0, sector: int = 512) -> bytes:
    """The header of one segment of a rollback journal."""
    return (MARK + struct.pack(">5I", records, 0, pages, sector, PAGE)).ljust(sector, b"\0")


def page_record(number: int, page: bytes) -> bytes:
    """What a page was, to be put back."""
    return struct.pack(">I", number) + page + struct.pack(">I", sum(page[PAGE - 200 : 0 : -200]))


def super_journal(name: bytes) -> bytes:
    """The name of a file that SQLite deletes when all else is put back."""
    locked = struct.pack(">I", 0x40000000 // PAGE + 1)
    return locked + name + struct.pack(">2I", len(name), sum(name)) + MARK


def believed_by_sqlite(path: Path) -> None:
    """Open it as any program does."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT id FROM journal").fetchall()


@pytest.mark.parametrize("victim", ["{folder}/thesis.txt", "thesis.txt", "./../home/thesis.txt"])
@pytest.mark.parametrize(
    "start",
    [
        lambda page: segment(4),
        lambda page: segment(4, sector=4096),
        lambda page: segment(4, records=1) + page_record(1, page),
        lambda page: segment(4, records=0xFFFFFFFF) + page_record(1, page),
        lambda page: segment(4) + segment(4) + segment(4),
        lambda page: segment(4) + b"\0" * 3000 + b"junk",
    ],
    ids=["bare", "sector", "page", "unknown number", "segments", "padding"],
)
def test_a_rollback_journal_that_names_a_super_journal_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str, start: Any
) -> None:
    """SQLite would delete that file, wherever it is, without a word."""
    home = tmp_path / "home"
    home.mkdir()
    thesis = home / "thesis.txt"
    monkeypatch.chdir(home)
    beside = path.with_name("runs.sqlite-journal")
    name = victim.format(folder=home).encode()
    content = start(path.read_bytes()[:PAGE]) + super_journal(name)
    for attempt in (believed_by_sqlite, Journal):
        thesis.write_text("years of work")
        beside.write_bytes(content)
        before = files(path.parent)
        if attempt is believed_by_sqlite:
            attempt(path)
            assert not thesis.exists(), "the attack is none"
            continue
        with pytest.raises(ValueError, match="SQLite would delete a file that it names"):
            attempt(path)
        assert thesis.read_text() == "years of work"
        assert files(path.parent) == before
    beside.unlink()
    Journal(path).close()


PIECES = [
    *(segment(4), segment(4, sector=4096), segment(2, records=1), segment(9, records=1 << 31)),
    *(MARK, bytes(8), bytes(512), b"junk"),
    *(page_record(1, bytes(PAGE)), page_record(3, b"x" * PAGE)),
]


@settings(suppress_health_check=list(HealthCheck), max_examples=examples(80))
@given(data=st.data())
def test_files_beside_a_journal_are_not_touched(data: st.DataObject) -> None:
    """Whether it is refused or put back."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Journal(folder / "runs.sqlite").close()
        victims = [folder / "thesis.txt", folder / "runs.sqlite-shm", folder / "empty"]
        for victim in victims:
            victim.write_bytes(b"" if victim.name == "empty" else b"years of work")
        names = st.sampled_from([os.fsencode(victim) for victim in victims])
        pieces = st.sampled_from(PIECES) | names.map(super_journal) | st.binary(max_size=20)
        content = b"".join(data.draw(st.lists(pieces, max_size=5)))
        ending = data.draw(st.sampled_from(["-journal", "-journal", "-wal"]))
        (folder / f"runs.sqlite{ending}").write_bytes(content)
        if data.draw(st.booleans()):
            with (folder / "runs.sqlite").open("r+b") as file:
                file.seek(18)
                file.write(data.draw(st.sampled_from([b"\1\1", b"\2\2", b"\1\2"])))
        with contextlib.suppress(ValueError, OSError):
            Journal(folder / "runs.sqlite").close()
        assert victims[0].read_bytes() == victims[1].read_bytes() == b"years of work"
        assert victims[2].read_bytes() == b""
        assert {path.name.partition("-")[0] for path in folder.iterdir()} == {
            *("runs.sqlite", "thesis.txt", "empty"),
        }


@pytest.mark.parametrize("ending", ["-journal", "-wal", "-shm"])
@pytest.mark.parametrize("start", [b"", bytes(8), MARK])
def test_a_link_beside_a_journal_leads_nowhere(path: Path, ending: str, start: bytes) -> None:
    """What it leads to stays as it is."""
    goal = path.parent.with_name("goal")
    goal.write_bytes(start)
    path.with_name(f"runs.sqlite{ending}").symlink_to(goal)
    with contextlib.suppress(ValueError):
        Journal(path).close()
    assert goal.read_bytes() == start
    assert path.with_name(f"runs.sqlite{ending}").is_symlink()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away"
)
def test_a_rollback_journal_of_another_user_is_refused(path: Path) -> None:
    """Who may write in the folder of a journal cannot have it changed; its owner's own counts."""
    beside = path.with_name("runs.sqlite-journal")
    beside.write_bytes(segment(4))
    os.chown(beside, 12345, -1)
    with pytest.raises(ValueError, match="belongs to another user"):
        Journal(path)
    os.chown(path, 12345, -1)
    Journal(path).close()
    assert not beside.exists()


# -- its schema ---------------------------------------------------------------------------

#: Never ends, or takes gigabytes, if it is run.
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
VALUES = (
    "'a' AS digest, 1 AS occurrence, '' AS host, 1 AS tries, 'p' AS prompt_id, 0.0 AS sent_at, "
    "0 AS withdrawn, 0 AS told, NULL AS seconds, NULL AS execution_seconds, NULL AS result, "
    "hex(zeroblob(400000000)) AS error"
)
ADD = "INSERT INTO sqlite_master VALUES"
CHANGES = [
    f"DROP TABLE points; CREATE VIEW points AS {ENDLESS} SELECT {VALUES} FROM c",
    f"DROP TABLE journal; CREATE VIEW journal AS {ENDLESS} SELECT x AS id FROM c",
    "DROP TABLE journal; CREATE VIEW journal AS SELECT hex(zeroblob(400000000)) AS id",
    "CREATE VIEW more AS SELECT 1",
    "CREATE TRIGGER t AFTER INSERT ON points BEGIN DELETE FROM journal; END",
    "CREATE TRIGGER u BEFORE UPDATE ON points BEGIN SELECT hex(zeroblob(99000000)); END",
    "CREATE INDEX i ON points (hex(zeroblob(tries)))",
    "CREATE UNIQUE INDEX j ON points (host) WHERE abs(tries) > 1",
    "ALTER TABLE points ADD COLUMN g TEXT AS (hex(zeroblob(99000000)))",
    "DROP TABLE journal; CREATE TABLE journal (id TEXT NOT NULL DEFAULT (hex(zeroblob(99000000))))",
    "ALTER TABLE journal RENAME TO j2",
    "ALTER TABLE points RENAME COLUMN host TO server",
    "DROP TABLE points",
    "DROP TABLE journal; CREATE TABLE journal (id TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE other (x)",
    f"{ADD} ('table', 'v', 'v', 0, 'CREATE VIRTUAL TABLE v USING fts5(x)')",
    f"{ADD} ('table', 'w', 'w', 0, 'CREATE VIRTUAL TABLE w USING zipfile(''/etc/passwd'')')",
    "ANALYZE",
    "DROP TABLE points; CREATE TABLE points (digest, occurrence, CHECK (abs(occurrence) > 1))",
    "DELETE FROM sqlite_master WHERE type = 'index'",
    "DELETE FROM sqlite_master",
    "UPDATE sqlite_master SET sql = replace(sql, 'host TEXT', 'host\u00a0TEXT')",
    "UPDATE sqlite_master SET sql = replace(sql, 'TEXT NOT NULL', 'TEXT')",
    "UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', 'NOT NULL CHECK (1)')",
    "UPDATE sqlite_master SET sql = replace(sql, 'DEFAULT 0', 'DEFAULT (1) --')",
    "UPDATE sqlite_master SET sql = sql || ' STRICT'",
    "UPDATE sqlite_master SET sql = sql || '/* ' || hex(zeroblob(40000)) || ' */'",
    "UPDATE sqlite_master SET name = 'points', tbl_name = 'points'",
    "UPDATE sqlite_master SET sql = 'x'",
    f"{ADD} ('trigger', 't', 'points', 0, 'CREATE TRIGGER t INSERT ON points BEGIN SELECT 1; END')",
    "INSERT INTO sqlite_master SELECT * FROM sqlite_master",
    f"{ADD} (NULL, x'00', 7, 'x', 1.5)",
]


@settings(suppress_health_check=list(HealthCheck), max_examples=examples(50))
@given(
    changes=st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3)
    | st.sampled_from(CHANGES).map(lambda change: [change])
)
def test_any_other_schema_is_refused_before_any_of_it_is_used(changes: list[str]) -> None:
    """Nothing hangs, nothing is written, and nobody sees gigabytes."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "runs.sqlite")
        Journal(path).close()
        with changed(path) as connection:
            for change in changes:
                with contextlib.suppress(sqlite3.Error):  # what an earlier one has left
                    connection.executescript(change)
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("PRAGMA schema_version = 77")
        before = files(path.parent)
        with pytest.raises(ValueError, match="is damaged"):
            Journal(path)
        assert files(path.parent) == before


@pytest.mark.parametrize("change", CHANGES)
def test_each_changed_schema_is_refused(path: Path, change: str) -> None:
    """None is refused by SQLite itself when it is made, so that the test above means it."""
    before = path.read_bytes()
    with changed(path) as connection:
        connection.executescript(change)
    assert path.read_bytes() != before
    with pytest.raises(ValueError, match="is damaged"):
        Journal(path)


#: Sets the clipboard of a terminal, and turns what stands behind it around.
OBEYED = "\x1b]52;c;AAAA\x07\x9b2J\u202e"
CUT = f"CAST(CAST('{OBEYED}' AS BLOB) || x'ff' AS TEXT)"  # text that is no UTF-8
QUOTED = [
    f"UPDATE sqlite_master SET name = '{OBEYED}' WHERE name = 'points'",
    f"UPDATE sqlite_master SET name = '{OBEYED}' WHERE type = 'index'",
    f"UPDATE sqlite_master SET sql = 'CREATE TABLE points ({OBEYED})' WHERE name = 'points'",
    f"UPDATE journal SET id = {CUT}",
    f"UPDATE journal SET id = '{OBEYED}'",
    *(
        f"UPDATE points SET {column} = {value}"
        for column in ("host", "prompt_id", "tries", "sent_at", "seconds", "result", "error")
        for value in (CUT, f"'{OBEYED}'", f"CAST('{OBEYED}' AS BLOB)")
    ),
]


@pytest.mark.parametrize("change", QUOTED)
def test_no_terminal_obeys_what_is_quoted_of_a_damaged_journal(path: Path, change: str) -> None:
    """Neither in the message nor in a traceback: SQLite quotes names and values as they are."""
    key = ("d", 1)
    with Journal(path) as journal:
        journal.note_sent(key, "http://here", "id", 1, 1.0)
    with changed(path) as connection:
        connection.execute(change)
    with pytest.raises(ValueError, match="is damaged") as caught, Journal(path) as journal:
        journal.records([key])
    shown = "".join(traceback.format_exception(caught.value))
    assert not set(OBEYED) & set(shown) - set("]52;c;AAAA2J")


def test_a_journal_with_other_comments_in_its_schema_is_read(path: Path) -> None:
    with Journal(path) as journal:
        journal.note_sent(("d", 1), "http://here", "id", 1, 1.0)
    with changed(path) as connection:
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, '-- the server of the last try; empty: "
            "it surely got nothing', '-- the server of the last try')"
        )
    with Journal(path) as journal:
        assert list(journal.records([("d", 1), ("e", 1)])) == [("d", 1)]
        journal.note_told(("d", 1))


# -- pages that refer to each other ----------------------------------------------------------


def inner_page(children: list[int], *, header: bytes = b"", is_index: bool = False) -> bytes:
    """A page of a tree that has only references to others."""
    cells, content, at = [], b"", PAGE
    for child in children[:-1]:
        # The key: a rowid, or an index entry of no columns.
        cell = struct.pack(">I", child) + (b"\x01\x01" if is_index else b"\x01")
        at -= len(cell)
        cells.append(at)
        content = cell + content
    kind = 2 if is_index else 5
    head = struct.pack(">BHHHBI", kind, 0, len(cells), at, 0, children[-1])
    start = header + head + b"".join(struct.pack(">H", cell) for cell in cells)
    return start + bytes(at - len(start)) + content


def with_endless_tree(path: Path, root: int) -> None:
    """A tree of 14 levels, each page of which refers to the next one 200 times."""
    data = path.read_bytes()
    pages = [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
    old, count = pages[root - 1], len(pages)
    header = old[:100] if root == 1 else b""
    is_index = old[0] == 10
    pages[root - 1] = inner_page([count + 1] * 200, header=header, is_index=is_index)
    below = range(count + 2, count + 15)
    pages += [inner_page([number] * 200, is_index=is_index) for number in below]
    pages.append(shifted(old) if root == 1 else old)
    start = bytearray(pages[0])
    start[28:32] = struct.pack(">I", len(pages))
    path.write_bytes(bytes(start) + b"".join(pages[1:]))


def shifted(page: bytes) -> bytes:
    """The tree of page 1 as another page has it, without the header of the file."""
    count = int.from_bytes(page[103:105])
    head = page[100 : 108 + 2 * count]
    return head + bytes(100) + page[108 + 2 * count :]


@pytest.mark.parametrize("root", [1, 2, 3, 4])
@pytest.mark.parametrize("how", ["in the file", "by what is put back"])
def test_trees_of_pages_without_end_are_not_walked(path: Path, root: int, how: str) -> None:
    """A file of 80 kB in which SQLite would find 10**30 rows."""
    with Journal(path) as journal:
        for number in range(5):
            journal.note_sent((f"{number}", 1), "http://here", "id", 1, 1.0)
    good = path.read_bytes()
    with_endless_tree(path, root)
    if how != "in the file":
        bad, pages = path.read_bytes(), len(path.read_bytes()) // PAGE
        records = (
            page_record(number, bad[(number - 1) * PAGE : number * PAGE])
            for number in range(1, pages + 1)
        )
        path.write_bytes(good)
        undo = segment(pages, records=pages) + b"".join(records)
        path.with_name("runs.sqlite-journal").write_bytes(undo)
    with contextlib.suppress(ValueError), Journal(path) as journal:
        journal.records([(f"{number}", 1) for number in range(9)])
        journal.note_told(("3", 1))


# -- its records --------------------------------------------------------------------------

COLUMNS = (
    *("host", "tries", "prompt_id", "sent_at", "withdrawn", "told", "seconds"),
    *("execution_seconds", "result", "error"),
)
#: What SQLite takes of hostile values, and texts that are JSON.
STORED = [
    *(value for value in HOSTILE if isinstance(value, str | float | None) and value != "\ud800"),
    *(0, -1, 7, 1 << 62, b"", b"\xff\x00", b"{}", "null", "[]", "7", "{}", '{"a": NaN}', "1e999"),
    *("[" * 100_000, '{"a":' * 100_000, "[" * 500 + "]" * 500, "9" * 5000, "x\x1b]52;c;AA\x07\n"),
]


class Finished:
    """A sweep that has ended with results and errors, to be asked for once more."""

    def __init__(self, api: ComfyApi, path: Path) -> None:
        self._api, self.path = api, path
        self.sweep(None)
        self._content = path.read_bytes()

    def sweep(self, statement: str | None, *values: object) -> Sweep:
        """The same call, after a change of the journal."""
        if statement is not None:
            self.path.write_bytes(self._content)
            with changed(self.path) as connection:
                connection.execute(statement, values)
        return self._api.sweep(WORKFLOW, GRID, journal=self.path, timeout=20)

    def records(self, column: str) -> list[Any]:
        self.path.write_bytes(self._content)
        with changed(self.path) as connection:
            rows = connection.execute(f"SELECT {column} FROM points WHERE {column} NOTNULL")
            return [json.loads(row[0]) for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """With files and texts; one seed fails."""
    with ComfyServer() as server, ComfyApi(server.url) as api:
        add_recorded_nodes(server).failing = {1}
        yield Finished(api, tmp_path_factory.mktemp("finished") / "runs.sqlite")


def check_rows(attempt: Callable[[], Sweep], folder: Path) -> None:
    """Rows that can be used, or the error that a damaged journal is."""
    try:
        rows = attempt()
    except ValueError as exc:
        assert "damaged" in str(exc)  # noqa: PT017
        assert str(exc).isprintable()  # noqa: PT017
        return
    assert len(rows) == 4
    said = [repr(rows), *map(repr, rows), *(str(row.error) for row in rows)]
    said += [str(row.result and row.result.seeds) for row in rows]
    said += [repr(row.result) for row in rows]
    assert all(sign.isprintable() or sign in "\n\t" for text in said for sign in text)
    rows.to_csv(folder / "table.csv")


@settings(suppress_health_check=list(HealthCheck), max_examples=examples(60))
@given(column=st.sampled_from(COLUMNS), value=st.sampled_from(STORED))
def test_any_value_in_any_column_is_a_row_or_damage(
    finished: Finished, column: str, value: object
) -> None:
    """Nothing else comes of it: no other error, no thread that ends."""
    statement = f"UPDATE OR IGNORE points SET {column} = ?"
    check_rows(lambda: finished.sweep(statement, value), finished.path.parent)


@settings(suppress_health_check=list(HealthCheck), max_examples=examples(50))
@given(data=st.data())
def test_any_json_in_a_record_is_a_row_or_damage(finished: Finished, data: st.DataObject) -> None:
    """In each place of what is recorded of a result or an error."""
    column = data.draw(st.sampled_from(["result", "error"]))
    record = data.draw(st.sampled_from(finished.records(column)))
    place = data.draw(st.sampled_from(list(places(record))))
    said = json.dumps(spoilt(record, place, data.draw(JSON | st.just("\x1b]52;c;AA\x07\n"))))
    statement = f"UPDATE points SET {column} = ? WHERE {column} NOTNULL"
    check_rows(lambda: finished.sweep(statement, said), finished.path.parent)


@pytest.mark.long
def test_records_that_would_take_gigabytes_are_refused(finished: Finished) -> None:
    """By what they would take when they are decoded, and in sum; nothing is decoded."""
    said = '{"outputs": {"1": {"a": [' + "{}," * 4_000_000 + "7]}}}"
    with pytest.raises(ValueError, match="would take more than 1024 MiB"):
        finished.sweep("UPDATE points SET result = ?, error = NULL", said)


# -- prompts of others --------------------------------------------------------------------

#: What somebody else runs, and one prompt of ours.
OTHERS = {"1": {"class_type": "Keep", "inputs": {"value": "theirs"}}}
ONE = {"Make.seed": [7]}
SERVERS = pytest.mark.parametrize("kind", [ComfyServer, March2024], ids=["new", "2024"])


def naming(path: Path, grid: dict[str, list[Any]], server: ComfyServer, prompt_id: str) -> Path:
    """A journal in which a prompt stands for each point, as one that was sent."""
    with Journal(path) as journal:
        for point in range(len(Grid(WORKFLOW, grid))):
            key = (Grid(WORKFLOW, grid).digest(point), 1)
            journal.note_sent(key, server.url, prompt_id, 1, 1.0)
    return path


@contextlib.contextmanager
def either(how: str, url: str) -> Iterator[Any]:
    with ComfyApi(url) if how == "client" else ComfyPool([url]) as one:
        yield one


@SERVERS
@pytest.mark.parametrize("how", ["client", "pool"])
@pytest.mark.parametrize("is_withdrawn", [False, True])
def test_a_prompt_of_another_user_in_a_journal_is_no_row(
    path: Path, kind: type[ComfyServer], how: str, is_withdrawn: bool
) -> None:
    """Its results are not taken, and the point runs."""
    with kind() as server, ComfyApi(server.url) as other, either(how, server.url) as one:
        add_recorded_nodes(server)
        theirs = other.run(OTHERS)
        naming(path, ONE, server, theirs.prompt_id)
        if is_withdrawn:
            with changed(path) as connection:
                connection.execute("UPDATE points SET withdrawn = 1")
        (row,) = one.sweep(WORKFLOW, ONE, journal=path, timeout=60)
        assert row.result.texts == ("ax7",)
        assert row.prompt_id != theirs.prompt_id


@SERVERS
@pytest.mark.parametrize("how", ["client", "pool"])
def test_a_prompt_of_another_user_in_a_journal_is_not_deleted(
    path: Path, kind: type[ComfyServer], how: str
) -> None:
    """Neither on Ctrl-C nor at a timeout: it waits in the queue as before."""
    with kind() as server, ComfyApi(server.url) as other, either(how, server.url) as one:
        record = add_recorded_nodes(server)
        record.gate = threading.Semaphore(0)
        theirs = [other.submit(OTHERS) for _ in range(2)]
        naming(path, ONE, server, theirs[1].prompt_id)
        with contextlib.suppress(JobTimeout, KeyboardInterrupt):
            (row,) = one.sweep(WORKFLOW, ONE, journal=path, timeout=1.5)
            assert isinstance(row.error, JobTimeout | JobInterrupted)
        deleted = [
            request.json()
            for request in server.requests
            if request.path == "/queue" and request.method == "POST"
        ]
        assert theirs[1].prompt_id not in str(deleted)
        assert theirs[1].prompt_id in [item.prompt_id for item in other.get_queue().pending]
        record.gate = None
        assert [job.result(60).texts for job in theirs] == [("theirs",)] * 2


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("graph", [OTHERS, {**WORKFLOW, "4": OTHERS["1"]}], ids=["other", "like"])
def test_a_forged_mark_is_not_believed_when_a_sweep_goes_on(
    path: Path, is_known: bool, graph: dict[str, Any]
) -> None:
    """A server that chooses the ids has theirs with our mark, and ours no more."""
    with March2024() as server, ComfyApi(server.url) as api:
        add_recorded_nodes(server)
        (row,) = api.sweep(WORKFLOW, ONE, journal=path)
        (entry,) = api.get_histories(None).values()
        mark = entry.extra_data[EXTRA_DATA_KEY]
        api.clear_history()
        # One that was sent a moment ago would be waited for.
        with changed(path) as connection:  # killed after the submission, or before its answer
            connection.execute(
                "UPDATE points SET result = NULL, sent_at = 1.0, prompt_id = ?",
                [row.prompt_id if is_known else mark],
            )
        forged = {"prompt": graph, "extra_data": {EXTRA_DATA_KEY: mark}}
        requests.post(f"{server.url}/prompt", json=forged, timeout=60).raise_for_status()
        until(
            lambda: [entry for entry in api.get_histories(None).values() if entry.status.completed]
        )
        with ComfyApi(server.url) as later:
            (again,) = later.sweep(WORKFLOW, ONE, journal=path, timeout=60)
        assert again.result.texts == ("ax7",)


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("seed", [7, "random"])
def test_the_mark_of_a_journaled_prompt_is_found_again(
    path: Path, is_known: bool, seed: Any
) -> None:
    """Though a seed was drawn, by the id that the server told or without it."""
    grid = {"Make.seed": [seed]}
    with March2024() as server, ComfyApi(server.url) as api:
        record = add_recorded_nodes(server)
        (row,) = api.sweep(WORKFLOW, grid, journal=path)
        (entry,) = api.get_histories(None).values()
        known = row.prompt_id if is_known else entry.extra_data[EXTRA_DATA_KEY]
        with changed(path) as connection:
            connection.execute("UPDATE points SET result = NULL, prompt_id = ?", [known])
        with ComfyApi(server.url) as later:
            (again,) = later.sweep(WORKFLOW, grid, journal=path, timeout=60)
        assert again.result.texts == row.result.texts
        assert len(record.values()) == 1


def test_a_prompt_that_got_another_id_on_its_way_is_found_again(path: Path) -> None:
    """A proxy may choose the ids in front of a server that would take ours."""
    with ComfyServer() as server, ComfyApi(server.url) as api:
        record = add_recorded_nodes(server)

        def renamed(request: Request) -> Any:
            body = {**request.json(), "prompt_id": str(uuid.uuid4())}
            return server.answer(attrs.evolve(request, body=json.dumps(body).encode()))

        with server.on("POST", "/prompt", renamed):
            (row,) = api.sweep(WORKFLOW, ONE, journal=path)
        with changed(path) as connection:
            connection.execute("UPDATE points SET result = NULL")
        with ComfyApi(server.url) as later:
            (again,) = later.sweep(WORKFLOW, ONE, journal=path, timeout=60)
        assert (again.prompt_id, again.result.texts) == (row.prompt_id, ("ax7",))
        assert record.values() == ["ax7"]

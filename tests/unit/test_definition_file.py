"""Node definitions on disk: of one server and one start of it, private, bounded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client.errors import UnexpectedResponse
from comfy_client.routes.definitions import MOST_BYTES, MOST_FILES, DefinitionFile, marks_in
from comfy_client.workflow.definition_source import FromDisk
from tests.conftest import examples

URL = "http://gpu:8188"
POSIX = pytest.mark.posix("modes of files, and pipes with names")


def lines(*numbers: int) -> dict[str, Any]:
    return {"entries": [{"t": f"2026-12-01T13:42:06.{n:06}", "m": f"line {n}"} for n in numbers]}


NOW = marks_in(lines(1, 2, 3))
KNOWN = {"A\tb\n": {"input": {"required": {}}}, "C": {"output": ["X"]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "nodes"


@pytest.fixture
def file(folder: Path) -> DefinitionFile:
    made = DefinitionFile(folder, URL)
    made.write(NOW, KNOWN, ("A\tb\n", "C", "D"))
    return made


def path_in(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_definition_file_is_read_by_another_process(folder: Path, file: DefinitionFile) -> None:
    other = DefinitionFile(folder, URL)
    found, size = other.read(NOW, ["C", "A\tb\n", "D"])
    assert found == KNOWN
    assert all(isinstance(one, FromDisk) for one in found.values())
    assert size > 0
    assert other.names(NOW) == ("A\tb\n", "C", "D")


def test_a_definition_file_belongs_to_one_server(folder: Path, file: DefinitionFile) -> None:
    other = DefinitionFile(folder, "http://gpu:8189")
    assert not other.exists
    ours = path_in(folder).read_bytes()
    other.write(NOW, {})
    for path in folder.iterdir():
        path.write_bytes(ours)
    assert file.read(NOW, KNOWN)[0] == KNOWN
    assert other.read(NOW, KNOWN) == ({}, 0)


@pytest.mark.parametrize(
    ("now", "is_same"),
    [
        (lines(3), True),  # it has forgotten the first ones
        (lines(3, 4, 5), True),
        (lines(4, 5), False),  # restarted, or so busy that nobody can say
        (lines(), False),
    ],
)
def test_a_restart_shows_in_the_log(file: DefinitionFile, now: Any, is_same: bool) -> None:
    found, _ = file.read(marks_in(now), KNOWN)
    assert bool(found) is is_same
    assert (file.names(marks_in(now)) is not None) is is_same


def test_marks_go_on_with_the_log(file: DefinitionFile) -> None:
    """Each reader notes the lines that are new; a chain of them outlives the first ones."""
    for first in range(1, 20, 2):
        assert file.read(marks_in(lines(first, first + 1, first + 2)), KNOWN)[0]


@pytest.mark.parametrize(
    "answer",
    [
        {"entries": [{"t": "", "m": "x"}, {"t": "13:42", "m": "x"}, {"m": "x"}, 5, None]},
        {"entries": None},
        {},
    ],
)
def test_a_log_without_exact_times_marks_nothing(answer: Any) -> None:
    assert marks_in(answer) == frozenset()


def test_a_log_of_the_wrong_form_is_unexpected() -> None:
    with pytest.raises(UnexpectedResponse):
        marks_in([])


def test_without_marks_nothing_is_kept_or_read(folder: Path) -> None:
    file = DefinitionFile(folder, URL)
    file.write(frozenset(), KNOWN)
    assert not file.exists
    file.write(NOW, KNOWN)
    assert file.read(frozenset(), KNOWN) == ({}, 0)


def test_added_definitions_stay_with_the_old_ones(file: DefinitionFile) -> None:
    file.write(NOW, {"D": {"output": []}})
    assert file.read(NOW, [*KNOWN, "D"])[0] == {**KNOWN, "D": {"output": []}}
    assert file.names(NOW)


def test_a_new_start_begins_anew(file: DefinitionFile) -> None:
    later = marks_in(lines(10))
    file.write(later, {"D": {"output": []}})
    assert file.read(later, [*KNOWN, "D"])[0] == {"D": {"output": []}}
    assert file.names(later) is None


def test_dropped_classes_are_gone(file: DefinitionFile) -> None:
    file.drop(["C", "none"])
    assert list(file.read(NOW, KNOWN)[0]) == ["A\tb\n"]


def test_a_definition_file_expires_after_an_hour(file: DefinitionFile, folder: Path) -> None:
    """Files of models come and go while a server runs."""
    path = path_in(folder)
    head, _, rest = path.read_text().partition("\n")
    for since, is_known in ((1.0, False), (1e12, False)):
        path.write_text(json.dumps({**json.loads(head), "since": since}) + "\n" + rest)
        assert bool(file.read(NOW, KNOWN)[0]) is is_known


def test_terminal_output_is_not_kept(folder: Path, file: DefinitionFile) -> None:
    assert b"line 1" not in path_in(folder).read_bytes()
    assert URL.encode() not in path_in(folder).read_bytes()


# -- safe ---------------------------------------------------------------------------------


@POSIX
def test_only_its_owner_reads_it(folder: Path, file: DefinitionFile) -> None:
    assert path_in(folder).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


@POSIX
def test_a_file_or_folder_that_others_may_write_is_not_used(
    folder: Path, file: DefinitionFile
) -> None:
    path_in(folder).chmod(0o666)
    assert file.read(NOW, KNOWN) == ({}, 0)
    path_in(folder).chmod(0o600)
    folder.chmod(0o777)
    file.write(NOW, {"D": {}})
    assert "D" not in file.read(NOW, ["D"])[0]


@POSIX
@pytest.mark.parametrize("make", ["mkfifo", "mkdir", "symlink"])
def test_a_link_or_fifo_in_place_of_a_definition_file_is_ignored(folder: Path, make: str) -> None:
    folder.mkdir(0o700)
    file = DefinitionFile(folder, URL)
    file.write(NOW, KNOWN)
    path = path_in(folder)
    path.unlink()
    getattr(os, make)(*(["/dev/zero"] if make == "symlink" else []), path)
    assert file.read(NOW, KNOWN) == ({}, 0)
    file.write(NOW, KNOWN)
    file.drop(["C"])


@given(st.binary(max_size=40), st.integers(0, 2000), st.booleans())
@settings(max_examples=examples(100))
def test_a_damaged_file_raises_nothing(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int, is_cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    file = DefinitionFile(folder, URL)
    file.write(NOW, KNOWN)
    path = path_in(folder)
    content = path.read_bytes()
    path.write_bytes(content[:at] + junk + (b"" if is_cut else content[at:]))
    found, _ = file.read(NOW, KNOWN)
    assert found.keys() <= KNOWN.keys()
    assert all(isinstance(one, dict) for one in found.values())
    file.names(NOW)
    file.drop(["C"])


@pytest.mark.parametrize("line", [b"5\t{}", b"[\t{}", b'"C"\t[]', b'"C"\t' + b"[" * 100_000])
def test_lines_that_are_no_definitions_are_ignored(
    folder: Path, file: DefinitionFile, line: bytes
) -> None:
    path = path_in(folder)
    path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n" + line)
    assert file.read(NOW, ["C"]) == ({}, 0)


def test_a_folder_that_cannot_be_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "below", Path("a\0b")):
        file = DefinitionFile(folder, URL)
        file.write(NOW, KNOWN)
        assert file.read(NOW, KNOWN) == ({}, 0)
        assert not file.exists


# -- bounded ------------------------------------------------------------------------------


def test_a_file_has_a_largest_size(folder: Path) -> None:
    file = DefinitionFile(folder, URL)
    large = {f"C{n}": {"x": "y" * (1 << 20)} for n in range(20)}
    file.write(NOW, {**large, "TooLarge": {"x": "y" * (3 << 20)}})
    assert path_in(folder).stat().st_size <= MOST_BYTES
    assert 10 < len(file.read(NOW, [*large, "TooLarge"])[0]) < 20
    assert "TooLarge" not in file.read(NOW, ["TooLarge"])[0]
    path_in(folder).write_bytes(bytes(MOST_BYTES))
    assert file.read(NOW, large) == ({}, 0)


def test_there_are_a_few_files(folder: Path) -> None:
    """The latest; what a crash left behind goes, too."""
    folder.mkdir(0o700)
    left = folder / "definitions-left.new"
    left.write_bytes(b"")
    os.utime(left, (0, 0))
    for number in range(MOST_FILES + 5):
        DefinitionFile(folder, f"{URL}/{number}").write(NOW, KNOWN)
    assert len([*folder.iterdir()]) == MOST_FILES
    assert DefinitionFile(folder, f"{URL}/{number}").read(NOW, KNOWN)[0] == KNOWN
    assert not left.exists()


def test_a_write_that_fails_leaves_nothing(folder: Path, file: DefinitionFile) -> None:
    """As where a folder has the name of the file."""
    path = path_in(folder)
    path.unlink()
    path.mkdir()
    file.write(NOW, KNOWN)
    assert [*folder.iterdir()] == [path]


def test_files_of_the_user_stay_in_the_folder(folder: Path, file: DefinitionFile) -> None:
    """It may be any folder that the user names."""
    theirs = [folder / f"render_{n}.png" for n in range(MOST_FILES + 4)]
    for path in theirs:
        path.write_bytes(b"")
    DefinitionFile(folder, "http://gpu:8189").write(NOW, KNOWN)
    assert all(path.exists() for path in theirs)


def test_ctrl_c_right_after_a_write_comes_out(
    file: DefinitionFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupted(*paths: Any) -> None:
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        file.write(NOW, {"E": {}})

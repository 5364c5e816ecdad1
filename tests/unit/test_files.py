"""Files of the server on our disk."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from comfy_client import Workflow
from comfy_client.cli import bug_report
from comfy_client.cli.own_prompts import mark
from comfy_client.replacing import discard
from comfy_client.routes.definitions import DefinitionFile
from comfy_client.transport.local_files import (
    MAX_NAME,
    safe_name,
    target_path,
    write_atomically,
)
from tests.conftest import examples
from tests.helpers.patches import denied

DEVICES = ["CON", "PRN", "AUX", "NUL", "COM1", "com9", "LPT1", "COM²", "CONIN$", "conout$"]
NAMES = st.one_of(
    st.text(),
    st.text(alphabet="./\\: \x00aN\u202e\ud800", max_size=12),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["", " ", ".", "a/", "..\\"]),
        st.sampled_from(DEVICES),
        st.sampled_from(["", ".png", " .png", ".", " ", ":x", ".tar.gz"]),
    ),
    st.builds(
        lambda a, n, b: a * n + b,
        st.sampled_from("a\u00e4\U0001f600."),
        st.integers(0, 400),
        st.text(),
    ),
)


@given(NAMES)
@example("..")
@example("")
@example("\u00e4" * 300 + ".png")
def test_a_safe_name_is_one_harmless_component(name):
    """On POSIX and on Windows, whatever came."""
    safe = safe_name(name)
    assert safe
    assert len(safe.encode()) <= MAX_NAME
    for path in (PurePosixPath("folder") / safe, PureWindowsPath("folder") / safe):
        assert path.name == safe
        assert path.parent.name == "folder"
    assert not set(safe) & set('/\\<>:"|?*')
    assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in safe)
    assert not safe.startswith((".", " "))
    assert not safe.endswith((".", " "))
    assert safe.split(".")[0].strip().upper() not in {name.upper() for name in DEVICES}


@given(NAMES)
def test_a_safe_name_stays_as_it_is(name):
    """Asked twice, it says the same."""
    assert safe_name(safe_name(name)) == safe_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "ComfyUI_00001_.png",
        "a b&c#d%.png",
        "Bild \u00e4\u00f6\u4f60\u597d.webp",
        "a.tar.gz",
        "contact.png",
        "x",
        "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f468\u200d\U0001f469.png",
    ],
)
def test_ordinary_names_are_kept(name):
    """With spaces, signs and all scripts."""
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\x\\a.png", "a.png"),
        ("a.png:stream", "a.png_stream"),
        ("/", "file"),
        ("..", "file"),
        (".bashrc", "bashrc"),
        ("nul.png", "_nul.png"),
        ("CON", "_CON"),
        ("a.png. . ", "a.png"),
        ("a\x00\nb.png", "ab.png"),
        ("photo\u202egnp.exe", "photognp.exe"),
        ("a\u061cb\u200fc\ufeffd\u2060e\u206af.png", "abcdef.png"),
        ("a\ud800.png", "a.png"),
    ],
)
def test_names_that_would_do_harm_are_made_harmless(name, safe):
    """One line for each trick."""
    assert safe_name(name) == safe


def test_a_long_name_keeps_its_ending():
    """And is cut between letters."""
    safe = safe_name("\u00e4" * 300 + ".png")
    assert safe.endswith("\u00e4.png")
    assert len(safe.encode()) <= MAX_NAME


# -- where --------------------------------------------------------------------------------


def test_a_folder_takes_the_servers_name_and_a_file_its_own(tmp_path):
    """A folder is what exists as one, or ends in a separator."""
    assert target_path(tmp_path, "a.png") == (tmp_path / "a.png", "number")
    assert target_path(str(tmp_path), "x/a.png") == (tmp_path / "a.png", "number")
    assert target_path(f"{tmp_path}/new/", "a.png") == (tmp_path / "new" / "a.png", "number")
    assert target_path(tmp_path / "new", "a.png") == (tmp_path / "new", "overwrite")
    assert target_path(tmp_path, "a.png", "skip") == (tmp_path / "a.png", "skip")
    assert target_path("b.png", "a.png", "number") == (Path("b.png"), "number")


def test_a_rule_that_does_not_exist_is_refused(tmp_path):
    """With those that do."""
    with pytest.raises(ValueError, match="'number', 'skip' or 'overwrite'"):
        target_path(tmp_path, "a.png", "rename")


@given(NAMES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_leaves_the_folder(tmp_path, name):
    """The parent is the folder, for every name."""
    target, _ = target_path(tmp_path, name)
    assert target.parent == tmp_path
    assert os.path.dirname(os.path.abspath(target)) == str(tmp_path)


@given(NAMES)
@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_name_can_be_written(tmp_path, name):
    """The file system takes what safe_name gives, numbered too."""
    target, rule = target_path(tmp_path, name)
    first = write_atomically(target, [b"1"], if_exists=rule)
    second = write_atomically(target, [b"2"], if_exists=rule)
    assert first != second
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")
    assert first.parent == second.parent == tmp_path


# -- writing ------------------------------------------------------------------------------


def listing(folder: Path) -> list[str]:
    """All names in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_written_with_its_folders(tmp_path):
    """From chunks of any kind of bytes, and readable as any new file is."""
    target = tmp_path / "a" / "b" / "c.bin"
    assert write_atomically(target, [b"12", memoryview(b"34")], if_exists="overwrite") == target
    assert target.read_bytes() == b"1234"
    plain = tmp_path / "plain"
    plain.touch()
    assert target.stat().st_mode == plain.stat().st_mode


def test_numbers_go_on_until_one_is_free(tmp_path):
    """name.png, name (1).png, name (2).png."""
    target = tmp_path / "a.png"
    written = [write_atomically(target, [b"%d" % n], if_exists="number") for n in range(3)]
    assert [path.name for path in written] == ["a.png", "a (1).png", "a (2).png"]
    assert [path.read_bytes() for path in written] == [b"0", b"1", b"2"]


def test_thousands_of_a_name_are_not_tried_one_by_one(tmp_path):
    """For each that is saved anew."""
    for number in range(300):
        (tmp_path / (f"a ({number}).png" if number else "a.png")).touch()
    asked = []  # of the system
    sys.setprofile(lambda _, event, called: event == "c_call" and asked.append(called.__name__))
    try:
        written = write_atomically(tmp_path / "a.png", [b"1"], if_exists="number")
    finally:
        sys.setprofile(None)
    assert written.name == "a (300).png"
    assert 2 < sum(name in ("link", "lstat", "stat") for name in asked) < 30


def test_skip_leaves_what_is_there_and_reads_nothing(tmp_path):
    """The chunks are not touched."""
    target = tmp_path / "a.png"
    target.write_bytes(b"old")

    def chunks():
        raise AssertionError("asked for")
        yield b""

    assert write_atomically(target, chunks(), if_exists="skip") == target
    assert target.read_bytes() == b"old"


def test_overwrite_replaces(tmp_path):
    """And leaves nothing else."""
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    write_atomically(target, [b"new"], if_exists="overwrite")
    assert target.read_bytes() == b"new"
    assert listing(tmp_path) == ["a.png"]


@pytest.mark.parametrize("rule", ["number", "skip", "overwrite"])
@pytest.mark.parametrize("failure", [OSError("cut"), KeyboardInterrupt()])
def test_a_failure_leaves_no_file(tmp_path, rule, failure):
    """Neither under the final name nor a temporary one; the error comes through."""
    seen = []

    def chunks():
        yield b"x" * 100_000
        seen.extend(listing(tmp_path))
        raise failure

    with pytest.raises(type(failure)):
        write_atomically(tmp_path / "a.png", chunks(), if_exists=rule)
    assert len(seen) == 1
    assert seen[0] != "a.png"
    assert listing(tmp_path) == []


def test_a_failed_overwrite_keeps_the_old_file(tmp_path):
    """It is replaced by a complete one or not at all."""
    target = tmp_path / "a.png"
    target.write_bytes(b"old")

    def chunks():
        yield b"new"
        raise OSError("cut")

    with pytest.raises(OSError, match="cut"):
        write_atomically(target, chunks(), if_exists="overwrite")
    assert target.read_bytes() == b"old"


def no_links(monkeypatch):
    """On a disk that has no hard links; what refuses."""

    def refuse(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    return refuse


class InUse:
    """A function on files that Windows refuses so many times, as another program has one open."""

    def __init__(self, real: Callable[..., None], times: int) -> None:
        self._real = real
        self.left = times

    def __call__(self, *args: Any, **options: Any) -> None:
        if self.left:
            self.left -= 1
            raise denied(*args)
        self._real(*args, **options)


def test_a_file_that_a_virus_scanner_opens_is_replaced_a_moment_later(tmp_path, monkeypatch):
    """Without hard links, too, and so is one that is only removed."""
    target = tmp_path / "same.png"
    for times, rule, links in (
        (0, "overwrite", True),
        (2, "overwrite", True),
        (2, "number", False),
    ):
        if not links:
            monkeypatch.setattr(os, "link", InUse(os.link, 9))
        replace = InUse(os.replace, times)
        monkeypatch.setattr(os, "replace", replace)
        written = write_atomically(target, [b"new"], if_exists=rule)
        assert written.read_bytes() == b"new"
        assert not replace.left
    monkeypatch.setattr(Path, "unlink", lambda self, **_: unlink(self))
    unlink = InUse(os.unlink, 2)
    discard(target)
    assert not target.exists()


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda path: Workflow.example().save(path), "replace"),
        (lambda path: mark(), "replace"),
        (lambda path: DefinitionFile(path, "http://a:1").write({"1"}, {"A": {}}), "replace"),
        (lambda path: bug_report.write(path, "text"), "unlink"),
    ],
    ids=["workflow", "installation", "definitions", "report"],
)
def test_saving_waits_for_a_virus_scanner(write, name, tmp_path, monkeypatch):
    """Nothing else is left in the folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("COMFYUI_INSTALLATION_ID", raising=False)
    refused = InUse(getattr(os, name), 2)
    monkeypatch.setattr(os, name, refused)
    write(tmp_path / "a.json")
    assert not refused.left
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_file_that_a_viewer_holds_open_is_named_by_the_error(tmp_path, monkeypatch):
    """Once, and the old file stays."""
    target = tmp_path / "same.png"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", InUse(os.replace, 99))
    with pytest.raises(PermissionError) as raised:
        write_atomically(target, [b"new"], if_exists="overwrite")
    assert str(raised.value) == f"[Errno 13] another program may have it open: {str(target)!r}"
    assert os.listdir(tmp_path) == ["same.png"]
    assert target.read_bytes() == b"old"


def test_an_error_of_a_rename_names_one_file(tmp_path, monkeypatch):
    """That of the caller."""

    def refuse(path: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "not permitted", str(path), None, str(target))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError) as raised:
        write_atomically(tmp_path / "a.png", [b""], if_exists="overwrite")
    _, _, text = str(raised.value).partition("] ")  # the number is Windows' own there
    assert text == f"not permitted: {str(tmp_path / 'a.png')!r}"


@pytest.mark.parametrize("length", [10, 240])
def test_a_path_that_is_too_long_for_windows_is_called_so(length, tmp_path, monkeypatch):
    """It says that there is no such path."""

    def refuse(self: Path, mode: str) -> None:
        error = FileNotFoundError(errno.ENOENT, "no such path", str(self))
        error.winerror = 3  # type: ignore[attr-defined]  # an attribute on Windows only
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match=r"no such path|too long for Windows") as raised:
        write_atomically(tmp_path / ("a" * length), [b""], if_exists="overwrite")
    assert ("too long for Windows" in str(raised.value)) is (length > 200)
    assert raised.value.filename == str(tmp_path / ("a" * length))


@pytest.fixture(params=["links", "no links"])
def _links(request, monkeypatch):
    """With hard links, and without."""
    if request.param == "no links":
        no_links(monkeypatch)


@pytest.mark.usefixtures("_links")
def test_a_file_that_appears_while_saving_is_not_overwritten(tmp_path):
    """A file that appears while we write keeps its name, with hard links and without."""
    target = tmp_path / "a.png"

    def chunks(text):
        target.write_bytes(b"theirs")
        yield text

    assert write_atomically(target, chunks(b"ours"), if_exists="number").name == "a (1).png"
    assert target.read_bytes() == b"theirs"
    target.unlink()
    assert write_atomically(target, chunks(b"ours"), if_exists="skip") == target
    assert target.read_bytes() == b"theirs"
    assert listing(tmp_path) == ["a (1).png", "a.png"]


def test_a_name_that_was_claimed_is_given_back(tmp_path, monkeypatch):
    """Without hard links, a rename that fails leaves no empty file."""
    monkeypatch.setattr(os, "replace", no_links(monkeypatch))
    with pytest.raises(OSError, match="no hard links"):
        write_atomically(tmp_path / "a.png", [b"1"], if_exists="number")
    assert listing(tmp_path) == []


def test_a_name_is_given_back_if_the_disk_fails_as_it_is_claimed(tmp_path, monkeypatch):
    """The empty file that claims it is closed, and then there is no room for it."""

    class Claim(io.FileIO):
        def close(self):
            if not self.closed:
                super().close()
                raise OSError(errno.ENOSPC, "no room")

    target, opened = tmp_path / "a.png", Path.open
    no_links(monkeypatch)
    monkeypatch.setattr(
        Path, "open", lambda path, mode: Claim(path, "x") if path == target else opened(path, mode)
    )
    with pytest.raises(OSError, match="no room"):
        write_atomically(target, [b"1"], if_exists="number")
    assert listing(tmp_path) == []


def test_an_error_names_the_file_that_was_asked_for(tmp_path, monkeypatch):
    """The name of the temporary file would tell the caller nothing."""

    def refuse(path, mode):
        raise PermissionError(errno.EACCES, "not allowed", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError) as caught:
        write_atomically(tmp_path / "a.png", [b"1"], if_exists="number")
    assert caught.value.filename == str(tmp_path / "a.png")


@pytest.mark.parametrize("rule", ["number", "skip", "overwrite"])
def test_a_temporary_file_that_is_held_for_a_moment_is_removed(tmp_path, monkeypatch, rule):
    """By a scanner, or a network drive; the file itself is there, which is no failure."""
    refusals = iter([OSError(errno.EBUSY, "held")])
    unlink = os.unlink

    def held(*args, **kw):
        for refusal in refusals:
            raise refusal
        unlink(*args, **kw)

    monkeypatch.setattr(os, "unlink", held)
    assert write_atomically(tmp_path / "a.png", [b"1"], if_exists=rule) == tmp_path / "a.png"
    assert listing(tmp_path) == ["a.png"]


@pytest.mark.usefixtures("_links")
def test_many_writers_of_one_name_each_get_their_own(tmp_path):
    """No file is lost, none is mixed."""
    start = threading.Barrier(8)
    written = []

    def write(number: int) -> None:
        start.wait(30)
        path = write_atomically(tmp_path / "a.png", [b"%d" % number] * 1000, if_exists="number")
        written.append((path, number))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({path for path, _ in written}) == 8
    assert all(path.read_bytes() == b"%d" % number * 1000 for path, number in written)
    assert len(listing(tmp_path)) == 8


@pytest.mark.parametrize("rule", ["number", "overwrite", "skip"])
def test_a_link_in_the_folder_leads_nowhere(tmp_path, rule):
    """Its goal outside is neither written nor made, whether it exists or not."""
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").symlink_to(outside)
    write_atomically(folder / "a.png", [b"new"], if_exists=rule)
    assert not outside.exists()
    outside.write_bytes(b"precious")
    write_atomically(folder / "a.png", [b"newer"], if_exists=rule)
    assert outside.read_bytes() == b"precious"


@pytest.mark.posix("pipes with names")
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_to_and_stays_one(tmp_path, linked):
    """As by ``>`` of a shell; its reader gets the content."""
    pipe = target = tmp_path / "pipe"
    os.mkfifo(pipe)
    if linked:
        target = tmp_path / "link"
        target.symlink_to(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert write_atomically(target, [b"a", b"b"], if_exists="overwrite", through=True) == target
        assert os.read(reader, 10) == b"ab"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert target.is_symlink() is linked
    beside = write_atomically(pipe, [b"1"], if_exists="number")
    assert beside.name == "pipe (1)"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux")
@pytest.mark.posix("names of open files")
def test_an_open_file_that_the_system_links_to_is_written_at_its_end(tmp_path):
    """As ``/dev/stdout`` is, when a shell has sent it to a file."""
    (tmp_path / "log").write_bytes(b"before ")
    with (tmp_path / "log").open("ab") as log:
        target = Path(f"/proc/self/fd/{log.fileno()}")
        assert write_atomically(target, [b"after"], if_exists="overwrite", through=True) == target
    assert (tmp_path / "log").read_bytes() == b"before after"


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    """Numbered beside it, or refused in one clear line."""
    (tmp_path / "a.png").mkdir()
    assert write_atomically(tmp_path / "a.png", [b"1"], if_exists="number").name == "a (1).png"
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_atomically(tmp_path / "a.png", [b"1"], if_exists="overwrite")

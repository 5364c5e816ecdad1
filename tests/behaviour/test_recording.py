"""What ``record=`` writes down, and the life of the file."""

from __future__ import annotations

import base64
import contextlib
import errno
import gc
import json
import logging
import os
import pickle
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_client import (
    ComfyApi,
    ComfyError,
)
from comfy_client.recording import recorder as recording
from comfy_client.recording.recorder import Recorder
from comfy_client.testing import ComfyServer, cut, frame, never_answer
from tests.conftest import examples
from tests.helpers.clients import Quick, until
from tests.helpers.records import graph, rows, so_far

ROOT = Path(__file__).parents[2]


# -- what is in it -------------------------------------------------------------------------


def test_every_exchange_and_every_frame_is_there_in_order(server: ComfyServer, path: Path) -> None:
    """In the words of the transcripts of real servers."""
    with ComfyApi(server.url, record=path) as api:
        events: list[str] = []
        api.on("all", lambda event: events.append(event.name))
        result = api.run(graph(1))
        picture = result.images[0].bytes()
        until(lambda: "executing" in events[-1:])
    found = rows(path)
    assert found[0]["kind"] == "note"
    assert found[0]["format"] == 1
    assert [row["t"] for row in found] == sorted(row["t"] for row in found)
    opened = next(row for row in found if row["kind"] == "open")
    assert (opened["ch"], opened["client_id"]) == ("ws1", api.client_id)
    sent = next(row for row in found if row["kind"] == "sent")
    assert sent["msg"]["type"] == "feature_flags"
    assert found[-1]["kind"] == "closed"
    assert found[-1]["by"] == "client"
    greeting = ("status", "feature_flags")  # some of it came before anybody listened
    told = [row["msg"]["type"] for row in found if row["kind"] == "json"]
    told = [name for name in told if name not in greeting]
    assert told == [name for name in events if name in told]
    http = [(row["method"], row["path"]) for row in found if row["kind"] == "http"]
    assert http[:2] == [("GET", "/api/prompt"), ("POST", "/api/prompt")]
    post = next(row for row in found if row.get("method") == "POST")
    assert post["request"]["prompt"] == graph(1)
    assert post["response"]["prompt_id"] == result.prompt_id
    assert 0 <= post["begun"] <= post["t"]
    view = next(row for row in found if "/view" in row.get("path", ""))
    assert base64.b64decode(view["body_b64"]) == picture
    assert view["len"] == len(picture)
    assert view["content_type"] == "image/png"


def test_binary_frames_are_kept_with_what_they_say(server: ComfyServer, path: Path) -> None:
    """The head as in the transcripts, and all of it beside that."""
    picture = b"\xff\xd8\xff\xe0" + bytes(300)
    metadata = json.dumps({"node_id": "3"}).encode()
    frames = [
        (1).to_bytes(4, "big") + (1).to_bytes(4, "big") + picture,
        (4).to_bytes(4, "big") + len(metadata).to_bytes(4, "big") + metadata + picture,
        (3).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"7some text",
        b"\0\0",
    ]
    with ComfyApi(server.url, record=path) as api:
        for data in frames:
            server.push_binary(data, to=api.client_id)
        until(lambda: sum(row["kind"] == "binary" for row in so_far(path)) == 4)
    found = [row for row in rows(path) if row["kind"] == "binary"]
    assert [base64.b64decode(row["data_b64"]) for row in found] == frames
    assert [base64.b64decode(row["head_b64"]) for row in found] == [f[:64] for f in frames]
    assert [row["len"] for row in found] == [len(data) for data in frames]
    assert [row["event"] for row in found[:3]] == [1, 4, 3]
    assert found[0]["image_type"] == 1
    assert found[0]["body"] == "JPEG"
    assert found[1]["metadata"] == {"node_id": "3"}
    assert found[1]["metadata_len"] == len(metadata)


def test_large_bodies_are_recorded_by_length_and_digest(server: ComfyServer, path: Path) -> None:
    """By length, digest and head; an upload by its name and length."""
    large = recording.MAX_BODY + 1
    big = os.urandom(large)
    (server.root / "output" / "big.bin").write_bytes(big)
    with ComfyApi(server.url, record=path) as api:
        assert api.get_image({"filename": "big.bin"}) == big
        api.upload_image(big, "up.png")
        server.push_binary(big, to=api.client_id)
        server.push({"type": "crystools.monitor", "data": {"x": "y" * large}}, to=api.client_id)
        until(lambda: sum(row.get("len", 0) >= large for row in so_far(path)) == 3)
    found = {row["kind"]: row for row in rows(path) if row.get("len", 0) >= large}
    for kind in ("http", "binary"):
        assert base64.b64decode(found[kind]["head_b64"]) == big[:64]
        assert not {"data_b64", "body_b64"} & found[kind].keys()
        assert len(found[kind]["sha256"]) == 64
    assert "msg" not in found["json"]
    upload = next(row for row in rows(path) if row.get("path") == "/api/upload/image")
    assert upload["request"]["file"] == "up.png"
    assert upload["request"]["len"] == large
    assert path.stat().st_size < 10_000


@pytest.mark.parametrize(
    ("data", "is_text", "kept"),
    [(os.urandom(1000), False, "data_b64"), (b'{"type": "%s"}' % (b"x" * 1000), True, "msg")],
    ids=["binary", "text"],
)
def test_frames_have_a_limit_in_all(path: Path, data: bytes, is_text: bool, kept: str) -> None:
    """They come for as long as the server likes; beyond it each is noted only."""
    recorder = Recorder(path, max_bodies=3 * len(data) - 1)
    recorder.opened("ws://127.0.0.1/ws?clientId=x")
    for _ in range(5):
        recorder.frame(is_text, data)
    recorder.close()
    found = [row for row in rows(path) if row.get("len", 0) >= 1000 or "msg" in row]
    assert [kept in row for row in found] == [True] * 2 + [False] * 3


def test_faults_of_the_network_are_recorded(server: ComfyServer, path: Path) -> None:
    """A cut, a refused dial, an answer that does not come, one that ends too soon."""
    with Quick(server.url, record=path, timeout=2.0) as api:
        refused = server.faults.refuse_sockets(503)
        server.faults.drop()
        until(lambda: any(row.get("refused") == 503 for row in so_far(path)))
        refused.end()
        until(lambda: sum(row["kind"] == "open" for row in so_far(path)) == 2)
        server.faults.close_politely(1001, "bye")
        until(lambda: sum(row["kind"] == "open" for row in so_far(path)) == 3)
        with server.on("GET", "/features", never_answer), pytest.raises(ComfyError):
            api.get_features()
        with (
            server.on("GET", "/object_info", cut((200, {}, {"x": "y" * 500}), 300)),
            pytest.raises(ComfyError),
        ):
            api.get_node_defs()
    found = rows(path)
    closed = [(row["ch"], row["code"], row["by"]) for row in found if row["kind"] == "closed"]
    assert closed == [
        ("ws1", None, "server"),
        ("ws2", 1001, "server"),
        ("ws3", None, "client"),
    ]
    silent = next(row for row in found if row.get("path") == "/api/features")
    assert silent["status"] is None
    assert silent["error"] == "RequestTimeout"
    short = next(row for row in found if row.get("path") == "/api/object_info")
    assert short["short"] == "cut"
    assert 0 < short["len"] < short["announced"]


def test_junk_is_kept_as_text(server: ComfyServer, path: Path) -> None:
    """The file stays JSON lines whatever a server sends."""
    texts = ["no json", '{"a": "\u2028\\ud800"}', "[1,\r\n 2]", "[" * 100_000, "NaN", "\x00"]
    with ComfyApi(server.url, record=path) as api:
        until(lambda: "max_upload_size" in str(so_far(path)))  # the last of the greeting
        before = len(so_far(path))
        for text in texts:
            server.push_raw(frame(1, text.encode()), to=api.client_id)
        until(lambda: len(so_far(path)) == before + len(texts))
        found = rows(path)[before:]
    assert found[0]["text"] == "no json"
    assert found[1]["msg"] == {"a": "\u2028\ud800"}
    assert found[2]["msg"] == [1, 2]
    assert found[5]["text"] == "\x00"


# -- the file ------------------------------------------------------------------------------


@pytest.mark.posix("modes of files")
def test_the_file_is_for_its_owner_only_from_the_beginning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made so, not changed later, and never through a link or over another file."""
    made = []
    original = os.open

    def spy(name: Any, flags: int, mode: int = 0o777, **kw: Any) -> int:
        made.append((flags & os.O_EXCL, flags & os.O_CREAT, mode))
        return original(name, flags, mode, **kw)

    mask = os.umask(0)
    monkeypatch.setattr(os, "open", spy)
    try:
        ComfyApi("http://127.0.0.1:1", record=str(path)).close()
    finally:
        os.umask(mask)
    assert made == [(os.O_EXCL, os.O_CREAT, 0o600)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.posix("symbolic links of any user")
def test_a_link_is_no_new_file(path: Path, tmp_path: Path) -> None:
    """Nothing is written through it."""
    path.write_text("evidence")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(FileExistsError, match="a recording needs a new file"):
        ComfyApi("http://127.0.0.1:1", record=tmp_path / "link")
    assert path.read_text() == "evidence"


def test_a_recording_to_an_unwritable_path_is_an_error_at_once(path: Path, tmp_path: Path) -> None:
    """The kind of ``OSError`` says why, the message which file."""
    path.write_text("evidence")
    for there in (path, tmp_path):
        with pytest.raises(FileExistsError, match="a recording needs a new file"):
            ComfyApi("http://127.0.0.1:1", record=there)
    assert path.read_text() == "evidence"
    missing = tmp_path / "no" / "run.jsonl"
    with pytest.raises(FileNotFoundError, match=r"cannot record there.*no\W+run.jsonl"):
        ComfyApi("http://127.0.0.1:1", record=missing)
    with pytest.raises(TypeError):
        ComfyApi("http://127.0.0.1:1", record=5)  # type: ignore[arg-type]


def test_a_folder_exists_already_although_windows_denies_access(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: str, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(FileExistsError, match="a recording needs a new file") as caught:
        ComfyApi("http://127.0.0.1:1", record=tmp_path)
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(PermissionError, match="cannot record there: Permission denied"):
        ComfyApi("http://127.0.0.1:1", record=tmp_path / "a.jsonl")


def test_bad_arguments_leave_no_file(path: Path) -> None:
    """The file is made last."""
    with pytest.raises(ValueError, match="transport"):
        ComfyApi("http://127.0.0.1:1", record=path, transport="pigeon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        ComfyApi("http://127.0.0.1:1", record=path, timeout=-1)
    assert not path.exists()


def full(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The disk takes so many more bytes."""
    left = after
    original = os.write

    def write(fd: int, data: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = original(fd, data[:left])
        left -= done
        return done

    monkeypatch.setattr(os, "write", write)


def test_a_recording_to_a_full_disk_is_an_error_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line is written when the client is made."""
    full(monkeypatch, 0)
    with pytest.raises(OSError, match="No space left") as caught:
        ComfyApi("http://127.0.0.1:1", record=path)
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_that_fills_up_ends_the_recording_and_nothing_else(
    server: ComfyServer,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Said once; what was written stays whole."""
    full(monkeypatch, 1500)
    with caplog.at_level(logging.WARNING), ComfyApi(server.url, record=path) as api:
        for color in range(3):
            assert api.run(graph(color)).images
    told = [r.getMessage() for r in caplog.records if "recording" in r.getMessage()]
    assert told == [f"the recording {path} ends here: No space left on device"]
    assert 2 < len(rows(path)) < 20
    assert path.stat().st_size <= 1500


def test_a_recording_of_its_full_length_ends(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Said once; each line is whole."""
    recorder = Recorder(path, max_file=1500)
    recorder.opened("ws://127.0.0.1/ws?clientId=x")
    for number in range(50):
        recorder.frame(True, b'{"type": "status", "data": {"number": %d}}' % number)
    recorder.close()
    told = [r.getMessage() for r in caplog.records if "recording" in r.getMessage()]
    assert told == [f"the recording {path} ends here: it has reached its maximum size"]
    assert len(rows(path)) > 2
    assert path.stat().st_size <= 1500


@pytest.mark.posix("limits of a process")
def test_a_real_limit_of_the_system_does_the_same(server: ComfyServer, path: Path) -> None:
    """In a process of its own, whose files may have 2,000 bytes."""
    import resource  # Windows has none

    code = f"""
        import resource, sys
        from comfy_client import ComfyApi
        sys.dont_write_bytecode = True  # Python leaves what is cut short
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        with ComfyApi({server.url!r}, record={str(path)!r}) as api:
            for color in range(3):
                api.run({graph()!r})
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    run_python(code)
    assert rows(path)
    assert path.stat().st_size <= 2000


def run_python(code: str, *, killed: bool = False) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if killed else 0), done.stderr
    return done.stdout


@pytest.mark.posix("signals between processes")
def test_a_crash_loses_nothing_that_was_seen(server: ComfyServer, path: Path) -> None:
    """Killed inside a callback, the process leaves what came before."""
    run_python(
        f"""
        import os, signal
        from comfy_client import ComfyApi
        api = ComfyApi({server.url!r}, record={str(path)!r}).init()
        api.on("executed", lambda event: os.kill(os.getpid(), signal.SIGKILL))
        api.run({graph(77)!r})
        """,
        killed=True,
    )
    text = path.read_bytes()
    whole = [json.loads(line) for line in text[: text.rindex(b"\n")].split(b"\n")]
    assert any(row.get("msg", {}).get("type") == "executed" for row in whole)


def descriptors(path: Path) -> list[str]:
    """Who has the file open in this process."""
    found = []
    for fd in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # another thread may close one meanwhile
            found += [fd] if os.path.samestat(os.fstat(int(fd)), path.stat()) else []
    return found


# -- life ----------------------------------------------------------------------------------


@pytest.mark.posix("/dev/fd")
def test_close_closes_the_file(server: ComfyServer, path: Path) -> None:
    """And so does a client that its user forgot."""
    with ComfyApi(server.url, record=path) as api:
        api.run(graph())
        assert len(descriptors(path)) == 1
    assert not descriptors(path)
    api.close()
    other = path.with_name("other.jsonl")
    forgotten = ComfyApi(server.url, record=other).init()
    assert descriptors(other)
    del forgotten
    gc.collect()
    until(lambda: not descriptors(other))
    assert rows(other)[-1]["kind"] == "closed"


@pytest.mark.posix("/dev/fd")
def test_a_client_that_could_not_connect_leaves_no_open_file(path: Path) -> None:
    """Its failure is in there."""
    with (
        contextlib.closing(ComfyApi("http://127.0.0.1:1", record=path)) as api,
        pytest.raises(ComfyError),
    ):
        api.init(0.3)
    assert not descriptors(path)
    assert {row.get("error") for row in rows(path)} >= {"ServerUnreachable"}


def test_a_pickle_does_not_record(server: ComfyServer, path: Path) -> None:
    """Two clients in one file would make no sense."""
    with ComfyApi(server.url, record=path) as api:
        size = path.stat().st_size
        with pickle.loads(pickle.dumps(api)) as other:
            before = len(rows(path))
            other.run(graph(5))
            prompts = [row for row in rows(path)[before:] if row["kind"] == "http"]
    assert not prompts
    assert size


@pytest.mark.posix("fork")
def test_the_child_of_a_fork_does_not_record(server: ComfyServer, path: Path) -> None:
    """The file is the parent's."""
    out = run_python(
        f"""
        import os
        from comfy_client import ComfyApi
        with ComfyApi({server.url!r}, record={str(path)!r}) as api:
            api.run({graph(1)!r})
            child = os.fork()
            if not child:
                api.run({graph(2)!r})
                kept, numbers = os.stat({str(path)!r}), map(int, os.listdir("/dev/fd"))
                found = [os.fstat(fd) for fd in numbers if os.path.exists(f"/dev/fd/{{fd}}")]
                os._exit(7 if any(os.path.samestat(kept, each) for each in found) else 3)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            api.run({graph(3)!r})
        print(code)
        """
    )
    assert out.split() == ["3"]
    posts = [row["request"]["prompt"] for row in rows(path) if row.get("method") == "POST"]
    assert posts == [graph(1), graph(3)]


def test_many_threads_write_whole_lines(server: ComfyServer, path: Path) -> None:
    """One after the other."""
    with ComfyApi(server.url, record=path) as api:
        threads = [
            threading.Thread(target=lambda n=n: [api.run(graph(n * 9 + i)) for i in range(5)])
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = rows(path)
    assert sum(row.get("method") == "POST" for row in found) == 40
    assert [row["t"] for row in found] == sorted(row["t"] for row in found)


numbers = count()


# -- secrets -------------------------------------------------------------------------------


def test_the_recorder_never_raises(path: Path) -> None:
    """Whatever a server sends, and after its end."""
    recorder = Recorder(path)
    recorder.opened("ws://x/ws?clientId=me")
    for data in (b"", b"\0", b"\0\0\0\4\xff\xff\xff\xff", b"\0\0\0\4\0\0\0\2{]", b"\xff" * 9):
        recorder.frame(False, data)
        recorder.frame(True, data)
    recorder.close()
    recorder.frame(True, b"{}")
    recorder.closed("server")
    recorder.close()
    assert len(rows(path)) == 13


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(["token", "data"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(messages=st.lists(nested, max_size=5), frames=st.lists(st.binary(max_size=40), max_size=5))
def test_any_message_becomes_one_line(tmp_path: Path, messages: list[Any], frames: Any) -> None:
    """And comes out of it as it was, where nothing had to be hidden."""
    path = tmp_path / f"{next(numbers)}.jsonl"
    recorder = Recorder(path)
    recorder.opened("ws://x/ws?clientId=me")
    for message in messages:
        recorder.frame(True, json.dumps(message).encode())
    for data in frames:
        recorder.frame(False, data)
    recorder.close()
    found = rows(path)
    assert len(found) == 3 + len(messages) + len(frames)
    kept = [base64.b64decode(row["data_b64"]) for row in found if row["kind"] == "binary"]
    assert kept == frames


@pytest.mark.parametrize("depth", [150, 250, 900, 100_000])
def test_deep_messages_are_lines_too(server: ComfyServer, path: Path, depth: int) -> None:
    """From some depth on as text."""
    deep = "[" * depth + '"\\u00e4"' + "]" * depth
    recorder = Recorder(path)
    recorder.opened("ws://x/ws?clientId=me")
    recorder.frame(True, deep.encode())
    head = b"\0\0\0\4" + len(deep).to_bytes(4, "big") + deep.encode()
    recorder.frame(False, head + b"picture")
    recorder.close()
    assert len(rows(path)) == 5
    other = path.with_name("other.jsonl")
    with (
        server.on("*", "/deep", (200, {"Content-Type": "application/json"}, deep)),
        ComfyApi(server.url, record=other) as api,
    ):
        api.fetch_api("/deep", "POST", data=deep.encode())
    row = next(row for row in rows(other) if row.get("path") == "/api/deep")
    assert ("as_text" in row) is (depth > 200)

"""Workflows out of files of all kinds, and out of what a server says of a prompt."""

from __future__ import annotations

import codecs
import contextlib
import copy
import errno
import io
import json
import os
import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comfy_client import Workflow
from comfy_client.errors import WorkflowError
from comfy_client.models import HistoryEntry, JobInfo, QueueItem
from tests.conftest import examples
from tests.helpers.graphs import canvas, node, picture
from tests.helpers.media import ALL, MEDIA, UI

GRAPH = picture()
JSON = json.dumps(GRAPH).encode()
MB = 1 << 20


class Pipe:
    """A file that can only be read, a little at a time."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 100) if size > 0 else size)


def refusal(source: Any, definitions: Any = None) -> str:
    """What the error says, in one line that is not long."""
    with pytest.raises(WorkflowError) as caught:
        Workflow.load(source, definitions)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


@contextlib.contextmanager
def little(seconds: float = 5.0, memory: int = 150 * MB) -> Iterator[None]:
    """What is in here takes neither long nor much memory."""
    tracemalloc.start()
    start = time.thread_time()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < memory
        assert time.thread_time() - start < seconds
    finally:
        tracemalloc.stop()


# -- files that carry their workflow ------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_a_file_of_each_kind_gives_the_workflow_that_made_it(name: str, tmp_path: Path) -> None:
    """By path, bytes and file, whatever the file is called; the graph is the one that was sent."""
    content = (MEDIA / name).read_bytes()
    unnamed = tmp_path / "file"
    unnamed.write_bytes(content)
    with unnamed.open("rb") as file:
        sources: list[Any] = [unnamed, str(unnamed), content, bytearray(content), file]
        sources += [io.BytesIO(content), Pipe(content)]
        for source in sources:
            assert Workflow.load(source).to_dict() == ALL[name]


def test_an_open_file_is_read_from_where_it_stands_and_stays_open() -> None:
    """As other libraries do."""
    file = io.BytesIO(b"before" + (MEDIA / "SaveVideo.mp4").read_bytes())
    file.seek(6)
    assert Workflow.load(file).to_dict() == ALL["SaveVideo.mp4"]
    assert not file.closed


def test_an_open_file_may_hold_json() -> None:
    """In binary mode, or as text."""
    assert Workflow.load(io.BytesIO(JSON)) == Workflow.load(io.StringIO(JSON.decode()))
    assert "line 1, column 2: not valid JSON" in refusal(io.StringIO("{]"))


def test_a_pipe_is_read_to_its_end() -> None:
    """As of ``cat picture.png | python script.py``: it does not say how long it is."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        with os.fdopen(writing, "wb") as file:
            file.write((MEDIA / "SaveImage.png").read_bytes())
        assert Workflow.load(pipe).to_dict() == ALL["SaveImage.png"]


def test_a_file_that_gives_text_must_give_bytes(tmp_path: Path) -> None:
    """Which encoding was it?"""
    path = tmp_path / "a.json"
    path.write_bytes(JSON)
    with codecs.getreader("utf-8")(path.open("rb")) as file, pytest.raises(TypeError, match="'rb'"):
        Workflow.load(file)


def test_a_number_of_thousands_of_digits_is_no_workflow() -> None:
    """Python does not read it."""
    assert "cannot be read as JSON" in refusal(b'{"1": ' + b"9" * 5000 + b"}")


def test_load_says_why_a_path_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, for which Windows denies access, and a name that no file can have."""
    with pytest.raises(IsADirectoryError):
        Workflow.load(tmp_path)

    def deny(self: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", deny)
        with pytest.raises(IsADirectoryError, match=r"Is a directory: '.*'"):
            Workflow.load(tmp_path)
        with pytest.raises(PermissionError):
            Workflow.load(tmp_path / "w.json")
    for name in ("a\0b.json", f"{'a' * 300}.json"):
        with pytest.raises(FileNotFoundError, match="no such workflow file"):
            Workflow.load(Path(name))


def jpeg(**options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", **options)
    return file.getvalue()


def exif(**tags: Any) -> Image.Exif:
    """By the number of the tag, in the first directory, or (``x``) in that of EXIF."""
    made = Image.Exif()
    for name, value in tags.items():
        tag = int(name[1:], 16)
        if name[0] == "x":
            made[0x8769] = {tag: value}
        else:
            made[tag] = value
    return made


@pytest.mark.parametrize(
    "options",
    [
        {"exif": exif(t0110="prompt:" + JSON.decode(), t010F="workflow:" + json.dumps(UI))},
        {"exif": exif(t010E="Prompt:" + JSON.decode())},
        {"exif": exif(x9286=b"ASCII\0\0\0" + b'{"prompt": ' + JSON + b"}")},
        {
            "exif": exif(
                x9286=b"UNICODE\0" + ('{"prompt": ' + JSON.decode() + "}").encode("utf-16-le")
            )
        },
        {
            "exif": exif(
                x9286=b"UNICODE\0" + ('{"prompt": ' + JSON.decode() + "}").encode("utf-16-be")
            )
        },
        {"exif": exif(t010E=json.dumps({"prompt": JSON.decode(), "workflow": UI}))},
        {"comment": b'{"prompt": ' + JSON + b"}"},
        {"comment": b"prompt:" + JSON},
    ],
)
def test_jpegs_carry_it_in_exif_or_in_a_comment(options: dict[str, Any]) -> None:
    """ComfyUI saves none; custom nodes do in several ways."""
    content = jpeg(**options)
    assert Workflow.load(content).to_dict() == GRAPH
    filled = b"\xff\xd8" + b"\xff\x01" + b"\xff\xff" + content[2:]  # marks may be filled up
    assert Workflow.load(filled).to_dict() == GRAPH


def test_svgs_carry_it_in_their_metadata() -> None:
    """As SaveSVGNode writes it."""
    metadata = json.dumps({"prompt": GRAPH, "workflow": UI}, indent=2)
    svg = f'<svg xmlns="x">\n  <metadata>\n<![CDATA[\n{metadata}\n]]>\n</metadata><path/></svg>'
    assert Workflow.load(svg.encode()).to_dict() == GRAPH


def id3(kind: bytes, content: bytes, version: int = 3, flags: int = 0, size: int = 0) -> bytes:
    """A frame; `size` is another one than it has."""
    length = (size or len(content)).to_bytes(3 if version == 2 else 4, "big")
    if version == 4:
        length = sevens(len(content))
    return kind + length + (b"" if version == 2 else struct.pack(">H", flags)) + content


def mp3(*frames: bytes, version: int = 3, flags: int = 0) -> bytes:
    tag = b"".join(frames)
    return b"ID3" + bytes([version, 0, flags]) + sevens(len(tag)) + tag + b"\xff\xfb\x90"


def sevens(number: int) -> bytes:
    """Four times seven bits: a player takes eight in a row for the beginning of sound."""
    return bytes(number >> 7 * place & 0x7F for place in (3, 2, 1, 0))


PROMPT = id3(b"TXXX", b"\0prompt\0" + JSON)
UTF16 = b"\1" + "prompt".encode("utf-16") + b"\0\0" + JSON.decode().encode("utf-16")
# What could be taken for sound has a zero in it, which counts for nothing.
SPLIT = UTF16.replace(b"\xff", b"\xff\0")


@pytest.mark.parametrize(
    "content",
    [
        mp3(PROMPT),
        mp3(id3(b"TXXX", b"\3prompt\0" + JSON, version=4), version=4),
        mp3(id3(b"TXXX", UTF16)),
        mp3(
            id3(b"TXXX", b"\2" + f"prompt\0{JSON.decode()}".encode("utf-16-be"), version=4),
            version=4,
        ),
        mp3(id3(b"COMM", b'\0eng\0{"prompt": ' + JSON + b"}")),
        mp3(PROMPT)[:-3] + b"fLaC",
        mp3(id3(b"TXX", b"\0prompt\0" + JSON, version=2), version=2),
        mp3(id3(b"TXXX", SPLIT, size=len(UTF16)), flags=0x80),
        mp3(id3(b"TXXX", bytes(4) + SPLIT, version=4, flags=3), version=4, flags=0x80),
        mp3(struct.pack(">I", 6) + bytes(6), PROMPT, flags=0x40),
        mp3(sevens(6) + b"\1\0", id3(b"TXXX", b"\0prompt\0" + JSON, 4), version=4, flags=0x40),
    ],
    ids=[
        "latin-1",
        "utf-8",
        "utf-16",
        "utf-16-be",
        "comment",
        "before a FLAC",
        "version 2",
        "split, version 3",
        "split, version 4",
        "more header, version 3",
        "more header, version 4",
    ],
)
def test_id3_texts_come_in_several_encodings(content: bytes) -> None:
    """Also as a comment, and before a FLAC."""
    assert Workflow.load(content).to_dict() == GRAPH


def test_mp3_frames_of_other_kinds_are_skipped() -> None:
    """Titles, texts of other programs, and what is packed or in no known encoding."""
    others = [
        id3(b"TIT2", b"\0A song"),
        id3(b"TXXX", b"\0mood\0calm"),
        id3(b"TXXX", b"\0" + b"x" * 300 + b"\0long"),
        id3(b"TXXX", b"\7prompt\0{}"),
        id3(b"TXXX", b"\0prompt\0" + zlib.compress(b"{}"), flags=0x80),
    ]
    assert Workflow.load(mp3(*others, PROMPT, bytes(500))).to_dict() == GRAPH


def box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I4s", len(data) + 8, kind) + data


FTYP, DATA = box(b"ftyp", b"isom"), box(b"data", bytes(8), JSON)
KEYS = box(b"keys", bytes(7), b"\2", box(b"mdta", b"com.app.mood"), box(b"mdta", b"com.app.prompt"))


@pytest.mark.parametrize(
    "moov",
    [
        box(b"meta", box(b"hdlr", bytes(24)), KEYS, box(b"ilst", box(b"\0\0\0\2", DATA))),
        box(b"udta", box(b"\xa9cmt", bytes(4), b'{"prompt": ', JSON, b"}"), bytes(4)),
        box(
            b"udta",
            box(b"Xtra", bytes(8)),
            box(
                b"meta",
                bytes(4),
                box(b"ilst", box(b"----", box(b"name", bytes(4), b"PROMPT"), DATA)),
            ),
        ),
    ],
    ids=["keys of QuickTime", "comment of QuickTime", "text of iTunes"],
)
def test_mp4_metadata_is_found_where_other_programs_put_it(moov: bytes) -> None:
    """As those of Apple do."""
    assert Workflow.load(FTYP + box(b"moov", box(b"mvhd", bytes(9)), moov)).to_dict() == GRAPH


def element(kind: str, *content: bytes, size: bytes | None = None) -> bytes:
    data = b"".join(content)
    length = (1 << 56 | len(data)).to_bytes(8, "big")
    return bytes.fromhex(kind) + (length if size is None else size) + data


EBML, ENDLESS = element("1A45DFA3"), b"\xff"
TAGS = element(
    "1254C367",
    element("7373", element("67C8", element("45A3", b"PROMPT"), element("4487", JSON))),
)


@pytest.mark.parametrize(
    "segment",
    [
        element("18538067", TAGS, size=ENDLESS),
        element("18538067", TAGS, element("1F43B675", b"sound", size=ENDLESS), size=ENDLESS),
        element("18538067", element("1F43B675", b"sound"), TAGS),
    ],
    ids=["ends with the file", "ends nowhere", "known"],
)
def test_a_webm_of_a_stream_does_not_say_how_long_it_is(segment: bytes) -> None:
    """What comes before its pictures and sounds is read."""
    assert Workflow.load(EBML + segment).to_dict() == GRAPH


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    header = (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in (header, *chunks, (b"IDAT", zlib.compress(b"\0\1\2\3")), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(kind + content))
        parts.append(struct.pack(">I", len(content)) + kind + content + check)
    return b"".join(parts)


def text(key: str, value: str | bytes) -> tuple[bytes, bytes]:
    return b"tEXt", key.encode() + b"\0" + (value if isinstance(value, bytes) else value.encode())


def test_is_changed_and_empty_meta_of_a_run_are_left_out() -> None:
    """``is_changed`` may be NaN, which could not be sent again, and an empty ``_meta``."""
    ran = {**copy.deepcopy(GRAPH), "2": {**node("LoadImage", image="a.png"), "_meta": {}}}
    ran["2"]["is_changed"] = [float("nan")]
    kept = {**GRAPH, "2": node("LoadImage", image="a.png")}
    assert Workflow.load(png(text("prompt", json.dumps(ran)))).to_dict() == kept
    assert Workflow.load({"prompt": [1, "id", ran, {}, []]}).to_dict() == kept


def test_a_damaged_graph_is_no_harm_while_the_other_one_is_there() -> None:
    """Other programs write a prompt in words under that name."""
    words = text("prompt", "a cat")
    in_comment = text("comment", json.dumps({"prompt": GRAPH}))
    assert Workflow.load(png(words, in_comment)).to_dict() == GRAPH
    assert "the prompt in the PNG file, line 1, column 1: not valid JSON" in refusal(png(words))
    assert "Export (API)" in refusal(png(words, text("workflow", json.dumps(UI))))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (png(text("parameters", "steps: 20")), "PNG"),
        (png(text("Comment", "made by hand")), "PNG"),
        (png(text("prompt", "null"), text("workflow", "[]")), "PNG"),
        (jpeg(), "JPEG"),
        (b"RIFF\x04\0\0\0WEBP", "WebP"),
        (b"fLaC\x80\0\0\0", "FLAC"),
        (b"OggS" + bytes(23), "Ogg"),
        (b"ID3\4\0\0\0\0\0\0", "MP3"),
        (b"\0\0\0\x08ftyp", "MP4"),
        (b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x80", "WebM"),
        (b"glTF\2\0\0\0\x18\0\0\0\4\0\0\0JSON{}  ", "GLB"),
        (struct.pack("<Q", 2) + b"{}", "safetensors"),
        (b"<html></html>", "SVG"),
    ],
)
def test_a_file_without_a_workflow_says_so(content: bytes, kind: str, tmp_path: Path) -> None:
    """It names the file, its kind, and why there may be none."""
    path = tmp_path / "a file"
    path.write_bytes(content)
    said = refusal(path)
    assert said.startswith(f"{path}: no workflow in this {kind} file")
    assert "--disable-metadata" in said


# -- files that lie -----------------------------------------------------------------------


def in_webp(data: bytes) -> bytes:
    return b"RIFF\0\0\0\0WEBPEXIF" + struct.pack("<I", len(data)) + data


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (png()[:40] + b"\xff\xff\xff\xfftEXtprompt\0{}", "ends early"),
        (b"RIFF\xff\xff\xff\xffWEBPEXIF\xff\xff\xff\xff", "larger than"),
        (b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\xff", "ends early"),
        (b"\xff\xd8\xff\xe1\xff\xffExif\0\0", "ends early"),
        (b"\xff\xd8\xff\xe1\0\0", "ends early"),
        (b"fLaC\x84\xff\xff\xff", "ends early"),
        (b"fLaC\x84\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xff", "comments are damaged"),
        (b"OggS" + bytes(22) + b"\xff", "ends early"),
        (b"ID3\4\0\0\x7f\x7f\x7f\x7f", "larger than"),
        (mp3(id3(b"TXXX", b"\0prompt\0{}", size=999)), "ID3 tag is damaged"),
        (b"\xff\xd8\xff\xe0\0\2\0\0", "damaged, at byte 6"),
        (in_webp(b"neither order"), "no workflow in this WebP"),
        (in_webp(b"MM\0*\0\0\0\x08\xff\xff"), "no workflow in this WebP"),
        (b"\0\0\0\x01mdat\xff\xff\xff\xff\xff\xff\xff\xff", "ends early"),
        (b"\0\0\0\x04moov", "boxes are damaged"),
        (b"\xff\xff\xff\xffmoov", "ends early"),
        (b"\0\0\0\x10moov\xff\xff\xff\xffudta", "boxes are damaged"),
        (b"\0\0\0\x18moov\0\0\0\x10udta\xff\xff\xff\xffmeta", "boxes are damaged"),
        (b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff\x12\x54\xc3\x67\x08\xff\xff\xff\xff", "larger"),
        (b"\x1a\x45\xdf\xa3\x80\x00", "elements are damaged"),
        (EBML + element("18538067", element("1254C367", b"\x73\x73")), "elements are damaged"),
        (FTYP + box(b"moov", box(b"meta", bytes(4), box(b"keys", bytes(12)))), "boxes are damaged"),
        (FTYP + b"\0\0", "ends early"),
        (b"\x1a\x45\xdf\xa3\x80\xec\x80", "no segment"),
        (b"glTF\2\0\0\0\xff\xff\xff\xff\xff\xff\xff\xffJSON", "larger than"),
        (struct.pack("<Q", 1 << 31) + b"{", "larger than"),
        (struct.pack("<Q", 3) + b"{}", "ends early"),
        (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "nested too deeply"),
    ],
)
def test_sizes_in_a_file_may_lie(content: bytes, says: str) -> None:
    """Nothing is reserved by them, and nothing read beyond the end."""
    with little(1.0, 4 * MB):
        assert says in refusal(content)
    refusal(Pipe(content))


def tiff(*entries: tuple[int, int, int, int], then: int = 0) -> bytes:
    body = b"".join(struct.pack(">HHII", *entry) for entry in entries)
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + body + struct.pack(">I", then)


@pytest.mark.parametrize(
    "data",
    [
        tiff(then=8),
        tiff((0x8769, 4, 1, 8)),
        tiff((0x8769, 4, 1, 8), (0x8769, 4, 1, 9), then=8),
    ],
    ids=["next", "inner", "both"],
)
def test_directories_that_go_in_circles_come_to_an_end(data: bytes) -> None:
    """Of EXIF data, each is read once."""
    with little(1.0, 4 * MB):
        refusal(in_webp(data))


def test_many_entries_for_one_large_text_cost_no_copies() -> None:
    """Each tag counts once, and is looked at rather than copied."""
    size = 16 * MB
    entries = [(tag, 2, size, 4096 * 12) for tag in range(4000)]
    data = tiff(*entries).ljust(4096 * 12, b"\0") + b"prompt:{".ljust(size, b" ")
    content = in_webp(data)
    with little(2.0):
        refusal(content)


def test_boxes_in_boxes_are_read_to_the_depth_that_is_known() -> None:
    """However deep a file goes."""
    content = b""
    for _ in range(20_000):
        content = struct.pack(">I4s", len(content) + 8, b"meta") + content
    with little():
        refusal(struct.pack(">I4s", len(content) + 8, b"moov") + content)


@pytest.mark.parametrize(
    "content",
    [
        b"\0\0\0\x08ftyp" + b"\0\0\0\x08free" * 400_000,
        b"RIFF\0\0\0\0WEBP" + b"VP8L\0\0\0\0" * 400_000,
        b"fLaC" + b"\1\0\0\0" * 400_000,
        b"\x89PNG\r\n\x1a\n\0\0\0\0IHDR\0\0\0\0" + b"\0\0\0\0IDAT\0\0\0\0" * 400_000,
        b"OggS" + bytes(22) + b"\0" + (b"OggS" + bytes(22) + b"\0") * 400_000,
        b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7 + b"\xec\x80" * 400_000,
        mp3(id3(b"TIT2", b"\0A") * 20_000),
        FTYP + box(b"moov", box(b"udta", box(b"free") * 20_000)),
        FTYP + box(b"moov", box(b"meta", bytes(4), box(b"keys", bytes(8), box(b"mdta") * 20_000))),
        EBML + element("18538067", element("1254C367", element("EC") * 20_000)),
        in_webp(tiff(*[(0x8769, 4, 1, place) for place in range(8, 2000)]).ljust(40_000, b"\0")),
    ],
    ids=["mp4", "webp", "flac", "png", "ogg", "webm", "mp3", "boxes", "keys", "tags", "exif"],
)
def test_a_file_of_millions_of_parts_is_given_up(content: bytes) -> None:
    """After more than any real file has."""
    start = time.thread_time()
    refusal(content)
    assert time.thread_time() - start < 5


def test_texts_that_unpack_to_gigabytes_are_given_up() -> None:
    """Also when there are many of them."""
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(MB)) for _ in range(31)) + packer.flush()
    content = png(*[(b"zTXt", b"prompt\0\0" + bomb)] * 200)
    with little():
        assert "not valid JSON" in refusal(content)


def test_100_mb_of_nonsense_are_refused_at_once(tmp_path: Path) -> None:
    """As bytes, and in a file, of which little is read."""
    nonsense = random.Random(1).randbytes(MB) * 100
    path = tmp_path / "nonsense"
    path.write_bytes(nonsense)
    for source in (nonsense, path, io.BytesIO(nonsense)):
        with little(1.0, 2 * MB):
            assert "neither JSON nor a picture" in refusal(source)


class Endless:
    """A file without an end, of one byte again and again."""

    def __init__(self, byte: bytes) -> None:
        self._byte = byte

    def read(self, size: int) -> bytes:
        return self._byte * size


@pytest.mark.parametrize("byte", [b" ", b"[", b"{", b"0", b"\0", b"x"])
def test_a_file_without_an_end_is_refused(byte: bytes) -> None:
    """No more is read than a workflow may have."""
    with little():
        refusal(Endless(byte))


def test_safetensors_of_any_length_are_distinguished_from_json() -> None:
    """Some lengths are spaces and line breaks."""
    header = json.dumps({"__metadata__": {"prompt": JSON.decode()}}).encode()
    for size in (0x0A20, 0x0D0A, 0x2020):
        content = struct.pack("<Q", size) + header.ljust(size)
        assert Workflow.load(content).to_dict() == GRAPH


def test_json_that_would_take_too_much_memory_is_not_decoded() -> None:
    """Brackets grow by thirty times."""
    content = b"[" + b"{}," * (10 * MB) + b"{}]"
    with little():
        assert "too much to read" in refusal(content)


@pytest.mark.parametrize("name", ALL)
def test_a_file_may_end_anywhere(name: str) -> None:
    """A workflow that is whole counts; anything else is a WorkflowError."""
    content = (MEDIA / name).read_bytes()
    loaded = 0
    for end in range(0, len(content), 1 + len(content) // 1000):
        with contextlib.suppress(WorkflowError):
            assert Workflow.load(content[:end]).to_dict() == ALL[name]
            loaded += 1
    assert loaded > 0 or name.endswith((".webp", ".mp4", ".mov", ".mkv"))  # it stands at their end


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=examples(15), deadline=None)
@given(data=st.data())
def test_a_damaged_file_raises_nothing_else(name: str, data: st.DataObject) -> None:
    """Whatever bytes are changed: a workflow, or a WorkflowError."""
    content = bytearray((MEDIA / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(content) - 1, 4000)))
        kept = data.draw(st.integers(0, 8))
        content[at : at + kept] = data.draw(st.binary(min_size=1, max_size=8))
    for source in (bytes(content), Pipe(bytes(content))):
        with contextlib.suppress(WorkflowError):
            Workflow.load(source)


# -- what a server says of a prompt -------------------------------------------------------

RECORD = [3, "the-id", GRAPH, {"extra_pnginfo": {"workflow": UI}}, ["9"]]
ENTRY = {"prompt": RECORD, "outputs": {}, "status": {"status_str": "success", "messages": []}}


@pytest.mark.parametrize(
    "source",
    [
        ENTRY,
        {"the-id": ENTRY},
        HistoryEntry.from_json(ENTRY),
        QueueItem.from_json(RECORD),
        {"id": "the-id", "workflow": {"prompt": GRAPH, "extra_data": {}}},
        JobInfo.from_json(
            {"id": "the-id", "status": "completed", "workflow": {"prompt": GRAPH, "extra_data": {}}}
        ),
        json.dumps(ENTRY),
    ],
    ids=["entry", "answer", "HistoryEntry", "QueueItem", "job", "JobInfo", "text"],
)
def test_entries_of_queue_history_and_jobs_give_their_workflow(source: Any) -> None:
    """As JSON, and as the methods of the client return them; the source is not changed."""
    before = copy.deepcopy(source)
    workflow = Workflow.load(source)
    assert workflow.to_dict() == GRAPH
    workflow.set({"1.width": 16})
    if not isinstance(source, (HistoryEntry, JobInfo)):
        assert source == before


def test_a_history_of_several_prompts_is_no_workflow() -> None:
    """Somebody has to choose."""
    assert "the history of 2 prompts" in refusal({"a": ENTRY, "b": ENTRY})


def test_a_job_whose_graph_is_not_known_says_so() -> None:
    """A list of jobs has none."""
    job = JobInfo.from_json({"id": "the-id", "status": "completed"})
    assert refusal(job) == "the workflow of this JobInfo is not known"


def test_a_graph_that_refers_to_itself_is_an_error() -> None:
    """In a value, or in a wrapper."""
    value: list[Any] = []
    value.append(value)
    wrapper: dict[str, Any] = {}
    wrapper["prompt"] = wrapper
    for source in ({"1": canvas(x=value)}, wrapper):
        assert "nested too deeply" in refusal(source)


def test_a_url_needs_the_client_of_its_server() -> None:
    """A workflow alone asks nobody."""
    assert "Workflow.load(url, api)" in refusal("http://127.0.0.1:1/view?filename=a.png")
    assert "Workflow.load(url, api)" in refusal("HTTPS://host/view?filename=a.png", {"A": {}})


@pytest.mark.parametrize("content", [b"", b"not found"])
def test_the_error_for_a_broken_picture_says_that_it_is_no_picture(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "bad file.png"
    path.write_bytes(content)
    assert "bad file.png: neither JSON nor a picture" in refusal(path)
    named_otherwise = tmp_path / "bad file.json"
    named_otherwise.write_bytes(content)
    assert "line 1, column 1: not valid JSON" in refusal(named_otherwise)

"""Workflow metadata in PNG files: what is written, what is read, what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import math
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client.errors import WorkflowError
from comfy_client.workflow.metadata import png as png_module
from comfy_client.workflow.metadata.read import read_metadata as read_from
from comfy_client.workflow.metadata.read import reader_of
from comfy_client.workflow.metadata.stream import Stream
from tests.conftest import examples
from tests.helpers.graphs import with_metadata

GRAPH = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "text": "Gruß \u2603"}}}
EDITOR = {"nodes": [], "links": [], "version": 0.4}


def read_metadata(picture: bytes) -> dict[str, Any]:
    stream = Stream(io.BytesIO(picture))
    reader_of(stream)
    return read_from(stream, png_module.png_texts)


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(*texts: bytes, after: bytes = b"") -> bytes:
    """A picture of one pixel with these chunks after its header."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\1\2\3"))
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(texts) + pixels + after + end


def text(key: str, value: bytes) -> bytes:
    return chunk(b"tEXt", key.encode("latin-1") + b"\0" + value)


def packed(key: str, value: bytes) -> bytes:
    return chunk(b"zTXt", key.encode() + b"\0\0" + zlib.compress(value))


def international(key: str, value: bytes, *, compress: bool) -> bytes:
    body = zlib.compress(value) if compress else value
    return chunk(b"iTXt", key.encode() + bytes([0, compress, 0]) + b"en\0Schl\xc3\xbcssel\0" + body)


JSON = json.dumps(GRAPH).encode()
UTF8 = json.dumps(GRAPH, ensure_ascii=False).encode()


def test_written_metadata_is_read_back() -> None:
    """Both texts come back as they went in."""
    picture = with_metadata(png(), {"prompt": GRAPH, "workflow": EDITOR})
    assert read_metadata(picture) == {"prompt": GRAPH, "workflow": EDITOR}


def test_writes_plain_text_chunks_before_the_pixels() -> None:
    """The file is what SaveImage makes: tEXt with ASCII JSON between header and pixels."""
    picture = with_metadata(png(), {"prompt": GRAPH, "parameters": "x"})
    assert picture == png(text("prompt", JSON), text("parameters", b'"x"'))


def test_writing_replaces_texts_of_the_same_key_only() -> None:
    """Other texts, and what follows the end of the picture, stay."""
    other = text("parameters", b"steps: 20")
    old = png(packed("prompt", b"{}"), other, after=text("prompt", b"{}")) + b"trailing"
    picture = with_metadata(old, {"prompt": GRAPH})
    assert picture == png(text("prompt", JSON), other) + b"trailing"
    assert with_metadata(old, {}) == old


@pytest.mark.parametrize(
    "form",
    [
        text("prompt", JSON),
        text("prompt", UTF8),
        text("prompt", UTF8.replace("Gruß ☃".encode(), b"Gru\\u00df \\u2603")),
        packed("prompt", JSON),
        international("prompt", UTF8, compress=False),
        international("prompt", UTF8, compress=True),
    ],
    ids=["text", "text in utf-8", "escaped", "packed", "international", "packed international"],
)
def test_reads_every_form_of_text(form: bytes) -> None:
    """Before or after the pixels, packed or not."""
    assert read_metadata(png(form)) == {"prompt": GRAPH}
    assert read_metadata(png(after=form)) == {"prompt": GRAPH}


def test_reads_text_in_latin_1() -> None:
    """The encoding that the format prescribes is understood, too."""
    assert read_metadata(png(text("prompt", '"Gruß"'.encode("latin-1")))) == {"prompt": "Gruß"}


def test_a_picture_without_metadata_has_none() -> None:
    """No text, and texts of other programs, are no error."""
    assert read_metadata(png()) == {}
    assert read_metadata(png(text("parameters", b"steps: 20"), text("prompts", b"{"))) == {}


def test_of_a_repeated_key_the_last_one_counts() -> None:
    """As in the editor."""
    assert read_metadata(png(text("prompt", b"1"), text("prompt", b"2"))) == {"prompt": 2}


def test_nan_survives() -> None:
    """ComfyUI writes it for nodes that always run; strict readers stumble, this one does not."""
    picture = with_metadata(png(), {"prompt": {"is_changed": [math.nan]}})
    assert math.isnan(read_metadata(picture)["prompt"]["is_changed"][0])


def test_a_file_that_ends_early_is_read_as_far_as_it_goes() -> None:
    """A text before the cut counts, without any it is an error."""
    whole = png(text("prompt", JSON))
    cut = len(png()) - len(chunk(b"IEND", b""))
    assert read_metadata(whole[: len(whole) - 20]) == {"prompt": GRAPH}
    for length in (8, 12, 20, cut):
        with pytest.raises(WorkflowError, match="ends early"):
            read_metadata(png()[:length])
    with pytest.raises(WorkflowError, match="ends early"):
        with_metadata(whole[: len(whole) - 20], {"prompt": GRAPH})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a PNG"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not a PNG"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b""), "begins with a chunk b'IDAT'"),
        (b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIHDR" + b"\0" * 30, "ends early"),
        (png(text("prompt", b"{")), "prompt in the PNG file, line 1, column 2: not valid JSON"),
        (png(text("prompt", b"[" * 200_000)), "nested too deeply"),
        (png(chunk(b"zTXt", b"workflow\0\0junk")), "workflow in the PNG file cannot be read"),
        (png(chunk(b"zTXt", b"workflow\0\0" + zlib.compress(JSON)[:-9])), "cut off"),
        (png(chunk(b"iTXt", b"prompt\0\0\0en")), "it has no text"),
        (png(chunk(b"iTXt", b"prompt\0")), "it has no text"),
        (png(chunk(b"tEXt", b"prompt")), "not valid JSON"),
    ],
)
def test_damage_is_a_typed_error(data: bytes, message: str) -> None:
    """One line says what is wrong."""
    with pytest.raises(WorkflowError, match=message) as caught:
        read_metadata(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.long
def test_a_zip_bomb_takes_no_memory_to_speak_of() -> None:
    """A text that unpacks to 256 MiB is refused after the limit."""
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    picture = png(chunk(b"zTXt", b"prompt\0\0" + bomb))
    tracemalloc.start()
    try:
        with pytest.raises(WorkflowError, match="larger than 33554432 bytes"):
            read_metadata(picture)
        assert tracemalloc.get_traced_memory()[1] < 150 * 2**20
    finally:
        tracemalloc.stop()


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_damaged_bytes_raise_nothing_else(data: st.DataObject) -> None:
    """Whatever bytes are changed: an answer, or a WorkflowError."""
    picture = bytearray(png(text("prompt", JSON), packed("workflow", JSON)))
    for _ in range(data.draw(st.integers(1, 4))):
        picture[data.draw(st.integers(0, len(picture) - 1))] = data.draw(st.integers(0, 255))
    picture = picture[: data.draw(st.integers(0, len(picture)))]
    for call in (read_metadata, lambda png: with_metadata(png, {"prompt": GRAPH})):
        with contextlib.suppress(WorkflowError):
            call(bytes(picture))

"""Recorded definitions and workflows hold no tooltips, descriptions and notes of others.

The README beside them says where they come from, and under which licence.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import comfy_client
from comfy_client.workflow.metadata.read import read_metadata, reader_of
from comfy_client.workflow.metadata.stream import Stream
from tests.helpers.prose import values, without_prose

TESTS = Path(__file__).parent
PACKAGE = Path(comfy_client.__file__).parent
OURS = {"commands.json", "schema.json", "quickstart.ipynb", "notebook.png"}
JSON = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
MEDIA = (".png", ".webp", ".flac", ".mp3", ".opus", ".ogg", ".glb", ".latent", ".mp4", ".webm")
MEDIA = (*MEDIA, ".mkv", ".mov")
TEXT = (".py", ".md", ".rst", ".txt", ".typed")


def data_files(*endings: str) -> list[Path]:
    """Files of the tests and of the package that hold no text of our own."""
    found = [
        path
        for folder in (TESTS, PACKAGE)
        for path in folder.rglob("[!.]*")
        if path.suffix not in TEXT and path.parent.name != "__pycache__" and path.is_file()
    ]
    return [path for path in found if path.name not in OURS and path.name.endswith(endings)]


def texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from texts(each)


def test_every_file_of_data_is_read_here() -> None:
    """A new kind of file needs a reader in this module."""
    assert set(data_files("")) == set(data_files(*JSON, *MEDIA))
    folders = {path.parent.name for path in data_files(*JSON, *MEDIA)}
    assert folders >= {"conformance", "validation", "workflows", "media", "testing", "0.28.1"}


def test_json_holds_no_explanations_of_others() -> None:
    """``python -m tests.helpers.prose FILE...`` removes them."""
    found = set()
    for path in data_files(*JSON):
        for value in values(path):
            tooltips = {text for text in texts(value) if "tooltip" in text} - {"output_tooltips"}
            if without_prose(value) != value or tooltips:
                found.add(str(path))
    assert not found


def test_media_hold_no_explanations_of_others() -> None:
    """Neither packed nor plain."""
    read = 0
    for path in data_files(*MEDIA):
        data = path.read_bytes()
        stream = Stream(io.BytesIO(data))
        reader = reader_of(stream)
        assert reader is not None, path
        metadata = read_metadata(stream, reader)
        assert without_prose(metadata) == metadata, path
        assert b"tooltip" not in data, path
        read += bool(metadata)
    assert read >= 12


def test_what_is_kept_and_what_goes() -> None:
    definition = {
        "input": {"required": {"tooltip": ["INT", {"default": 1, "tooltip": "Why."}]}},
        "output": ["INT"],
        "output_tooltips": ["What."],
        "name": "A",
        "category": "b",
        "description": "Long.",
        "price_badge": {"expr": "1"},
    }
    kept = {
        **definition,
        "input": {"required": {"tooltip": ["INT", {"default": 1}]}},
        "output_tooltips": [None],
        "description": "",
        "price_badge": None,
    }
    assert without_prose({"A": definition}) == {"A": kept}
    graph = {
        "nodes": [
            {"type": "Note", "widgets_values": ["Read me."]},
            {"type": "MarkdownNote", "widgets_values_named": {"text": "Read me."}},
            {"type": "CLIPTextEncode", "widgets_values": ["a mill"]},
        ],
        "links": [],
        "description": "Mills.",
    }
    kept = {
        "nodes": [
            {"type": "Note", "widgets_values": [""]},
            {"type": "MarkdownNote", "widgets_values_named": {"text": ""}},
            {"type": "CLIPTextEncode", "widgets_values": ["a mill"]},
        ],
        "links": [],
        "description": "",
    }
    assert without_prose([graph]) == [kept]
    values = {"class_type": "A", "inputs": {"description": "of a mill", "type": ["Note"]}}
    assert without_prose(values) == values


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"a": {"tooltip": "b"}}', '{"a": {}}'),
        ('{"a" : [ 1 ]}', '{"a" : [ 1 ]}'),
        ('{"a": {"tooltip": "b", "c": 1, "d": "', '{"a": {"c": 1, "d": "'),
        ('{"a": {"c": 1, "tooltip": "b \\" c"}, "d": ', '{"a": {"c": 1}, "d": '),
        ('{"a": {"tooltip": "b"}, "d": ', '{"a": {}, "d": '),
        ('{"a": {"c": 1, "tooltip": "cut of', '{"a": {"c": 1'),
    ],
)
def test_json_within_texts_is_cleaned_also_if_it_is_cut_off(text: str, kept: str) -> None:
    assert without_prose({"response": text}) == {"response": kept}


@pytest.mark.parametrize(
    "folder", [TESTS / "conformance", TESTS / "recordings", TESTS / "media", PACKAGE / "testing"]
)
def test_a_readme_beside_them_names_source_and_licence(folder: Path) -> None:
    [readme] = folder.glob("README.*")
    text = readme.read_text(encoding="utf-8")
    assert "ComfyUI" in text
    assert "licence" in text or "License" in text

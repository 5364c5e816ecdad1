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
#: Folders with recordings, and nothing else but their READMEs.
RECORDED = [TESTS / name for name in ("conformance", "media", "recordings", "workflows")]
OURS = {"commands.json", "schema.json"}
JSON = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
MEDIA = (".png", ".webp", ".flac", ".mp3", ".opus", ".ogg", ".glb", ".latent", ".mp4", ".webm")
MEDIA = (*MEDIA, ".mkv", ".mov")


def files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("[!.]*") if path.is_file()]


def json_files() -> list[Path]:
    """All in the tests and in the package, but for those whose descriptions are our own."""
    return [
        path for path in files(TESTS, PACKAGE) if path.name.endswith(JSON) and path.name not in OURS
    ]


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


def test_every_kind_of_recording_is_read_here() -> None:
    """A new kind of file needs a reader in this module."""
    unread = [path for path in files(*RECORDED) if not path.name.endswith((*JSON, *MEDIA))]
    assert {path.name for path in unread} == {"README.md"}
    folders = {path.parent.name for path in json_files()}
    assert folders >= {"conformance", "validation", "workflows", "testing", "0.28.1"}


def test_json_holds_no_explanations_of_others() -> None:
    """``python -m tests.helpers.prose FILE...`` removes them."""
    found = set()
    for path in json_files():
        for value in values(path):
            tooltips = {text for text in texts(value) if "tooltip" in text} - {"output_tooltips"}
            if without_prose(value) != value or tooltips:
                found.add(str(path))
    assert not found


def test_media_hold_no_explanations_of_others() -> None:
    """Neither packed nor plain."""
    read = 0
    for path in files(TESTS / "media"):
        if not path.name.endswith(MEDIA):
            continue
        data = path.read_bytes()
        stream = Stream(io.BytesIO(data))
        reader = reader_of(stream)
        assert reader is not None, path
        metadata = read_metadata(stream, reader)
        assert without_prose(metadata) == metadata, path
        assert b"tooltip" not in data, path
        read += bool(metadata)
    assert read >= 12


def test_fields_of_definitions_that_are_kept_and_removed() -> None:
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

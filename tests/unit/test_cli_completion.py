"""What completion knows from a file of node definitions, without a server."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from comfy_client.cli.completion import complete_classes, complete_types, known_definitions

DEFINITIONS = {
    "Load": {"output": ["MODEL", "IMAGE"]},
    "Scale": {"output": ["IMAGE", "IMAGE"]},
    "Odd": {"output": "IMAGES"},
    "None": 5,
}
OPTION = click.Option(["--type"])


def context(path: Path, text: str) -> click.Context:
    """Return the context of a command line with ``--definitions``, whose server is nowhere."""
    path.write_text(text)
    made = click.Context(click.Command("nodes"))
    made.params = {"definitions": path}
    return made


def test_a_file_of_definitions_completes_classes_and_types(tmp_path: Path) -> None:
    """Whatever else it has; types in any case."""
    ctx = context(tmp_path / "definitions.json", json.dumps(DEFINITIONS))
    classes = complete_classes(ctx, OPTION, "")
    assert [one.value for one in classes] == ["Load", "None", "Odd", "Scale"]
    assert [one.value for one in complete_types(ctx, OPTION, "im")] == ["IMAGE"]
    assert [one.value for one in complete_types(ctx, OPTION, "")] == ["IMAGE", "MODEL"]


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_a_file_that_is_none_of_definitions_is_as_if_there_were_none(
    tmp_path: Path, text: str
) -> None:
    assert known_definitions(context(tmp_path / "definitions.json", text)) is None


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    ctx = click.Context(click.Command("nodes"))
    assert known_definitions(ctx) is None
    ctx.params = {"definitions": tmp_path / "missing.json"}
    assert known_definitions(ctx) is None

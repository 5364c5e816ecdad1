"""The lines at which nodes and inputs stand in a workflow file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comfy_client.workflow.lines import Lines
from tests.conftest import load_workflow
from tests.helpers.conformance import pairs

TWO = """{
  "extra": [1, {"inputs": {}}],
  "prompt": {
    "3": {
      "inputs": {
        "steps" : 20, "text": "\\"a\\": {\\n}",
        "model": ["4", 0]
      },
      "class_type": "KSampler" },
    "4": { "class_type": "Loader", "inputs": {} }
  }
}
"""
SAVED = """{"links": [],
 "nodes": [
  {"type": "A", "id": 3, "inputs": [{"name": "x"}]},
  {"id": 19,
   "type": "5b1d-subgraph"}
 ]}
"""


def read(folder: Path, content: str | bytes) -> Lines:
    path = folder / "w.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Lines.read(str(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_an_input_has_the_line_of_its_name(tmp_path: Path, encoding: str) -> None:
    """Or, if the file lacks it, that of its node; a graph may be wrapped."""
    lines = read(tmp_path, TWO.encode(encoding))
    assert [lines.of("3", name) for name in ("steps", "text", "model", "cfg", None)] == [
        *(6, 6, 7, 4, 4),
    ]
    assert [lines.of("4", None), lines.of("5", "x"), lines.of(None, "x")] == [10, None, None]


def test_a_node_of_a_saved_file_has_the_line_where_it_begins(tmp_path: Path) -> None:
    """A node in a subgraph has that of the outermost one."""
    lines = read(tmp_path, SAVED)
    assert [lines.of("3", "x"), lines.of("19", None), lines.of("19:7:2", "y")] == [3, 4, 4]


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(99), b"[]", b"5", b'{"a": []}', b"[" * 100_000]
)
def test_a_file_without_nodes_has_no_lines(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content).of("1", "x") is None
    assert Lines.read(str(tmp_path / "missing")) == Lines.read(str(tmp_path)) == Lines()


def test_broken_json_has_the_line_of_the_fault(tmp_path: Path) -> None:
    assert read(tmp_path, '{\n"1": {\n<<<\n}}').broken == 3
    assert read(tmp_path, TWO).broken is None


def test_every_node_and_input_of_a_written_graph_has_its_line(tmp_path: Path) -> None:
    """As found by reading line after line, in any layout that Python writes."""
    graphs = [load_workflow("txt2img_tiny"), *(api for _, _, api in list(pairs("0.3.75"))[:20])]
    for graph in graphs:
        text = json.dumps(graph, indent=2)
        lines = read(tmp_path, text)
        expected = {}
        node_id = ""
        for number, line in enumerate(text.splitlines(), 1):
            indent = len(line) - len(line.lstrip())
            if indent in (2, 6) and line.lstrip().startswith('"'):
                name: Any = json.JSONDecoder().raw_decode(line.lstrip())[0]
                node_id = name if indent == 2 else node_id
                expected[node_id, None if indent == 2 else name] = number
        for node_id, node in graph.items():
            assert lines.of(node_id, None) == expected[node_id, None]
            for name in node["inputs"]:
                assert lines.of(node_id, name) == expected[node_id, name]
        assert read(tmp_path, json.dumps(graph)).of(next(iter(graph)), None) == 1

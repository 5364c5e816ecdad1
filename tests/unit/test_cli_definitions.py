"""Node definitions for commands: from a file, or from a server that is asked once it is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from comfy_client.cli.exits import Mistake
from comfy_client.cli.workflow_source import DefinitionsIfThere, LazyDefinitions, read_definitions
from comfy_client.errors import AuthenticationError, ServerUnreachable

DEFINITIONS = {"Load": {"output": ["MODEL"]}}


class Api:
    """A client that answers with its definitions, or with an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0

    def node_definitions(self, *_: Any, **__: Any) -> dict[str, Any]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return DEFINITIONS

    def node_names(self, *, for_a_hint: bool = False) -> list[str]:
        return [] if for_a_hint else [*DEFINITIONS]

    def get_node_replacements(self) -> dict[str, Any]:
        return {"Old": [{"new_node_id": "Load"}]}

    def open_image(self, info: str) -> str:
        return f"opened {info}"


class Options:
    """The options of a command that name a server, and how often its client was made."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.made = self.closed = 0

    @contextmanager
    def answering_client(self) -> Iterator[Api]:
        self.made += 1
        yield self.api
        self.closed += 1


def source(options: Options, path: Path | None = None) -> LazyDefinitions:
    given: Any = options
    return LazyDefinitions(given, path)


def test_a_server_is_asked_once_it_is_needed_and_its_client_closed_at_the_end() -> None:
    options = Options(Api())
    with source(options) as server:
        assert options.made == 0
        assert server.node_definitions() == DEFINITIONS
        assert [*server.node_names()] == ["Load"]
        assert [*server.node_names(for_a_hint=True)] == []
        assert "Old" in server.get_node_replacements()
        assert str(server.open_image("a.png")) == "opened a.png"
        assert [*server.clients()] == [options.api]
        assert (options.made, options.closed) == (1, 0)
    assert options.closed == 1


def test_with_a_file_no_server_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "definitions.json"
    path.write_text(json.dumps(DEFINITIONS))
    options = Options(Api(ServerUnreachable("away")))
    with source(options, path) as server:
        assert server.node_definitions(["Load"]) == DEFINITIONS
        assert [*server.node_names()] == ["Load"]
        assert server.get_node_replacements() == {}
    assert options.made == 0


def test_a_file_that_is_none_of_definitions_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "definitions.json"
    for text, says in (
        ("{", "not JSON"),
        ("[]", "not node definitions"),
        ('{"a": 1}', "not node definitions"),
        ('{"1": {"class_type": "A", "inputs": {}}}', "not node definitions"),
    ):
        path.write_text(text)
        with pytest.raises(Mistake, match=says):
            read_definitions(path)


def test_a_server_that_is_away_is_not_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    api = Api(ServerUnreachable("away"))
    definitions = DefinitionsIfThere(source(Options(api)))
    assert definitions.node_definitions() == definitions.node_definitions() == {}
    assert api.asked == 1
    assert "away" in capsys.readouterr().err


def test_a_server_that_refuses_the_key_is_an_error() -> None:
    definitions = DefinitionsIfThere(source(Options(Api(AuthenticationError("no", status=401)))))
    with pytest.raises(AuthenticationError):
        definitions.node_definitions()

"""Faults as text, for ``comfy-client serve --fault``."""

from __future__ import annotations

import pytest

from comfy_client.cli.exits import Mistake
from comfy_client.cli.fault_text import FaultCall, activate, parse_fault
from comfy_client.testing import ComfyServer


@pytest.mark.parametrize(
    ("text", "args", "options"),
    [
        ("cut", (), {}),
        (" cut( ) ", (), {}),
        ("cut(POST,/prompt)", ("POST", "/prompt"), {}),
        ("cut(POST, /prompt, ran=true, times=1)", ("POST", "/prompt"), {"ran": True, "times": 1}),
        ("cut(*, /view?a=b)", ("*", "/view?a=b"), {}),
        ("cut(0.5, null)", (0.5, None), {}),
        ('cut("a, b", "3", x = "=")', ("a, b", "3"), {"x": "="}),
        ('cut({"a": [1, 2]}, [502, {}, "bad"])', ({"a": [1, 2]}, (502, {}, "bad")), {}),
        ("cut(3s, true or false)", ("3s", "true or false"), {}),
        ('cut("open, a)', ('"open', "a"), {}),
        ("cut(lose(x), y)", ("lose(x)", "y"), {}),
    ],
)
def test_values_are_json_or_texts(
    text: str, args: tuple[object, ...], options: dict[str, object]
) -> None:
    assert parse_fault(text) == FaultCall("cut", args, options)


@pytest.mark.parametrize("text", ["", "cut(", "cut)", "cut(a) b", "a.b(c)", "cut(a=1, b)"])
def test_a_text_that_is_no_fault_is_a_mistake(text: str) -> None:
    with pytest.raises(Mistake, match="--fault"):
        parse_fault(text)


@pytest.mark.parametrize("name", ["active", "clear", "_rule", "__init__", "drops"])
def test_a_name_of_no_fault_is_not_called(name: str) -> None:
    with ComfyServer() as server, pytest.raises(Mistake, match="there is no"):
        activate(server.faults, FaultCall(name, (), {}))


def test_a_fault_of_several_values_is_active() -> None:
    with ComfyServer() as server:
        activate(server.faults, parse_fault("lose(progress, executing null)"))
        assert [fault.name for fault in server.faults.active()] == ["lose"]
